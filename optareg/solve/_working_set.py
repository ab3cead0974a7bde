"""The solver: Newton's method on the few rows that matter, checked on all of them.

A row is an index of the axis that a leaf's matrix products sum over: a column of the
data. Rows at zero that stay there need no work but the check; those that a penalty
couples, a group for instance, are a block. Where the loss is not made of matrix
products (see `Heads`), or blocks are not known, all rows are worked on.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optareg._tree import epsilon
from optareg.solve._composite import Chosen, Composite, Point, Rows
from optareg.solve._leaves import Leaves
from optareg.solve._newton import Progress, newton, start, start_at
from optareg.solve._solution import Outcome

__all__ = ["outcome_of", "solve"]

Array = jax.Array

# Sizes of working sets: of a fixed shape each, as compiled programs want. The next one
# is taken when a set is nearly full: the larger one costs as much more as it is larger.
SMALLEST, GROWTH = 64, 3
FULL = 7 / 8
# The largest set has half of the rows; a quarter, of matrices with more entries.
MANY_ENTRIES = 2**22
# How exactly a working set is solved, in parts of what is left to gain.
INNER = 0.1
# After so many steps the curvature is another: that of exp(w), from a far start.
MOST_STEPS = 50


class State(NamedTuple):
    """State of the loop over working sets.

    As `Progress`, and a hint at leaves that may be better than w, if there is one.
    """

    w: Leaves
    hint: Leaves | None
    g: Leaves
    value: Array
    distance: Array
    damping: Array
    steps: Array
    idle: Array


def outcome_of(problem: Composite, state: "State | Progress") -> Outcome:
    """The end of a search, whose distance has the units of `problem`."""
    plain = problem._replace(units=()).unscaled(state.w)
    return Outcome(
        w=state.w,
        stationarity=plain.stationarity(state.w, state.g, state.value.dtype),
        distance=state.distance,
        steps=state.steps,
        damping=state.damping,
    )


def solve(
    problem: Composite,
    first: Point,
    damping: Array | float,
    tol: Array,
    max_steps: Array | int,
    report: Callable[..., None] | None = None,
    hint: Leaves | None = None,
) -> tuple[Outcome, Point]:
    """Minimises from a point until the distance, in its units, is at most `tol`.

    Or from a hint, zero where the point is, if the objective is less there. Returns the
    end of the search, and the smooth part there.
    """
    w = first.w
    known = [blocks for blocks in blocks_of(problem, w) if blocks is not None]
    limits = [blocks.size for blocks in known]
    # Each size is compiled anew, which takes twice as long for groups.
    growth = GROWTH**2 if any(x.shape[1] > 1 for x in known) else GROWTH
    plain = problem.unscaled(w)
    begun = start_at(plain, w, first.value + plain.penalty(w), first.g)
    state = State(
        w=w,
        hint=hint,
        g=begun.g,
        value=begun.value,
        distance=begun.distance,
        damping=jnp.asarray(damping, begun.damping.dtype),
        steps=begun.steps,
        idle=begun.idle,
    )

    def rounds(state: State, size: int | None) -> State:
        def going(state: State) -> Array:
            undone = ~(state.distance <= tol) & (state.steps < max_steps)
            gaining = undone & (state.idle < 2)
            if size is None:
                return gaining
            return gaining & (most_rows(problem, state.w) <= FULL * size)

        def body(state: State) -> State:
            return round_of(problem, state, size, tol, max_steps, report)

        return jax.lax.while_loop(going, body, state)

    # A set is copied, and gathering it takes as much again.
    entries = max((head.matrix.size for head in problem.loss.heads), default=0)
    share = 4 if entries > MANY_ENTRIES else 2
    size = SMALLEST
    while limits and share * size <= max(limits):
        state = rounds(state, size)
        size *= growth
    state = rounds(state, None)
    end = Point(state.w, state.value - plain.penalty(state.w), state.g)
    return outcome_of(problem, state), end


def round_of(
    problem: Composite,
    state: State,
    size: int | None,
    tol: Array,
    max_steps: Array | int,
    report: Callable[..., None] | None,
) -> State:
    """Chooses a working set, solves it, and checks all rows; without size, of all."""
    w = state.w
    chosen: Rows = [None] * len(w)
    part, v, slopes, enough = problem, w, state.g, tol
    if size is not None:
        chosen = choose(problem, state, size)
        part = problem.take(chosen, w)
        v, slopes = take(chosen, w), take(chosen, state.g)
        enough = jnp.maximum(tol, INNER * state.distance)
    objective = part.objective(v)
    inner = start_at(objective, v, state.value, slopes)
    if state.hint is not None:
        other = start(objective, take(chosen, state.hint))
        less = other.value < inner.value
        inner = jax.tree.map(lambda a, b: jnp.where(less, a, b), other, inner)
    inner = inner._replace(damping=state.damping, steps=state.steps)
    most = jnp.minimum(max_steps, state.steps + MOST_STEPS)
    inner = newton(objective, inner, enough, most, report)
    if size is None:
        w, g, value, distance = inner.w, inner.g, inner.value, inner.distance
    else:
        new = zip(chosen, w, inner.w, strict=True)
        w = tuple(n if c is None else c.put(x, n) for c, x, n in new)
        g = problem.gradient(chosen, inner.w, w)
        value = inner.value
        distance = problem.unscaled(w).distance(w, g, value.dtype)
    noise = 8 * epsilon(value.dtype) * jnp.abs(value)
    gained = (value < state.value - noise) | (distance < 0.9 * state.distance)
    return State(
        w=w,
        hint=None if state.hint is None else w,
        g=g,
        value=value,
        distance=distance,
        damping=inner.damping,
        steps=inner.steps,
        idle=jnp.where(gained, 0, state.idle + 1),
    )


def take(chosen: Rows, w: Leaves) -> Leaves:
    """The chosen rows of leaves."""
    pairs = zip(chosen, w, strict=True)
    return tuple(x if c is None else c.take(x) for c, x in pairs)


def choose(problem: Composite, state: State, size: int) -> Rows:
    """The blocks that are not zero, and of the others those with most to gain."""
    residuals = problem.unscaled(state.w).residuals(state.w, state.g)
    chosen: Rows = []
    for axis, blocks, x, r in zip(
        problem.loss.axes, blocks_of(problem, state.w), state.w, residuals, strict=True
    ):
        if axis is None or blocks is None or x.shape[axis] <= size:
            chosen.append(None)
            continue
        score = jnp.where(in_blocks(x != 0, axis, blocks), jnp.inf, 0)
        score = jnp.maximum(score, in_blocks(r, axis, blocks))
        most = max(1, size // blocks.shape[1])
        _, best = jax.lax.top_k(score.astype(jnp.float32), most)
        rows = jnp.sort(best)
        if blocks.shape[1] > 1:
            rows = jnp.asarray(blocks)[rows].ravel()
        chosen.append(Chosen(rows, axis))
    return chosen


def blocks_of(problem: Composite, w: Leaves) -> list[np.ndarray | None]:
    """For each leaf the rows that are chosen together; None where all of them matter.

    Where a penalty has kinks, blocks at zero may stay there and be left alone.
    """
    rows = zip(problem.penalties, problem.norms, problem.loss.axes, w, strict=True)
    return [
        None if axis is None or norm is None else p.leaf_blocks(axis, x.shape)
        for p, norm, axis, x in rows
    ]


def in_blocks(x: Array, axis: int, blocks: np.ndarray) -> Array:
    """The largest entry in each block of rows."""
    of_rows = jnp.max(x, tuple(i for i in range(x.ndim) if i != axis))
    return of_rows if blocks.shape[1] == 1 else jnp.max(of_rows[blocks], axis=1)


def most_rows(problem: Composite, w: Leaves) -> Array:
    """The largest number of rows in blocks that are not zero."""
    counts = [
        blocks.shape[1] * jnp.sum(in_blocks(x != 0, axis, blocks))
        for axis, blocks, x in zip(
            problem.loss.axes, blocks_of(problem, w), w, strict=True
        )
        if axis is not None and blocks is not None
    ]
    return jnp.max(jnp.stack(counts))
