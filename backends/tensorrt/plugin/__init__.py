"""Our operators as TensorRT plugins: their fields, the host that TensorRT calls, their kernels."""
