"""Picture: two weights, three penalties; where optimizers end, and on which path."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from optareg import ElasticNet, Penalty, add_penalty_gradient, proximal
from optareg.demo.style import COLORS, GREY, INK, MARKERS, new_figure, styled

__all__ = ["descend", "draw_geometry", "loss", "solution_path"]

Array = jax.Array
BEST = np.array([0.7, 1.7], np.float32)
CURVATURE = np.array([[1.0, -0.3], [-0.3, 0.75]], np.float32)
RATE = 0.1
# As large as a step, RATE × gradient: so a weight that gets to zero stays there.
WIDE, HIGH = (-1.4, 2.1), (-1.25, 2.4)
# All as elastic nets, so that programs are compiled once.
PENALTIES: dict[str, tuple[Penalty, str]] = {
    "l2": (ElasticNet(0.0, 0.35), "λ (w₁² + w₂²)"),
    "l1": (ElasticNet(0.6, 0.0), "λ (|w₁| + |w₂|)"),
    "elastic net": (ElasticNet(0.42, 0.12), "a (|w₁| + |w₂|) + b (w₁² + w₂²)"),
}


def loss(w: Array) -> Array:
    """A quadratic of w, shape (..., 2), with its minimum at `BEST`; shape (...)."""
    apart = w - BEST
    return 0.5 * jnp.einsum("...i,ij,...j", apart, CURVATURE, apart)


def descend(
    optimizer: optax.GradientTransformation, start: ArrayLike, steps: int
) -> np.ndarray:
    """The iterates of `optimizer` on `loss`, the start included: (steps + 1, 2)."""
    w = jnp.asarray(start, jnp.float32)
    return np.asarray(jax.jit(lambda w: iterates(optimizer, w, steps))(w))


def iterates(
    optimizer: optax.GradientTransformation, start: Array, steps: int
) -> Array:
    """The same, within a traced function."""

    def step(
        carry: tuple[Array, optax.OptState], _: None
    ) -> tuple[tuple[Array, optax.OptState], Array]:
        w, state = carry
        updates, state = optimizer.update(jax.grad(loss)(w), state, w)
        w = jnp.asarray(optax.apply_updates(w, updates))
        return (w, state), w

    first = start, optimizer.init(start)
    _, path = jax.lax.scan(step, first, length=steps)
    return jnp.concatenate([start[None], path])


@jax.jit
def proximal_path(penalty: Penalty) -> Array:
    """`solution_path` for a penalty that may be traced."""
    return iterates(proximal(optax.sgd(RATE), penalty), jnp.asarray(BEST), 400)


def solution_path(penalty: Penalty) -> np.ndarray:
    """The iterates from the smallest loss to the smallest loss + penalty: (401, 2)."""
    return np.asarray(proximal_path(penalty))


@styled
def draw_geometry() -> Figure:
    """Three panels of contours and constraint regions, one of a weight by step."""
    figure, (*planes, steps) = new_figure(
        12.4,
        12.8,
        "L1 lands on a corner, where a weight is exactly zero; L2 does not",
        rows=2,
        columns=2,
    )
    titles = {
        "l2": "L2: a circle. Both weights shrink, neither is zero",
        "l1": "L1: a diamond. Its corner gives w₁ = 0 exactly",
        "elastic net": "Elastic net: a rounded diamond that keeps the corner",
    }
    for axes, (name, (penalty, formula)) in zip(planes, PENALTIES.items(), strict=True):
        draw_plane(axes, name, penalty, formula)
        axes.set_title(titles[name])
    draw_steps(steps)
    return figure


def draw_plane(axes: Axes, name: str, penalty: Penalty, formula: str) -> None:
    """Loss contours, the region R(w) ≤ R(solution), the path and where it ends."""
    color = COLORS[name]
    x, y = np.meshgrid(np.linspace(*WIDE, 351), np.linspace(*HIGH, 341))
    grid = jnp.asarray(np.stack([x, y], axis=-1), jnp.float32)
    path = solution_path(penalty)
    end = path[-1]

    values = jax.jit(jax.vmap(jax.vmap(penalty.value)))(grid)
    inside = np.asarray(values) / float(penalty.value(end))
    axes.contourf(x, y, inside, levels=[0, 1], colors=[color], alpha=0.18)
    axes.contour(x, y, inside, levels=[1], colors=[color], linewidths=2)
    touching = float(loss(jnp.asarray(end)))
    levels = np.sort(touching * np.array([0.04, 0.2, 0.5, 1, 1.8, 3, 4.6, 6.8]))
    widths = np.where(levels == touching, 1.8, 0.9)
    axes.contour(x, y, np.asarray(loss(grid)), levels, colors=[GREY], linewidths=widths)

    axes.plot(*path.T, color=INK, lw=1.6, marker="o", ms=3.5, zorder=3)
    axes.plot(*BEST, "+", color=INK, ms=13, mew=2.2, zorder=4)
    axes.plot(*end, "o", color=color, ms=12, mec="white", mew=1.8, zorder=5)
    box = {"boxstyle": "round,pad=0.3", "fc": "white", "ec": "none", "alpha": 0.92}
    axes.text(BEST[0] + 0.1, BEST[1] + 0.1, "smallest loss", bbox=box, zorder=6)
    axes.annotate(
        f"smallest loss + penalty:\nw = ({number(end[0])}, {number(end[1])})",
        xy=end,
        xytext=(2.05, 1.12),
        ha="right",
        va="center",
        color=color,
        fontweight="bold",
        bbox=box,
        zorder=6,
        arrowprops={"arrowstyle": "-", "color": color, "lw": 1.2, "shrinkB": 7},
    )
    axes.text(
        *(0.03, 0.97),
        f"each dot a step of\nproximal(sgd({RATE}), …)",
        va="top",
        transform=axes.transAxes,
        bbox=box,
        zorder=6,
    )
    axes.text(
        *(0.985, 0.02),
        f"shaded: {formula}\nat most its value at the dot",
        color=color,
        ha="right",
        transform=axes.transAxes,
        bbox=box,
        zorder=6,
    )
    axes.axhline(0, color=INK, lw=0.8, zorder=1)
    axes.axvline(0, color=INK, lw=0.8, zorder=1)
    axes.set(xlabel="weight w₁", ylabel="weight w₂", aspect="equal")
    axes.set(xlim=WIDE, ylim=HIGH)


def draw_steps(axes: Axes) -> None:
    """w₁ against steps: the textbook L1 update, and the proximal one."""
    penalty, _ = PENALTIES["l1"]
    textbook = optax.chain(add_penalty_gradient(penalty), optax.sgd(RATE))
    paths = {
        "l1 gradient": descend(textbook, BEST, 70)[:, 0],
        "l1": solution_path(penalty)[:71, 0],
    }
    for name, w1 in paths.items():
        axes.plot(w1, color=COLORS[name], marker=MARKERS[name], ms=5, lw=1.6)
    still = 1 + int(np.flatnonzero(paths["l1"])[-1])
    axes.annotate(
        "loss gradient + λ sign(w₁):\nback and forth, never 0",
        xy=(70, 0.105),
        ha="right",
        va="bottom",
        color=COLORS["l1 gradient"],
        fontweight="bold",
    )
    axes.annotate(
        f"proximal: exactly 0 from step {still} on",
        xy=(70, -0.05),
        ha="right",
        va="center",
        color=COLORS["l1"],
        fontweight="bold",
    )
    axes.axhline(0, color=INK, lw=0.8, zorder=1)
    axes.set(xlabel="step", ylabel="weight w₁", xlim=(10, 71), ylim=(-0.075, 0.2))
    axes.set_box_aspect(np.ptp(HIGH) / np.ptp(WIDE))
    axes.set_title("The textbook L1 update dithers around zero")


def number(x: float) -> str:
    """A coordinate: an exact zero as 0, anything else with two decimals."""
    return "0" if x == 0 else f"{x:.2f}"
