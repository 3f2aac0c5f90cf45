"""What runs the work: clusters, the training process, servers, deployments."""
