"""Data sets: sources, split protocols, augmentation and batches."""
