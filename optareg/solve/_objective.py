"""`Objective`: a smooth function + norms, as the iteration sees them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optareg.penalties._base import Penalty
from optareg.solve._leaves import Leaves, add, largest
from optareg.solve._smooth import Products, Smooth

__all__ = ["Objective"]

Array = jax.Array


class Objective(NamedTuple):
    """What is minimised: smooth(w) + Σ norm(w) over the leaves w.

    Attributes:
      smooth: the smooth part.
      norms: the nonsmooth penalty of each leaf, or None.
      scales: for each leaf, one over the curvature: entrywise, or a scalar.
      units: for each leaf, what its residuals are measured in: likewise.
      places: for each leaf, where it may change, being zero elsewhere; None for all.
    """

    smooth: Smooth
    norms: tuple[Penalty | None, ...]
    scales: Leaves
    units: Leaves
    places: tuple[Array | None, ...]

    @property
    def entrywise(self) -> bool:
        """Whether no penalty couples entries."""
        penalties = (*self.norms, *self.smooth.penalties)
        return all(penalty.entrywise for penalty in penalties if penalty is not None)

    def value(self, products: Products, w: Leaves) -> Array:
        """The objective at w, of which the products are known."""
        value: Array = self.smooth.value(products, w) + self.penalty(w)
        return value

    def penalty(self, w: Leaves) -> Any:
        """The norms at w."""
        terms = (n.leaf_value(x) for n, x in zip(self.norms, w, strict=True) if n)
        return sum(terms, start=0)

    def stationarity(self, w: Leaves, g: Leaves, dtype: Any) -> Array:
        """How far w is from optimal, as users see it; g is the gradient there."""
        rows = zip(self.norms, w, g, strict=True)
        parts = [jnp.abs(d) if n is None else n.leaf_residual(x, d) for n, x, d in rows]
        return largest(parts, dtype)

    def residuals(self, w: Leaves, g: Leaves) -> Leaves:
        """What the optimality conditions lack, entry by entry, in the units of each."""
        return self.in_units(add(g, self.nearest(w, g)))

    def in_units(self, x: Leaves) -> Leaves:
        """The sizes of gradients in the units of each entry."""
        sizes = tuple(jnp.abs(y) / u for y, u in zip(x, self.units, strict=True))
        return self._in_places(sizes)

    def distance(self, w: Leaves, g: Leaves, dtype: Any) -> Array:
        """The largest residual."""
        return largest(self.residuals(w, g), dtype)

    def nearest(self, w: Leaves, g: Leaves) -> Leaves:
        """The member of the subdifferential of the norms at w nearest to −g."""
        return self._each(lambda n, x, d: n.leaf_nearest_subgradient(x, d), w, g)

    def prox(self, z: Leaves, tau: Array | float) -> Leaves:
        """The proximal operator, with steps τ · scale; exact at kinks."""
        rows = zip(self.norms, z, self.scales, strict=True)
        new = (x if n is None else n.leaf_prox(x, tau * c) for n, x, c in rows)
        return self._in_places(tuple(new))

    def dual(self, z: Leaves, tau: Array | float) -> Leaves:
        """What the proximal operator, with steps τ · scale, takes off from z."""
        return self._each(
            lambda n, x, c: n.leaf_conjugate_prox(x, tau * c), z, self.scales
        )

    def _in_places(self, w: Leaves) -> Leaves:
        """Zero where leaves are to stay zero."""
        pairs = zip(w, self.places, strict=True)
        return tuple(x if p is None else jnp.where(p, x, 0) for x, p in pairs)

    def _each(self, f: Callable[..., Array], *arguments: Leaves) -> Leaves:
        """Applies f to the norm and arguments of each leaf; 0 where there is none."""
        rows = zip(self.norms, *arguments, strict=True)
        return tuple(
            jnp.zeros_like(row[1]) if row[0] is None else f(*row) for row in rows
        )
