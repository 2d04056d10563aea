"""The promise: the engine computes what PyTorch eager computes, or no engine is written."""
