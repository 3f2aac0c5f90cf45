"""A page on this machine to steer a trained generator by, and the server that draws for it."""
