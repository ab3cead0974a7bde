"""Fallbacks for a penalty that has a value and a prox, and no formula of its own.

Each is right, though slower or with fewer digits than a formula.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optareg._tree import epsilon

__all__ = ["dual_norm", "gradient", "missing", "nearest_subgradient"]

Array = jax.Array
Prox = Callable[[Array, Array], Array]

# Bisection of the logarithm: from 2^-64 to 2^64 times the size of the gradient.
SPAN, BISECTIONS = 64.0, 64


def missing(penalty: Any, name: str) -> str:
    """The message of an error about a method that the penalty must have."""
    return (
        f"{type(penalty).__name__} has no `{name}`, which is needed here; "
        'see "How to add a penalty" in CONTRIBUTING.md.'
    )


def gradient(value: Callable[[Array], Array], w: Array) -> Array:
    """The automatic derivative of the value; 0 where that is not finite."""
    g = jnp.conj(jax.grad(lambda x: jnp.real(value(x)))(w))
    return jnp.where(jnp.isfinite(g) | ~jnp.isfinite(w), g, 0)


def nearest_subgradient(penalty: Any, w: Array, g: Array) -> Array:
    """The projection of −g onto ∂R(w), by a small proximal step.

    (w − prox_τR(w − τg))/τ − g is a subgradient at the proximal point. For τ → 0 that
    point becomes w, and the subgradient becomes the nearest one. A step along g, or
    along R's own gradient, is small beside the weights and large beside their rounding.
    So half of the digits are right.
    """
    size, own = jnp.max(jnp.abs(w), initial=0), penalty.leaf_gradient(w)
    slope = jnp.maximum(*(jnp.max(jnp.abs(x), initial=0) for x in (g, own)))
    tau = epsilon(w.dtype) ** 0.5 * size / jnp.where(slope > 0, slope, 1)
    # At zero no digit is lost however small it is.
    least = epsilon(w.dtype) ** 2 / jnp.where(slope > 0, slope, 1)
    tau = jnp.where(tau > 0, tau, least).astype(w.real.dtype)
    near: Array = penalty.leaf_prox(w - tau * g, tau)
    return (w - near) / tau - g


def dual_norm(prox: Prox, g: Array) -> Array:
    """The least c ≥ 0 with −g in c ∂R(0). These are the c for which prox_cR(−g) = 0."""
    size = jnp.max(jnp.abs(g), initial=0)

    def is_enough(log: Array) -> Array:
        c = (size * 2**log).astype(g.real.dtype)
        return jnp.all(prox(-g, c) == 0)

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        enough = is_enough(middle)
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    ends = jnp.full_like(size, -SPAN), jnp.full_like(size, SPAN)
    _, log = jax.lax.fori_loop(0, BISECTIONS, halve, ends)
    found = jnp.where(is_enough(ends[1]), size * 2**log, jnp.inf)
    return jnp.where(size > 0, found, size)  # 0, or NaN.
