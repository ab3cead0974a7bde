"""When a solution is near enough: the default tolerance, in every parameter's units.

A residual r of a parameter with curvature H costs about r²/2H of the objective. So it
is measured in parts of √H, and compared with the largest such gradient at the null
model (see `_null_model.py`). Then scales of columns do not matter. A residual must be
small beside the strength too, as a duality gap asks for. None can be smaller than
rounding allows.
"""

from typing import Any

import jax
import jax.numpy as jnp

from optareg._tree import epsilon
from optareg.solve._composite import Composite, Goal
from optareg.solve._leaves import Leaves, largest
from optareg.solve._null_model import at_center

__all__ = ["center_or_start", "default_goal", "rough_goal"]

Array = jax.Array

# In parts of that gradient: what nearly all problems reach in spite of rounding.
SINGLE, DOUBLE = 3e-6, 4e-11
# In parts of the strength.
OF_STRENGTH_SINGLE, OF_STRENGTH_DOUBLE = 5e-5, 5e-7
# Rounding errors of a gradient, in ε: of its largest terms now, and where terms cancel.
ROUNDING, CANCELLED = 16, 4
# Where a gradient over √H is to be believed, the objective falls by at least this part
# of what they say, on a tenth of the way to its least.
LEAST_FALL, PART = 0.1, 0.1


def default_goal(
    problem: Composite, w: Leaves, double: bool, before: Array | None = None
) -> tuple[Goal, Array]:
    """The goal, if w is the null model; and the largest gradient in units of √H.

    `before` is that gradient before w was solved for. `double` says whether all numbers
    have double precision.
    """
    relative = DOUBLE if double else SINGLE
    of_strength = OF_STRENGTH_DOUBLE if double else OF_STRENGTH_SINGLE
    objective = problem.unscaled(w)
    g, value = objective.gradient(w), objective.value(w)
    dtype, tiny = value.dtype, epsilon(value.dtype)
    curvature = problem.curvature(w)
    # What has no curvature is measured as what has most.
    most = largest(curvature, dtype)
    most = jnp.where(most > 0, most, 1)
    roots = tuple(
        jnp.sqrt(jnp.where(h > 0, h, most.astype(h.dtype))) for h in curvature
    )
    cost = largest([jnp.abs(x) / r for x, r in zip(g, roots, strict=True)], dtype)
    # A curvature that is nearly none, as of a saturated loss, would be a wide goal.
    step = tuple(
        jnp.where(jnp.abs(x) / r >= 0.999 * cost.astype(r.dtype), PART * x / r**2, 0)
        for x, r in zip(g, roots, strict=True)
    )
    smooth = problem.smooth
    fall = smooth(w) - smooth(tuple(x - s for x, s in zip(w, step, strict=True)))
    credible = fall >= LEAST_FALL * PART * cost**2
    plain = largest([jnp.abs(x) for x in g], dtype)
    size = jnp.where(credible, cost, plain)
    roots = tuple(jnp.where(credible, r, 1) for r in roots)

    before = size if before is None else jnp.maximum(before, size)
    # Where all is optimal already, what was there before is the unit.
    size = jnp.where(size > 0, size, before)
    floor = tiny * jnp.maximum(ROUNDING * size, CANCELLED * before)
    tol = relative * jnp.maximum(size, floor / relative)

    def unit(root: Array, norm: Any, x: Array) -> Array:
        target = jnp.broadcast_to(tol.astype(root.dtype), x.shape)
        if norm is not None and (norm.scaled or hasattr(norm, "strength")):
            strength = getattr(norm, "strength", 0)
            share = jnp.where(strength > 0, of_strength * strength / root, jnp.inf)
            target = jnp.clip(share, floor.astype(root.dtype), target)
        return (root * target / jnp.where(tol > 0, tol, 1)).astype(root.dtype)

    rows = zip(roots, problem.norms, w, strict=True)
    units = tuple(jnp.where(tol > 0, unit(*row), row[0]) for row in rows)
    return Goal(tol, units), before


def rough_goal(problem: Composite, w: Leaves) -> Goal:
    """The goal of half precision: in parts of the largest gradient, as a strength."""
    point, _ = center_or_start(problem, w)
    return Goal.of(
        SINGLE
        * largest(
            [jnp.abs(x) for x in problem.unscaled(point).gradient(point)], jnp.float32
        ),
        w,
    )


def center_or_start(problem: Composite, w: Leaves) -> tuple[Leaves, Array]:
    """W with all that is penalised at its center, if the loss has a slope there.

    Else w itself, which may be far off; and which of the two it is.
    """
    center = at_center(problem.penalties, w)
    g = problem.unscaled(center).gradient(center)
    size = largest([jnp.abs(x) for x in g], jnp.float32)
    good = jnp.isfinite(size) & (size > 0)
    return jax.tree.map(lambda a, b: jnp.where(good, a, b), center, w), good
