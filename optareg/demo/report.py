"""What the runs gave: the table for people, and `results.json` for programs."""

import dataclasses
import html
import importlib.metadata
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

import optareg
from optareg.demo.train import CUTS, Result, Setting

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
    Column("train %", "train_accuracy", 100, 1),
    Column("test %", "test_accuracy", 100, 1),
    Column("test loss", "test_loss", 1, 3),
    Column("norm", "norm", 1, 2),
    Column("objective", "objective", 1, 3),
)

LEGEND = """\
Mean ± standard deviation over {seeds} seeds, at the strength with the lowest mean \
validation loss of its sweep; strengths of different methods do not compare. The cut is \
chosen together with the strength, in the same way.

zeros: kernel weights that are exactly 0. near: not 0, but below 0.001 in size. train, \
test: accuracy. As {wrong} % of the training labels are wrong, 100 % on the training set \
is overfitting. norm: of all kernel weights. objective: training loss + penalty at that \
strength (`l1 decoupled` minimises another)."""

PRUNED = """\
Every row has {steps} gradients a run. `l2, pruned` takes {half} of them; then it sets \
to zero the smallest weights, as many as `l1` has zeros, and trains the others with the \
other {half}."""

BEYOND = """\
What exact zeros give beyond a cut: no cut to choose. As chosen, `l1 gradient, cut` has \
{cut_zeros:.1f} % zeros and a test loss of {cut_loss:.3f}, `l1` has {l1_zeros:.1f} % and \
{l1_loss:.3f}. At a constant rate it is {cut_zeros_constant:.1f} % and \
{cut_loss_constant:.3f} with a cut, {l1_zeros_constant:.1f} % and \
{l1_loss_constant:.3f} with `l1`. But the cut is {cut:.2g} for the rate that falls, and \
{cut_constant:.2g} for the constant one, where {cut:.2g} makes \
{wrong_zeros:.1f} % zero."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of text: prints as such, and shows as HTML in a notebook.

    Attributes:
      head: the headings.
      rows: the cells, a row for each method.
      notes: what the headings mean, and what the numbers say: a text for each
        paragraph.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]

    def text(self, width: int) -> str:
        """The table in lines of at most `width` characters.

        Columns that do not fit beside the others follow below, behind the names of the
        methods again.
        """
        lines = [self.head, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        blocks: list[list[int]] = [[0]]
        for column in range(1, len(widths)):
            taken = sum(widths[i] + 2 for i in [*blocks[-1], column]) - 2
            if taken > width and len(blocks[-1]) > 1:
                blocks.append([0])
            blocks[-1].append(column)
        parts = ["\n".join(block_lines(lines, widths, block)) for block in blocks]
        notes = [textwrap.fill(note, width) for note in self.notes]
        return "\n\n".join([*parts, *notes])

    def __str__(self) -> str:
        return self.text(80)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        def row(cells: Sequence[str], tag: str) -> str:
            cells = [f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells]
            return f"<tr>{''.join(cells)}</tr>"

        body = "".join(row(cells, "td") for cells in self.rows)
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        return (
            f"<table><thead>{row(self.head, 'th')}</thead><tbody>{body}</tbody></table>"
            f"{notes}"
        )


def block_lines(
    lines: Sequence[Sequence[str]], widths: Sequence[int], columns: Sequence[int]
) -> list[str]:
    """Some columns of a table: names to the left, numbers to the right."""
    text = [
        "  ".join(
            line[i].rjust(widths[i]) if i else line[i].ljust(widths[i]) for i in columns
        )
        for line in lines
    ]
    rule = "-" * len(text[0])
    return [text[0], rule, *text[1:], rule]


def table(results: Sequence[Result], setting: Setting) -> Table:
    """The results for people, a row for each method: mean ± spread over the seeds."""

    def cell(result: Result, column: Column) -> str:
        values = column.factor * result.of_chosen(column.measure)
        mean, around = np.mean(values), spread(values)
        return f"{mean:.{column.decimals}f} ± {around:.{column.decimals}f}"

    rows = tuple(
        (
            result.method.name,
            f"{result.strengths[result.chosen]:.2g}",
            "" if result.cuts is None else f"{result.cuts[result.chosen]:.2g}",
            *(cell(result, column) for column in COLUMNS),
            result.method.weights,
        )
        for result in results
    )
    headings = tuple(column.heading for column in COLUMNS)
    legend = LEGEND.format(seeds=setting.seeds, wrong=round(100 * setting.wrong))
    return Table(
        head=("method", "strength", "cut", *headings, "weights"),
        rows=rows,
        notes=(*legend.split("\n\n"), *remarks(results, setting)),
    )


def remarks(results: Sequence[Result], setting: Setting) -> list[str]:
    """What was pruned, and what exact zeros give beyond a cut, if those rows exist."""
    of = {result.method.name: result for result in results}
    said = []
    if "l2, pruned" in of:
        said.append(PRUNED.format(steps=setting.steps, half=setting.steps // 2))
    rows = {
        "cut": "l1 gradient, cut",
        "l1": "l1",
        "cut_constant": "cut, constant rate",
        "l1_constant": "l1, constant rate",
    }
    if all(name in of for name in rows.values()):
        numbers = {}
        for key, name in rows.items():
            kind, _, constant = key.partition("_")
            end = f"_{constant}" if constant else ""
            numbers[f"{kind}_zeros{end}"] = 100 * np.mean(of[name].of_chosen("zeros"))
            numbers[f"{kind}_loss{end}"] = np.mean(of[name].of_chosen("test_loss"))
        falling, constant = of[rows["cut"]], of[rows["cut_constant"]]
        assert falling.cuts is not None and constant.cuts is not None
        assert constant.tried is not None
        cut = falling.cuts[falling.chosen]
        zeros = constant.tried["zeros"][CUTS == cut, constant.chosen]
        said.append(
            BEYOND.format(
                **numbers,
                cut=cut,
                cut_constant=constant.cuts[constant.chosen],
                wrong_zeros=100 * np.mean(zeros),
            )
        )
    return said


def results_json(results: Sequence[Result], setting: Setting) -> dict[str, Any]:
    """The results for programs, ready for `json.dump`.

    `methods` has an entry for each method. Accuracies and shares are fractions from 0
    to 1; `…_spread` is the standard deviation over the seeds. `cut` is null for methods
    without one. `sweep` holds lists with an entry for each strength, measured without
    the test set.
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
        "cut": None if result.cuts is None else float(result.cuts[result.chosen]),
        **means,
        **spreads,
        "sweep": {
            "strength": result.strengths.tolist(),
            "cut": None if result.cuts is None else result.cuts.tolist(),
            **{m: np.mean(getattr(result.sweep, m), axis=1).tolist() for m in swept},
        },
    }


def spread(values: np.ndarray) -> float:
    """The standard deviation of a sample; 0 for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
