"""Picture: histograms of the weights that each of the methods ends with."""

from collections.abc import Sequence

import jax
import numpy as np
from matplotlib.figure import Figure

from optareg import plot
from optareg.demo.style import COLORS, new_figure, styled
from optareg.demo.train import Result, flat_kernels

__all__ = ["draw_weights"]

LIMIT = 0.5
BINS = np.linspace(-LIMIT, LIMIT, 101).tolist()


@styled
def draw_weights(results: Sequence[Result]) -> Figure:
    """A panel for each method, on the same scales, of the kernels of the first seed.

    Methods without a colour, those of the constant rate, are left out.
    """
    shown = [result for result in results if result.method.name in COLORS]
    title = "Proximal steps make weights exactly zero; so does a cut afterwards"
    figure, panels = new_figure(
        15, 7.6, title, rows=2, columns=-(-len(shown) // 2), sharex=True, sharey=True
    )
    for axes, result in zip(panels, shown, strict=False):
        weights = np.asarray(flat_kernels(jax.tree.map(lambda x: x[0], result.params)))
        plot.weights(np.clip(weights, -LIMIT, LIMIT), bins=BINS, ax=axes)
        zeros = axes.get_title(loc="left")
        axes.set_title(
            f"{result.method.name}: {result.method.weights}\n{zeros}", fontsize=11
        )
        axes.set(xlim=(-LIMIT, LIMIT), ylim=(0.7, 6e4), xlabel="", ylabel="")
    for axes in panels[len(shown) :]:
        axes.remove()
    figure.supxlabel("kernel weight (outermost bars: and beyond)")
    figure.supylabel("number of weights (log scale)")
    return figure
