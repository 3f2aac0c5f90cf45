"""What a trained generator draws, and the files that this becomes."""
