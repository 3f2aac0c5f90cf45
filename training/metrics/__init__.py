"""What a checkpoint is worth: formulas, what they are taken of, and where the numbers go."""
