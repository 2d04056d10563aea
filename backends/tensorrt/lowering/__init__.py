"""Lowers the graph to strongly typed ONNX that TensorRT's parser takes as it is meant."""
