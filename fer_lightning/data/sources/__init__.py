"""Data sources: files, folders, archives and synthetic images, as FaceArrays."""
