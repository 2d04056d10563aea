"""The target `tensorrt-rtx`: TensorRT for RTX, whose engines are built without a GPU."""
