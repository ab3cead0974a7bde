"""A semismooth Newton method on the normal map, for a smooth function + norms.

The state is that of `proximal`: the parameters w and the subgradient y of λψ there. An
iteration solves the linearised optimality conditions, damped as by Levenberg and
Marquardt, with conjugate gradients; tries the step at several lengths, beside plain
proximal gradient steps; and keeps the point with the least objective. So it falls at
least as a proximal gradient method, and converges as Newton's where it can.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from optareg._tree import epsilon
from optareg.solve._leaves import (
    Leaves,
    add,
    dot,
    largest,
    scale,
    times,
)
from optareg.solve._linear_system import damped, slope, solution
from optareg.solve._objective import Objective
from optareg.solve._smooth import Point, Products

__all__ = [
    "NOISE",
    "Progress",
    "newton",
    "start",
    "start_at",
]

Array = jax.Array

# Lengths at which a Newton step is tried, and factors on the size of a proximal one: a
# product with these eight points takes two thirds of one with nine.
LENGTHS = (1.0, 0.5, 0.25, 0.125, 0.0625)
FACTORS = (4.0, 1.0, 0.25)
# In units of the scales, a proximal step is about 1, and smaller for correlated data.
MOST_TAU, LEAST_TAU = 4.0, 1e-30
# What a step becomes that was too long, or far too long.
SHORTER, MUCH_SHORTER = 0.25, 0.01
# Damping: from one diagonal of the Hessian down to none.
MOST_DAMPING, LEAST_DAMPING = 10.0, 1e-12
# An iteration that gains neither is idle; after so many in a row no more is to be had.
MOST_IDLE = 10
# Objectives that differ by so many ε cannot be told apart: sums of hundreds of terms
# have been seen to differ by 8.5.
NOISE = 16
# A linear system is solved so much more exactly than the distance must fall, or fell
# with the last step; at first, where it is likely to fall little, to a digit; and
# after a step that gained nothing, more exactly than that.
ENOUGH, MORE, COARSEST = 0.03, 0.3, 0.1


class Progress(NamedTuple):
    """State of the iteration.

    Attributes:
      w: the parameters.
      products: those of the loss's matrices with w.
      y: the subgradient of the norms at w.
      g: the gradient of the smooth part at w.
      value: the objective at w.
      distance: the largest residual at w, in its units.
      tau: the size of a proximal step, in units of the scales.
      damping: of a Newton step, in units of one over the scales.
      accuracy: of the next one, relative.
      steps: the number of iterations.
      idle: the number of iterations since the last gain.
    """

    w: Leaves
    products: Products
    y: Leaves
    g: Leaves
    value: Array
    distance: Array
    tau: Array
    damping: Array
    accuracy: Array
    steps: Array
    idle: Array


def start(objective: Objective, w: Leaves) -> Progress:
    """The state at the parameters w."""
    smooth = objective.smooth
    point = smooth.point(smooth.products(w), w)
    return start_at(objective, point._replace(value=point.value + objective.penalty(w)))


def start_at(objective: Objective, point: Point) -> Progress:
    """The same at a point of which the value is that of the whole objective."""
    w, products, value, g = point
    one = jnp.ones_like(value)
    return Progress(
        w=w,
        products=products,
        y=objective.nearest(w, g),
        g=g,
        value=value,
        distance=objective.distance(w, g, value.dtype),
        tau=one,
        damping=one,
        accuracy=jnp.full_like(one, COARSEST),
        steps=jnp.int32(0),
        idle=jnp.int32(0),
    )


def newton(
    objective: Objective,
    state: Progress,
    tol: Array,
    max_steps: Array | int,
    report: Callable[..., None] | None = None,
) -> Progress:
    """Iterates until distance ≤ tol, no more gain, or `max_steps`."""

    def body(state: Progress) -> Progress:
        ahead = direction(objective, state, tol)
        state = accept(objective, state, ahead, candidates(objective, state, ahead))
        if report is not None:
            report(state.steps, state.value, state.distance)
        return state

    return jax.lax.while_loop(
        lambda s: ~(s.distance <= tol) & (s.steps < max_steps) & (s.idle < MOST_IDLE),
        body,
        state,
    )


class Direction(NamedTuple):
    """Where Newton's method goes.

    Attributes:
      z: the point of which w is the proximal point.
      step: from z, the step of Newton's method.
      fall: by how much about the objective falls with a short step.
    """

    z: Leaves
    step: Leaves
    fall: Array


def direction(objective: Objective, state: Progress, tol: Array) -> Direction:
    """The step that solves the linearised optimality conditions, damped.

    As exactly as a distance of `tol` asks for.
    """
    w, tau, scales = state.w, state.tau, objective.scales
    z = add(w, scale(tau, times(scales, state.y)))
    prox_slope = slope(objective, z, tau)
    hessian = damped(objective, w, state.products, state.damping)
    slack = add(state.g, state.y)
    b = scale(-1.0, prox_slope(slack))
    # No more exactly than is asked for, as long as that gains.
    fall = dot(b, times(scales, b))
    needed = jnp.minimum(COARSEST, ENOUGH * tol / state.distance)
    needed = jnp.where(state.idle == 0, needed, 0).astype(state.accuracy.dtype)
    accuracy = jnp.maximum(state.accuracy, needed)
    q, bent = solution(
        objective, w, hessian, prox_slope, state.damping, tau, b, accuracy
    )
    change = add(slack, bent)
    return Direction(z, add(q, scale(-tau, times(scales, change))), fall)


class Candidates(NamedTuple):
    """Points to choose from, along a leading axis: Newton's first, the longest first.

    Attributes:
      w: the points.
      products: those with them.
      values: the objectives there; ∞ for NaN.
    """

    w: Leaves
    products: Products
    values: Array


def before_prox(
    objective: Objective, state: Progress, ahead: Direction, i: Array
) -> tuple[Leaves, Array]:
    """The point before the proximal step to candidate i, and the size of that step.

    First come Newton's step at several lengths, then proximal gradient steps of several
    sizes.
    """
    tau, newtonian = state.tau, i < len(LENGTHS)
    lengths = jnp.asarray(LENGTHS, tau.dtype)
    length = lengths[jnp.minimum(i, len(LENGTHS) - 1)]
    factors = jnp.asarray((1.0,) * len(LENGTHS) + FACTORS, tau.dtype)
    size = tau * factors[i]
    rows = zip(ahead.z, ahead.step, state.w, objective.scales, state.g, strict=True)
    point = tuple(
        jnp.where(newtonian, zz + length * s, x - size * c * d)
        for zz, s, x, c, d in rows
    )
    return point, size


def candidates(objective: Objective, state: Progress, ahead: Direction) -> Candidates:
    """The points to choose from."""

    def candidate(i: Array) -> tuple[Leaves, Products, Array]:
        w = objective.prox(*before_prox(objective, state, ahead, i))
        products = objective.smooth.products(w)
        return w, products, objective.value(products, w)

    number = len(LENGTHS) + len(FACTORS)
    points, products, values = jax.vmap(candidate)(jnp.arange(number))
    values = jnp.where(jnp.isnan(values), jnp.inf, values)
    return Candidates(points, products, values)


def accept(
    objective: Objective, state: Progress, ahead: Direction, found: Candidates
) -> Progress:
    """The state at the best candidate, or the old one with smaller steps."""
    values, tau, last = found.values, state.tau, state.distance
    # The first of those that cannot be told apart: the longest Newton step.
    noise = NOISE * epsilon(values.dtype) * jnp.abs(state.value)
    least = jnp.min(values)
    best = jnp.argmax(values <= least + noise)
    by_newton = values[: len(LENGTHS)]
    lengths = jnp.asarray(LENGTHS, tau.dtype)
    length = lengths[jnp.argmax(by_newton <= jnp.min(by_newton) + noise)]
    length = jnp.where(jnp.min(by_newton) <= state.value + noise, length, 0)
    factor = jnp.where(length == 1, 0.1, jnp.where(length == 0.5, 1.0, 10.0))

    chosen = found.w, found.products
    w, products = jax.tree.map(lambda xs: xs[best], chosen)
    value = values[best]
    before, size = before_prox(objective, state, ahead, best)
    dual = objective.dual(before, size)
    y = tuple(d / (size * c) for d, c in zip(dual, objective.scales, strict=True))
    g = objective.smooth.gradient(products, w)
    # y is a subgradient too: where there is no formula for the nearest one, it has more
    # digits.
    slack = objective.in_units(add(g, y))
    distance = jnp.minimum(
        objective.distance(w, g, value.dtype), largest(slack, value.dtype)
    )
    fell = value < state.value - noise
    good = jnp.isfinite(value) & jnp.isfinite(distance) & (value <= state.value + noise)
    gained = good & (fell | (distance < 0.9 * state.distance))
    # Without a fall of the objective the distance decides.
    keep = good & (fell | (distance <= state.distance))
    new = Progress(
        w=w,
        products=products,
        y=y,
        g=g,
        value=value,
        distance=distance,
        tau=jnp.minimum(size, MOST_TAU),
        damping=jnp.clip(state.damping * factor, LEAST_DAMPING, MOST_DAMPING),
        accuracy=state.accuracy,
        steps=state.steps,
        idle=state.idle,
    )
    # Where nothing falls, steps are too long: by far, where the objective rises more
    # than it was to fall, or by more than all of it, if that is no lack of digits.
    most = jnp.minimum(ahead.fall.astype(noise.dtype), jnp.abs(state.value))
    most = jnp.maximum(most, noise)
    far = ~(least - state.value <= most) & (tau > LEAST_TAU)
    old = state._replace(
        damping=new.damping, tau=jnp.where(far, MUCH_SHORTER, SHORTER) * tau
    )
    state = jax.tree.map(lambda a, b: jnp.where(keep, a, b).astype(b.dtype), new, old)
    idle = jnp.where(gained, 0, jnp.where(far, state.idle, state.idle + 1))
    accuracy = jnp.minimum(COARSEST, MORE * distance / last)
    accuracy = jnp.where(gained, accuracy, MORE * state.accuracy)
    accuracy = accuracy.astype(state.accuracy.dtype)
    return state._replace(steps=state.steps + 1, idle=idle, accuracy=accuracy)
