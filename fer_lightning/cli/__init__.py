"""Command lines: arguments, help and errors."""
