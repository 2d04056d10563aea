"""The engine file: header, members, digests; enough to be a reader's whole world."""
