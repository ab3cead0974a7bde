"""The 1-D fused lasso argmin_x ½‖x − y‖² + t Σ |x_{i+1} − x_i|, exact and parallel.

`fused_lasso` is the prox of the total variation. It has a derivative. `fuse` is its
algorithm, for signs of differences that may be given. It splits lines from the top
down, at the level of their mean (Chambolle & Darbon, 2009). The functions work on all
lines at once: a line is the last axis of an array.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from optareg._tree import epsilon

__all__ = ["beside", "fuse", "fused_lasso", "signs"]

Array = jax.Array
T = TypeVar("T")
Clips = tuple[Array, Array, Array]


def signs(w: Array) -> Array:
    """The signs of w_{i+1} − w_i, the rises; one fewer than entries."""
    return jnp.sign(jnp.diff(w, axis=-1))


def beside(rises: Array) -> tuple[Array, Array]:
    """For each entry, the rise on its left and the one on its right; 0 at the ends."""
    none = jnp.zeros((*rises.shape[:-1], 1), rises.dtype)
    return (
        jnp.concatenate([none, rises], axis=-1),
        jnp.concatenate([rises, none], axis=-1),
    )


@jax.custom_jvp
def fused_lasso(y: Array, t: Array) -> Array:
    """The prox of t Σ |w_{i+1} − w_i| at each line; t has one entry for a line."""
    if y.shape[-1] < 2:
        return y
    infinite = jnp.isinf(y)
    # A finite entry far enough away pulls its neighbours as an infinite one does.
    far = jnp.max(jnp.where(infinite, 0, jnp.abs(y)), axis=-1, keepdims=True)
    x = fuse(
        jnp.where(infinite, jnp.sign(y) * (far + 8 * t + 1), y),
        t,
        jnp.zeros_like(y[..., 1:]),
    )
    x = jnp.where(infinite | (t == 0), y, x)
    x = jnp.where(x == 0, 0, x)  # No −0.0.
    return jnp.where(jnp.any(jnp.isnan(y), axis=-1, keepdims=True), jnp.nan, x)


@fused_lasso.defjvp
def fused_lasso_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    """The mean of the tangents over each run, and ± dt / length at its ends."""
    (y, t), (dy, dt) = primals, tangents
    x = fused_lasso(y, t)
    if y.shape[-1] < 2:
        return x, dy
    left, right = beside(signs(x))
    runs = Runs.between(left, right)
    # Without a strength nothing couples neighbours that are equal.
    mean = jnp.where(t == 0, dy, runs.total(dy) / runs.length(x))
    return x, mean + dt * runs.ends(left, right) / runs.length(x)


@functools.partial(jax.jit, inline=True)
def fuse(y: Array, t: Array, rises: Array) -> Array:
    """argmin_x ½‖x − y‖² + t Σ f(x_{i+1} − x_i), where some signs are given.

    f(d) is |d| where the rise is 0, and d or −d where it is 1 or −1, for d of any sign.

    The given rises cut each line into runs. For each run:

    1. The mean b of x over the run is known from y, t and the rises at both ends.
    2. One pass finds which entries of x are above b and which are below. It computes
       g_i = clip(g_{i−1}, −t, t) + b − y_i. If |g_i| > t, entry i is on the side of
       −g_i. Else it is on the side of entry i + 1. A clip after a clip is a clip, so
       the pass runs in parallel.
    3. If neighbours are on different sides, the sign of their rise is given from now
       on. So the run is cut into more runs.

    When no run is cut any more, x is b on each run.

    Args:
      y: the lines, of two entries at least.
      t: one entry for each line, positive.
      rises: −1, 0 or 1; one fewer than entries.

    Returns:
      x, shaped as y.
    """
    rounding = 4 * epsilon(y.dtype)

    def state(rises: Array) -> tuple[Array, Array, Runs]:
        left, right = beside(rises)
        return left, right, Runs.between(left, right)

    def means(left: Array, right: Array, runs: Runs) -> tuple[Array, Array]:
        """An entry of each run, and b less that entry: so b keeps all its digits."""
        base = take(y, runs.end)
        total = runs.sum(y - base) + t * runs.ends(left, right)
        return base, total / runs.length(y)

    def cut(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        rises, _ = carry
        left, right, runs = state(rises)
        base, offset = means(left, right, runs)
        i = jax.lax.broadcasted_iota(jnp.int32, y.shape, y.ndim - 1)
        first, last = i == runs.start, i == runs.end
        c = offset - (y - base)
        g = pass_of_clips(c, t, left, first, runs) - jnp.where(last, t * right, 0)
        limit = jnp.where(last, 0, t + rounding * (t + jnp.abs(c)))
        side = jnp.where(jnp.abs(g) > limit, -jnp.sign(g), 0)
        side = jnp.where(last & (side == 0), 1, side)

        def fill(side: Array, k: Array) -> Array:
            return jnp.where(side != 0, side, after(side, k))

        side = doubling(fill, side, runs.longest())
        new = jnp.where(rises == 0, signs(side), rises)
        return new, jnp.any(new != rises)

    rises, _ = jax.lax.while_loop(lambda carry: carry[1], cut, (rises, jnp.array(True)))
    base, offset = means(*state(rises))
    return base + offset


class Runs(NamedTuple):
    """The runs of a line: for each entry, the first and the last index of its run."""

    start: Array
    end: Array

    @classmethod
    def between(cls, left: Array, right: Array) -> "Runs":
        """The runs that end where the rise on the right is not 0."""
        n, axis = left.shape[-1], left.ndim - 1
        i = jax.lax.broadcasted_iota(jnp.int32, left.shape, axis)
        start = jnp.where(left != 0, i, 0)
        end = jnp.where(right != 0, i, n - 1)

        def widen(runs: Runs, k: Array) -> Runs:
            near = jnp.where(i + k < n, after(runs.end, k), n - 1)
            return Runs(
                jnp.maximum(runs.start, before(runs.start, k)),
                jnp.minimum(runs.end, near),
            )

        return doubling(widen, cls(start, end), n)

    def length(self, like: Array) -> Array:
        """The length of each entry's run, in the dtype of `like`."""
        return (self.end - self.start + 1).astype(like.dtype)

    def longest(self) -> Array:
        """The length of the longest run; 1 where there are no lines."""
        return jnp.max(self.end - self.start, initial=0) + 1

    def total(self, x: Array) -> Array:
        """The sum of x over each entry's run, added up in pairs. It is linear in x."""
        for power in range((x.shape[-1] - 1).bit_length()):
            x = self._add(x, 2**power)
        return take(x, self.end)

    def sum(self, x: Array) -> Array:
        """As `total`, by a loop that stops at the longest run: it compiles fast."""
        return take(doubling(self._add, x, self.longest()), self.end)

    def ends(self, left: Array, right: Array) -> Array:
        """The rise at the right end of each entry's run, less that at the left end."""
        return take(right, self.end) - take(left, self.start)

    def _add(self, x: Array, k: Any) -> Array:
        """Adds to x the entries k places before, of the same run."""
        i = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
        return x + jnp.where(i - k >= self.start, before(x, k), 0)


