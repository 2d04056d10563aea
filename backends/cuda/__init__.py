"""The target `cuda`: ONNX Runtime's CUDA provider."""
