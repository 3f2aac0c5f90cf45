"""One photograph: its pixels, the faces in it, their crops, and these as bytes."""
