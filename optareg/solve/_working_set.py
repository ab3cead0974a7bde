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

from optareg._tree import epsilon
from optareg.solve._composite import Composite
from optareg.solve._gram import Gram
from optareg.solve._leaves import Leaves
from optareg.solve._newton import NOISE, Progress, newton, start, start_at
from optareg.solve._products import Rows
from optareg.solve._rows import Sizes, apart, choose, most_rows, sizes_of
from optareg.solve._smooth import Point, Products
from optareg.solve._solution import Outcome

__all__ = ["outcome_of", "solve"]

Array = jax.Array

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


class Search(NamedTuple):
    """A search for the minimum of `problem`, by rounds: a working set, then all rows.

    Attributes:
      problem: what is minimised.
      quadratic: whether matrices of its loss, made of data, may pay.
      tol: the distance to come to.
      max_steps: the number of iterations to stop at.
      report: called after each of them, or None.
    """

    problem: Composite
    quadratic: bool
    tol: Array
    max_steps: Array | int
    report: Callable[..., None] | None

    def rounds(self, state: State, sizes: Sizes, which: Array) -> State:
        """Rounds with sets of one size, until it is too small or nothing is gained."""
        problem = self.problem

        def going(state: State) -> Array:
            undone = ~(state.distance <= self.tol) & (state.steps < self.max_steps)
            gaining = undone & (state.idle < 2)
            if not sizes.some:
                return gaining
            w, most = state.w, jnp.array(sizes.most)[which]
            matters = tuple(x != 0 for x in w)
            if problem.long(w):
                # Few parameters with something to gain, but for the first set, are
                # likely to end off zero: the set that holds them all comes next.
                residuals = problem.unscaled(w).residuals(w, state.g)
                pairs = zip(matters, residuals, strict=True)
                matters = tuple(m | (which > 0) & (r != 0) for m, r in pairs)
            return gaining & (most_rows(problem, matters) <= most)

        return jax.lax.while_loop(going, lambda s: self.one(s, sizes, which), state)

    def one(self, state: State, sizes: Sizes, which: Array) -> State:
        """Chooses a working set, solves it, and checks all rows."""
        problem, w = self.problem, state.w
        chosen, part, here, enough = self.part(state, sizes, which)
        objective = part.objective(here)
        inner = start_at(objective, here)
        if state.hint is not None:
            other = start(objective, take(chosen, state.hint))
            less = other.value < inner.value
            inner = jax.tree.map(lambda a, b: jnp.where(less, a, b), other, inner)
        inner = inner._replace(damping=state.damping, steps=state.steps)
        most = jnp.minimum(self.max_steps, state.steps + MOST_STEPS)
        inner = newton(objective, inner, enough, most, self.report)
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
        noise = NOISE * epsilon(value.dtype) * jnp.abs(value)
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

    def part(
        self, state: State, sizes: Sizes, which: Array
    ) -> tuple[Rows, Composite, Point, Array]:
        """The rows to work on, the problem on them, where it stands, and the tolerance.

        That value is of the whole objective.
        """
        problem, w, here = self.problem, state.w, state.point
        if not sizes.some:
            nothing: Rows = [None] * len(w)
            if isinstance(problem.loss, Gram):
                return nothing, *problem.around(here), self.tol
            return nothing, problem, here, self.tol
        chosen, complete = choose(problem, w, state.g, sizes, which)
        here = here._replace(w=take(chosen, w), g=take(chosen, state.g))
        part, here = problem.take(chosen, w).kept(here, self.quadratic)
        by_factor = isinstance(part.loss, Gram) and part.loss.factored
        last = jnp.where(by_factor, LAST_BY_FACTOR, LAST)
        share = jnp.where(complete, last, INNER)
        share = jnp.where(which < len(sizes.some), share, 0)
        enough = share.astype(self.tol.dtype) * state.distance
        return chosen, part, here, jnp.maximum(self.tol, enough)


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
    first = first._replace(value=first.value + plain.penalty(w))
    # From a hint, on a path, it takes too few steps for a matrix made of data to pay.
    quadratic = bool(programs[0].some) and hint is None and problem.quadratic(w)
    if quadratic and problem.long(w):
        # All rows are likely to be in use; and the program of a matrix takes two
        # products with data where it has none for a size.
        programs = apart(programs)
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

    search = Search(problem, quadratic, tol, max_steps, report)
    for sizes in programs:

        def one_size(state: State, which: Array, sizes: Sizes = sizes) -> Any:
            return search.rounds(state, sizes, which), None

        # The size is no part of the state, so that it is one for all within a `vmap`.
        state, _ = jax.lax.scan(one_size, state, jnp.arange(len(sizes.most)))
    end = state.point._replace(value=state.value - plain.penalty(state.w))
    return outcome_of(problem, state), end


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
