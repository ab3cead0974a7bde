"""The solver: Newton's method on the few rows that matter, checked on all of them.

A row is an index of the axis that a leaf's matrix products sum over: a column of the
data. Rows at zero that stay there need no work but the check. Where the loss is not
made of matrix products (see `Heads`), all rows are worked on.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from optareg._tree import epsilon, widest
from optareg.penalties._base import Penalty
from optareg.solve._heads import Heads
from optareg.solve._newton import Leaves, Objective, Progress, newton, start

__all__ = ["Composite", "Goal", "Outcome", "solve"]

Array = jax.Array
Rows = list["Chosen | None"]

# Sizes of working sets: of a fixed shape each, as compiled programs want. The next one
# is taken when a set is half full.
SMALLEST, GROWTH = 64, 3
# How exactly a working set is solved, in parts of what is left to gain.
INNER = 0.1
# After so many steps the curvature is another: that of exp(w), from a far start.
MOST_STEPS = 50
# Curvature: exact for leaves up to so many entries, estimated with probes beyond; for
# products, exact but for what few probes leave where the tail couples them.
EXACT, PROBES, HEAD_PROBES = 512, 16, 4


class Chosen(NamedTuple):
    """Some rows of a leaf.

    Attributes:
      rows: their numbers, rising.
      axis: the axis that they are counted along.
    """

    rows: Array
    axis: int

    def take(self, x: Array) -> Array:
        """These rows of x."""
        return jnp.take(x, self.rows, axis=self.axis)

    def put(self, x: Array, values: Array) -> Array:
        """Zeros but in these rows of an array shaped as x."""
        at = (slice(None),) * self.axis + (self.rows,)
        return jnp.zeros_like(x).at[at].set(values, unique_indices=True)


class Goal(NamedTuple):
    """When a point is near enough.

    Attributes:
      tol: the largest distance from optimal, in its units.
      units: those of each leaf, a number or one for each entry.
    """

    tol: Array
    units: Leaves

    @classmethod
    def of(cls, tol: Any, w: Leaves) -> Self:
        """With the same units for all leaves."""
        return cls(tol, tuple(jnp.ones((), x.real.dtype) for x in w))


class Composite(NamedTuple):
    """What is minimised: a loss of leaves, and a penalty for each.

    Attributes:
      loss: a scalar function of the leaves.
      penalties: a resolved penalty for each leaf.
      units: what the residuals of each leaf are measured in; 1 if there are none.
    """

    loss: Heads
    penalties: tuple[Penalty, ...]
    units: Leaves = ()

    @property
    def norms(self) -> tuple[Penalty | None, ...]:
        """The nonsmooth part of each penalty."""
        return tuple(p.split()[1] for p in self.penalties)

    def smooth(self, w: Leaves) -> Array:
        """The loss plus the smooth part of each penalty."""
        return self.loss(w) + self._smooth_penalty(w)

    def _smooth_penalty(self, w: Leaves) -> Array:
        pairs = zip(self.penalties, w, strict=True)
        parts = [(p.split()[0], x) for p, x in pairs]
        values = [smooth.leaf_value(x) for smooth, x in parts if smooth is not None]
        return sum(values, start=jnp.zeros((), widest(*(x.real.dtype for x in w))))

    def objective(self, w: Leaves) -> Objective:
        """With the scales at the leaves w."""
        return self.unscaled(w)._replace(scales=self._scales(w))

    def unscaled(self, w: Leaves) -> Objective:
        """Without scales."""
        ones = tuple(jnp.ones((), x.real.dtype) for x in w)
        return Objective(self.smooth, self.norms, ones, self.units or ones)

    def take(self, chosen: Rows, w: Leaves) -> "Composite":
        """On some rows of w, the others being zero."""
        parts = zip(chosen, self.penalties, w, strict=True)
        penalties = (p if c is None else p.take(*c, x) for c, p, x in parts)
        pairs = zip(chosen, self.units, strict=False)  # If there are units.
        units = (u if c is None or u.ndim == 0 else c.take(u) for c, u in pairs)
        return Composite(self._take_heads(chosen), tuple(penalties), tuple(units))

    def _take_heads(self, chosen: Rows) -> Heads:
        return self.loss.take([None if c is None else c.rows for c in chosen])

    def gradient(self, chosen: Rows, v: Leaves, w: Leaves) -> Leaves:
        """The gradient of the smooth part on all rows, at w, which is zero but in v.

        Saves the products with the matrices in one of the two directions.
        """
        products = self._take_heads(chosen).products(v)
        of_loss = self.loss.gradient(products, w)
        total = map(jnp.add, of_loss, jax.grad(self._smooth_penalty)(w))
        return tuple(map(jnp.conj, total))

    def _scales(self, w: Leaves) -> Leaves:
        """One over the diagonal of the Hessian of the smooth part."""
        with_head = [axis is not None for axis in self.loss.axes]
        diagonal = [
            jnp.zeros_like(x.real) if h else d
            for h, x, d in zip(with_head, w, self._leaf_curvature(w), strict=True)
        ]
        for leaf, d in self._head_curvature(w):
            diagonal[leaf] = diagonal[leaf] + d
        pairs = zip(self.penalties, w, diagonal, strict=True)
        return tuple(inverse(d + extra(p, x), p) for p, x, d in pairs)

    def _head_curvature(self, w: Leaves) -> list[tuple[int, Array]]:
        """Of leaves with heads: exact where each product has a loss of its own."""
        heads = self.loss.heads
        products = self.loss.products(w)
        gradient = jax.grad(lambda zs: self.loss.tail(zs, w))
        if not products:
            return []
        # Bits of one draw are the signs of all probes: drawing takes long to compile.
        bits = [
            jax.random.bits(jax.random.key(i), z.shape, jnp.uint32)
            for i, z in enumerate(products)
        ]
        total = [jnp.zeros_like(z) for z in products]
        for k in range(HEAD_PROBES):
            signs = [
                jnp.where(b >> k & 1, 1, -1).astype(z.dtype)
                for b, z in zip(bits, products, strict=True)
            ]
            _, bent = jax.jvp(gradient, (products,), (signs,))
            rows = zip(total, signs, bent, strict=True)
            total = [t + s * b / HEAD_PROBES for t, s, b in rows]
        return [
            (head.leaf, head.squared().transpose(t, w[head.leaf]).real)
            for head, t in zip(heads, total, strict=True)
        ]

    def _leaf_curvature(self, w: Leaves) -> list[Array]:
        """Of leaves without heads: exact for few entries, else a row's length."""
        free = [i for i, axis in enumerate(self.loss.axes) if axis is None]

        def gradient(leaves: list[Array]) -> list[Array]:
            all_leaves = list(w)
            for i, leaf in zip(free, leaves, strict=True):
                all_leaves[i] = leaf
            grads = jax.grad(self.loss.__call__)(all_leaves)
            return [jnp.conj(grads[i]) for i in free]

        result = [jnp.zeros((), x.real.dtype) for x in w]
        if not free:
            return result
        _, bend = jax.linearize(gradient, [w[i] for i in free])
        flat, unravel = ravel_pytree([w[i] for i in free])
        if flat.size <= EXACT:
            diagonal = jax.lax.map(
                lambda i: (
                    ravel_pytree(bend(unravel(jnp.zeros_like(flat).at[i].set(1))))[0][
                        i
                    ].real
                ),
                jnp.arange(flat.size),
                batch_size=min(flat.size, 16),
            )
        else:

            def probe(key: Array) -> Array:
                signs = jax.random.rademacher(key, flat.shape, flat.real.dtype)
                bent = bend(unravel(signs.astype(flat.dtype)))
                return jnp.abs(ravel_pytree(bent)[0]) ** 2

            keys = jax.random.split(jax.random.key(1), PROBES)
            diagonal = jnp.sqrt(jnp.mean(jax.lax.map(probe, keys), axis=0))
        for i, d in zip(free, unravel(diagonal.astype(flat.dtype)), strict=True):
            result[i] = d.real
        return result


