"""Operations of the domain `ingot`, one folder an op."""

if __name__ != "ingot.plugins":
    raise ImportError(f"this folder is the package `ingot.plugins`, not `{__name__}`: `import ingot.plugins`")
