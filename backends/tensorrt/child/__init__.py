"""What runs in processes of its own, so that an abort of TensorRT is an error message."""
