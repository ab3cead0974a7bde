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
from optareg.penalties._base import Penalty
from optareg.solve._composite import Composite, Goal
from optareg.solve._curvature import positive, strength_of
from optareg.solve._leaves import Leaves, largest
from optareg.solve._null_model import at_center
from optareg.solve._smooth import Point

__all__ = ["center_and_start", "default_goal", "rough_goal"]

Array = jax.Array

# In parts of that gradient: what nearly all problems reach in spite of rounding.
SINGLE, DOUBLE = 3e-6, 4e-11
# In parts of the strength.
OF_STRENGTH_SINGLE, OF_STRENGTH_DOUBLE = 5e-5, 5e-7
# Rounding errors of a gradient, in ε: a residual beside a small strength need not be
# below the first two, and none below the third where terms cancel.
ROUNDING_SINGLE, ROUNDING_DOUBLE, CANCELLED = 16, 200, 4
# A fall of so many ε of the objective cannot be seen.
FALL_ROUNDING = 100
# Parts of a Newton step, to see how far the objective falls.
PARTS = tuple(8.0**-k for k in range(16))


def default_goal(
    problem: Composite, point: Point, double: bool, before: Array | None = None
) -> tuple[Goal, Array]:
    """The goal, if `point` is the null model; and the largest gradient, in √H.

    `before` is that gradient before the null model was solved for. `double` says
    whether all numbers have double precision.
    """
    relative = DOUBLE if double else SINGLE
    of_strength = OF_STRENGTH_DOUBLE if double else OF_STRENGTH_SINGLE
    w, dtype = point.w, point.value.dtype
    tiny = epsilon(dtype)
    curvature = problem.smooth.curvature(w)
    # What has no curvature is measured as what has most.
    most = largest(curvature, dtype)
    roots = tuple(jnp.sqrt(positive(h, most.astype(h.dtype))) for h in curvature)
    size = credible_size(problem, point, roots)

    before = size if before is None else jnp.maximum(before, size)
    # Where all is optimal already, what was there before is the unit.
    size = jnp.where(size > 0, size, before)
    tol = jnp.maximum(relative * size, CANCELLED * tiny * before)
    rounding = ROUNDING_DOUBLE if double else ROUNDING_SINGLE
    floor = jnp.maximum(rounding * tiny * size, CANCELLED * tiny * before)

    def unit(root: Array, bent: Array, norm: Penalty | None, x: Array) -> Array:
        target = jnp.broadcast_to(tol.astype(root.dtype), x.shape)
        if norm is not None:
            strength = strength_of(norm)
            share = jnp.where(strength > 0, of_strength * strength / root, jnp.inf)
            # Where there is no curvature, a residual of λ costs λ|w|: none is small.
            least = jnp.where(bent > 0, floor.astype(root.dtype), 0)
            target = jnp.clip(share, least, target)
        return (root * target / jnp.where(tol > 0, tol, 1)).astype(root.dtype)

    rows = zip(roots, curvature, problem.norms, w, strict=True)
    units = tuple(jnp.where(tol > 0, unit(*row), row[0]) for row in rows)
    return Goal(tol, units), before


def credible_size(problem: Composite, point: Point, roots: Leaves) -> Array:
    """The largest |g|/√H, if the objective falls as it says when that entry moves.

    Half its square is the fall by a Newton step, of a quadratic. Where the curvature at
    a point is not that on the way, as of exp(w) or of a saturated loss, the fall that
    is seen says more.
    """
    g, value = point.g, point.value
    costs = [jnp.abs(x) / r for x, r in zip(g, roots, strict=True)]
    cost = largest(costs, value.dtype)
    step = tuple(
        jnp.where(c == cost.astype(c.dtype), x / r**2, 0).astype(x.dtype)
        for c, x, r in zip(costs, g, roots, strict=True)
    )
    parts = jnp.asarray([0.0, *PARTS], value.dtype)
    values = jax.vmap(problem.smooth.along(point.w, step))(parts)
    falls = values[0] - values
    seen = jnp.max(jnp.where(jnp.isfinite(falls), falls, 0))
    # A fall that rounding hides says nothing.
    hidden = 0.5 * cost**2 <= FALL_ROUNDING * epsilon(value.dtype) * jnp.abs(value)
    return jnp.where(hidden, cost, jnp.minimum(cost, jnp.sqrt(2 * seen)))


def rough_goal(problem: Composite, w: Leaves) -> Goal:
    """The goal of half precision: in parts of the largest gradient, as a strength."""
    null, here, good, _ = center_and_start(problem, w)
    sizes = size_of(null.g), size_of(here.g)
    return Goal.of(SINGLE * jnp.where(good, *sizes), w)


def size_of(g: Leaves) -> Array:
    """The largest entry of a gradient."""
    return largest([jnp.abs(x) for x in g], jnp.float32)


def center_and_start(
    problem: Composite, w: Leaves
) -> tuple[Point, Point, Array, Array]:
    """All that is penalised at its center; and w.

    Also whether the first is of use, which it is not if the loss has no slope there;
    and whether it is of use and where w is.
    """
    norms = zip(problem.norms, w, strict=True)
    w = tuple(x if n is None else n.leaf_project_domain(x) for n, x in norms)
    center = at_center(problem.penalties, w)

    # A loop, so that both are one program; mostly they are one point.
    def look(state: Any) -> Any:
        trips, null, *_ = state
        first = trips == 0
        here = problem.point(
            tuple(jnp.where(first, *x) for x in zip(center, w, strict=True))
        )
        null = jax.tree.map(lambda a, b: jnp.where(first, a, b), here, null)
        size = size_of(null.g)
        good = jnp.isfinite(size) & (size > 0)
        same = jnp.array(True)
        for x, c in zip(w, center, strict=True):
            same &= jnp.all(x == c)
        return trips + 1, null, here, good, good & same

    nothing = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(problem.point, w)
    )
    no = jnp.array(False)
    _, *found = jax.lax.while_loop(
        lambda state: (state[0] == 0) | ((state[0] == 1) & ~state[4]),
        look,
        (jnp.int32(0), nothing, nothing, no, no),
    )
    return tuple(found)
