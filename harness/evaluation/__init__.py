"""Running a suite: pairings, shards, predictions, verdicts."""
