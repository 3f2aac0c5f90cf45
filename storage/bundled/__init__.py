"""A small generator that ships with the package, and what is on record of it."""
