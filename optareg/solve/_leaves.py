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
    matrix: Callable[[Leaves], Leaves],
    b: Leaves,
    scales: Leaves,
    relative: Array | float,
    most: Array | int,
) -> Leaves:
    """Solves matrix(x) = b; stops early where the matrix is not positive.

    `scales` is the preconditioner: about one over the diagonal of the matrix.
    """
    first = times(scales, b)
    size = dot(b, first)
    target = jnp.square(relative) * size
    tiny = 10 * epsilon(size.dtype)

    def step(state: Any) -> Any:
        x, r, p, rz, k = state
        mp = matrix(p)
        curvature = dot(p, mp)
        floor = tiny * sum(
            jnp.sum(jnp.abs(a) ** 2 / c) for a, c in zip(p, scales, strict=True)
        )
        positive = curvature > floor
        a = jnp.where(positive, rz / jnp.where(positive, curvature, 1), 0)
        x, r = add(x, scale(a, p)), add(r, scale(-a, mp))
        preconditioned = times(scales, r)
        new = dot(r, preconditioned)
        p = add(preconditioned, scale(new / rz, p))
        return x, r, p, jnp.where(positive, new, 0), k + 1

    state = (scale(0.0, b), b, first, size, jnp.int32(0))
    x, *_ = jax.lax.while_loop(lambda s: (s[3] > target) & (s[4] < most), step, state)
    return x
