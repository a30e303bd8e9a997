"""Results on disk: records, shards, the manifest."""
