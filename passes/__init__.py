"""Rewrites of the graph IR, one pass a file."""

if __name__ != "ingot.passes":
    raise ImportError(f"this folder is the package `ingot.passes`, not `{__name__}`: `import ingot.passes`")
