"""`Composite`, a loss + penalties with the rows it can be restricted to; and `Goal`."""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp

from optareg._tree import widest
from optareg.penalties._base import Penalty
from optareg.solve._curvature import curvature, inverse
from optareg.solve._heads import Heads
from optareg.solve._leaves import Leaves
from optareg.solve._objective import Objective

__all__ = ["Chosen", "Composite", "Goal", "Point", "Rows"]

Array = jax.Array


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
        return jnp.take(x, self.rows, axis=self.axis, mode="clip")

    def put(self, x: Array, values: Array) -> Array:
        """Zeros but in these rows of an array shaped as x."""
        at = (slice(None),) * self.axis + (self.rows,)
        return jnp.zeros_like(x).at[at].set(values, unique_indices=True)


Rows = list[Chosen | None]


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


class Point(NamedTuple):
    """Leaves, and what the smooth part of a `Composite` is there.

    Attributes:
      w: the leaves.
      value: the smooth part.
      g: its gradient, the direction of steepest ascent.
    """

    w: Leaves
    value: Array
    g: Leaves


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

    def point(self, w: Leaves) -> Point:
        """The smooth part at w."""
        return self._point(self.loss.products(w), w)

    def _point(self, products: list[Array], w: Leaves) -> Point:
        value, g = self.loss.value_and_gradient(products, w)
        more, of_penalty = jax.value_and_grad(self._smooth_penalty)(w)
        total = tuple(map(jnp.conj, map(jnp.add, g, of_penalty)))
        return Point(w, value + more, total)

    def along(self, w: Leaves, step: Leaves) -> Callable[[Array], Array]:
        """The smooth part at w − part · step, a function of the part."""
        both = jax.tree.map(lambda *xs: jnp.stack(xs), w, step)
        pairs = jax.vmap(self.loss.products)(both)

        def value(part: Array) -> Array:
            def nearer(x: Array, step: Array) -> Array:
                return x - part.astype(x.real.dtype) * step

            here = tuple(map(nearer, w, step))
            return self.loss.tail([nearer(*z) for z in pairs], here) + (
                self._smooth_penalty(here)
            )

        return value

    def curvature(self, w: Leaves) -> Leaves:
        """The diagonal of the Hessian of the smooth part."""
        return curvature(self.loss, [p.split()[0] for p in self.penalties], w)

    def objective(self, w: Leaves) -> Objective:
        """With the scales at the leaves w."""
        pairs = zip(self.curvature(w), self.penalties, strict=True)
        return self.unscaled(w)._replace(scales=tuple(inverse(*pair) for pair in pairs))

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
        return self._point(self._take_heads(chosen).products(v), w).g
