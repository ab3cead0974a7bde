"""`by_optimizer`: an Optax optimizer on the whole loss, until it is near enough."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optareg._precision import all_digits
from optareg._stationarity import greatest, residuals, with_smooth
from optareg.penalties._base import Penalty
from optareg.solve._composite import Composite, Goal
from optareg.solve._heads import Heads, evaluate
from optareg.solve._leaves import all_finite
from optareg.solve._problem import Problem
from optareg.solve._solution import Solution, near_enough
from optareg.transforms._proximal import proximal

__all__ = ["by_optimizer"]

Array = jax.Array
PyTree = Any


class Descent(NamedTuple):
    """State of `by_optimizer`; `distance` is the stationarity in units of the goal."""

    params: PyTree
    state: optax.OptState
    grads: PyTree
    distance: Array
    steps: Array
    finite: Array


@all_digits
def by_optimizer(
    optimizer: optax.GradientTransformation,
    problem: Problem,
    penalty: Penalty,
    goal: Goal,
    max_steps: Any,
    callback: Callable[[Any, Any, Any], None] | None,
) -> Solution:
    """`proximal(optimizer, penalty)` on the whole loss, to the goal."""
    consts, penalty = jax.lax.stop_gradient((problem.traced.consts, penalty))
    penalties = jax.lax.stop_gradient(problem.penalties)
    heads = Heads.of(problem.program(consts), problem.start)
    conditions = Composite(heads, penalties, goal.units).unscaled(problem.start)
    wrapped = proximal(optimizer, penalty)
    params = problem.params(problem.start)

    def loss(params: PyTree) -> Array:
        return evaluate(problem.program(consts), problem.leaves(params))

    def distance(params: PyTree, grads: PyTree) -> Array:
        w, g = problem.leaves(params), problem.leaves(grads)
        w, g = zip(*map(with_smooth, penalties, w, g), strict=True)
        return greatest(conditions.residuals(w, g))

    def gradient(params: PyTree) -> PyTree:
        # Optax takes the gradient as JAX gives it, of complex leaves the conjugate.
        return jax.grad(loss)(params)

    def step(s: Descent) -> Descent:
        updates, state = wrapped.update(s.grads, s.state, s.params)
        params = optax.apply_updates(s.params, updates)
        grads = gradient(params)
        now = distance(params, grads)
        finite = jnp.isfinite(now) & all_finite(jax.tree.leaves(params))
        new = Descent(params, state, grads, now, s.steps + 1, finite)
        if callback is not None:
            value = loss(params) + penalty.value(params)
            jax.debug.callback(callback, new.steps, value, now)
        kept: Descent = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, s)
        return kept._replace(finite=finite)

    grads = gradient(params)
    first = distance(params, grads)
    state = wrapped.init(params)
    check_needs(wrapped, grads, state, params)
    start = Descent(params, state, grads, first, jnp.int32(0), jnp.isfinite(first))
    end = jax.lax.while_loop(
        lambda s: ~(s.distance <= goal.tol) & (s.steps < max_steps) & s.finite,
        step,
        start,
    )
    return Solution(
        params=end.params,
        stationarity=greatest(residuals(penalty, end.params, end.grads)),
        steps=end.steps,
        converged=near_enough(end.distance, goal.tol),
    )


def check_needs(
    optimizer: optax.GradientTransformationExtraArgs,
    grads: PyTree,
    state: optax.OptState,
    params: PyTree,
) -> None:
    """Raises if an optimizer needs more than gradients."""
    try:
        jax.eval_shape(optimizer.update, grads, state, params)
    except TypeError as error:
        if "required keyword" not in str(error):
            raise
        raise TypeError(
            f"`optimizer` needs more than gradients: {error}. One that evaluates the "
            "loss itself, as `optax.lbfgs` does in its line search, would see it "
            "without the penalty. Leave `optimizer` out, or give another."
        ) from error
