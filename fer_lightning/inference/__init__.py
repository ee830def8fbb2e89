"""A bundle in, answers out: what runs where nothing is trained.

`bundle`, `images` and `predict` need NumPy, Pillow and ONNX Runtime alone. `export` makes bundles from checkpoints.
"""
