"""TensorRT's network, as its parser made it, evaluated on the CPU by what TensorRT documents of each layer."""
