"""What the runs gave: the table for people, and `results.json` for programs."""

import dataclasses
import html
import importlib.metadata
from collections.abc import Sequence
from typing import Any

import numpy as np

import optareg
from optareg.demo.train import Result, Setting

__all__ = ["Table", "results_json", "table"]

# Measures in results.json: each a mean over the seeds, with its spread beside it.
MEASURES = (
    "zeros",
    "near_zeros",
    "norm",
    "train_accuracy",
    "validation_accuracy",
    "test_accuracy",
    "train_loss",
    "validation_loss",
    "test_loss",
    "objective",
)


@dataclasses.dataclass(frozen=True)
class Column:
    """A measure in the table: its heading, its factor, and its decimals."""

    heading: str
    measure: str
    factor: int
    decimals: int


LIBRARIES = ("jax", "optax", "flax", "scikit-learn", "numpy")

COLUMNS = (
    Column("zeros %", "zeros", 100, 1),
    Column("near %", "near_zeros", 100, 1),
    Column("norm", "norm", 1, 2),
    Column("train %", "train_accuracy", 100, 1),
    Column("test %", "test_accuracy", 100, 1),
    Column("test loss", "test_loss", 1, 3),
    Column("objective", "objective", 1, 3),
)

LEGEND = """\
Mean ± standard deviation over {seeds} seeds, at the strength with the lowest mean
validation loss of its sweep; strengths of different methods do not compare.
zeros: kernel weights that are exactly 0. near: not 0, but below 0.001 in size.
norm: of all kernel weights. train, test: accuracy. As {wrong} % of the training labels
are wrong, 100 % on the training set is overfitting.
objective: training loss + penalty at that strength (`l1 decoupled` minimises another).
seconds: all strengths and seeds of the sweep, without compilation."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of text: prints as such, and shows as HTML in a notebook.

    Attributes:
      head: the headings.
      rows: the cells, a row for each method.
      legend: what the headings mean.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    legend: str

    def __str__(self) -> str:
        lines = [self.head, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        left = 2  # The words are to the left, the numbers to the right.
        text = [
            "  ".join(
                cell.ljust(width) if i < left else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        ]
        rule = "-" * len(text[0])
        return "\n".join([text[0], rule, *text[1:], rule, self.legend])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        def row(cells: Sequence[str], tag: str) -> str:
            cells = [f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells]
            return f"<tr>{''.join(cells)}</tr>"

        body = "".join(row(cells, "td") for cells in self.rows)
        legend = html.escape(self.legend).replace("\n", "<br>")
        return (
            f"<table><thead>{row(self.head, 'th')}</thead><tbody>{body}</tbody></table>"
            f"<p>{legend}</p>"
        )


def table(results: Sequence[Result], setting: Setting) -> Table:
    """The results for people, a row for each method: mean ± spread over the seeds."""

    def cell(result: Result, column: Column) -> str:
        values = column.factor * result.of_chosen(column.measure)
        mean, around = np.mean(values), spread(values)
        return f"{mean:.{column.decimals}f} ± {around:.{column.decimals}f}"

    rows = tuple(
        (
            result.method.name,
            result.method.weights,
            f"{result.strengths[result.chosen]:.2g}",
            *(cell(result, column) for column in COLUMNS),
            f"{result.seconds:.1f}",
        )
        for result in results
    )
    headings = tuple(column.heading for column in COLUMNS)
    return Table(
        head=("method", "weights", "strength", *headings, "seconds"),
        rows=rows,
        legend=LEGEND.format(
            seeds=setting.seeds,
            wrong=round(100 * setting.wrong),
        ),
    )


def results_json(results: Sequence[Result], setting: Setting) -> dict[str, Any]:
    """The results for programs, ready for `json.dump`.

    `methods` has an entry for each method. Accuracies and shares are fractions from 0
    to 1; `…_spread` is the standard deviation over the seeds. `sweep` holds lists with
    an entry for each strength, measured without the test set.
    """
    return {
        "methods": [entry(result) for result in results],
        "settings": dataclasses.asdict(setting),
        "versions": {
            "optareg": optareg.__version__,
            **{name: importlib.metadata.version(name) for name in LIBRARIES},
        },
    }


def entry(result: Result) -> dict[str, Any]:
    """One method of `results_json`."""
    means = {m: float(np.mean(result.of_chosen(m))) for m in MEASURES}
    spreads = {f"{m}_spread": spread(result.of_chosen(m)) for m in MEASURES}
    swept = [m for m in MEASURES if not m.startswith("test")]
    return {
        "method": result.method.name,
        "weights": result.method.weights,
        "strength": float(result.strengths[result.chosen]),
        **means,
        **spreads,
        "seconds": result.seconds,
        "sweep": {
            "strength": result.strengths.tolist(),
            **{m: np.mean(getattr(result.sweep, m), axis=1).tolist() for m in swept},
        },
    }


def spread(values: np.ndarray) -> float:
    """The standard deviation of a sample; 0 for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
