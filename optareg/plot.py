"""Pictures of your own runs, with matplotlib (`pip install "optareg[plot]"`).

Each function draws into `ax`, the current axes by default, and returns it. Lines differ
in colour, dashes and markers, so that they are told apart without colours too.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from optareg._inspect import Summary
from optareg._tree import Tree, is_masked, numbers_only
from optareg.penalties._base import Penalty
from optareg.solve._choose import choose_strength

__all__ = [
    "coefficients",
    "cross_validation",
    "geometry",
    "training",
    "weights",
    "zeros_by_layer",
]

PyTree = Any

# Okabe and Ito's colours, which the colour-blind can tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
LOOKS = math.lcm(len(DASHES), len(MARKERS))  # So many differ without their colours.


def coefficients(
    strengths: Any,
    params: Any,
    *,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Coefficients against the strength of the penalty: the regularization path.

    Args:
      strengths: those of `path`, shape (n,), positive.
      params: the coefficients at each of them, shape (n, p), as `path` returns them for
        a vector of parameters.
      names: of the p coefficients, for a legend of those that are not zero everywhere,
        the largest at the weakest strength first. None for no legend.
      ax: where to draw.

    Returns:
      The axes. The strongest penalty is at the left, as in glmnet. With p up to 20 a
      coefficient looks the same in every call, so that several axes compare.

    Raises:
      ValueError: the shapes do not fit.

    >>> import jax.numpy as jnp
    >>> import matplotlib.pyplot as plt
    >>> from optareg import plot
    >>> grid, w = jnp.array([1.0, 0.1]), jnp.array([[0.0, 0.0], [2.0, 1.0]])
    >>> ax = plot.coefficients(grid, w, names=["age", "height"], ax=plt.figure().gca())
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['age', 'height']
    """
    grid, w = np.asarray(strengths), np.asarray(params)
    if grid.ndim != 1 or w.ndim != 2 or len(w) != len(grid):
        raise ValueError(
            "`coefficients` needs strengths of shape (n,) and coefficients of shape "
            f"(n, p), got {grid.shape} and {w.shape}."
        )
    if names is not None and len(names) != w.shape[1]:
        raise ValueError(f"got {len(names)} names for {w.shape[1]} coefficients.")
    ax = ax or plt.gca()
    by_size = np.argsort(-np.abs(w[np.argmin(grid)]), kind="stable")
    drawn = [j for j in by_size if np.any(w[:, j])]
    for place, j in enumerate(drawn):
        look = j if w.shape[1] <= LOOKS else place
        color = COLORS[look % len(COLORS)]
        dashes = DASHES[look % len(DASHES)]
        marker = MARKERS[look % len(MARKERS)]
        label = names[j] if names is not None else None
        every = max(1, len(grid) // 8)
        ax.plot(
            grid, w[:, j], dashes, color=color, marker=marker, markevery=every, ms=4,
            label=label,
        )  # fmt: skip
    ax.axhline(0, color="0.6", lw=0.8, zorder=0, label="_zero")
    ax.set(xscale="log", xlabel="strength", ylabel="coefficient")
    ax.set_xlim(grid.max(), grid.min())
    if names is not None:
        ax.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.01, 0.5))
    return ax


def cross_validation(strengths: Any, errors: Any, *, ax: Axes | None = None) -> Axes:
    """Mean errors over folds; the best strength, and the one-standard-error rule's.

    Args:
      strengths: shape (n,), positive.
      errors: of each fold at each strength, shape (folds, n).
      ax: where to draw.

    Returns:
      The axes, with a solid line at the best strength, and a dashed one at the
      strongest whose error is within one standard error of it.

    Raises:
      ValueError: as `choose_strength`.

    Warns:
      UserWarning: the best strength is at an end of the grid, which is then too narrow.

    >>> import jax.numpy as jnp
    >>> import matplotlib.pyplot as plt
    >>> from optareg import plot
    >>> grid = jnp.array([1.0, 0.1, 0.01])
    >>> errors = jnp.array([[3.0, 1.0, 2.0], [3.0, 1.2, 2.0]])
    >>> ax = plot.cross_validation(grid, errors, ax=plt.figure().gca())
    >>> [text.get_text() for text in ax.get_legend().get_texts()][1]
    'best: 0.1'
    """
    choice = choose_strength(strengths, errors)
    ax = ax or plt.gca()
    grid, mean, spread = (
        np.asarray(x) for x in (strengths, choice.mean, choice.standard_error)
    )
    ax.plot(grid, mean, "-o", color=COLORS[0], ms=3, label="mean over folds")
    around = mean - spread, mean + spread
    ax.fill_between(grid, *around, color=COLORS[0], alpha=0.2, lw=0)
    best, one_se = float(grid[choice.best]), float(grid[choice.one_se])
    ax.axvline(best, color="0.2", label=f"best: {best:.3g}")
    ax.axvline(one_se, color="0.2", ls="--", label=f"one standard error: {one_se:.3g}")
    ax.set(xscale="log", xlabel="strength", ylabel="error")
    ax.set_xlim(grid.max(), grid.min())
    ax.legend(fontsize="small")
    if bool(choice.at_edge):
        warnings.warn(
            f"the best strength, {best:.3g}, is at an end of the grid: take a wider "
            "one.",
            stacklevel=2,
        )
    return ax


