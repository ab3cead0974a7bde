"""Folded concave penalties: `MCP` and `SCAD`.

They are as L1 near zero and constant far away, so they do not shrink large weights.
They are λ|w| plus a concave part: −m²/(2κ) − λ max(|w| − γλ, 0) with
m = clip(|w| − a, 0, κλ). The slope begins to fall at |w| = a, and is 0 from γλ on.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from optareg._checks import is_number, is_traced
from optareg.penalties._base import (
    Penalty,
    check_strengths,
    register_penalty,
    static,
)
from optareg.penalties._l1 import L1
from optareg.penalties._numbers import absolute, along

__all__ = ["MCP", "SCAD"]

Array = jax.Array


class FoldedConcave(Penalty):
    """The base of MCP and SCAD; r is |w|."""

    strength: Any
    gamma: Any

    entrywise: ClassVar[bool] = True
    convex: ClassVar[bool] = False
    least_gamma: ClassVar[float]

    def __post_init__(self) -> None:
        check_strengths(self)
        name, gamma, least = type(self).__name__, self.gamma, self.least_gamma
        if not is_number(gamma) or np.ndim(gamma) != 0 or is_traced(gamma):
            raise TypeError(
                f"`gamma` of {name} must be a number, got {gamma!r}. It must be one "
                "for all parameters, and it cannot be traced."
            )
        if not least < gamma < np.inf:
            raise ValueError(
                f"`gamma` of {name} must be above {least:g} and finite, got {gamma}. "
                "Otherwise the penalty is more concave than a standardised squared loss"
                " is convex."
            )
        object.__setattr__(self, "gamma", float(gamma))

    @property
    def start(self) -> Any:
        """The |w| where the slope begins to fall."""
        raise NotImplementedError

    @property
    def kappa(self) -> float:
        """One over the curvature of the concave part where it is curved."""
        raise NotImplementedError

    def jump(self, step: Array) -> Array:
        """The |w|/λ from which the prox is w itself, for steps of κ or more."""
        raise NotImplementedError

    @property
    def end(self) -> Any:
        """The |w| from which the penalty is constant."""
        return self.gamma * self.strength

    def rest(self, r: Array) -> Array:
        """The concave part R − λr of each entry."""
        flat = self._constant() - self.strength * r
        return self._pieces(r, -((r - self.start) ** 2) / (2 * self.kappa), flat)

    def rest_slope(self, r: Array) -> Array:
        """The derivative of the concave part."""
        return self._pieces(r, -(r - self.start) / self.kappa, -self.strength)

    def _pieces(self, r: Array, bent: Array, flat: Array) -> Array:
        """Zero up to `start`, `flat` from `end` on, and `bent` between them."""
        bent = jnp.where(r <= self.start, 0, bent)
        return jnp.where(r > self.end, flat, bent)  # In this order NaN stays.

    def _constant(self) -> Any:
        return self.strength * self.end - self.kappa * self.strength**2 / 2

    def leaf_value(self, w: Array) -> Array:
        r = absolute(w)
        near = self.strength * r + self.rest(r)
        return jnp.sum(jnp.where(r > self.end, self._constant(), near))

    def leaf_gradient(self, w: Array) -> Array:
        r = absolute(w)
        slope = self.strength + self.rest_slope(r)
        return along(w, r, jnp.where(r > self.end, 0, slope))

    def leaf_prox(self, w: Array, step: Array) -> Array:
        r, shrink = absolute(w), step * self.strength
        low = jnp.clip(r - shrink, 0, self.start)
        # For steps below κ the prox is continuous. For others it leaps from the first
        # piece to the last one.
        share = step / self.kappa
        convex = share < 1
        bent = r - shrink - share * self.start
        bent = bent / jnp.where(convex, 1 - share, 1)
        bent = jnp.where(
            r <= self.start + shrink, low, jnp.where(r <= self.end, bent, r)
        )
        leap = jnp.where(r <= self.jump(step) * self.strength, low, r)
        return along(w, r, jnp.where(convex, bent, leap))

    def split(self) -> tuple[Penalty | None, Penalty | None]:
        return ConcavePart(self), L1(0).replace(strength=self.strength)


@register_penalty
class ConcavePart(Penalty):
    """A folded concave penalty without its L1 part: it is smooth."""

    whole: FoldedConcave

    entrywise: ClassVar[bool] = True
    convex: ClassVar[bool] = False

    def leaf_value(self, w: Array) -> Array:
        return jnp.sum(self.whole.rest(absolute(w)))

    def leaf_gradient(self, w: Array) -> Array:
        r = absolute(w)
        return along(w, r, self.whole.rest_slope(r))

    def split(self) -> tuple[Penalty | None, Penalty | None]:
        return self, None


@register_penalty
class MCP(FoldedConcave):
    r"""The minimax concave penalty: R(w) = Σ λ|w| − w²/2γ up to |w| = γλ, then γλ²/2.

    It makes exact zeros as L1, but does not shrink weights above γλ. It is not convex.
    Loss and penalty together may be: for a squared loss with columns of variance 1, and
    γ > 1, they are if the columns are not too correlated. If they are not, the result
    depends on the starting point.

    Args:
      strength: λ, in units of the loss per unit of weight, as of `L1`.
      gamma: γ > 1, a number in units of weight over strength. For γ → ∞ the penalty is
        `L1`. For γ → 1 the prox of step 1 is the hard threshold.

    Raises:
      TypeError: a strength or `gamma` is not a real number.
      ValueError: a concrete strength is negative, NaN or infinite, or `gamma` is not
        above 1.

    The gradient is sign(w) max(λ − |w|/γ, 0). The prox is the global argmin for every
    step t. For t < γ it is zero up to |w| = tλ, then (w − tλ sign w)/(1 − t/γ) up to
    γλ, then w. For t ≥ γ it is zero up to λ√(tγ), then w.

    >>> import jax.numpy as jnp
    >>> from optareg import MCP
    >>> print(MCP(1.0, gamma=2.0).prox(jnp.array([0.5, 1.5, -4.0]), 1.0))
    [ 0.  1. -4.]

    Source: Zhang, Nearly unbiased variable selection under minimax concave penalty
    (2010).
    """

    strength: Any
    gamma: float = static(default=3.0)

    least_gamma: ClassVar[float] = 1

    @property
    def start(self) -> Any:
        return jnp.zeros_like(self.strength)

    @property
    def kappa(self) -> float:
        return self.gamma

    def jump(self, step: Array) -> Array:
        return jnp.sqrt(step * self.gamma)


@register_penalty
class SCAD(FoldedConcave):
    r"""Smoothly clipped absolute deviation: as L1 up to λ, constant from γλ on.

    R(w) is a sum over entries: λ|w| up to |w| = λ, (2γλ|w| − w² − λ²) / (2(γ−1)) up to
    γλ, and λ²(γ+1)/2 beyond. It makes exact zeros as L1, but does not shrink weights
    above γλ. It is not convex: see `MCP`.

    Args:
      strength: λ, in units of the loss per unit of weight, as of `L1`. It is also the
        weight up to which the penalty is that of `L1`.
      gamma: γ > 2, a number without unit. For γ → ∞ the penalty is `L1`.

    Raises:
      TypeError: a strength or `gamma` is not a real number.
      ValueError: a concrete strength is negative, NaN or infinite, or `gamma` is not
        above 2.

    The gradient is sign(w) λ up to |w| = λ, and sign(w) max(γλ − |w|, 0) / (γ−1)
    beyond. The prox is the global argmin for every step.

    >>> import jax.numpy as jnp
    >>> from optareg import SCAD
    >>> print(SCAD(1.0, gamma=3.0).prox(jnp.array([0.5, 1.5, 2.5, -4.0]), 1.0))
    [ 0.   0.5  2.  -4. ]

    Source: Fan & Li, Variable selection via nonconcave penalized likelihood and its
    oracle properties (2001).
    """

    strength: Any
    gamma: float = static(default=3.7)

    least_gamma: ClassVar[float] = 2

    @property
    def start(self) -> Any:
        return self.strength

    @property
    def kappa(self) -> float:
        return self.gamma - 1

    def jump(self, step: Array) -> Array:
        bend = self.gamma + 1
        return jnp.where(step <= bend, (bend + step) / 2, jnp.sqrt(step * bend))
