"""`minimize`: the parameters with the least loss + penalty, and how near they are."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend.core import ClosedJaxpr

from optareg._checks import check_number
from optareg._stationarity import greatest, residuals
from optareg._tree import Tree, epsilon, is_masked, path_name, widest
from optareg.penalties._base import ParamGroup, Penalty
from optareg.penalties._combinators import check_is_penalty
from optareg.penalties._unpenalised import cover
from optareg.solve._goal import goal_of, partly_free
from optareg.solve._heads import Heads, evaluate
from optareg.solve._newton import (
    Leaves,
    conjugate_gradients,
    damped,
    dot,
    linear_system,
    slope,
)
from optareg.solve._newton import start as state_at
from optareg.solve._working_set import Composite, Goal, Outcome, solve
from optareg.transforms._arguments import check_optimizer
from optareg.transforms._proximal import proximal

__all__ = ["Solution", "minimize"]

Array = jax.Array
PyTree = Any
Loss = Callable[[PyTree], Array]
Callback = Callable[[Any, Any, Any], None]

# Numbers whose distances are larger are of half precision.
HALF = 1e-6


class Solution(NamedTuple):
    """What `minimize` and `path` return.

    Attributes:
      params: the parameters found, a tree as that given.
      stationarity: how far they are from optimal, as `stationarity` measures it.
      steps: the number of iterations, an int32 scalar.
      converged: whether the tolerance was reached, a bool scalar.
    """

    params: PyTree
    stationarity: Array
    steps: Array
    converged: Array


def minimize(
    loss: Loss,
    params: PyTree,
    penalty: Penalty,
    *,
    optimizer: optax.GradientTransformation | None = None,
    tol: float | Array | None = None,
    max_steps: int = 10_000,
    callback: Callback | None = None,
) -> Solution:
    """Minimises loss + penalty over all parameters, with exact zeros.

    Nothing needs tuning: a damped semismooth Newton method with conjugate gradients
    finds its own scales. Where `loss` sees parameters through products with matrices
    alone, as linear models do (`X @ w`, `jnp.dot`, a Flax `Dense` layer on the data),
    it works on the few columns that matter and checks them all.

    Runs within `jit` and `vmap`. Outside of them each call compiles anew: for many, put
    `jax.jit` around a function of what changes. The solution may be differentiated,
    with respect to strengths and whatever else `loss` and `penalty` depend on, by
    `jax.grad` or `jax.jvp`, once: by the implicit function theorem on the support, so
    it must have converged. At strengths where the support changes the derivative is
    one-sided.

    For a convex loss with a minimum this is the optimum. For others, networks for
    instance, it is a point with the optimality conditions to first order, at best.
    For batches, or noise in the loss, train with `proximal` instead.

    Args:
      loss: a function of the parameters alone, differentiable twice, to a scalar.
        Close over data, or use `jax.tree_util.Partial`.
      params: where to start; a tree of float32, float64 or complex arrays. Zeros are
        a good start for a convex loss: they have the smallest working sets.
      penalty: any penalty; leave parameters out with `masked`.
      optimizer: an Optax optimizer to use instead, as `proximal(optimizer, penalty)`,
        with the whole data in each step. Its learning rate is for you to tune.
      tol: the stationarity to stop at, in units of the loss per unit of weight, as a
        strength. By default 3e-6 in float32 and 4e-11 in float64, times the largest
        entry of the loss's gradient where all that the penalty can make zero is zero.
        Of other parameters, such as an intercept, the default asks for the same in
        units of the square root of their curvature.
      max_steps: the number of iterations to stop at.
      callback: called with (steps, objective, stationarity) after each iteration, for
        instance to print; with working sets, of the set at work. None costs nothing.

    Returns:
      A `Solution`. Where the tolerance is not reached, because of `max_steps`, of the
      precision of the numbers, or as the objective falls without bound, `converged` is
      False. Where numbers are not finite, `params` are the last finite ones.

    Raises:
      TypeError: an argument is of another kind, a leaf is not floating or complex, the
        result of `loss` is no scalar, or `optimizer` evaluates the loss itself.
      ValueError: `tol` is negative; `max_steps` is below 1; a leaf is of half
        precision, which has too few digits (an optimizer takes it); strengths do not
        fit `params`.

    >>> import jax.numpy as jnp
    >>> from optareg import L1, minimize
    >>> loss = lambda w: 0.5 * jnp.sum((w - jnp.array([3.0, 0.4])) ** 2)
    >>> solution = minimize(loss, jnp.zeros(2), L1(1.0))
    >>> print(solution.params, solution.converged)
    [2. 0.] True

    Source: Robinson, Normal maps induced by linear transformations (1992); a
    semismooth Newton method for it: Ouyang & Milzarek, arXiv:2106.09340; working sets:
    Massias, Gramfort & Salmon, Celer (2018). The damping and the choice among steps
    are this package's.
    """
    check_is_penalty(penalty, "minimize")
    tree = check_arguments(loss, params, tol, max_steps)
    param_groups = nonempty(cover(penalty.resolve(tree), tree), tree)
    traced = trace(loss, tree, param_groups)
    leaves = arrays(tree, param_groups)
    penalties = tuple(param_group.penalty for param_group in param_groups)
    free = partly_free(penalties)

    def goal_at(consts: Any, penalties: Any, leaves: Leaves) -> Goal:
        program = ClosedJaxpr(traced.jaxpr, consts)
        double = is_double(program, tree)
        return goal_of(tol, program, penalties, leaves, free, double)

    if optimizer is None:
        check_precision(tree)

        def solved(consts: Any, penalties: Any, leaves: Leaves) -> tuple[Outcome, Any]:
            program = ClosedJaxpr(traced.jaxpr, consts)
            goal = goal_at(consts, penalties, leaves)
            outcome = differentiable(
                program, program, penalties, leaves, 1.0, goal, max_steps, callback
            )
            return outcome, goal.tol

        outcome, enough = one_program(solved, traced.consts, penalties, leaves)
        return solution(tree, param_groups, outcome, enough)

    goal = one_program(goal_at, traced.consts, penalties, leaves)
    inner = check_optimizer(optimizer, "minimize")
    consts, fixed = jax.lax.stop_gradient((traced.consts, penalty))

    def fixed_loss(params: PyTree) -> Array:
        program = ClosedJaxpr(traced.jaxpr, consts)
        return evaluate(program, arrays(Tree(params), param_groups))

    start = rebuild(tree, param_groups, leaves)
    options = goal, max_steps, callback
    found = by_optimizer(inner, fixed_loss, start, fixed, *options)
    if any(epsilon(x.dtype) > HALF for x in leaves):
        return found
    # As it is, but with the derivative.
    end = arrays(Tree(found.params), param_groups)
    outcome = differentiable(traced, None, penalties, end, 1.0, *options)
    return found._replace(params=rebuild(tree, param_groups, outcome.w))


def one_program(f: Callable[..., Any], *arguments: Any) -> Any:
    """Calls f compiled as a whole: where the caller has no `jit`, much is saved."""
    numbers, structure = jax.tree.flatten(arguments)
    return jax.jit(lambda xs: f(*jax.tree.unflatten(structure, xs)))(numbers)


def differentiable(
    traced: ClosedJaxpr,
    quick: ClosedJaxpr | None,
    penalties: tuple[Penalty, ...],
    leaves: Leaves,
    damping: Array | float,
    goal: Goal,
    max_steps: int,
    callback: Callback | None,
) -> Outcome:
    """`solve` of `quick`, with the derivative of `traced`, the same function.

    The derivative is by the implicit function theorem. Without `quick` the leaves are
    the solution already.
    """

    def problem(consts: Any, penalties: Any, program: Any = traced) -> Composite:
        loss = Heads.of(ClosedJaxpr(program.jaxpr, consts), leaves_like)
        return Composite(loss, penalties)

    # The derivative must not close over the leaves, which `vmap` may trace.
    leaves_like = jax.eval_shape(lambda: leaves)

    @jax.custom_jvp
    def run(
        consts: Any,
        penalties: Any,
        quick_consts: Any,
        w: Leaves,
        damping: Any,
        goal: Goal,
    ) -> Outcome:
        if quick is None:
            here = problem(consts, penalties)._replace(units=goal.units)
            return Outcome.of(here, state_at(here.unscaled(w), w))
        here = problem(quick_consts, penalties, quick)._replace(units=goal.units)
        return solve(here, w, damping, goal.tol, max_steps, callback)

    @run.defjvp
    def run_jvp(primals: Any, tangents: Any) -> tuple[Outcome, Outcome]:
        consts, penalties, *_ = primals
        outcome = run(*primals)
        w = outcome.w
        here = problem(consts, penalties).objective(w)
        y = here.nearest(w, here.gradient(w))

        def point(consts: Any, penalties: Any) -> Leaves:
            # The parameters as a fixed point of the proximal gradient step.
            there = problem(consts, penalties).unscaled(w)
            there = there._replace(scales=here.scales)
            steps = zip(w, here.scales, there.gradient(w), strict=True)
            z = tuple(x - c * g for x, c, g in steps)
            return tuple(a - b for a, b in zip(z, there.dual(z, 1.0), strict=True))

        _, moved = jax.jvp(point, (consts, penalties), tangents[:2])
        prox_slope = slope(
            here,
            tuple(x + c * d for x, c, d in zip(w, here.scales, y, strict=True)),
            1.0,
        )
        matrix = linear_system(here, damped(here, w, 0.0), prox_slope, 1.0)
        accuracy = epsilon(outcome.stationarity.dtype) ** 0.75

        def cg(matrix: Any, b: Leaves) -> Leaves:
            return conjugate_gradients(matrix, b, here.scales, accuracy, 10_000)

        b = tuple(m / c for m, c in zip(moved, here.scales, strict=True))
        # To be transposed, all of them must depend on the tangents.
        nothing = 0 * dot(b, tuple(map(jnp.ones_like, b)))
        b = tuple(x + nothing.astype(x.dtype) for x in b)
        p = jax.lax.custom_linear_solve(matrix, b, solve=cg, symmetric=True)
        zero = jax.tree.map(zero_tangent, outcome)
        return outcome, zero._replace(w=prox_slope(p))

    given = [] if quick is None else quick.consts
    return run(traced.consts, penalties, given, leaves, damping, goal)


def zero_tangent(x: Array) -> Any:
    """The tangent of what is taken to depend on nothing."""
    if jnp.issubdtype(x.dtype, jnp.inexact):
        return jnp.zeros_like(x)
    return np.zeros(x.shape, jax.dtypes.float0)


class Descent(NamedTuple):
    """State of `by_optimizer`; `distance` is the stationarity in units of the goal."""

    params: PyTree
    state: optax.OptState
    grads: PyTree
    distance: Array
    steps: Array
    finite: Array


def by_optimizer(
    optimizer: optax.GradientTransformation,
    loss: Loss,
    params: PyTree,
    penalty: Penalty,
    goal: Goal,
    max_steps: Any,
    callback: Callback | None,
) -> Solution:
    """`proximal(optimizer, penalty)` on the whole loss, to the goal."""
    wrapped = proximal(optimizer, penalty)

    def distance(params: PyTree, grads: PyTree) -> Array:
        parts = [r for r in residuals(penalty, params, grads) if r.size]
        return greatest([r / u for r, u in zip(parts, goal.units, strict=True)])

    def gradient(params: PyTree) -> PyTree:
        # Optax takes the gradient as JAX gives it, of complex leaves the conjugate.
        return jax.grad(loss)(params)

    def step(s: Descent) -> Descent:
        updates, state = wrapped.update(s.grads, s.state, s.params)
        params = optax.apply_updates(s.params, updates)
        grads = gradient(params)
        now = distance(params, grads)
        finite = jnp.isfinite(now) & all_finite(params)
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
        converged=end.distance <= goal.tol,
    )


def all_finite(tree: PyTree) -> Array:
    """Whether every entry of every leaf is finite."""
    leaves = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(leaves)) if leaves else jnp.array(True)


# Between trees and the arrays of parameter groups, which the solver calls leaves.


def arrays(tree: Tree, param_groups: Sequence[ParamGroup]) -> Leaves:
    """The arrays of the parameter groups, all of the precision of the widest."""
    leaves = [param_group.join(tree.leaves) for param_group in param_groups]
    wide = widest(*(x.real.dtype for x in leaves))
    return tuple(x.astype(widest(x.dtype, wide)) for x in leaves)


def rebuild(
    tree: Tree, param_groups: Sequence[ParamGroup], leaves: Sequence[Array]
) -> PyTree:
    """The tree with other arrays in its parameter groups, which cover it."""
    result = list(tree.leaves)
    for param_group, leaf in zip(param_groups, leaves, strict=True):
        dtype = tree.leaves[param_group.at[0]].dtype
        param_group.put(leaf.astype(dtype), result, tree.leaves)
    return tree.build(result)


def nonempty(param_groups: Sequence[ParamGroup], tree: Tree) -> list[ParamGroup]:
    """The parameter groups with entries; raises if there are none."""
    result = [
        param_group
        for param_group in param_groups
        if param_group.join(tree.leaves).size
    ]
    if not result:
        raise ValueError("there is nothing to minimise over: `params` has no entries.")
    return result


def solution(
    tree: Tree, param_groups: Sequence[ParamGroup], outcome: Outcome, tol: Any
) -> Solution:
    """What `outcome` is for the user."""
    return Solution(
        params=rebuild(tree, param_groups, outcome.w),
        stationarity=outcome.stationarity,
        steps=outcome.steps,
        converged=outcome.distance <= tol,
    )


def trace(loss: Loss, tree: Tree, param_groups: Sequence[ParamGroup]) -> ClosedJaxpr:
    """The loss as a program of these arrays; raises if its result is no scalar."""
    leaves = arrays(tree, param_groups)
    wide = widest(*(x.real.dtype for x in leaves))

    def of_leaves(*leaves: Array) -> Any:
        result = loss(rebuild(tree, param_groups, leaves))
        dtype = getattr(result, "dtype", None)
        # More digits than the leaves have say nothing.
        if dtype in (jnp.float32, jnp.float64) and epsilon(dtype) < epsilon(wide):
            return result.astype(wide)
        return result

    traced = jax.make_jaxpr(of_leaves)(*leaves)
    results = traced.out_avals
    if len(results) != 1 or results[0].shape != ():
        raise TypeError(
            "`loss` must return one scalar, got "
            f"{', '.join(map(str, results)) or 'nothing'}. Leave auxiliary results out."
        )
    if not jnp.issubdtype(results[0].dtype, jnp.floating):
        raise TypeError(f"`loss` must return a real scalar, got a {results[0].dtype}.")
    return traced


def is_double(traced: ClosedJaxpr, tree: Tree) -> bool:
    """Whether the loss and all parameters have double precision."""
    leaves = [x.dtype for x in tree.leaves if not is_masked(x)]
    return max(map(epsilon, [traced.out_avals[0].dtype, *leaves])) < 1e-10


# Checks.


def check_arguments(loss: Any, params: PyTree, tol: Any, max_steps: Any) -> Tree:
    """The tree of `params`; raises if an argument is of the wrong kind."""
    if not callable(loss):
        raise TypeError(
            f"`loss` must be a function of the parameters, got {loss!r}. "
            "Are the arguments swapped?"
        )
    if isinstance(max_steps, float):
        raise TypeError(f"`max_steps` must be an integer, got {max_steps!r}.")
    if tol is not None:
        check_number(tol, "`tol`", scalar=True)
    check_number(max_steps, "`max_steps`", zero=False, scalar=True)
    tree = Tree(params)
    for path, leaf in zip(tree.paths, tree.leaves, strict=True):
        if not is_masked(leaf) and not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise TypeError(
                f"the leaf at {path_name(path)} has dtype {leaf.dtype}, but the loss "
                "is minimised over floating or complex leaves. Cast it, or close over "
                "it in `loss`."
            )
    return tree


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


def check_precision(tree: Tree) -> None:
    """Raises if a leaf has too few digits for a tolerance."""
    for path, leaf in zip(tree.paths, tree.leaves, strict=True):
        if not is_masked(leaf) and epsilon(leaf.dtype) > HALF:
            raise ValueError(
                f"the leaf at {path_name(path)} has dtype {leaf.dtype}, which has too "
                "few digits to solve to a tolerance. Cast it to float32, or give an "
                "`optimizer`."
            )
