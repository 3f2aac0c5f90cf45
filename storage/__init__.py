"""Bytes at rest: content-addressed objects, shards, manifests and the lineage read from them."""
