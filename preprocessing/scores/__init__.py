"""What is measured of one face."""
