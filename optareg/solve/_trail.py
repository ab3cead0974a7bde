"""`Trail`: where a path starts for its next strength."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from optareg.solve._leaves import Leaves
from optareg.solve._smooth import Point

__all__ = ["Trail"]

Array = jax.Array


class Trail(NamedTuple):
    """The last two solutions, and the sums of their strengths.

    While its support is the same, the solution of a lasso is linear in the strength
    (Osborne, Presnell & Turlach 2000); those of other problems are nearly so.
    """

    last: Point
    w_before: Leaves
    size: Array
    size_before: Array

    @classmethod
    def at(cls, point: Point, size: Array) -> "Trail":
        """With one solution only."""
        return cls(point, point.w, size, size)

    def further(self, size: Array) -> Leaves:
        """What may be near the solution at another strength: further on this line."""
        span = self.size_before - self.size
        ratio = (self.size - size) / jnp.where(span > 0, span, jnp.inf)
        pairs = zip(self.last.w, self.w_before, strict=True)
        return tuple(beyond(x, before, ratio) for x, before in pairs)

    def add(self, point: Point, size: Array) -> "Trail":
        """With one more solution."""
        return Trail(point, self.last.w, size, self.size)


def beyond(x: Array, before: Array, ratio: Array) -> Array:
    """`ratio` times as far from x as x is from `before`; what changes sign is zero."""
    new = x + ratio.astype(x.real.dtype) * (x - before)
    return jnp.where((new * jnp.conj(x)).real > 0, new, 0)
