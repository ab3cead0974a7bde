"""What holds for every penalty with a value and a prox: fallbacks of the refinements.

Each is right, though slower or with fewer digits than a penalty's own formula.
"""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from optareg._tree import epsilon

if TYPE_CHECKING:
    from optareg.penalties._base import Penalty

__all__ = ["dual_norm", "gradient", "missing", "nearest"]

Array = jax.Array

# Bisection of the logarithm: from 2^-64 to 2^64 times a first guess.
SPAN, BISECTIONS = 64.0, 64


def missing(penalty: Any, name: str) -> str:
    """What to say where a penalty is asked for a method that it must have."""
    return (
        f"{type(penalty).__name__} has no `{name}`, which this needs; "
        'see "How to add a penalty" in CONTRIBUTING.md.'
    )


def gradient(penalty: "Penalty", w: Array) -> Array:
    """The automatic derivative of the value; 0 where that is not finite."""
    g = jnp.conj(jax.grad(lambda x: jnp.real(penalty.leaf_value(x)))(w))
    return jnp.where(jnp.isfinite(g) | ~jnp.isfinite(w), g, 0)


def nearest(penalty: "Penalty", w: Array, g: Array) -> Array:
    """The member of ∂R(w) nearest to −g, by a proximal step that is small.

    (w − prox_τR(w − τg))/τ − g is a subgradient at the proximal point, which is w but
    for τ; for τ → 0 it is the nearest one. τ is small beside the weights and large
    beside their rounding: of the result half of the digits are right.
    """
    size, slope = jnp.max(jnp.abs(w), initial=0), jnp.max(jnp.abs(g), initial=0)
    tau = epsilon(w.dtype) ** 0.5 * size / jnp.where(slope > 0, slope, 1)
    # At zero no digit is lost however small it is.
    least = epsilon(w.dtype) ** 2 / jnp.where(slope > 0, slope, 1)
    tau = jnp.where(tau > 0, tau, least).astype(w.real.dtype)
    return (w - penalty.leaf_prox(w - tau * g, tau)) / tau - g


def dual_norm(penalty: "Penalty", g: Array) -> Array:
    """The least c ≥ 0 with −g in c ∂R(0), which is where prox_cR(−g) = 0."""
    size = jnp.max(jnp.abs(g), initial=0)

    def is_enough(log: Array) -> Array:
        c = (size * 2**log).astype(g.real.dtype)
        return jnp.all(penalty.leaf_prox(-g, c) == 0)

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        enough = is_enough(middle)
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    ends = jnp.full_like(size, -SPAN), jnp.full_like(size, SPAN)
    _, log = jax.lax.fori_loop(0, BISECTIONS, halve, ends)
    found = jnp.where(is_enough(ends[1]), size * 2**log, jnp.inf)
    return jnp.where(size > 0, found, 0)
