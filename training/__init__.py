"""The style-based GAN: networks, losses, data, and the loop that trains them."""
