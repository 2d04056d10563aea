"""An engine's result: the model's own structure by attribute, key, position, iteration and unpacking."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from ingot.errors import FormatError
from ingot.runtime.output import Output, assembler

LEAF = [{"tensor": index} for index in range(3)]


def test_one_tensor_is_itself_and_a_constant_stays() -> None:
    assert assembler({"tensor": 1})(["a", "b"]) == "b"
    assert assembler({"constant": None})([]) is None


@pytest.mark.parametrize("kind", ["tuple", "list"])
def test_a_sequence_has_positions(kind: str) -> None:
    out = assembler({kind: LEAF})([10, 11, 12])
    assert (out[0], out[-1], out[1:]) == (10, 12, (11, 12))
    first, *rest = out
    assert (first, rest, len(out)) == (10, [11, 12], 3)
    with pytest.raises(IndexError):
        out[3]


def test_a_dict_has_keys_and_iterates_over_them() -> None:
    out = assembler({"dict": {"a": LEAF[0], "0": LEAF[1]}})([10, 11])
    assert (out["a"], out.a, out["0"], out[0]) == (10, 10, 11, 11)
    assert (list(out), out.keys(), out.values(), dict(out)) == (["a", "0"], ("a", "0"), (10, 11), {"a": 10, "0": 11})
    assert "a" in out
    assert "b" not in out
    assert dict(**out) == {"a": 10, "0": 11}
    with pytest.raises(KeyError, match="no 'b'; it has 'a', '0'"):
        out["b"]
    with pytest.raises(AttributeError, match="no 'b'; it has a, 0"):
        _ = out.b


def test_a_dataclass_has_keys_and_positions_and_unpacks_its_values() -> None:
    out = assembler({"object": {"loss": LEAF[0], "logits": LEAF[1]}, "type": "ModelOutput"})([10, 11])
    loss, logits = out
    assert (loss, logits, out.loss, out["logits"], out[1], out[:1]) == (10, 11, 10, 11, 11, (10,))
    assert {**out} == {"loss": 10, "logits": 11}
    assert {"loss", "logits", "keys"} <= set(dir(out))


def test_nesting_and_the_text_of_it() -> None:
    tree = {"object": {"h": {"tuple": [LEAF[0], {"constant": None}]}, "d": {"dict": {"x": LEAF[1]}}}, "type": "Out"}
    out = assembler(tree)([np.zeros((2, 3), np.float32), np.zeros(1, np.int64)])
    assert repr(out) == "Out(h=tuple(float32[2, 3], None), d=dict(x=int64[1]))"
    assert out.h[1] is None
    assert out.d.x.shape == (1,)


def test_names_like_methods_are_reached_by_key() -> None:
    out = assembler({"dict": {"keys": LEAF[0], "_kind": LEAF[1]}})([10, 11])
    assert (out["keys"], out["_kind"]) == (10, 11)
    assert out.keys() == ("keys", "_kind")


def test_can_be_copied_and_pickled() -> None:
    out = assembler({"dict": {"a": {"list": [LEAF[0]]}}})([10])
    for twin in (copy.deepcopy(out), pickle.loads(pickle.dumps(out))):
        assert isinstance(twin, Output)
        assert twin.a[0] == 10


def test_an_unknown_kind_is_a_format_error() -> None:
    with pytest.raises(FormatError):
        assembler({"set": []})
