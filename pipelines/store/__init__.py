"""What we keep: shards with an index, an FFCV copy, and a cache of those that lie elsewhere."""
