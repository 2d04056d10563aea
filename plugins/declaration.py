"""What an operation of the domain `ingot` is: the one declaration that its torch op, ONNX schema, shape rule, TensorRT
plugin and tests derive from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

DOMAIN = "ingot"

Size = int | str | None
"""Of one axis: known, named, or unknown."""


class DoesNotFit(ValueError):
    """Tensors or attributes that an operation does not take; the text says which and what it takes."""


@dataclass(frozen=True, slots=True)
class Real:
    """An attribute that is a float32 above `above`. Kernels get it when they run."""

    name: str
    default: float
    above: float
    doc: str

    def check(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise DoesNotFit(f"{self.name} is {value!r:.40}, not a finite number")
        if not value > self.above:
            raise DoesNotFit(f"{self.name} is {value!r}; it is to be above {self.above:g}")
        return float(value)


@dataclass(frozen=True, slots=True)
class Choice:
    """An attribute that is one of a few words. Each has kernels and an ONNX function body of its own."""

    name: str
    default: str
    choices: tuple[str, ...]
    doc: str

    def check(self, value: Any) -> str:
        if value not in self.choices:
            raise DoesNotFit(f"{self.name} is {value!r:.40}; it is one of {', '.join(self.choices)}")
        return str(value)


Attribute = Real | Choice


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output; `dims` are letters of STYLE's list, one an axis. All tensors have one dtype."""

    name: str
    dims: tuple[str, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Given:
    """A tensor that is there: its axes and its dtype ("float16"), None where that is not known."""

    shape: Sequence[Size]
    dtype: str | None


@dataclass(frozen=True, slots=True)
class Awkward:
    """A size that a kernel may get wrong, and why."""

    size: int
    reason: str


@dataclass(frozen=True, slots=True)
class Declaration:
    """An operation.

    version   rises when the meaning or the order of anything here changes
    dtypes    that every tensor may have, all of a call the same one
    fixed     dims that are known when an engine is built, and the most that they may be
    programs  dims whose product is the number of instances of the GPU kernel
    awkward   sizes by dim, that kernels are tested at
    """

    name: str
    version: int
    doc: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    attributes: tuple[Attribute, ...]
    dtypes: tuple[str, ...]
    fixed: Mapping[str, int]
    programs: tuple[str, ...]
    awkward: Mapping[str, tuple[Awkward, ...]] = field(default_factory=dict)

    def check_attributes(self, values: Mapping[str, Any]) -> dict[str, float | str]:
        """All attributes in declared order, defaults filled in. Raises DoesNotFit for unknown ones and wrong values."""
        unknown = sorted(set(values) - {attribute.name for attribute in self.attributes})
        if unknown:
            known = ", ".join(attribute.name for attribute in self.attributes)
            raise DoesNotFit(f"{self.name} has no attribute {unknown[0]!r:.40}; it has {known}")
        return {
            attribute.name: attribute.check(values.get(attribute.name, attribute.default))
            for attribute in self.attributes
        }

    def fit(self, tensors: Mapping[str, Given | None]) -> dict[str, Size]:
        """The sizes of the dims, from the inputs that are there. Raises DoesNotFit where the inputs contradict the
        declaration or each other; what is not known contradicts nothing."""
        dims: dict[str, Size] = {}
        from_: dict[str, str] = {}
        dtypes: dict[str, str] = {}
        for spec in self.inputs:
            given = tensors.get(spec.name)
            if given is None:
                if not spec.optional:
                    raise DoesNotFit(f"{self.name} is without its input {spec.name}")
                continue
            if len(given.shape) != len(spec.dims):
                raise DoesNotFit(f"{spec.name} has {len(given.shape)} axes; it is [{', '.join(spec.dims)}]")
            for letter, size in zip(spec.dims, given.shape, strict=True):
                known = dims.get(letter)
                if isinstance(known, int) and isinstance(size, int) and known != size:
                    raise DoesNotFit(f"{letter} is {known} in {from_[letter]} and {size} in {spec.name}")
                if letter not in dims or (isinstance(size, int) and not isinstance(known, int)):
                    dims[letter], from_[letter] = size, spec.name
            if given.dtype is not None:
                dtypes[spec.name] = given.dtype
        self._check_dtypes(dtypes)
        self._check_limits(dims)
        return dims

    def _check_dtypes(self, dtypes: Mapping[str, str]) -> None:
        first = next(iter(dtypes), None)
        for name, dtype in dtypes.items():
            if dtype not in self.dtypes:
                raise DoesNotFit(f"{name} is {dtype}; {self.name} takes {', '.join(self.dtypes)}")
            if first is not None and dtype != dtypes[first]:
                raise DoesNotFit(f"{first} is {dtypes[first]} and {name} {dtype}; {self.name} takes one dtype")

    def _check_limits(self, dims: Mapping[str, Size]) -> None:
        for letter, most in self.fixed.items():
            size = dims[letter]
            if isinstance(size, int) and not 1 <= size <= most:
                raise DoesNotFit(f"{letter} is {size}; {self.name} takes 1 to {most}")

    def output_shapes(self, dims: Mapping[str, Size]) -> list[tuple[Size, ...]]:
        """By the sizes that `fit` gave."""
        return [tuple(dims[letter] for letter in spec.dims) for spec in self.outputs]

    def choices(self) -> tuple[Choice, ...]:
        return tuple(attribute for attribute in self.attributes if isinstance(attribute, Choice))

    def reals(self) -> tuple[Real, ...]:
        return tuple(attribute for attribute in self.attributes if isinstance(attribute, Real))

    def optional_inputs(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.inputs if spec.optional)

    def variant(self, attributes: Mapping[str, Any], given: Sequence[str]) -> str:
        """What has a body and kernels of its own, by the chosen words and the optional inputs there: "layer-bias"."""
        words = [str(attributes[choice.name]) for choice in self.choices()]
        return "-".join([*words, *(name for name in self.optional_inputs() if name in given)])

    def variants(self) -> Iterator[tuple[str, dict[str, str], tuple[str, ...]]]:
        """Every variant, its chosen words, and the optional inputs that it has."""
        words: list[dict[str, str]] = [{}]
        for choice in self.choices():
            words = [{**chosen, choice.name: word} for chosen in words for word in choice.choices]
        given: list[tuple[str, ...]] = [()]
        for name in self.optional_inputs():
            given += [(*names, name) for names in given]
        for chosen in words:
            for names in given:
                yield self.variant(chosen, names), chosen, names


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the matrix that every body of an operation is tested over."""

    dtype: str
    dims: Mapping[str, int]
    chosen: Mapping[str, str]
    given: tuple[str, ...]
    why: str

    def __str__(self) -> str:
        sizes = "x".join(str(size) for size in self.dims.values())
        return "-".join([self.dtype, sizes, *self.chosen.values(), *self.given])


def matrix(declaration: Declaration, others: Mapping[str, int]) -> list[Cell]:
    """Every dtype and variant at every awkward size; `others` are the sizes of the dims without awkward ones."""
    return [
        Cell(dtype, {**others, letter: awkward.size}, chosen, given, awkward.reason)
        for dtype in declaration.dtypes
        for letter, sizes in declaration.awkward.items()
        for awkward in sizes
        for _, chosen, given in declaration.variants()
    ]
