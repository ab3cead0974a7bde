"""What benchmarks share: which peers there are, and how tables are printed."""

import importlib.metadata
from collections.abc import Iterable, Sequence

import numpy as np

import optareg


def installed(package: str) -> str | None:
    """The version of `package`, if it is installed."""
    if package == "optareg":
        return optareg.__version__
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean ± standard deviation."""
    return f"{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}"


def print_table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Markdown, row by row."""
    print(f"\n**{title}**\n")
    print(f"| {' | '.join(head)} |")
    print(f"|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)
