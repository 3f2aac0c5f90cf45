"""Versions of datasets in other people's formats: written from a store, and read back from a folder or a ZIP."""
