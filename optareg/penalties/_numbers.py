"""Numbers and their absolute values, with the derivatives that penalties need."""

import jax
import jax.numpy as jnp

__all__ = ["absolute", "along", "clip", "without_negative_zeros"]

Array = jax.Array


@jax.custom_jvp
def clip(w: Array, radius: Array) -> Array:
    """`w` within ±radius; its ends move with a radius of 0 too, unlike JAX's."""
    return jax.lax.clamp(-radius, w, radius)


@clip.defjvp
def clip_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    """The derivative of `clip`."""
    (w, radius), (dw, dr) = primals, tangents
    end = jnp.sign(w) * dr
    return clip(w, radius), jax.lax.select(jnp.abs(w) >= radius, end, dw)


@jax.custom_jvp
def without_negative_zeros(x: Array) -> Array:
    """`x` with zeros of sign +1; they move as all other entries do."""
    return jnp.where(x == 0, 0, x)


@without_negative_zeros.defjvp
def without_negative_zeros_jvp(
    primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    """The derivative of the identity."""
    return without_negative_zeros(*primals), tangents[0]


def along(w: Array, r: Array, size: Array) -> Array:
    """An array with the signs, or phases, of w, and other sizes than r = |w|."""
    if jnp.iscomplexobj(w):
        zero = r == 0
        return jnp.where(zero, 0, w * (size / jnp.where(zero, 1, r)))
    return jnp.where(size == 0, 0, jnp.sign(w) * size)  # Without zeros of sign −1.


def absolute(w: Array) -> Array:
    """|w|, with the subgradient 0 at 0, where `jax.grad(jnp.abs)` has 1."""
    if jnp.iscomplexobj(w):
        # The square root has an infinite slope at 0: keep it away from there.
        zero = w == 0
        return jnp.where(zero, 0, jnp.abs(jnp.where(zero, 1, w)))
    return w * jax.lax.stop_gradient(jnp.sign(w))
