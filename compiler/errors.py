"""Every error that Ingot raises on purpose.

    IngotError
    ├── UsageError                   what was typed cannot be meant: a flag, a path, a name          exit 2
    │   └── InputError               an array given to an engine does not fit what the engine declares
    ├── CompileError                 the model cannot become an engine                               exit 1
    │   ├── SourceError              the model could not be read (truncated, inconsistent, wrong kind), or raises itself
    │   ├── ExportError              torch.export could not trace it, or traced something else
    │   ├── UnsupportedOperatorError operators that have no translation or that the target lacks
    │   ├── PassError                a pass broke the graph or lied about changing it
    │   ├── BuildError               the backend refused the graph
    │   └── VerificationError        the engine does not compute what the model computes
    └── EngineError                  an engine file cannot be used                                   exit 1
        ├── FormatError              not an engine file, damaged, or of a newer format
        ├── RequirementError         this machine lacks something that the engine needs
        └── UnverifiedError          the engine was compiled with --verify off

A message says what is wrong, where (node and the user's own source line, or byte offset), and what to type next.
"""

from __future__ import annotations


class IngotError(Exception):
    """An error with three parts: what is wrong, where, and what to type next."""

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what = what
        self.where = where
        self.fix = fix
        lines = [what]
        if where:
            lines.append(f"  where: {where}")
        if fix:
            lines.append(f"  try:   {fix}")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.where, self.fix))


def _rebuild(kind: type[IngotError], what: str, where: str | None, fix: str | None) -> IngotError:
    return kind(what, where=where, fix=fix)


class UsageError(IngotError):
    """What was typed cannot be meant."""

    exit_code = 2


class InputError(UsageError):
    """An array given to an engine does not fit what the engine declares."""


class CompileError(IngotError):
    """The model cannot become an engine."""


class SourceError(CompileError):
    """The model could not be read, or its own forward raises on inputs that its declared shapes allow."""


class ExportError(CompileError):
    """torch.export could not trace the model, or traced something else."""


class UnsupportedOperatorError(CompileError):
    """Operators that have no translation, or that the target lacks."""


class PassError(CompileError):
    """A pass broke the graph, or its claim and the graph disagree."""


class BuildError(CompileError):
    """The backend refused the graph."""


class VerificationError(CompileError):
    """The engine does not compute what the model computes."""


class EngineError(IngotError):
    """An engine file cannot be used."""


class FormatError(EngineError):
    """Not an engine file, damaged, or of a newer format."""


class RequirementError(EngineError):
    """This machine lacks something that the engine needs."""


class UnverifiedError(EngineError):
    """The engine was compiled with verification off."""
