"""From a checkpoint to a bundle: ONNX, int8, ExecuTorch, parity with PyTorch, the model card."""
