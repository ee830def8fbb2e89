"""Data sets as files, folders and archives hold them, or as the program draws them, as FaceArrays."""
