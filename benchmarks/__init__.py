"""Measures Ingot against its peers: `python -m benchmarks [NAME …] [--json FILE]`."""
