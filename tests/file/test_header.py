"""The header as JSON: everything comes back as it was, and nothing that is not a header gets through."""

from __future__ import annotations

import json
import os
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from ingot.errors import FormatError
from ingot.file import strict_json
from ingot.file.header import NUMERICS, VERIFICATIONS, Header, Member, Target, Text
from ingot.signature import Dim, Domain, Linear, Signature, Tensor, linear

# INGOT_SEED replays these as it does every other test.
SEED = hypothesis.seed(int(os.environ.get("INGOT_SEED", "0")))
SETTINGS = hypothesis.settings(
    deadline=None, max_examples=25, database=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)

NAMES = st.text("aB_", min_size=1, max_size=4)
LABELS = st.text('aZ0 .é中\u2028😀"\\', max_size=5)
TEXTS = st.text('a\n\0\x7f\x1b é中😀"\\', max_size=5)
NUMBERS = st.integers(0, 2**63 - 1)
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
JSON: st.SearchStrategy[Any] = st.recursive(
    SCALARS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)


def trees(count: int) -> st.SearchStrategy[Any]:
    leaves = st.builds(lambda value: {"constant": value}, SCALARS | TEXTS)
    if count:
        leaves |= st.builds(lambda index: {"tensor": index}, st.integers(0, count - 1))
    return st.recursive(
        leaves,
        lambda inner: (
            st.builds(
                lambda kind, items: {kind: items}, st.sampled_from(["tuple", "list"]), st.lists(inner, max_size=2)
            )
            | st.builds(lambda items: {"dict": items}, st.dictionaries(TEXTS, inner, max_size=2))
            | st.builds(
                lambda items, kind: {"object": items, "type": kind}, st.dictionaries(NAMES, inner, max_size=2), NAMES
            )
        ),
        max_leaves=4,
    )


AXES = st.integers(0, 2**40) | NAMES | st.sampled_from(["2*length + 1", "length + 1", "3*batch - 2"])
DOMAINS = st.builds(
    Domain, st.integers(-(2**63), 2**63), st.integers(-(2**63), 2**63), st.sampled_from(["values", "mask"])
)
TENSORS = st.builds(
    Tensor,
    NAMES,
    st.sampled_from(["float32", "int64", "bool", "bfloat16"]),
    st.lists(AXES, max_size=4).map(tuple),
    st.none() | DOMAINS,
)
DIMS = st.builds(Dim, NAMES, NUMBERS, st.none() | NUMBERS)


@st.composite
def signatures(draw: st.DrawFn) -> Signature:
    inputs, outputs = (tuple(draw(st.lists(TENSORS, max_size=3))) for _ in range(2))
    return Signature(
        inputs=inputs,
        outputs=outputs,
        dims=tuple(draw(st.lists(DIMS, max_size=3))),
        parameters=draw(st.dictionaries(NAMES, trees(len(inputs)), max_size=3)),
        result=draw(trees(len(outputs))),
    )


@st.composite
def headers(draw: st.DrawFn) -> Header:
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    sha256 = st.integers(0, 2**256 - 1).map(lambda number: f"{number:064x}")
    one = st.sampled_from(names)
    members = st.builds(Member, NUMBERS, NUMBERS, st.integers(0, 2**32 - 1), sha256, st.none() | one)
    prompts = draw(st.dictionaries(LABELS, TEXTS, max_size=3))
    default = st.sampled_from([None, *prompts])
    by_label = st.dictionaries(LABELS, LABELS, max_size=3)
    texts = st.builds(Text, one, by_label, NUMBERS, NUMBERS, LABELS, st.just(prompts), default)
    target = st.builds(
        Target,
        LABELS,
        st.dictionaries(LABELS, one, max_size=3),
        by_label,
        st.dictionaries(TEXTS, JSON, max_size=3),
    )
    return Header(
        name=draw(LABELS),
        signature=draw(signatures()),
        targets=tuple(draw(st.lists(target, min_size=1, max_size=3))),
        verification=draw(st.sampled_from(VERIFICATIONS)),
        numerics=draw(st.sampled_from(NUMERICS)),
        versions=draw(by_label),
        text=draw(st.none() | texts),
        selftest=draw(st.none() | one),
        members={name: draw(members) for name in names},
    )


