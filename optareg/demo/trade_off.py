"""Picture: accuracy against sparsity, over all strengths of the sweeps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optareg.demo.style import COLORS, DASHES, GREY, MARKERS, new_figure, styled
from optareg.demo.train import Result

__all__ = ["draw_trade_off"]

TICKS = (0, 50, 80, 90, 95, 98, 99)
STAR: dict[str, Any] = {"ms": 19, "mec": "white", "mew": 1.2, "zorder": 5, "ls": "none"}


@styled
def draw_trade_off(results: Sequence[Result]) -> Figure:
    """Two panels: validation accuracy and validation loss against the share of zeros.

    A line for each method joins the strengths of its sweep, means over the seeds, with
    bars of one standard deviation; a star marks the chosen strength. Methods without
    zeros stand at 0 %, one above the other. Those of the constant rate are left out.
    """
    results = [result for result in results if result.method.name in COLORS]
    title = "Most weights can go before accuracy does"
    figure, panels = new_figure(13.5, 6, title, columns=2)
    draw_measure(panels[0], results, "validation_accuracy", factor=100)
    draw_measure(panels[1], results, "validation_loss")
    none = {
        name: float(np.mean(results[0].of_chosen(name)))
        for name in ("validation_accuracy", "validation_loss")
    }
    panels[0].set(ylabel="validation accuracy (%)", title="Accuracy: higher is better")
    panels[0].set_ylim(100 * none["validation_accuracy"] - 12, 100)
    panels[1].set(ylabel="validation loss (nats)", title="Loss: lower is better")
    panels[1].set_ylim(0.5 * none["validation_loss"], 1.6 * none["validation_loss"])
    entries = panels[0].get_legend_handles_labels()
    figure.legend(*entries, loc="outside lower center", ncols=5, frameon=False)
    return figure


def draw_measure(
    axes: Axes, results: Sequence[Result], measure: str, factor: float = 1
) -> None:
    """One panel: a measure against the share of zeros, for all strengths."""
    for result in results:
        name, chosen = result.method.name, result.chosen
        kept = 1 - np.mean(result.sweep.zeros, axis=1)
        values = factor * np.asarray(getattr(result.sweep, measure))
        mean, bars = values.mean(axis=1), values.std(axis=1)
        color, marker = COLORS[name], MARKERS[name]
        axes.errorbar(
            kept, mean, bars, color=color, fmt="none", elinewidth=1, alpha=0.4
        )
        axes.plot(
            kept, mean, color=color, ls=DASHES[name], marker=marker, ms=6, lw=1.8,
            label=name,
        )  # fmt: skip
        axes.plot(kept[chosen], mean[chosen], "*", **STAR, color=color)
        axes.plot(kept[chosen], mean[chosen], marker, ms=5, color=color, zorder=6)
    axes.plot([], [], "*", **STAR, color=GREY, label="chosen strength")
    axes.set_xscale("log")
    axes.set_xlim(1.12, 0.006)
    axes.set_xticks(1 - np.array(TICKS) / 100, [str(tick) for tick in TICKS])
    axes.minorticks_off()
    axes.set_xlabel("kernel weights exactly zero (%; log scale of the rest)")
