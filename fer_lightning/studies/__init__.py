"""Work over finished runs: evaluate a checkpoint."""
