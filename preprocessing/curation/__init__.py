"""Which faces make the dataset, on records alone."""
