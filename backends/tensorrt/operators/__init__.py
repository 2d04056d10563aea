"""Which operators TensorRT runs, and what of them is refused, with the reason."""
