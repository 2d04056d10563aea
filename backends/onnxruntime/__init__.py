"""What the targets that run on ONNX Runtime share."""
