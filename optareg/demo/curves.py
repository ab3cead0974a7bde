"""Picture: overfitting. The losses of the methods during training."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from optareg.demo.style import COLORS, DASHES, label_ends, new_figure, styled
from optareg.demo.train import Result, Setting

__all__ = ["draw_curves"]

TOP = 0.8


@styled
def draw_curves(results: Sequence[Result], setting: Setting) -> Figure:
    """Two panels: the training loss and the validation loss against the step.

    Lines are means over the seeds at each method's chosen strength; shades are one
    standard deviation to both sides. A method that cuts or prunes is left out, and so
    are those at a constant rate.
    """
    results = [
        result
        for result in results
        if result.method.name in COLORS
        and not result.method.cut
        and not result.method.pruned_as
    ]
    title = "Overfitting: without a penalty the network learns the wrong labels, too"
    figure, panels = new_figure(13.5, 5.6, title, columns=2)
    steps = np.linspace(0, setting.steps, setting.points + 1)[1:]
    parts = {
        "train_curve": f"Training set: {setting.train} digits, "
        f"{round(100 * setting.wrong)} % wrong labels",
        "validation_curve": "Validation set: unseen digits, right labels",
    }
    names = [result.method.name for result in results]
    colors = [COLORS[name] for name in names]
    for axes, (part, heading) in zip(panels, parts.items(), strict=True):
        curves = [result.of_chosen(part) for result in results]
        means = [curve.mean(axis=0) for curve in curves]
        for name, curve, mean, color in zip(names, curves, means, colors, strict=True):
            axes.plot(steps, mean, color=color, ls=DASHES[name])
            around = mean - curve.std(axis=0), mean + curve.std(axis=0)
            axes.fill_between(steps, *around, color=color, alpha=0.12, lw=0)
        ends = [float(mean[-1]) for mean in means]
        axes.set_title(heading)
        axes.set(xlabel="step", ylabel="mean cross-entropy (nats)")
        axes.set(xlim=(0, setting.steps), ylim=(0, TOP))
        figure.draw_without_rendering()
        label_ends(axes, names, ends, colors)
    return figure
