"""What an engine file says about itself, as data and as the short table that people read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ingot.file.header import Header


class Report(Mapping[str, Any]):
    """How the engine was verified, what wrote it, and its record (accuracy, timings, passes); `str()` is the table.

    A mapping of plain JSON: report["accuracy"]["outputs"][0]["sqnr_db"]. A record is not covered by the header's
    digests, so all that it decides is how far below its dtype's floor a self-test may hold, and that within a limit
    (`selftest.LEAST_FLOOR_DB`). A part that is missing or odd is left out of the table.
    """

    def __init__(self, header: Header, record: Mapping[str, Any], *, size_bytes: int | None = None) -> None:
        self._data: dict[str, Any] = {
            **record,
            "name": header.name,
            "targets": [target.name for target in header.targets],
            "verification": header.verification,
            "numerics": header.numerics,
            "versions": dict(header.versions),
        }
        if size_bytes is not None:
            self._data["size_bytes"] = size_bytes

    def __getitem__(self, key: str) -> Any:
        return self._data[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __repr__(self) -> str:
        return printable(f"<Report of {self['name']}: {', '.join(self)}>")

    def __str__(self) -> str:
        rows = [
            ("engine", self["name"]),
            ("targets", ", ".join(self["targets"])),
            ("size", self._size()),
            ("accuracy", self._accuracy()),
            ("held", self._held()),
            ("graph", self._graph()),
            ("built", self._built()),
            ("compiled in", self._time()),
            ("written by", ", ".join(f"{name} {version}" for name, version in self["versions"].items())),
            *(("warning", str(text)) for text in _list(self.get("warnings"))),
        ]
        return "\n".join(f"{label:<12} {_indented(text)}" for label, text in rows if text)

    def _size(self) -> str:
        model = _dict(self.get("model"))
        parts = []
        if (size := number(self.get("size_bytes"))) is not None:
            parts.append(size_text(size))
        if (weights := number(model.get("weights_bytes"))) is not None:
            parts.append(f"{size_text(weights)} of weights")
        if (parameters := number(model.get("parameters"))) is not None:
            parts.append(f"{parameters:,.0f} parameters")
        return ", ".join(parts)

    def _accuracy(self) -> str:
        if self["verification"] == "off":
            return "not verified: nothing says that it computes what the model does"
        accuracy = _dict(self.get("accuracy"))
        outputs = [_dict(item) for item in _list(accuracy.get("outputs"))]
        lines = [f"{self['verification']}, against {accuracy.get('reference', 'the model')}"]
        if cases := _list(accuracy.get("cases")):
            lines[0] += f" on {len(cases)} cases"
        for output in outputs:
            lines.append(f"{output.get('name')}: {_decibels(output)}")
        return "\n".join(lines)

    def _held(self) -> str:
        """What of each target was held to the model, where the table above cannot say it: several, or none that ran."""
        held = [_dict(item) for item in _list(self.get("held"))]
        if len(held) < 2 and all(item.get("ran") for item in held):
            return ""
        lines = [f"{item.get('target')}: {item.get('what')}, {_decibels(_dict(item.get('worst')))}" for item in held]
        ran = {item.get("target") for item in held if item.get("ran")}
        lines += [
            f"{name} has not run on a GPU yet: it is held to its self-test when it is first loaded on one"
            for name in dict.fromkeys(item.get("target") for item in held)
            if name not in ran
        ]
        lines += [str(text) for text in _list(self.get("unproven"))]
        return "\n".join(lines)

    def _graph(self) -> str:
        steps = [_dict(item) for item in _list(self.get("passes"))]
        counts = [number(step.get(key)) for step in steps for key in ("nodes_before", "nodes_after")]
        if not counts or counts[0] is None or counts[-1] is None:
            return ""
        fired = sum(1 for step in steps if step.get("rewrites"))
        return f"{counts[0]:.0f} nodes, {counts[-1]:.0f} after {fired} of {len(steps)} passes found something"

    def _built(self) -> str:
        """What the build of each target has to tell: limits that it set, layers that it made."""
        lines = []
        for name, found in _dict(self.get("builds")).items():
            told = _dict(found)
            if (layers := number(told.get("layers"))) is not None:
                lines.append(f"{name}: {layers:.0f} layers")
            if placed := _dict(told.get("on the processor")):
                operators = ", ".join(f"{count} {operator}" for operator, count in placed.items())
                lines.append(f"{name}: on the processor, not the GPU: {operators}")
            lines += [f"{name}: {text}" for text in _list(told.get("notes"))]
        return "\n".join(lines)

    def _time(self) -> str:
        steps = [_dict(item) for item in _list(self.get("steps"))]
        timed = [(str(step.get("name")), number(step.get("seconds"))) for step in steps]
        known = [(name, seconds) for name, seconds in timed if seconds is not None]
        if not known:
            return ""
        longest = sorted(known, key=lambda step: -step[1])[:4]
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in known if (name, seconds) in longest)
        return f"{sum(seconds for _, seconds in known):.1f} s ({parts})"


def printable(text: str) -> str:
    """`text` on one line, each character that does not print as an escape.

    What a file holds may come from a stranger: a terminal obeys control characters, and surrogates cannot be encoded.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def size_text(size_bytes: float) -> str:
    """ "91.3 MB": decimal units, as file managers and disks count."""
    for unit in ("bytes", "kB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "bytes" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.2f} GB"


def _indented(text: str) -> str:
    return f"\n{'':<13}".join(map(printable, text.split("\n")))


def _decibels(output: Mapping[str, Any]) -> str:
    whole, row, needed = (number(output.get(key)) for key in ("sqnr_db", "row_sqnr_db", "needed_db"))
    if whole is None:
        return "equal"
    text = f"{whole:.1f} dB"
    if row is not None:
        text += f", worst row {row:.1f} dB"
    if needed is not None:
        text += f" (needs {needed:.0f})"
    return text + (", within the noise of the model itself" if output.get("within_noise") else "")


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def number(value: Any) -> float | None:
    """A number of a record; None for anything else, and for an integer beyond floats."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return None
