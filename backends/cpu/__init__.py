"""The target `cpu`: ONNX Runtime on a processor."""
