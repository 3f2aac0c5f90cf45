"""From photographs to aligned face crops: sources, decoding, detection, alignment, curation."""
