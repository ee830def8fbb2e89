"""What a training does, from a configuration to a report."""
