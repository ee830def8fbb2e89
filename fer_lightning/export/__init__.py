"""Exports checkpoints as bundles: ONNX, int8, ExecuTorch, parity with PyTorch and the model card."""
