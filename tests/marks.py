"""Which cells of a table of tests are `long`."""

from collections.abc import Iterable
from typing import Any

import pytest


def some_long(names: Iterable[str], *short: str) -> list[Any]:
    """All names, of which those that are `short` are in the default run."""
    return [n if n in short else pytest.param(n, marks=pytest.mark.long) for n in names]
