"""What production imports: engines, embedders; no torch, no onnx, no click."""
