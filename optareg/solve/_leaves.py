"""Arithmetic of leaves, the arrays of parameter groups; conjugate gradients on them."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optareg._stationarity import greatest
from optareg._tree import epsilon

__all__ = [
    "Leaves",
    "add",
    "all_finite",
    "conjugate_gradients",
    "dot",
    "largest",
    "scale",
    "times",
]

Array = jax.Array
Leaves = tuple[Array, ...]


def add(a: Sequence[Array], b: Sequence[Array]) -> Leaves:
    """The sum a + b."""
    return tuple(x + y for x, y in zip(a, b, strict=True))


def times(a: Iterable[Array], b: Iterable[Array]) -> Leaves:
    """The product, entry by entry."""
    return tuple(x * y for x, y in zip(a, b, strict=True))


def scale(a: Any, b: Sequence[Array]) -> Leaves:
    """The multiple a · b."""
    return tuple(a * x for x in b)


def dot(a: Sequence[Array], b: Sequence[Array]) -> Array:
    """The real inner product."""
    parts = [jnp.sum((x * jnp.conj(y)).real) for x, y in zip(a, b, strict=True)]
    return functools.reduce(jnp.add, parts)


def largest(parts: Sequence[Array], dtype: Any) -> Array:
    """The largest entry, in the dtype of the objective; NaN if there is one."""
    return greatest(parts).astype(dtype)


def all_finite(a: Sequence[Array]) -> Array:
    """Whether every entry is finite."""
    each = [jnp.all(jnp.isfinite(x)) for x in a]
    return functools.reduce(jnp.logical_and, each, jnp.array(True))


def conjugate_gradients(
    matrix: Callable[[Leaves], tuple[Leaves, Leaves]],
    b: Leaves,
    scales: Leaves,
    relative: Array | float,
    most: Array | int,
) -> tuple[Leaves, Leaves]:
    """Solves A x = b; stops early where the matrix A is not positive.

    `matrix` gives A x and B x, another product; returned are x and B x.
    `scales` is the preconditioner: about one over the diagonal of A.
    """
    first = times(scales, b)
    size = dot(b, first)
    target = jnp.square(relative) * size
    tiny = 10 * epsilon(size.dtype)

    def step(state: Any) -> Any:
        x, bx, r, p, rz, k = state
        mp, bp = matrix(p)
        curvature = dot(p, mp)
        floor = tiny * sum(
            jnp.sum(jnp.abs(a) ** 2 / c) for a, c in zip(p, scales, strict=True)
        )
        positive = curvature > floor
        a = jnp.where(positive, rz / jnp.where(positive, curvature, 1), 0)
        x, bx = add(x, scale(a, p)), add(bx, scale(a, bp))
        r = add(r, scale(-a, mp))
        preconditioned = times(scales, r)
        new = dot(r, preconditioned)
        p = add(preconditioned, scale(new / rz, p))
        return x, bx, r, p, jnp.where(positive, new, 0), k + 1

    nothing = scale(0.0, b)
    state = (nothing, nothing, b, first, size, jnp.int32(0))
    x, bx, *_ = jax.lax.while_loop(
        lambda s: (s[4] > target) & (s[5] < most), step, state
    )
    return x, bx
