"""What the runs gave: the table for people, and `results.json` for programs."""

import dataclasses
import html
import importlib.metadata
import textwrap
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
    Column("train %", "train_accuracy", 100, 1),
    Column("test %", "test_accuracy", 100, 1),
    Column("test loss", "test_loss", 1, 3),
    Column("norm", "norm", 1, 2),
    Column("objective", "objective", 1, 3),
)

LEGEND = """\
Mean ± standard deviation over {seeds} seeds, at the strength with the lowest mean \
validation loss of its sweep; strengths of different methods do not compare. The cut \
is chosen together with the strength, in the same way.

zeros: kernel weights that are exactly 0. near: not 0, but below 0.001 in size. \
train, test: accuracy. As {wrong} % of the training labels are wrong, 100 % on the \
training set is overfitting. norm: of all kernel weights. objective: training loss + \
penalty at that strength{decoupled}."""

DECOUPLED = " (`l1 decoupled` minimises another)"

PRUNED = """\
Every row has {steps} gradients a run. `l2, pruned` takes {half} of them; then it \
sets to zero the smallest weights, as many as `l1` has zeros, and trains the others \
with the other {half}."""

BEYOND = """\
What exact zeros give beyond a cut: no cut to choose. `l1 gradient, cut` and `l1` have \
{cut[zeros]:.1f} and {l1[zeros]:.1f} % zeros at test losses of {cut[loss]:.3f} and \
{l1[loss]:.3f}; at a constant rate {cut_constant[zeros]:.1f} and \
{l1_constant[zeros]:.1f} % at {cut_constant[loss]:.3f} and {l1_constant[loss]:.3f}. \
But the loss hardly tells one cut from another. Those within {near} of the lowest \
validation loss leave {cut[least]:.1f} to {cut[most]:.1f} % zeros; at the constant \
rate {cut_constant[least]:.1f} to {cut_constant[most]:.1f} %."""

NEAR_LOSS = 0.01


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
        )
        for result in results
    )
    headings = tuple(column.heading for column in COLUMNS)
    names = [result.method.name for result in results]
    legend = LEGEND.format(
        seeds=setting.seeds,
        wrong=round(100 * setting.wrong),
        decoupled=DECOUPLED if "l1 decoupled" in names else "",
    )
    return Table(
        head=("method", "strength", "cut", *headings),
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
        numbers = {key: in_short(of[name]) for key, name in rows.items()}
        said.append(BEYOND.format(**numbers, near=NEAR_LOSS))
    return said


def in_short(result: Result) -> dict[str, float]:
    """The zeros in %, the test loss; and the zeros of all cuts that are about as good.

    About as good are cuts whose validation loss, at the chosen strength, is within
    `NEAR_LOSS` of the lowest.
    """
    short = {
        "zeros": 100 * float(np.mean(result.of_chosen("zeros"))),
        "loss": float(np.mean(result.test_loss)),
    }
    if result.tried is not None:
        zeros, losses = (
            np.mean(result.tried[name][:, result.chosen], axis=1)
            for name in ("zeros", "validation_loss")
        )
        good = 100 * zeros[losses <= np.min(losses) + NEAR_LOSS]
        short |= {"least": float(np.min(good)), "most": float(np.max(good))}
    return short


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
