"""When a solution is near enough: the default tolerance, and what it is measured in.

The distance from optimal has the units of a strength. It is compared with the gradient
of the loss at the null model: what gives zeros is zero, other parameters, such as an
intercept, are optimal. Those others have no strength; of them a distance counts by what
it costs, its square over twice the curvature.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from optareg._checks import is_traced
from optareg._tree import epsilon
from optareg.penalties._base import Penalty
from optareg.solve._heads import Heads
from optareg.solve._newton import Leaves, conjugate_gradients, largest, times
from optareg.solve._working_set import Composite, Goal

__all__ = ["acts", "all_penalised", "goal_of", "partly_free"]

Array = jax.Array

# In parts of that gradient: what nearly all problems reach in spite of rounding.
SINGLE, DOUBLE = 3e-6, 4e-11
# Where terms of the gradient cancel, it has rounding errors of so many ε of their size.
ROUNDING = 4
# How exactly the null model is known, and from how many steps at most.
ACCURACY, STEPS = 1e-3, 50


def goal_of(
    tol: Any,
    loss: ClosedJaxpr,
    penalties: tuple[Penalty, ...],
    w: Leaves,
    free: Sequence[int],
    double: bool,
) -> Goal:
    """The goal from w: `tol`, in the same units everywhere; for None the default.

    For that, `free` are the leaves with entries that may have no strength, and `double`
    says whether all numbers have double precision.
    """
    if tol is not None:
        return Goal.of(tol, w)
    relative = DOUBLE if double else SINGLE
    consts, penalties, w = jax.lax.stop_gradient((loss.consts, penalties, w))
    problem = Composite(Heads.of(ClosedJaxpr(loss.jaxpr, consts), w), penalties)
    zero = tuple(map(jnp.zeros_like, w))
    objective = problem.unscaled(zero)
    dtype = objective.value(zero).dtype

    def size(leaves: Sequence[Array]) -> Array:
        return largest([jnp.abs(x) for x in leaves], dtype)

    # At the start, which may be far off, only if need be.
    g, g_start = objective.gradient(zero), objective.gradient(w)
    good = jnp.isfinite(size(g)) & (size(g) > 0)
    point, g = jax.tree.map(lambda a, b: jnp.where(good, a, b), (zero, g), (w, g_start))
    if not free:
        return Goal.of(relative * size(g), w)

    scales = problem.objective(point).scales
    roots = tuple(map(jnp.sqrt, scales))
    cost = size(times(g, roots))
    masks = {i: without_strength(problem.norms[i], w[i]) for i in free}

    def penalised(g: Leaves) -> Array:
        return size([jnp.abs(x) * (1 - masks.get(i, 0)) for i, x in enumerate(g)])

    null = null_model(problem, point, g, scales, masks)
    # A whole step may be too far, for a Poisson loss for instance: then this is it.
    nearer = objective.value(null) <= objective.value(point)
    null_size, first_size = penalised(objective.gradient(null)), penalised(g)
    least = jnp.where(nearer & jnp.isfinite(null_size), null_size, first_size)
    unit = jnp.maximum(least, ROUNDING * epsilon(dtype) / relative * first_size)
    cost = jnp.where(cost > 0, cost, 1)  # At the optimum already, or it is constant.
    unit = jnp.where(unit > 0, unit, cost)
    goal = Goal.of(relative * unit, w)
    pairs = enumerate(zip(roots, goal.units, strict=True))
    units = (
        jnp.where(masks[i] > 0, cost / (unit * root), one) if i in masks else one
        for i, (root, one) in pairs
    )
    return goal._replace(units=tuple(units))


def null_model(
    problem: Composite,
    w: Leaves,
    g: Leaves,
    scales: Leaves,
    masks: Mapping[int, Array],
) -> Leaves:
    """From w and the gradient there, Newton's step for the entries in `masks`.

    All the way, if the loss is quadratic. Other leaves need no products with matrices.
    """
    free = tuple(masks.values())

    def with_free(some: Sequence[Array]) -> Leaves:
        new = dict(zip(masks, some, strict=True))
        return tuple(new.get(i, x) for i, x in enumerate(w))

    def gradient(some: Leaves) -> Leaves:
        grads = jax.grad(lambda some: problem.smooth(with_free(some)))(some)
        return times(free, tuple(map(jnp.conj, grads)))

    some, b, diagonal = (tuple(x[i] for i in masks) for x in (w, g, scales))
    _, hessian = jax.linearize(gradient, some)
    step = conjugate_gradients(
        lambda p: hessian(times(free, p)), times(free, b), diagonal, ACCURACY, STEPS
    )
    return with_free([x - d for x, d in zip(some, step, strict=True)])


def partly_free(penalties: Sequence[Penalty]) -> list[int]:
    """The numbers of leaves with entries that may have no strength.

    A traced number is assumed to be one: few problems have none, and this would cost
    all others.
    """

    def may_be_free(penalty: Penalty) -> bool:
        norm = penalty.split()[1]
        if norm is None:
            return True
        number = is_traced(acts(norm)) and np.ndim(acts(norm)) == 0
        return penalty.entrywise and not number and not all_penalised(norm)

    return [i for i, penalty in enumerate(penalties) if may_be_free(penalty)]


def all_penalised(norm: Penalty | None) -> bool:
    """Whether a norm is known to penalise every entry of its leaf."""
    if norm is None or is_traced(acts(norm)):
        return False
    return bool(np.all(np.asarray(acts(norm))))


def acts(norm: Penalty) -> Any:
    """Where a nonsmooth penalty acts: not where it has a strength, and that is 0."""
    strength = norm.split_strength()[0]
    return strength > 0


def without_strength(norm: Penalty | None, x: Array) -> Array:
    """1 for entries of the leaf x that have no strength, 0 for others."""
    one = jnp.ones_like(x.real)
    return one if norm is None else jnp.where(acts(norm), 0, one)
