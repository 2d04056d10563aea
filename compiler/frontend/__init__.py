"""PyTorch models in, graph IR out."""
