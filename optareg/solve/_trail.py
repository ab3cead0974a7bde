"""`Trail`: where a path starts for its next strength."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from optareg.solve._leaves import Leaves
from optareg.solve._objective import Objective

__all__ = ["Trail"]

Array = jax.Array


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