def training(
    share: Any,
    *,
    factor: Any = None,
    target: float | None = None,
    steps: Any = None,
    ax: Axes | None = None,
) -> Axes:
    """The share of zeros over training, and the factor of `target_sparsity`.

    Args:
      share: at each logged step, from 0 to 1, shape (n,).
      factor: the factor on the strength, shape (n,), or None.
      target: the wanted share, or None.
      steps: the numbers of the logged steps, shape (n,); 0, 1, … by default.
      ax: where to draw; the factor has an axis of its own at the right.

    Returns:
      The axes of the share.

    >>> from optareg import plot
    >>> ax = plot.training([0.0, 0.4, 0.5], target=0.5)
    >>> ax.get_ylabel()
    'share of zeros'
    """
    ax = ax or plt.gca()
    y = np.asarray(share)
    x = np.arange(len(y)) if steps is None else np.asarray(steps)
    ax.plot(x, y, "-", color=COLORS[0], label="share of zeros")
    if target is not None:
        ax.axhline(target, color="0.2", ls="--", label="target")
    ax.set(xlabel="step", ylabel="share of zeros", ylim=(0, 1))
    if factor is not None:
        right = ax.twinx()
        right.plot(x, np.asarray(factor), ":", color=COLORS[1], label="factor")
        right.set(ylabel="factor on the strength", yscale="log")
    return ax


def weights(
    params: PyTree, *, bins: int | Sequence[float] = 100, ax: Axes | None = None
) -> Axes:
    """A histogram of all entries, in which exact zeros have a bar of their own.

    Args:
      params: a tree of real arrays.
      bins: of the entries that are not zero: their number, or their edges.
      ax: where to draw.

    Returns:
      The axes, with a logarithmic count, and the share of zeros in the title.

    Raises:
      ValueError: there are no entries.

    >>> import jax.numpy as jnp
    >>> from optareg import plot
    >>> plot.weights({"w": jnp.array([0.0, 0.0, 0.5, -1.0])}).get_title()
    '50.0% exactly zero'
    """
    leaves = [x for x in Tree(numbers_only(params)).leaves if not is_masked(x)]
    arrays = [np.asarray(x, np.float64).ravel() for x in leaves]
    if not sum(x.size for x in arrays):
        raise ValueError("`weights` has nothing to draw: `params` has no entries.")
    entries = np.concatenate(arrays)
    ax = ax or plt.gca()
    others, zeros = entries[entries != 0], int(np.sum(entries == 0))
    if others.size:
        ax.stairs(
            *np.histogram(others, bins), fill=True, color=COLORS[0], label="not zero"
        )
    if zeros:
        ax.vlines(0, 0.5, zeros, color=COLORS[-1], lw=3, label="exactly zero")
        ax.plot(0, zeros, "o", color=COLORS[-1])
    ax.set(yscale="log", xlabel="weight", ylabel="number of weights")
    ax.set_ylim(bottom=0.5)
    ax.set_title(f"{zeros / entries.size:.1%} exactly zero")
    return ax


def zeros_by_layer(summary: Summary, *, ax: Axes | None = None) -> Axes:
    """A bar for each leaf of a `Summary`: the share of its entries that are zero.

    Args:
      summary: what `summarize` returns.
      ax: where to draw.

    Returns:
      The axes, the first leaf on top.

    >>> import jax.numpy as jnp
    >>> import matplotlib.pyplot as plt
    >>> from optareg import plot, summarize
    >>> summary = summarize({"w": jnp.array([0.0, 1.0])})
    >>> ax = plot.zeros_by_layer(summary, ax=plt.figure().gca())
    >>> print(ax.patches[0].get_width())
    0.5
    """
    ax = ax or plt.gca()
    leaves = [leaf for leaf in summary.leaves if leaf.size]
    shares = [leaf.zeros / leaf.size for leaf in leaves]
    bars = ax.barh(range(len(leaves)), shares, color=COLORS[0])
    ax.bar_label(bars, [f"{share:.0%}" for share in shares], padding=3)
    ax.set_yticks(range(len(leaves)), [leaf.path for leaf in leaves])
    ax.invert_yaxis()
    ax.set(xlim=(0, 1.1), xlabel="share of exact zeros")
    return ax


def geometry(
    penalty: Penalty,
    *,
    levels: Sequence[float] = (0.5, 1.0),
    limit: float = 1.5,
    ax: Axes | None = None,
) -> Axes:
    """Where a penalty on two weights has the same value: L1 a diamond, L2 a circle.

    Args:
      penalty: a penalty on one leaf of two entries.
      levels: the values.
      limit: of both axes.
      ax: where to draw.

    Returns:
      The axes, in equal scales.

    >>> from optareg import L1, plot
    >>> plot.geometry(L1(1.0)).get_xlabel()
    'first weight'
    """
    ax = ax or plt.gca()
    line = np.linspace(-limit, limit, 201)
    pairs = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2).astype(np.float32)
    values = np.asarray(jax.vmap(penalty.value)(pairs)).reshape(201, 201)
    values = np.where(np.isfinite(values), values, np.nan)
    ax.contour(line, line, values, sorted(levels), colors=COLORS[0])
    ax.axhline(0, color="0.6", lw=0.8)
    ax.axvline(0, color="0.6", lw=0.8)
    ax.set(xlabel="first weight", ylabel="second weight", aspect="equal")
    return ax
