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

    loss: Heads
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

    def objective(self, w: Leaves, smooth: Smooth | Gram | None = None) -> Objective:
        """With the scales at the leaves w; `smooth` is another form of that part."""
        smooth = self.smooth if smooth is None else smooth
        pairs = zip(smooth.curvature(w), self.penalties, strict=True)
        scales = tuple(inverse(*pair) for pair in pairs)
        return self.unscaled(w)._replace(smooth=smooth, scales=scales)

    def gram(self, here: Point) -> Gram | None:
        """A quadratic smooth part by its Hessian; None where that does not pay.

        The value of the point is that of the whole objective.
        """
        value = here.value - self.unscaled(here.w).penalty(here.w)
        chosen = self.chosen or (None,) * len(here.w)
        return Gram.of(self.smooth, here._replace(value=value), chosen)

    def quadratic(self, w: Leaves) -> bool:
        """Whether the smooth part is known to be quadratic."""

        def value(*w: Array) -> Array:
            return self.smooth.value(self.smooth.products(w), w)

        return is_quadratic(jax.make_jaxpr(value)(*w), w)

    def unscaled(self, w: Leaves) -> Objective:
        """Without scales."""
        ones = tuple(jnp.ones((), x.real.dtype) for x in w)
        chosen = self.chosen or (None,) * len(w)
        places = tuple(
            None if c is None else c.worked_on(x)
            for c, x in zip(chosen, w, strict=True)
        )
        return Objective(self.smooth, self.norms, ones, self.units or ones, places)

    def take(self, chosen: Rows, w: Leaves) -> "Composite":
        """On some rows of w, the others being zero."""
        parts = zip(chosen, self.penalties, w, strict=True)
        penalties = (p if c is None else p.take(c.rows, c.axis, x) for c, p, x in parts)
        pairs = zip(chosen, self.units, strict=False)  # If there are units.
        units = (u if c is None or u.ndim == 0 else c.take(u, 1) for c, u in pairs)
        heads = self.loss.take(chosen)
        return Composite(heads, tuple(penalties), tuple(units), tuple(chosen))
