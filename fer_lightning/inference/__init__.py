"""Prediction with exported networks (bundles), without the training framework.

`bundle`, `images` and `predict` need only NumPy, Pillow and ONNX Runtime. `export` creates bundles from checkpoints.
"""
