"""Text to shards to batches: sources, preparation, shard files and the order they are read in."""