def pass_of_clips(c: Array, t: Array, left: Array, first: Array, runs: Runs) -> Array:
    """g_i = clip(g_{i−1}, −t, t) + c_i in each run; it starts from t · left."""
    start = jnp.clip(c + t * left, -t, t)
    low, high = jnp.where(first, start, -t), jnp.where(first, start, t)

    def compose(clips: Clips, k: Array) -> Clips:
        """The map clip(x + c, low, high), after the one of k entries before."""
        c, low, high = clips
        earlier_c, earlier_low, earlier_high = (before(x, k) for x in clips)
        return (
            earlier_c + c,
            jnp.clip(earlier_low + c, low, high),
            jnp.clip(earlier_high + c, low, high),
        )

    clipped = doubling(compose, (c, low, high), runs.longest())[1]
    return jnp.where(first, t * left, before(clipped, 1)) + c


def doubling(f: Callable[[T, Array], T], x: T, length: Any) -> T:
    """Applies f(x, k) for k = 1, 2, 4, … below `length`."""

    def body(carry: tuple[T, Array]) -> tuple[T, Array]:
        x, k = carry
        return f(x, k), 2 * k

    start = x, jnp.ones((), jnp.int32)
    return jax.lax.while_loop(lambda carry: carry[1] < length, body, start)[0]


def before(x: Array, k: Any) -> Array:
    """The entries k places before each; 0 before the first."""
    n, axis = x.shape[-1], x.ndim - 1
    wide = jnp.concatenate([jnp.zeros_like(x), x], axis=-1)
    return jax.lax.dynamic_slice_in_dim(wide, n - k, n, axis=axis)


def after(x: Array, k: Any) -> Array:
    """The entries k places after each; 0 after the last."""
    n, axis = x.shape[-1], x.ndim - 1
    wide = jnp.concatenate([x, jnp.zeros_like(x)], axis=-1)
    return jax.lax.dynamic_slice_in_dim(wide, k, n, axis=axis)


def take(x: Array, i: Array) -> Array:
    """The entries of each line at the indices i."""
    return jnp.take_along_axis(x, i, axis=-1)
