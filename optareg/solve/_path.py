"""`path`: the solutions for many strengths."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optareg.penalties._base import Penalty
from optareg.penalties._combinators import check_is_penalty
from optareg.penalties._register import strengths_of, with_strengths
from optareg.solve._composite import Goal
from optareg.solve._leaves import Leaves
from optareg.solve._null_model import partly_free
from optareg.solve._problem import Loss, Problem, check_arguments, check_precision
from optareg.solve._programs import Reads, one_program
from optareg.solve._quadratic import by_hessian
from optareg.solve._solution import Outcome, Solution
from optareg.solve._task import Callback, Place, Task, either
from optareg.solve._trail import Trail

__all__ = ["path"]

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
      params: as for `minimize`, where to start at the strongest penalty.
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
    strengths = arrays_of(penalties)
    n = length_of(strengths, penalties)
    tree = check_arguments(loss, params, tol, max_steps, callback)
    check_precision(tree)
    # What has no strength at any place of the path is free.
    strongest = with_strengths(penalties, largest_of(strengths))
    problem = Problem.of(loss, tree, strongest)
    free = partly_free(problem.penalties)

    # All their numbers are arguments of the program; not the functions in them.
    numbers, structure = jax.tree.flatten(penalties)

    def of_numbers(
        numbers: list[Any],
    ) -> tuple[list[Array], Callable[[list[Array]], tuple[Penalty, ...]]]:
        """The strengths, and what the penalties are at one of them."""
        given = jax.tree.unflatten(structure, numbers)

        def penalties_at(strengths: list[Array]) -> tuple[Penalty, ...]:
            return problem.penalties_of(with_strengths(given, strengths))

        return arrays_of(given), penalties_at

    def strongest_of(numbers: list[Any], *_: Any) -> tuple[Penalty, ...]:
        strengths, penalties_at = of_numbers(numbers)
        return penalties_at(largest_of(strengths))

    def solved(consts: Any, numbers: list[Any], limits: Any, w: Leaves) -> Any:
        strengths, penalties_at = of_numbers(numbers)
        program, double = problem.program(consts), problem.double
        tol, max_steps = limits
        # In single precision an intercept's size would cost the others their digits.
        gram = by_hessian(program, w) if double or not free else None
        # By it the distance is rounded otherwise, which must not decide; else single
        # precision has no digits to spare.
        margin = MARGIN if gram is not None or double else 1.0
        task = Task(program, gram, double, tol, max_steps, callback)
        strongest = strongest_of(numbers)
        strengths = [jnp.broadcast_to(s, (n, *s.shape[1:])) for s in strengths]
        order = jnp.argsort(-total(strengths))
        ordered = [s[order] for s in strengths]
        sizes = total(ordered)

        def within_margin(goal: Goal) -> Goal:
            return goal._replace(tol=margin * goal.tol)

        def next_one(
            before: tuple[Trail, Array, Place], now: Any
        ) -> tuple[tuple[Trail, Array, Place], Outcome]:
            (trail, damping, place), (strengths, size, held) = before, now
            penalties, start = penalties_at(strengths), trail.last
            goal = within_margin(place.goal)
            if free:
                start = either(held, place.null, start)
            else:
                held = None
            # Else a far start leads to another local minimum than a near one.
            convex = all(penalty.convex for penalty in penalties)
            hint = trail.further(size) if convex else None
            one, end = task.search(
                penalties, start, place.null, damping, goal, held, hint
            )
            damping = jnp.maximum(one.damping, LEAST_DAMPING)
            trail = trail.add(end, size)
            if free:
                place = task.past_null_if(held, strongest, place, end)
                trail = either(held, Trail.at(place.start, size), trail)
            return (trail, damping, place), one

        place = task.begin(strongest, w)
        trail = Trail.at(place.start, sizes[0])
        held = jnp.zeros(n, bool)
        rows: Any = [ordered, sizes, held]
        if free:  # The null model comes first.
            rows = jax.tree.map(lambda x: jnp.concatenate([x[:1], x]), rows)
            rows[2] = rows[2].at[0].set(True)
        damping = jnp.ones_like(place.start.value)
        (_, _, place), outcomes = jax.lax.scan(next_one, (trail, damping, place), rows)
        if free:
            outcomes = jax.tree.map(lambda x: x[1:], outcomes)
        goal = within_margin(place.goal)

        # Outside of the scan: in `jax.hessian` JAX forgets the rule for it within.
        @jax.vmap
        def derived(outcome: Outcome, strengths: list[Array]) -> Outcome:
            return task.derived(penalties_at(strengths), outcome, goal)

        outcomes = derived(outcomes, ordered)

        @jax.vmap
        def certified(outcome: Outcome, strengths: list[Array]) -> Outcome:
            w, penalties = outcome.w, penalties_at(strengths)
            there = task.outcome_at(penalties, w, place.goal)
            return there._replace(w=w, steps=outcome.steps)

        if gram is not None:  # What counts is the loss as given.
            outcomes = certified(outcomes, ordered)
        outcomes = jax.tree.map(lambda x: x[jnp.argsort(order)], outcomes)
        return outcomes, place.goal.tol

    reads = Reads((tuple(free), problem.double, callback), strongest_of)
    given = reads, problem.traced, numbers, (tol, max_steps), problem.start
    outcomes, enough = one_program(solved, *given)
    # The shapes are those of one solution, with the strengths in front.
    return jax.vmap(lambda outcome: problem.solution(outcome, enough))(outcomes)


def arrays_of(penalties: Penalty) -> list[Array]:
    """The strengths, as arrays."""
    return list(map(jnp.asarray, strengths_of(penalties)))


def length_of(strengths: list[Array], penalties: Penalty) -> int:
    """The number of strengths of a path; raises if there is none."""
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
    return n


def largest_of(strengths: list[Array]) -> list[Array]:
    """The largest of many strengths, entry by entry."""
    return [jnp.max(s, axis=0) if s.ndim else s for s in strengths]


def total(strengths: list[Array]) -> Array:
    """The sum of each of many strengths over all fields and leaves."""
    sums = [jnp.sum(s.reshape(len(s), -1), axis=1) for s in strengths]
    return functools.reduce(jnp.add, sums)
