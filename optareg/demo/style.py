"""What all pictures share: fonts, a colour for each method, labels that do not meet.

Figures are made without pyplot, so that nothing global changes, and no window opens.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

__all__ = [
    "COLORS",
    "DASHES",
    "GREY",
    "INK",
    "MARKERS",
    "label_ends",
    "new_figure",
    "spread_out",
    "styled",
]

INK = "#222222"
GREY = "#767676"

# Okabe and Ito's colours, which the colour-blind can tell apart. Two methods that share
# a hue, or look alike without colours, differ in dashes and markers.
COLORS = {
    "none": "#222222",
    "l2": "#0072B2",
    "l1 gradient": "#E69F00",
    "l1 gradient, cut": "#E69F00",
    "l1 decoupled": "#CC79A7",
    "l1": "#D55E00",
    "elastic net": "#009E73",
    "l2, pruned": "#56B4E9",
}
DASHES = {
    "none": "-",
    "l2": "--",
    "l1 gradient": "-.",
    "l1 gradient, cut": (0, (6, 1.5)),
    "l1 decoupled": ":",
    "l1": "-",
    "elastic net": (0, (3, 1, 1, 1, 1, 1)),
    "l2, pruned": (0, (1, 3)),
}
MARKERS = {
    "none": "o",
    "l2": "s",
    "l1 gradient": "v",
    "l1 gradient, cut": "^",
    "l1 decoupled": "D",
    "l1": "o",
    "elastic net": "X",
    "l2, pruned": "P",
}

SETTINGS: Any = {
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.labelsize": 12,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.titlesize": 13,
    "figure.dpi": 150,
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "lines.linewidth": 2,
    "savefig.dpi": 150,
    "text.color": INK,
    "xtick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.color": GREY,
    "ytick.labelcolor": INK,
}

# A decorator: within the function the settings hold, afterwards the user's again.
styled = matplotlib.rc_context(SETTINGS)


def new_figure(
    width: float,
    height: float,
    title: str,
    rows: int = 1,
    columns: int = 1,
    **options: Any,
) -> tuple[Figure, list[Axes]]:
    """A figure with its axes, row by row.

    Args:
      width: in inches, of 150 pixels each.
      height: in inches.
      title: what is seen.
      rows: of axes.
      columns: of axes.
      options: for `Figure.subplots`.
    """
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    figure = Figure(figsize=(width, height), layout=layout, facecolor="white")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    figure.suptitle(title, fontsize=15, fontweight="bold", x=0.012, ha="left")
    return figure, list(axes.ravel())


def spread_out(positions: Iterable[float], gap: float) -> np.ndarray:
    """Positions at least `gap` apart, in the same order, moved as little as can be."""
    wanted = np.asarray(list(positions), dtype=float)
    order = np.argsort(wanted, kind="stable")
    # Clusters of labels that touch: each is centred on the mean of what it wants.
    clusters: list[list[float]] = []
    for position in wanted[order]:
        clusters.append([position])
        while len(clusters) > 1 and low(clusters[-1], gap) < high(clusters[-2], gap):
            last = clusters.pop()
            clusters[-1].extend(last)
    placed = [low(c, gap) + (i + 0.5) * gap for c in clusters for i in range(len(c))]
    result = np.empty_like(wanted)
    result[order] = placed
    return result


def low(cluster: list[float], gap: float) -> float:
    """The lower edge of a cluster of labels."""
    return float(np.mean(cluster)) - len(cluster) * gap / 2


def high(cluster: list[float], gap: float) -> float:
    """The upper edge of a cluster of labels."""
    return float(np.mean(cluster)) + len(cluster) * gap / 2


def label_ends(
    axes: Axes,
    names: Sequence[str],
    ends: Sequence[float],
    colors: Sequence[str],
    size: float = 11,
) -> None:
    """Names to the right of `axes`, at the height where each curve ends.

    Call it when the limits of the axes are final.
    """
    bottom, top = axes.transData.transform([(1, y) for y in axes.get_ylim()])[:, 1]
    pixels = axes.transData.transform([(axes.get_xlim()[1], y) for y in ends])[:, 1]
    heights = (pixels - bottom) / (top - bottom)
    inches = axes.get_position().height * axes.figure.get_figheight()  # type: ignore[union-attr]
    placed = spread_out(heights, 1.35 * size / 72 / inches)
    for name, height, place, color in zip(names, heights, placed, colors, strict=True):
        axes.annotate(
            name,
            xy=(1, height),
            xytext=(1.06, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=color,
            fontsize=size,
            va="center",
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "lw": 0.9,
                "relpos": (0, 0.5),
                "shrinkA": 1,
                "shrinkB": 1,
            },
        )
