"""The target `cuda`: ONNX Runtime on an NVIDIA GPU."""
