"""The stages of a build: crawl, align, curate, shard, publish; each a file, each on workers of any kind."""
