"""`path`: the solutions for many strengths. `max_strength`, `strength_grid`."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from optareg._checks import check_number, is_traced
from optareg._tree import Tree, path_name, widest
from optareg.penalties._base import ParamGroup, Penalty
from optareg.penalties._combinators import check_is_penalty, masked
from optareg.penalties._l1 import L1
from optareg.penalties._register import strengths_of, with_strengths
from optareg.penalties._unpenalised import cover
from optareg.solve._goal import acts, all_penalised, goal_of, partly_free
from optareg.solve._heads import Heads
from optareg.solve._minimize import (
    Callback,
    Loss,
    Solution,
    arrays,
    check_arguments,
    check_precision,
    differentiable,
    is_double,
    minimize,
    nonempty,
    one_program,
    rebuild,
    solution,
    trace,
)
from optareg.solve._newton import Leaves, Objective
from optareg.solve._newton import start as state_at
from optareg.solve._quadratic import reduced
from optareg.solve._working_set import Composite, Outcome

__all__ = ["max_strength", "path", "strength_grid"]

Array = jax.Array
PyTree = Any

# Between two strengths the support changes, where Newton's method needs some damping.
LEAST_DAMPING = 1e-3
# How much better a path is solved than the tolerance asks for, where digits allow it:
# a start just within the tolerance would be kept, and its error carried on.
MARGIN = 0.25


def path(
    loss: Loss,
    params: PyTree,
    penalties: Penalty,
    *,
    tol: float | Array | None = None,
    max_steps: int = 10_000,
    callback: Callback | None = None,
) -> Solution:
    """`minimize` for each of many strengths, in one compiled program.

    From the strongest to the weakest, whatever the order given. Each starts at the
    solution before; with a convex penalty, if that is less, further on the line through
    the two before. Runs within `jit` and `vmap`, and may be differentiated, as
    `minimize`. Under `jax.vmap` over weights of the samples it cross-validates.

    Args:
      loss: as for `minimize`.
      params: where to start at the strongest penalty; zeros are good.
      penalties: one penalty whose strengths have a leading axis, all of one length n;
        a scalar strength is the same for all n. The order of strength is that of the
        sum over its fields and leaves.
      tol: as for `minimize`, the same for all.
      max_steps: as for `minimize`, for each.
      callback: as for `minimize`.

    Returns:
      A `Solution` with a leading axis of n, in the order of `penalties`.

    Raises:
      TypeError, ValueError: as for `minimize`, or no strength has a leading axis, or
        their lengths differ.

    >>> import jax.numpy as jnp
    >>> from optareg import L1, path
    >>> loss = lambda w: 0.5 * jnp.sum((w - jnp.array([3.0, 0.5])) ** 2)
    >>> solutions = path(loss, jnp.zeros(2), L1(jnp.array([0.25, 1.0, 4.0])))
    >>> print(solutions.params)
    [[2.75 0.25]
     [2.   0.  ]
     [0.   0.  ]]

    Source: warm starts along a path: Friedman, Hastie & Tibshirani, Regularization
    paths for generalized linear models via coordinate descent (2010).
    """
    check_is_penalty(penalties, "path")
    strengths = list(map(jnp.asarray, strengths_of(penalties)))
    lengths = {strength.shape[0] for strength in strengths if strength.ndim > 0}
    if len(lengths) != 1:
        lists = any(isinstance(x, list) for x in vars(penalties).values())
        hint = (
            " A list is a tree, of one strength a leaf: use an array." if lists else ""
        )
        raise ValueError(
            "`path` needs strengths with a leading axis of one length, as in "
            "`L1(strength_grid(max_strength(loss, params, L1(1.0))))`; "
            f"got lengths {sorted(lengths) or 'none'} in {penalties!r}.{hint}"
        )
    (n,) = lengths
    if n == 0:
        raise ValueError("`path` needs at least one strength, got a leading axis of 0.")
    tree = check_arguments(loss, params, tol, max_steps)
    check_precision(tree)

    def blocks_at(strengths: list[Array]) -> list[ParamGroup]:
        penalty = with_strengths(penalties, strengths)
        return nonempty(cover(penalty.resolve(tree), tree), tree)

    # What has no strength at any place of the path is free.
    param_groups = blocks_at(largest_of(strengths))
    traced = trace(loss, tree, param_groups)
    free = partly_free([param_group.penalty for param_group in param_groups])

    def solved(
        consts: Any, strengths: list[Array], start: Leaves
    ) -> tuple[Outcome, Any]:
        program = ClosedJaxpr(traced.jaxpr, consts)

        def penalties_at(strengths: list[Array]) -> tuple[Penalty, ...]:
            return tuple(param_group.penalty for param_group in blocks_at(strengths))

        double = is_double(program, tree)
        strongest = penalties_at(largest_of(strengths))
        goal = goal_of(tol, program, strongest, start, free, double)
        # In single precision an intercept's size would cost the others their digits.
        fewer_rows = reduced(program, start) if double or not free else None
        quick = program if fewer_rows is None else fewer_rows
        # With other rows the stationarity is rounded otherwise, which must not decide;
        # else single precision has no digits to spare.
        spare = fewer_rows is not None or double
        nearer = goal._replace(tol=MARGIN * goal.tol) if spare else goal
        strengths = [jnp.broadcast_to(s, (n, *s.shape[1:])) for s in strengths]
        order = jnp.argsort(-total(strengths))
        ordered = [s[order] for s in strengths]

        def next_one(
            before: tuple[Trail, Array], now: tuple[list[Array], Array]
        ) -> tuple[tuple[Trail, Array], Outcome]:
            (trail, damping), (strengths, size) = before, now
            penalties, w = penalties_at(strengths), trail.w
            # Else a far start leads to another local minimum than a near one.
            if all(penalty.convex for penalty in penalties):
                here = Composite(Heads.of(quick, w), penalties).unscaled(w)
                w = trail.start(here, size)
            one = differentiable(
                program, quick, penalties, w, damping, nearer, max_steps, callback
            )
            damping = jnp.maximum(one.damping, LEAST_DAMPING)
            return (trail.add(one.w, size), damping), one

        @jax.vmap
        def certified(outcome: Outcome, strengths: list[Array]) -> Outcome:
            w, heads = outcome.w, Heads.of(program, outcome.w)
            here = Composite(heads, penalties_at(strengths), goal.units)
            there = Outcome.of(here, state_at(here.unscaled(w), w))
            certificate: Outcome = jax.lax.stop_gradient(there)
            return certificate._replace(w=w, steps=outcome.steps)

        sizes = total(ordered)
        first = Trail(start, start, sizes[0], sizes[0])
        damping = jnp.ones((), traced.out_avals[0].dtype)
        _, outcomes = jax.lax.scan(next_one, (first, damping), (ordered, sizes))
        if fewer_rows is not None:  # What counts is the loss as given.
            outcomes = certified(outcomes, ordered)
        outcomes = jax.tree.map(lambda x: x[jnp.argsort(order)], outcomes)
        return outcomes, goal.tol

    start = arrays(tree, param_groups)
    outcomes, enough = one_program(solved, traced.consts, strengths, start)
    # The shapes are those of one solution, with the strengths in front.
    return jax.vmap(lambda outcome: solution(tree, param_groups, outcome, enough))(
        outcomes
    )


class Trail(NamedTuple):
    """The last two solutions, and the sums of their strengths.

    While its support is the same, the solution of a lasso is linear in the strength
    (Osborne, Presnell & Turlach 2000); those of other problems are nearly so.
    """

    w: Leaves
    w_before: Leaves
    size: Array
    size_before: Array

    def start(self, objective: Objective, size: Array) -> Leaves:
        """Where to start at another strength: further on this line, if that is less."""
        span = self.size_before - self.size
        ratio = (self.size - size) / jnp.where(span > 0, span, jnp.inf)
        pairs = zip(self.w, self.w_before, strict=True)
        further = tuple(beyond(x, before, ratio) for x, before in pairs)
        both = jax.tree.map(lambda *xs: jnp.stack(xs), self.w, further)
        values = jax.vmap(objective.value)(both)
        less = values[1] < values[0]
        w = jax.tree.map(lambda a, b: jnp.where(less, b, a), self.w, further)
        return jax.lax.stop_gradient(w)

    def add(self, w: Leaves, size: Array) -> "Trail":
        """With one more solution."""
        return Trail(w, self.w, size, self.size)


def beyond(x: Array, before: Array, ratio: Array) -> Array:
    """`ratio` times as far from x as x is from `before`; what changes sign is zero."""
    new = x + ratio.astype(x.real.dtype) * (x - before)
    return jnp.where((new * jnp.conj(x)).real > 0, new, 0)


def largest_of(strengths: list[Array]) -> list[Array]:
    """The largest of many strengths, entry by entry."""
    return [jnp.max(s, axis=0) if s.ndim else s for s in strengths]


def total(strengths: list[Array]) -> Array:
    """The sum of each of many strengths over all fields and leaves."""
    sums = [jnp.sum(s.reshape(len(s), -1), axis=1) for s in strengths]
    return functools.reduce(jnp.add, sums)


def max_strength(loss: Loss, params: PyTree, penalty: Penalty) -> Array:
    """The least multiple of `penalty` at which everything penalised is exactly zero.

    That is the dual norm of the loss's gradient where all penalised parameters are
    zero. Unpenalised ones are solved for first, with `minimize`. Of an `ElasticNet` the
    L1 part decides. For a loss that is not convex it is the least multiple at which
    zero meets the first-order conditions.

    Args:
      loss: as for `minimize`.
      params: where to start with the unpenalised parameters; the others do not matter.
      penalty: the penalty to multiply; for `L1(1.0)` the result is a strength.

    Returns:
      A scalar. `L1(1.01 * max_strength(loss, params, L1(1.0)))` gives zeros only, with
      0.99 something is not zero.

    Raises:
      TypeError: as for `minimize`.
      ValueError: as for `minimize`; nothing is penalised; or a leaf has a smooth
        penalty alone, such as `L2`, which never gives zeros.

    >>> import jax.numpy as jnp
    >>> from optareg import L1, max_strength
    >>> loss = lambda w: 0.5 * jnp.sum((w - jnp.array([3.0, 0.4])) ** 2)
    >>> print(max_strength(loss, jnp.zeros(2), L1(1.0)))
    3.0

    Source: Osborne, Presnell & Turlach, On the lasso and its dual (2000), for L1.
    """
    check_is_penalty(penalty, "max_strength")
    tree = check_arguments(loss, params, None, 1)
    param_groups = cover(penalty.resolve(tree), tree)
    norms = []
    for param_group in param_groups:
        smooth, norm = param_group.penalty.split()
        if norm is None and smooth is not None:
            raise ValueError(
                f"the leaf at {path_name(tree.paths[param_group.at[0]])} has "
                f"{type(param_group.penalty).__name__}, which gives no zeros at any "
                "strength. Leave it out with `masked`."
            )
        if norm is not None:
            check_gives_zeros(norm, param_group, tree)
        norms.append(norm)
    if not any(norms):
        raise ValueError("`max_strength` needs a penalised leaf, got none.")

    def loss_of(leaves: Sequence[Array]) -> Array:
        return loss(rebuild(tree, param_groups, leaves))

    def at_zero(leaves: Sequence[Array]) -> list[Array]:
        """The arrays with all that is penalised at zero."""
        pairs = zip(norms, leaves, strict=True)
        return [
            x if n is None else jnp.where(acts(n), n.leaf_center(x), x)
            for n, x in pairs
        ]

    leaves = list(arrays(tree, param_groups))
    # Arrays that are penalised all over have nothing to solve for.
    rest = [i for i, norm in enumerate(norms) if not all_penalised(norm)]

    def with_rest(some: Sequence[Array]) -> list[Array]:
        new = dict(zip(rest, some, strict=True))
        return at_zero([new.get(i, x) for i, x in enumerate(leaves)])

    some = [leaves[i] for i in rest]
    if rest:
        free = masked(L1(0.0), False)
        some = minimize(lambda some: loss_of(with_rest(some)), some, free).params
    grads = jax.grad(loss_of)(with_rest(some))
    sizes = [
        norm.leaf_dual_norm(jnp.conj(g))
        for norm, g in zip(norms, grads, strict=True)
        if norm is not None
    ]
    dtype = widest(*(s.dtype for s in sizes))
    result = jnp.max(jnp.stack([s.astype(dtype) for s in sizes]))
    if not is_traced(result) and jnp.isposinf(result):
        raise ValueError(
            f"no multiple of {penalty!r} makes all that it penalises zero: it leaves "
            "something free, as total variation does the mean of a line."
        )
    return result


def check_gives_zeros(rest: Penalty, group: ParamGroup, tree: Tree) -> None:
    """Raises for what has no strength to find, or gives no zeros."""
    if rest.leaf_zeros(group.join(tree.leaves)) is None:
        raise ValueError(
            f"the leaf at {path_name(tree.paths[group.at[0]])} has "
            f"{type(rest).__name__}, which does not give zeros: there is no strength at"
            " which all of it is zero. Leave it out with `masked`."
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
