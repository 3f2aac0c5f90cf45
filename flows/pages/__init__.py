"""Pages for people: the report of a build, its histograms and thumbnails."""
