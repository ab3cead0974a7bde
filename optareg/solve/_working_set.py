"""The solver: Newton's method on the few rows that matter, checked on all of them.

A row is an index of the axis that a leaf's matrix products sum over: a column of the
data. Rows at zero that stay there need no work but the check; those that a penalty
couples, a group for instance, are a block. Where the loss is not made of matrix
products (see `Heads`), or blocks are not known, all rows are worked on.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optareg._tree import epsilon
from optareg.solve._composite import Composite
from optareg.solve._gram import Gram
from optareg.solve._leaves import Leaves
from optareg.solve._newton import Progress, newton, start, start_at
from optareg.solve._products import Chosen, Rows
from optareg.solve._smooth import Point, Products
from optareg.solve._solution import Outcome

__all__ = ["outcome_of", "solve"]

Array = jax.Array
Sizes = tuple[int, ...]

# Sizes of working sets: of a fixed shape each, as compiled programs want. The next one
# is taken when a set is nearly full: the larger one costs as much more as it is larger.
SMALLEST, GROWTH = 72, 2
# So many of them share one program, in which all but the matrix is as large as the
# largest needs: compiling goes by the number of programs.
TOGETHER = 4
FULL = 7 / 8
# The largest set has half of the rows; a quarter, of matrices with more entries.
MANY_ENTRIES = 2**22
# How exactly a working set is solved, in parts of what is left to gain: while rows are
# left out that have something to gain, and when none are; with a factor, which costs
# little, more exactly.
INNER, LAST, LAST_BY_FACTOR = 0.1, 1e-3, 1e-6
# After so many steps the curvature is another: that of exp(w), from a far start.
MOST_STEPS = 50


class State(NamedTuple):
    """State of the loop over working sets.

    As `Progress`, and a hint at leaves that may be better than w, if there is one.
    """

    w: Leaves
    products: Products
    hint: Leaves | None
    g: Leaves
    value: Array
    distance: Array
    damping: Array
    steps: Array
    idle: Array

    @property
    def point(self) -> Point:
        """With the value of the whole objective."""
        return Point(self.w, self.products, self.value, self.g)


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
    plain = problem.unscaled(w)
    programs = sizes_of(problem, w)
    if isinstance(problem.loss, Gram):
        # Anew: carried on from a far start, its rounding errors would stay.
        first = problem.point(w)
    first = first._replace(value=first.value + plain.penalty(w))
    # From a hint, on a path, it takes too few steps for a matrix made of data to pay.
    quadratic = len(programs) > 1 and hint is None and problem.quadratic(w)
    begun = start_at(plain, first)
    state = State(
        w=w,
        products=begun.products,
        hint=hint,
        g=begun.g,
        value=begun.value,
        distance=begun.distance,
        damping=jnp.asarray(damping, begun.damping.dtype),
        steps=begun.steps,
        idle=begun.idle,
    )

    def rounds(state: State, sizes: Sizes, which: Array) -> State:
        def going(state: State) -> Array:
            undone = ~(state.distance <= tol) & (state.steps < max_steps)
            gaining = undone & (state.idle < 2)
            if not sizes:
                return gaining
            full = FULL * jnp.array(sizes)[which]
            return gaining & (most_rows(problem, state.w) <= full)

        def body(state: State) -> State:
            return round_of(
                problem, state, sizes, which, quadratic, tol, max_steps, report
            )

        return jax.lax.while_loop(going, body, state)

    for sizes in programs:

        def one_size(state: State, which: Array, sizes: Sizes = sizes) -> Any:
            return rounds(state, sizes, which), None

        # The size is no part of the state, so that it is one for all within a `vmap`.
        state, _ = jax.lax.scan(one_size, state, jnp.arange(max(1, len(sizes))))
    end = state.point._replace(value=state.value - plain.penalty(state.w))
    return outcome_of(problem, state), end


def sizes_of(problem: Composite, w: Leaves) -> list[Sizes]:
    """The sizes of working sets, by programs that share them; at last all rows."""
    leaves = zip(blocks_of(problem, w), problem.loss.axes, w, strict=True)
    rows = [
        x.shape[axis]
        for blocks, axis, x in leaves
        if blocks is not None and axis is not None
    ]
    # A set is copied, and gathering it takes as much again.
    share = 4 if problem.loss.entries > MANY_ENTRIES else 2
    sizes, size = [], SMALLEST
    while rows and share * size <= max(rows):
        sizes.append(size)
        size *= GROWTH
    programs = [tuple(sizes[i : i + TOGETHER]) for i in range(0, len(sizes), TOGETHER)]
    return [*programs, ()]


def round_of(
    problem: Composite,
    state: State,
    sizes: Sizes,
    which: Array,
    quadratic: bool,
    tol: Array,
    max_steps: Array | int,
    report: Callable[..., None] | None,
) -> State:
    """Chooses a working set, solves it, and checks all rows; without sizes, of all."""
    w = state.w
    chosen: Rows = [None] * len(w)
    part, here, enough = problem, state.point, tol
    if sizes:
        chosen, complete = choose(problem, state, sizes, which)
        here = here._replace(w=take(chosen, w), g=take(chosen, state.g))
        part, here = problem.take(chosen, w).worked_on(here, quadratic)
        by_factor = isinstance(part.loss, Gram) and part.loss.factored
        last = jnp.where(by_factor, LAST_BY_FACTOR, LAST)
        share = jnp.where(complete, last, INNER).astype(state.distance.dtype)
        enough = jnp.maximum(tol, share * state.distance)
    elif isinstance(problem.loss, Gram):
        part, here = problem.around(here)
    objective = part.objective(here.w)
    inner = start_at(objective, here)
    if state.hint is not None:
        other = start(objective, take(chosen, state.hint))
        less = other.value < inner.value
        inner = jax.tree.map(lambda a, b: jnp.where(less, a, b), other, inner)
    inner = inner._replace(damping=state.damping, steps=state.steps)
    most = jnp.minimum(max_steps, state.steps + MOST_STEPS)
    inner = newton(objective, inner, enough, most, report)
    new = zip(chosen, w, inner.w, strict=True)
    w = tuple(n if c is None else c.put(x, n) for c, x, n in new)
    if part is problem:
        products, g = inner.products, inner.g
        value, distance = inner.value, inner.distance
    else:
        products = products_after(problem, part, inner, w)
        _, _, value, g = problem.smooth.point(products, w)
        plain = problem.unscaled(w)
        value = value + plain.penalty(w)
        distance = plain.distance(w, g, value.dtype)
    noise = 8 * epsilon(value.dtype) * jnp.abs(value)
    gained = (value < state.value - noise) | (distance < 0.9 * state.distance)
    return State(
        w=w,
        products=products,
        hint=None if state.hint is None else w,
        g=g,
        value=value,
        distance=distance,
        damping=inner.damping,
        steps=inner.steps,
        idle=jnp.where(gained, 0, state.idle + 1),
    )


def products_after(
    problem: Composite, part: Composite, inner: Progress, w: Leaves
) -> Products:
    """Those of all rows, w, where only some were worked on; the others are zero."""
    if isinstance(problem.loss, Gram):
        return problem.smooth.products(w)
    if isinstance(part.loss, Gram):
        return tuple(part.loss.by_data.products(inner.w))
    return inner.products


def take(chosen: Rows, w: Leaves) -> Leaves:
    """The chosen rows of leaves."""
    pairs = zip(chosen, w, strict=True)
    return tuple(x if c is None else c.take(x) for c, x in pairs)


def choose(
    problem: Composite, state: State, sizes: Sizes, which: Array
) -> tuple[list[Chosen | None], Array]:
    """The blocks that are not zero, and of the others those with most to gain.

    Also whether no others have anything to gain.
    """
    residuals = problem.unscaled(state.w).residuals(state.w, state.g)
    chosen: list[Chosen | None] = []
    complete = jnp.array(True)
    for axis, blocks, x, r in zip(
        problem.loss.axes, blocks_of(problem, state.w), state.w, residuals, strict=True
    ):
        if axis is None or blocks is None or x.shape[axis] <= sizes[-1]:
            chosen.append(None)
            continue
        score = jnp.where(in_blocks(x != 0, axis, blocks), jnp.inf, 0)
        score = jnp.maximum(score, in_blocks(r, axis, blocks))
        each = blocks.shape[1]
        numbers = [max(1, size // each) for size in sizes]
        _, rows = jax.lax.top_k(score.astype(jnp.float32), numbers[-1])
        rows = in_order(rows, jnp.array(numbers)[which], len(score))
        if each > 1:
            rows = jnp.asarray(blocks)[rows].ravel()
        counts, filled = tuple(n * each for n in numbers), blocks.size > x.shape[axis]
        chosen.append(Chosen(rows, axis, counts, which, filled))
        complete &= jnp.sum(score > 0) <= jnp.array(numbers)[which]
    return chosen, complete


def in_order(rows: Array, number: Array, most: int) -> Array:
    """The first so many in their order, which is faster to gather; then the others."""
    last = jnp.arange(len(rows)) >= number
    return jnp.sort(rows + jnp.where(last, most, 0).astype(rows.dtype)) % most


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
    if blocks.shape[1] == 1:
        return of_rows
    of_blocks = jnp.take(of_rows, blocks, mode="fill", fill_value=0)
    return jnp.max(of_blocks, axis=1)


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
