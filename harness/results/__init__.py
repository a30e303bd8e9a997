"""Results on disk: records, shards and the manifest."""
