"""Command lines: their arguments, help and mistakes."""
