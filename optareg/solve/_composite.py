"""`Composite`, a loss + penalties with the rows it can be restricted to; and `Goal`."""

from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp

from optareg.penalties._base import Penalty
from optareg.solve._curvature import inverse
from optareg.solve._gram import Gram
from optareg.solve._heads import Heads
from optareg.solve._leaves import Leaves
from optareg.solve._objective import Objective
from optareg.solve._products import Chosen, Rows
from optareg.solve._quadratic import is_quadratic
from optareg.solve._smooth import Point, Smooth

__all__ = ["Composite", "Goal"]

Array = jax.Array


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
      chosen: the rows that the leaves are, if not all.
    """

    loss: Heads | Gram
    penalties: tuple[Penalty, ...]
    units: Leaves = ()
    chosen: tuple[Chosen | None, ...] = ()

    @property
    def norms(self) -> tuple[Penalty | None, ...]:
        """The nonsmooth part of each penalty."""
        return tuple(p.split()[1] for p in self.penalties)

    @property
    def smooth(self) -> Smooth:
        """The loss plus the smooth part of each penalty."""
        return Smooth(self.loss, tuple(p.split()[0] for p in self.penalties))

    def point(self, w: Leaves) -> Point:
        """The smooth part at w."""
        return self.smooth.point(self.smooth.products(w), w)

    def objective(self, here: Point) -> Objective:
        """With the scales at a point."""
        curvature = self.smooth.curvature(here.w)
        rows = zip(curvature, self.penalties, here.w, here.g, strict=True)
        scales = tuple(inverse(*row, here.value) for row in rows)
        return self.unscaled(here.w)._replace(scales=scales)

    def around(self, here: Point) -> tuple[Self, Point]:
        """The same where a quadratic loss is known at a point.

        The value of the point is that of the whole objective.
        """
        norms = self.unscaled(here.w).penalty(here.w)
        smooth, there = self.smooth.around(here._replace(value=here.value - norms))
        return self._replace(loss=smooth.loss), there._replace(value=here.value)

    def kept(self, here: Point, quadratic: bool) -> tuple[Self, Point]:
        """For many products; of a quadratic loss by a matrix, where it pays."""
        loss = self.loss
        if isinstance(loss, Heads):
            gram = Gram.of(loss, here.w, self.chosen) if quadratic else None
            loss = loss.kept() if gram is None else gram
        new = self._replace(loss=loss)
        return new.around(here) if isinstance(loss, Gram) else (new, here)

    def quadratic(self, w: Leaves) -> bool:
        """Whether the loss is known to be quadratic."""
        if isinstance(self.loss, Gram):
            return True
        loss = self.loss
        return is_quadratic(jax.make_jaxpr(lambda *w: loss(w))(*w), w)

    def long(self, w: Leaves) -> bool:
        """Whether there are data, with more rows than there are parameters."""
        loss, size = self.loss, sum(x.size for x in w)
        return isinstance(loss, Heads) and loss.rows(w) > size

    def unscaled(self, w: Leaves) -> Objective:
        """Without scales."""
        ones = tuple(jnp.ones((), x.real.dtype) for x in w)
        chosen = self.chosen or (None,) * len(w)
        places = tuple(
            None if c is None else c.may_change(x)
            for c, x in zip(chosen, w, strict=True)
        )
        return Objective(self.smooth, self.norms, ones, self.units or ones, places)

    def take(self, chosen: Rows, w: Leaves) -> "Composite":
        """On some rows of w, the others being zero."""
        parts = zip(chosen, self.penalties, w, strict=True)
        penalties = (p if c is None else p.take(c.rows, c.axis, x) for c, p, x in parts)
        pairs = zip(chosen, self.units, strict=False)  # If there are units.
        units = (u if c is None or u.ndim == 0 else c.take(u, 1) for c, u in pairs)
        loss = self.loss.take(chosen)
        return Composite(loss, tuple(penalties), tuple(units), tuple(chosen))
