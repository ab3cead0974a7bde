"""What a step of `proximal` shows of a leaf: the sizes of h and u, from samples.

The optimizer's step is u = w' − w + t(s' − s), so that samples of w and s, before and
after, have it. (A sample of u itself would make the compiled step compute u twice.)
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optareg._tree import widen
from optareg.penalties._base import ParamGroup, Penalty
from optareg.transforms._leaf import (
    Leaf,
    leaves_of,
    read_subgradient,
    rest_of,
    whole_gradient,
)
from optareg.transforms._statistics import sample, sums

__all__ = ["samples_after", "samples_before", "seen_of"]

Array = jax.Array


def samples_before(leaf: Leaf, g: Array, h: Array) -> tuple[Any, ...]:
    """Samples of a leaf that is `scaled`, before it changes."""
    if sampled_first(leaf):
        return few_strengths(leaf), sample(leaf.w), sample(leaf.stored), sample(g)
    kink = at_kink(leaf, leaf.start)
    return sample(h), sample(leaf.start), sample(leaf.s), sample(kink)


def samples_after(leaf: Leaf, end: Array, new: Array, t: Array) -> tuple[Array, ...]:
    """Samples of it after that, and its threshold.

    Weights in half precision are given as rounded.
    """
    t = t if t.ndim == 0 else sample(jnp.broadcast_to(t, leaf.w.shape))
    if sampled_first(leaf):
        return sample(end), sample(new), t
    end, new = read_after(leaf.group.penalty, end, new)
    return sample(end), sample(new), t, sample(at_kink(leaf, end))


def read_after(penalty: Penalty, end: Array, new: Array) -> tuple[Array, Array]:
    """The weights after the update with all their digits, and s there.

    In half precision the state holds an unrounded weight where s follows from it.
    """
    if widen(end).dtype == end.dtype:
        return end, new
    s = read_subgradient(penalty, end, new)
    (leaf,) = leaves_of([ParamGroup(penalty, (0,))], [end], [new], [s])
    return leaf.start, s


def seen_of(leaf: Leaf) -> Callable[[Any, Any], Array]:
    """The function of both that has the `sums` of h and u, for each of a first axis."""
    return from_given if sampled_first(leaf) else from_computed


@functools.partial(jax.jit, inline=True)
@jax.vmap
def from_given(before: Any, after: Any) -> Array:
    """`sums` of h and u = w' − w + t(s' − s), from samples of what the step was given.

    Not of what it computes: those would be arrays of the size of the leaf that are
    written and read for their samples only. Of groups, s is what the last step left, as
    if nobody had changed w since.
    """
    penalty, w, stored, g = before
    end, new = read_after(penalty, *after[:2])
    t = after[2]
    entrywise = rest_of(penalty).entrywise
    s = read_subgradient(penalty, w, stored) if entrywise else stored
    (leaf,) = leaves_of([ParamGroup(penalty, (0,))], [w], [stored], [s])
    by_s = t * (new - s)
    if not entrywise:
        # Off its kink a group turns without passing through t.
        by_s = jnp.where(at_kink(leaf, leaf.start) | at_kink(leaf, end), by_s, 0)
    return sums(whole_gradient(penalty, g, w, s), end - leaf.start + by_s)


@functools.partial(jax.jit, inline=True)
@jax.vmap
def from_computed(before: Any, after: Any) -> Array:
    """The same, from samples of what the step computed.

    Off the kink the state may hold a weight: s follows from w, and all of the step is
    in w.
    """
    h, w, s, kink = before
    end, new, t, kink_after = after
    by_s = jnp.where(kink | kink_after, t * (new - s), 0)
    return sums(h, end - w + by_s)


def at_kink(leaf: Leaf, w: Array) -> Array:
    """Where s does not follow from the weights w of a leaf."""
    kink = leaf.psi.leaf_kink(w)
    return jnp.ones(w.shape, bool) if kink is None else kink


def sampled_first(leaf: Leaf) -> bool:
    """Whether h and s of a sample follow from samples of what the leaf is given."""
    smooth, _ = leaf.group.penalty.split()
    kept = smooth is None and leaf.stored.dtype == leaf.w.dtype
    return leaf.scaled and (leaf.psi.entrywise or kept)


def few_strengths(leaf: Leaf) -> Penalty:
    """The penalty for a sample of a leaf."""

    def of_field(x: Any) -> Any:
        return sample(jnp.broadcast_to(x, leaf.w.shape)) if np.ndim(x) else x

    result: Penalty = jax.tree.map(of_field, leaf.group.penalty)
    return result
