"""Targets: each folder builds engine parts in build.py and loads them in load.py."""

if __name__ != "ingot.backends":
    raise ImportError(f"this folder is the package `ingot.backends`, not `{__name__}`: `import ingot.backends`")
