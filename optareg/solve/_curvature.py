"""The diagonal of a loss's Hessian, by which the solver measures each parameter."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from optareg._tree import epsilon
from optareg.penalties._base import Penalty
from optareg.solve._heads import Heads
from optareg.solve._leaves import Leaves

__all__ = ["diagonal", "inverse", "of_both", "positive", "strength_of"]

Array = jax.Array

# Exact for leaves up to so many entries, estimated with probes beyond; for products,
# exact but for what few probes leave where the tail couples them.
EXACT, PROBES, HEAD_PROBES = 512, 16, 4
# No step gains so many times the objective.
MUCH = 100
# So many entries at a time.
BATCH = 16


def diagonal(loss: Heads, w: Leaves) -> tuple[Array, ...]:
    """The diagonal of the loss's Hessian at w, for each leaf."""
    with_head = [axis is not None for axis in loss.axes]
    result = [
        jnp.zeros_like(x.real) if h else d
        for h, x, d in zip(with_head, w, of_leaves(loss, w), strict=True)
    ]
    for leaf, d in of_heads(loss, w):
        result[leaf] = result[leaf] + d
    return tuple(result)


def of_both(diagonal: Leaves, smooth: Sequence[Penalty | None], w: Leaves) -> Leaves:
    """The size of that of the loss + smooth penalties at w."""
    rows = zip(smooth, w, diagonal, strict=True)
    return tuple(jnp.abs(d + of_penalty(p, x)) for p, x, d in rows)


def of_heads(loss: Heads, w: Leaves) -> list[tuple[int, Array]]:
    """Of leaves with heads: exact where each product has a loss of its own."""
    products = loss.products(w)
    if not products:
        return []
    gradient = jax.grad(lambda zs: loss.tail(zs, w))
    _, bend = jax.linearize(gradient, products)
    bits = [hashes(z.shape, i) for i, z in enumerate(products)]

    def probe(k: Array) -> list[Array]:
        signs = [
            jnp.where(b >> k & 1, 1, -1).astype(z.dtype)
            for b, z in zip(bits, products, strict=True)
        ]
        return [s * b for s, b in zip(signs, bend(signs), strict=True)]

    # One after the other: so XLA has the kernels that the iteration has, and makes them
    # once.
    probes: list[Array] = jax.lax.map(probe, jnp.arange(HEAD_PROBES, dtype=jnp.uint32))
    total: list[Array] = [jnp.mean(p, axis=0) for p in probes]
    pairs = zip(loss.heads, total, strict=True)
    return [(h.leaf, h.transpose_of_squares(t, w[h.leaf]).real) for h, t in pairs]


def hashes(shape: tuple[int, ...], seed: int) -> Array:
    """Bits that look random, one number for each entry.

    The finalizer of MurmurHash3 (Appleby, 2011): `jax.random` takes longer to compile.
    """
    x: Array = jnp.arange(math.prod(shape), dtype=jnp.uint32) + jnp.uint32(
        seed * 2**24 + 1
    )
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    result: Array = (x ^ (x >> 16)).reshape(shape)
    return result


def of_leaves(loss: Heads, w: Leaves) -> list[Array]:
    """Of leaves without heads: exact for few entries, else a row's length."""
    free = [i for i, axis in enumerate(loss.axes) if axis is None]

    def gradient(leaves: list[Array]) -> list[Array]:
        all_leaves = list(w)
        for i, leaf in zip(free, leaves, strict=True):
            all_leaves[i] = leaf
        grads = jax.grad(loss.__call__)(all_leaves)
        return [jnp.conj(grads[i]) for i in free]

    result = [jnp.zeros((), x.real.dtype) for x in w]
    if not free:
        return result
    _, bend = jax.linearize(gradient, [w[i] for i in free])
    flat, unravel = ravel_pytree([w[i] for i in free])
    if flat.size <= EXACT:

        def entry(i: Array) -> Array:
            unit = unravel(jnp.zeros_like(flat).at[i].set(1))
            return ravel_pytree(bend(unit))[0][i].real

        # In batches of one size: `lax.map` of JAX 0.6 makes one more, of none.
        rounds = -(-flat.size // BATCH)
        each = -(-flat.size // max(rounds, 1))
        places = jnp.arange(rounds * each).reshape(rounds, each)
        diagonal = jax.lax.map(jax.vmap(entry), places).reshape(-1)[: flat.size]
    else:

        def probe(key: Array) -> Array:
            signs = jax.random.rademacher(key, flat.shape, flat.real.dtype)
            bent = bend(unravel(signs.astype(flat.dtype)))
            return jnp.abs(ravel_pytree(bent)[0]) ** 2

        keys = jax.random.split(jax.random.key(1), PROBES)
        diagonal = jnp.sqrt(jnp.mean(jax.lax.map(probe, keys), axis=0))
    for i, d in zip(free, unravel(diagonal.astype(flat.dtype)), strict=True):
        result[i] = d.real
    return result


def of_penalty(smooth: Penalty | None, w: Array) -> Array | float:
    """Of the smooth part of a penalty."""
    if smooth is None:
        return 0.0
    _, bent = jax.jvp(smooth.leaf_gradient, (w,), (jnp.ones_like(w),))
    # Where it is concave, the loss alone is the better scale.
    return jnp.maximum(bent.real, 0)


def inverse(
    curvature: Array, penalty: Penalty, w: Array, g: Array, value: Array
) -> Any:
    """One over the curvature at w, where the gradient is g, and `value` the objective.

    Where there is none, at least as where there is most, and so much that a step comes
    to the center of the penalty. None is also what does not change the gradient on that
    way, if its Newton step is to gain far more than the whole objective: far out losses
    are flat, but not what is all but at its center. One number for what the penalty
    couples.
    """
    norm, coupled = penalty.split()[1], penalty.leaf_group_max(curvature)
    if norm is None:
        return 1 / positive(coupled, jnp.max(curvature, initial=0))
    far = penalty.leaf_group_max(jnp.abs(w - norm.leaf_center(w)))
    slope = penalty.leaf_group_max(jnp.abs(g) + strength_of(norm))
    flat = coupled * far < epsilon(coupled.dtype) * slope
    whole = jnp.where(jnp.isfinite(value), jnp.abs(value), 0).astype(slope.dtype)
    flat &= jnp.square(slope) > MUCH * coupled * whole
    some = jnp.where(flat & (far > 0), 0, coupled)
    bent = 1 / positive(some, jnp.max(some, initial=0))
    reach = (far / positive(slope, jnp.inf)).astype(bent.dtype)
    return jnp.where(some > 0, bent, jnp.maximum(bent, reach))


def positive(x: Array, other: Any) -> Array:
    """The array x; where it is not above 0 the other, or 1 if that is not either."""
    return jnp.where(x > 0, x, jnp.where(other > 0, other, 1))


def strength_of(norm: Penalty) -> Any:
    """λ; of what is not λψ, the largest subgradient, or 0 if that is not known."""
    if norm.scaled:
        return norm.split_strength()[0]
    return norm.leaf_largest_subgradient()
