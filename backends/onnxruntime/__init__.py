"""What the targets `cpu` and `cuda` share: ONNX Runtime, a graph for it, and weights beside the graph in one file."""
