"""`max_strength`, the strength from which on all is zero; `strength_grid`, below it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optareg._checks import check_number, is_traced
from optareg._tree import Tree, path_name, widest
from optareg.penalties._base import ParamGroup, Penalty
from optareg.penalties._combinators import check_is_penalty
from optareg.solve._leaves import Leaves, all_finite
from optareg.solve._null_model import acts, at_center, partly_free
from optareg.solve._problem import Loss, Problem, check_arguments
from optareg.solve._programs import Reads, one_program
from optareg.solve._task import Task

__all__ = ["max_strength", "strength_grid"]

Array = jax.Array
PyTree = Any

MOST_STEPS = 10_000
# The null model is of use although it misses the tolerance by so much, as it may in
# single precision.
ENOUGH = 30.0


def max_strength(loss: Loss, params: PyTree, penalty: Penalty) -> Array:
    """The least multiple of `penalty` at which everything penalised is exactly zero.

    That is the dual norm of the loss's gradient where all penalised parameters are
    zero. Unpenalised ones are solved for first, as by `minimize`. Of an `ElasticNet`
    the L1 part decides. For a loss that is not convex it is the least multiple at which
    zero meets the first-order conditions.

    Args:
      loss: as for `minimize`.
      params: where to start with the unpenalised parameters; the others do not matter.
      penalty: the penalty to multiply; for `L1(1.0)` the result is a strength.

    Returns:
      A scalar. `L1(1.01 * max_strength(loss, params, L1(1.0)))` gives zeros only, with
      0.99 something is not zero. Within `jit` it is NaN where an error is due.

    Raises:
      TypeError: as for `minimize`.
      ValueError: as for `minimize`; nothing is penalised; a leaf has a smooth penalty
        alone, such as `L2`, which never gives zeros; the loss has no minimum over the
        parameters that are not penalised; or its gradient has NaN or ∞ where the
        others are zero.

    >>> import jax.numpy as jnp
    >>> from optareg import L1, max_strength
    >>> loss = lambda w: 0.5 * jnp.sum((w - jnp.array([3.0, 0.4])) ** 2)
    >>> print(max_strength(loss, jnp.zeros(2), L1(1.0)))
    3.0

    Source: Osborne, Presnell & Turlach, On the lasso and its dual (2000), for L1.
    """
    check_is_penalty(penalty, "max_strength")
    tree = check_arguments(loss, params, None, 1)
    problem = Problem.of(loss, tree, penalty)
    for group in problem.groups:
        check_gives_zeros(group, tree)
    if not any(may_act(p.split()[1]) for p in problem.penalties):
        raise ValueError(
            f"`max_strength` needs a penalised leaf with a strength above 0, got none "
            f"in {penalty!r}."
        )
    free = partly_free(problem.penalties)

    def solve(consts: Any, penalties: Any, w: Leaves) -> tuple[Array, Array]:
        program = problem.program(consts)
        task = Task(program, None, problem.double, None, MOST_STEPS, None)
        w, solved = at_center(penalties, w), jnp.array(True)
        if free:
            place, null, _ = task.null_model(penalties, w)
            null = task.derived(penalties, null, place.goal, held=True)
            w, solved = null.w, null.reaches(ENOUGH * place.goal.tol)
        composite = task.composite(penalties, w)
        pairs = zip(composite.norms, composite.point(w).g, strict=True)
        penalised = [(norm, g) for norm, g in pairs if norm is not None]
        sizes = [norm.leaf_dual_norm(g) for norm, g in penalised]
        dtype = widest(*(size.dtype for size in sizes))
        result = jnp.max(jnp.stack([size.astype(dtype) for size in sizes]))
        known = solved & all_finite([g for _, g in penalised])
        return jnp.where(known, result, jnp.nan), solved

    reads = Reads((tuple(free), problem.double), lambda penalties, *_: penalties)
    given = reads, problem.traced, problem.penalties, problem.start
    result: Array
    result, solved = one_program(solve, *given)
    if not is_traced(solved) and not solved:
        raise ValueError(
            "`max_strength` could not solve for the parameters that are not penalised: "
            "the loss has no minimum over them near `params`, or no finite derivative."
        )
    if not is_traced(result) and np.isnan(result):
        raise ValueError(
            "`max_strength` needs a gradient of the loss where all that is penalised "
            "is zero; it has NaN or ∞ there. Are the data finite?"
        )
    if not is_traced(result) and np.isposinf(result):
        raise ValueError(
            f"no multiple of {penalty!r} makes all that it penalises zero: it leaves "
            "something free, as total variation does the mean of a line."
        )
    return result


def may_act(norm: Penalty | None) -> bool:
    """Whether a norm may have a strength above 0 somewhere."""
    if norm is None:
        return False
    return is_traced(acts(norm)) or bool(np.any(acts(norm)))


def check_gives_zeros(group: ParamGroup, tree: Tree) -> None:
    """Raises for what has no strength to find, or gives no zeros."""
    smooth, norm = group.penalty.split()
    leaf = (
        f"the leaf at {path_name(tree.paths[group.at[0]])} has "
        f"{type(group.penalty).__name__}"
    )
    if smooth is not None and not may_act(norm):
        part = "" if norm is None else " without an L1 part"
        raise ValueError(
            f"{leaf}{part}, which gives no zeros at any strength. Leave it out with "
            "`masked`."
        )
    if norm is not None and norm.leaf_zeros(group.join(tree.leaves)) is None:
        raise ValueError(
            f"{leaf}, which does not give zeros: there is no strength at which all of "
            "it is zero. Leave it out with `masked`."
        )


def strength_grid(max: Any, n: int = 100, ratio: float = 1e-2) -> Array:
    """Strengths from `max` down to `ratio * max`, evenly spaced in the logarithm.

    As scikit-learn's and glmnet's grids.

    Args:
      max: the strongest, usually from `max_strength`; a positive scalar, may be traced.
      n: how many, at least 1.
      ratio: the weakest over the strongest, above 0 and at most 1.

    Returns:
      An array of shape (n,), falling, its first entry `max`.

    Raises:
      TypeError: an argument is no number, or `n` no integer.
      ValueError: an argument is out of its range.

    >>> from optareg import strength_grid
    >>> print(strength_grid(1.0, n=3, ratio=0.01))
    [1.   0.1  0.01]
    """
    check_number(max, "`max`", zero=False, scalar=True)
    check_number(ratio, "`ratio`", zero=False, most=1, scalar=True)
    check_number(n, "`n`", zero=False, scalar=True)
    if not isinstance(n, (int, np.integer)):
        raise TypeError(f"`n` must be an integer, got {n!r}.")
    powers = jnp.linspace(0.0, 1.0, n, dtype=jnp.result_type(max, float))
    return jnp.multiply(max, ratio**powers)