class Outcome(NamedTuple):
    """What `solve` returns.

    Attributes:
      w: the parameters.
      stationarity: how far they are from optimal.
      distance: the same in the units of the goal.
      steps: the number of iterations.
      damping: for a problem nearby to begin with.
    """

    w: Leaves
    stationarity: Array
    distance: Array
    steps: Array
    damping: Array

    @classmethod
    def of(cls, problem: Composite, state: "State | Progress") -> Self:
        """The end of a search, whose stationarity has the units of `problem`."""
        plain = problem._replace(units=()).unscaled(state.w)
        return cls(
            w=state.w,
            stationarity=plain.stationarity(state.w, state.g, state.value.dtype),
            distance=state.stationarity,
            steps=state.steps,
            damping=state.damping,
        )


class State(NamedTuple):
    """State of the loop over working sets."""

    w: Leaves
    g: Leaves
    value: Array
    stationarity: Array
    damping: Array
    steps: Array
    idle: Array


def solve(
    problem: Composite,
    w: Leaves,
    damping: Array | float,
    tol: Array,
    max_steps: Array | int,
    callback: Callable[..., None] | None = None,
) -> Outcome:
    """Minimises from w until the stationarity, in its units, is at most `tol`."""
    limits = [
        x.shape[axis]
        for x, axis, p in zip(w, problem.loss.axes, problem.penalties, strict=True)
        if axis is not None and zero_rows_stay(p)
    ]
    # A penalty may have a domain: positive weights, for instance.
    w = tuple(
        x if n is None else n.leaf_project_domain(x)
        for n, x in zip(problem.norms, w, strict=True)
    )
    first = start(problem.unscaled(w), w)
    state = State(
        w=w,
        g=first.g,
        value=first.value,
        stationarity=first.stationarity,
        damping=jnp.asarray(damping, first.damping.dtype),
        steps=first.steps,
        idle=first.idle,
    )

    def rounds(state: State, size: int | None) -> State:
        def going(state: State) -> Array:
            undone = ~(state.stationarity <= tol) & (state.steps < max_steps)
            gaining = undone & (state.idle < 2)
            if size is None:
                return gaining
            return gaining & (most_rows(problem, state.w) <= size // 2)

        def body(state: State) -> State:
            return round_of(problem, state, size, tol, max_steps, callback)

        return jax.lax.while_loop(going, body, state)

    size = SMALLEST
    while limits and 2 * size <= max(limits):
        state = rounds(state, size)
        size *= GROWTH
    state = rounds(state, None)
    return Outcome.of(problem, state)


def round_of(
    problem: Composite,
    state: State,
    size: int | None,
    tol: Array,
    max_steps: Array | int,
    callback: Callable[..., None] | None,
) -> State:
    """Chooses a working set, solves it, and checks all rows; without size, of all."""
    w = state.w
    chosen: Rows = [None] * len(w)
    part, v, enough = problem, w, tol
    if size is not None:
        chosen = choose(problem, state, size)
        part = problem.take(chosen, w)
        pairs = zip(chosen, w, strict=True)
        v = tuple(x if c is None else c.take(x) for c, x in pairs)
        enough = jnp.maximum(tol, INNER * state.stationarity)
    objective = part.objective(v)
    inner = start(objective, v)._replace(damping=state.damping, steps=state.steps)
    most = jnp.minimum(max_steps, state.steps + MOST_STEPS)
    inner = newton(objective, inner, enough, most, callback)
    if size is None:
        w, g, value, stationarity = inner.w, inner.g, inner.value, inner.stationarity
    else:
        new = zip(chosen, w, inner.w, strict=True)
        w = tuple(n if c is None else c.put(x, n) for c, x, n in new)
        g = problem.gradient(chosen, inner.w, w)
        value = inner.value
        stationarity = problem.unscaled(w).stationarity(w, g, value.dtype)
    noise = 8 * epsilon(value.dtype) * jnp.abs(value)
    gained = (value < state.value - noise) | (stationarity < 0.9 * state.stationarity)
    return State(
        w=w,
        g=g,
        value=value,
        stationarity=stationarity,
        damping=inner.damping,
        steps=inner.steps,
        idle=jnp.where(gained, 0, state.idle + 1),
    )


def choose(problem: Composite, state: State, size: int) -> Rows:
    """The rows that are not zero, and of the others those with most to gain."""
    residuals = problem.unscaled(state.w).residuals(state.w, state.g)
    chosen: Rows = []
    for p, axis, x, r in zip(
        problem.penalties, problem.loss.axes, state.w, residuals, strict=True
    ):
        if axis is None or not zero_rows_stay(p) or x.shape[axis] <= size:
            chosen.append(None)
            continue
        others = tuple(i for i in range(x.ndim) if i != axis)
        score = jnp.where(jnp.any(x != 0, others), jnp.inf, jnp.max(r, others))
        _, best = jax.lax.top_k(score.astype(jnp.float32), size)
        chosen.append(Chosen(jnp.sort(best), axis))
    return chosen


def zero_rows_stay(penalty: Penalty) -> bool:
    """Whether rows at zero may be left alone: where not, all rows matter."""
    return penalty.entrywise and penalty.split()[1] is not None


def most_rows(problem: Composite, w: Leaves) -> Array:
    """The largest number of rows that are not zero, of leaves worked on by rows."""
    counts = [
        jnp.sum(jnp.any(x != 0, tuple(i for i in range(x.ndim) if i != axis)))
        for p, axis, x in zip(problem.penalties, problem.loss.axes, w, strict=True)
        if axis is not None and zero_rows_stay(p)
    ]
    return jnp.max(jnp.stack(counts))


def extra(penalty: Penalty, w: Array) -> Array | float:
    """The curvature of the smooth part of a penalty."""
    smooth, _ = penalty.split()
    if smooth is None:
        return 0.0
    _, bent = jax.jvp(smooth.leaf_gradient, (w,), (jnp.ones_like(w),))
    # Where it is concave, the loss alone is the better scale.
    return jnp.maximum(bent.real, 0)


def inverse(curvature: Array, penalty: Penalty) -> Array:
    """One over the curvature, kept off zero; one number where R is not entrywise."""
    curvature = jnp.abs(curvature)
    most = jnp.max(curvature, initial=0)
    curvature = penalty.leaf_group_max(curvature)
    floor = jnp.where(most > 0, 1e-12 * most, 1)
    return 1 / jnp.maximum(curvature, floor)
