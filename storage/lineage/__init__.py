"""Where things come from: what a file says of itself, and the chain from it down to photographs."""
