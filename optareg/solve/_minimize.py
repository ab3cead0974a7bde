"""`minimize`: the parameters with the least loss + penalty, and how near they are."""

from typing import Any

import jax
import optax

from optareg.penalties._base import Penalty
from optareg.penalties._combinators import check_is_penalty
from optareg.solve._composite import Goal
from optareg.solve._descent import by_optimizer
from optareg.solve._leaves import Leaves
from optareg.solve._null_model import partly_free
from optareg.solve._problem import Loss, Problem, check_arguments, check_precision
from optareg.solve._programs import Reads, one_program
from optareg.solve._solution import Outcome, Solution
from optareg.solve._task import Callback, Task
from optareg.transforms._arguments import check_optimizer

__all__ = ["minimize"]

Array = jax.Array
PyTree = Any


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

    Runs within `jit` and `vmap`. Outside of them a program is compiled once and kept
    for the next call with the same loss and shapes, whatever the data, strengths, and
    tolerance (`clear_programs`). The solution may be differentiated, with respect to
    strengths and whatever else `loss` and `penalty` depend on, by `jax.grad`, `jax.jvp`
    or `jax.hessian`: by the implicit function theorem on the support. Where the
    solution has not converged, the derivative is NaN. At strengths where the support
    changes it is one-sided.

    For a convex loss with a minimum this is the optimum. For others, networks for
    instance, it is a point with the optimality conditions to first order, at best.
    For batches, or noise in the loss, train with `proximal` instead.

    Args:
      loss: a function of the parameters alone, differentiable twice, to a scalar.
        Close over data, or use `jax.tree_util.Partial`. Where a product of matrices in
        it asks for no precision of its own, it has all digits, on GPUs and TPUs too.
      params: where to start; a tree of float32, float64 or complex arrays. Zeros are
        a good start for a convex loss: they have the smallest working sets, and what is
        not penalised, an intercept for instance, then starts at the null model. It
        starts at that model too where the loss is +∞, and once more where a search
        gets stuck above it.
      penalty: any penalty; leave parameters out with `masked`.
      optimizer: an Optax optimizer to use instead, as `proximal(optimizer, penalty)`,
        with the whole data in each step. Its learning rate is for you to tune.
      tol: the stationarity to stop at, in units of the loss per unit of weight, as a
        strength. The default has each parameter's own units, so that scales of columns
        do not matter: the root of its curvature. In these units it is 3e-6 in float32
        and 4e-11 in float64, times the largest gradient at the null model, where all
        that the penalty can make zero is zero and the rest is optimal. It is less where
        that is not small beside a strength, as far as rounding allows.
      max_steps: the number of iterations to stop at.
      callback: called with (steps, objective, stationarity) after each iteration, for
        instance to print; with working sets, of the set at work. None costs nothing.

    Returns:
      A `Solution`. Where the tolerance is not reached, because of `max_steps`, of the
      precision of the numbers, of kinks in `loss`, or as the objective falls without
      bound, `converged` is False, and `params` are the best found. Where numbers are
      not finite, `params` are the last finite ones.

    Raises:
      TypeError: an argument is of another kind, a leaf is not floating or complex, the
        result of `loss` is no scalar, or `optimizer` evaluates the loss itself.
      ValueError: `tol` is negative; `max_steps` is below 1 or above 2³¹ − 1; a leaf is
        of half precision, which has too few digits (an optimizer takes it); strengths
        do not fit `params`.

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
    tree = check_arguments(loss, params, tol, max_steps, callback)
    problem = Problem.of(loss, tree, penalty)
    free = partly_free(problem.penalties)

    def task(consts: Any, limits: Any) -> Task:
        program, (tol, max_steps) = problem.program(consts), limits
        return Task(program, None, problem.double, tol, max_steps, callback)

    def solve(
        consts: Any, penalties: Any, limits: Any, w: Leaves
    ) -> tuple[Outcome, Goal]:
        return task(consts, limits).minimum(penalties, w, free)

    def find_goal(consts: Any, penalties: Any, limits: Any, w: Leaves) -> Goal:
        here = task(consts, limits)
        if problem.half:
            return here.rough_goal(penalties, w)
        return here.goal(penalties, w, free)

    settings = tuple(free), problem.double, problem.half, callback
    reads = Reads(settings, lambda penalties, *_: penalties)
    limits = tol, max_steps
    given = reads, problem.traced, problem.penalties, limits, problem.start
    if optimizer is None:
        check_precision(tree)
        outcome, goal = one_program(solve, *given)
        return problem.solution(outcome, goal.tol)

    inner = check_optimizer(optimizer, "minimize")
    goal = one_program(find_goal, *given)
    found = by_optimizer(inner, problem, penalty, goal, max_steps, callback)
    if problem.half:
        return found
    # As it is, but with the derivative.
    here, penalties = task(problem.traced.consts, limits), problem.penalties
    outcome = here.outcome_at(penalties, problem.leaves(found.params), goal)
    end = here.derived(penalties, outcome, goal)
    return found._replace(params=problem.params(end.w))
