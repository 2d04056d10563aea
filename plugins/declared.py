"""The operations of the domain `ingot`, and the version of its operator set."""

from __future__ import annotations

from collections.abc import Mapping

from ingot.plugins.declaration import Declaration
from ingot.plugins.skip_norm.declaration import SKIP_NORM

DECLARED: Mapping[str, Declaration] = {SKIP_NORM.name: SKIP_NORM}

OPSET = max(declaration.version for declaration in DECLARED.values())
