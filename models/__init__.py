"""Small seeded models for tests, docs and benchmarks."""

if __name__ != "ingot.models":
    raise ImportError(f"this folder is the package `ingot.models`, not `{__name__}`: `import ingot.models`")
