"""Audit of a data set: duplicates and their effect on accuracy, images without a face, probable label errors."""
