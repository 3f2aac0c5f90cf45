"""Dataset versions: what is in one, how it is opened, and whether its bytes are what they were."""
