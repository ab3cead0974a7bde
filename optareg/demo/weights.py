"""Picture: histograms of the weights that each of the six methods ends with."""

from collections.abc import Sequence

import jax
import numpy as np
from matplotlib.figure import Figure

from optareg.demo.style import COLORS, INK, new_figure, styled
from optareg.demo.train import Result, flat_kernels

__all__ = ["draw_weights"]

LIMIT = 0.5
BINS = np.linspace(-LIMIT, LIMIT, 101).tolist()


@styled
def draw_weights(results: Sequence[Result]) -> Figure:
    """A panel for each method, on the same scales, of the kernels of the first seed.

    The histogram is of the weights that are not zero; exact zeros have a bar of their
    own, drawn black.
    """
    title = "Only proximal steps make weights exactly zero"
    figure, panels = new_figure(
        13.5, 7.6, title, rows=2, columns=3, sharex=True, sharey=True
    )
    for axes, result in zip(panels, results, strict=True):
        name = result.method.name
        weights = np.asarray(flat_kernels(jax.tree.map(lambda x: x[0], result.params)))
        zeros = int(np.sum(weights == 0))
        others = np.clip(weights[weights != 0], -LIMIT, LIMIT)
        axes.hist(others, BINS, color=COLORS[name], histtype="stepfilled", log=True)
        if zeros:
            axes.vlines(0, 0.5, zeros, color=INK, lw=3)
            axes.plot(0, zeros, "o", color=INK, ms=7)
        axes.annotate(
            f"{zeros / weights.size:.1%}".replace("%", " %") + "\nexactly zero",
            (0.97, 0.97),
            xycoords="axes fraction",
            ha="right",
            va="top",
            color=INK,
            fontsize=13,
            fontweight="bold" if zeros else "normal",
        )
        axes.set_title(
            f"{name}: weights {result.method.weights}",
            color=COLORS[name],
            fontweight="bold",
        )
        axes.set(xlim=(-LIMIT, LIMIT), ylim=(0.7, 6e4))
    for axes in panels[3:]:
        axes.set_xlabel("kernel weight (outermost bars: and beyond)")
    for axes in panels[::3]:
        axes.set_ylabel("number of weights (log scale)")
    return figure
