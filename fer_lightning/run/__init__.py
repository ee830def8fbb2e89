"""A training run, from a configuration to a report."""