@SEED
@SETTINGS
@hypothesis.given(signatures())
def test_a_signature_comes_back(signature: Signature) -> None:
    again = Signature.from_json(strict_json.decode(strict_json.encode(signature.to_json())))
    assert again == signature
    assert list(again.parameters) == list(signature.parameters)


@SEED
@SETTINGS
@hypothesis.given(headers())
def test_a_header_comes_back(header: Header) -> None:
    again = Header.from_json(strict_json.decode(strict_json.encode(header.to_json())))
    assert again == header
    assert list(again.members) == list(header.members)
    assert strict_json.encode(again.to_json()) == strict_json.encode(header.to_json())


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value in some JSON."""
    found = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        found += paths(child, (*path, key))
    return found


@SEED
@SETTINGS
@hypothesis.given(headers(), JSON, st.randoms(use_true_random=False))
def test_any_value_put_anywhere_is_a_header_or_a_format_error(header: Header, new: Any, random: Any) -> None:
    value = json.loads(json.dumps(header.to_json()))
    *parents, last = random.choice(paths(value)[1:])
    inner = value
    for key in parents:
        inner = inner[key]
    inner[last] = new
    try:
        again = Header.from_json(value)
    except FormatError:
        return
    assert Header.from_json(again.to_json()) == again


@SEED
@SETTINGS
@hypothesis.given(JSON)
def test_any_json_is_a_format_error(value: Any) -> None:
    with pytest.raises(FormatError):
        Header.from_json(value)


@SEED
@SETTINGS
@hypothesis.given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_decode_gives_an_object_or_a_value_error(text: bytes) -> None:
    try:
        value = strict_json.decode(text)
    except ValueError:
        return
    assert strict_json.decode(strict_json.encode(value)) == value


@pytest.mark.parametrize("levels", [strict_json.DEPTH_LIMIT - 1, strict_json.DEPTH_LIMIT])
def test_the_limit_of_depth_is_where_it_says(levels: int) -> None:
    text = b'{"a":' + b"[" * levels + b"]" * levels + b"}"
    if levels < strict_json.DEPTH_LIMIT:
        assert "a" in strict_json.decode(text)
    else:
        with pytest.raises(ValueError, match="deeper than 128"):
            strict_json.decode(text)


def test_target_by_name() -> None:
    first, second = Target("cpu", {}, {}), Target("cuda", {}, {})
    nothing = Signature((), (), (), {}, {"constant": None})
    header = Header("x", nothing, (first, second), "full", "fast", {})
    assert header.target("cuda") is second
    assert header.target("tensorrt") is None


def test_a_header_without_targets_or_with_what_does_not_print_is_none() -> None:
    tensor = Tensor("x", "float32", ("batch",))
    nothing = Signature((tensor,), (), (), {}, {"constant": None})
    header = Header("x", nothing, (Target("cpu", {}, {}),), "full", "fast", {})
    assert Header.from_json(header.to_json()) == header
    strange = [tensor._replace(dtype="\x1b[2J"), tensor._replace(shape=("\x1b[2J",))]
    wrong = [header._replace(signature=nothing._replace(inputs=(each,))) for each in strange]
    for each in [header._replace(targets=()), *wrong]:
        with pytest.raises(FormatError):
            Header.from_json(each.to_json())


def test_an_axis_of_thousands_of_digits_is_no_linear_one() -> None:
    assert linear("2*batch + 1") == Linear("batch", 2, 1)
    assert linear("9" * 5000 + "*batch") is None
    assert linear("batch + " + "9" * 5000) is None
