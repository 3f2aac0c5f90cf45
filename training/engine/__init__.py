"""How a step is computed: networks and optimizers in motion, gradients compiled, shared among GPUs."""
