"""Protocols: named train, val and test splits."""
