"""A GPU through the CUDA driver alone: memory, streams, kernels, and arrays that stay there; never run on a GPU."""
