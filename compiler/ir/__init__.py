"""What Ingot adds to onnx_ir: the op set, provenance, checks and readable dumps."""
