"""Absolute values, clipping and roots, with the derivatives that penalties need."""

import jax
import jax.numpy as jnp

__all__ = [
    "absolute",
    "along",
    "clip",
    "root",
    "rows_of",
    "square",
    "without_negative_zeros",
]

Array = jax.Array


@jax.custom_jvp
def clip(w: Array, radius: Array) -> Array:
    """`w` clipped to ±radius. Unlike JAX's, it has a derivative by a radius of 0."""
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
    """An array with the signs or phases of w, and with `size` in place of r = |w|."""
    if jnp.iscomplexobj(w):
        zero = r == 0
        return jnp.where(zero, 0, w * (size / jnp.where(zero, 1, r)))
    return jnp.where(size == 0, 0, jnp.sign(w) * size)  # No −0.0.


def absolute(w: Array) -> Array:
    """|w|, with the subgradient 0 at 0, where `jax.grad(jnp.abs)` has 1."""
    if jnp.iscomplexobj(w):
        # The square root has an infinite slope at 0, so it is not computed there.
        zero = w == 0
        return jnp.where(zero, 0, jnp.abs(jnp.where(zero, 1, w)))
    return w * jax.lax.stop_gradient(jnp.sign(w))


def square(x: Array) -> Array:
    """|x|²."""
    return (x * jnp.conj(x)).real


def root(x: Array) -> Array:
    """√x, with a derivative of 0 at 0."""
    zero = x == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, x)))


def rows_of(x: Array, rows: Array, axis: int, other: float = 0) -> Array:
    """Some rows of x, counted along an axis; `other` where there is no such row."""
    result: Array = jnp.take(x, rows, axis=axis, mode="fill", fill_value=other)
    return result
