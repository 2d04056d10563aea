"""Ranks sentences by meaning, with an engine file and no PyTorch: python rank.py ENGINE QUERY SENTENCE…"""

from __future__ import annotations

import sys

import ingot


def main(path: str, query: str, *sentences: str) -> None:
    with ingot.Embedder(path) as embedder:
        vectors = embedder.encode([query, *sentences])
    # The vectors are of length one: their product is the cosine.
    scores = (vectors[1:] @ vectors[0]).tolist()
    for score, sentence in sorted(zip(scores, sentences, strict=True), reverse=True):
        print(f"  {score:5.2f}  {sentence}")


if __name__ == "__main__":
    main(*sys.argv[1:])
