"""What `proximal` does to one parameter group, in the order of its formulas.

The formulas are compiled functions, so that leaves of one shape are traced once.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optareg._tree import is_masked, widen, widest
from optareg.penalties._base import ParamGroup, Penalty

__all__ = [
    "Leaf",
    "first_subgradient",
    "leaves_of",
    "move_leaf",
    "read_subgradient",
    "rest_of",
    "tracked",
    "whole_gradient",
]

Array = jax.Array


class Leaf(NamedTuple):
    """A parameter group with a nonsmooth penalty λψ, before the step.

    Attributes:
      group: the parameter group.
      strength: λ.
      psi: ψ.
      w: the parameters.
      start: the same, unrounded and within the domain of ψ.
      everywhere: whether ψ is finite everywhere, so that `start` is `w`, unrounded.
      s: the tracked subgradient.
      stored: what the state holds of it.
    """

    group: ParamGroup
    strength: Any
    psi: Penalty
    w: Array
    start: Array
    everywhere: bool
    s: Array
    stored: Array

    @property
    def scaled(self) -> bool:
        """Whether t is in units of the weights."""
        return rest_of(self.group.penalty).scaled


def leaves_of(
    kept: list[ParamGroup], params: list[Any], stored: list[Any], s: list[Any]
) -> list[Leaf]:
    """The parameter groups with a nonsmooth penalty."""
    leaves = []
    for group in kept:
        strength, psi = rest_of(group.penalty).split_strength()
        w, kept_of_it, now = (group.join(x) for x in (params, stored, s))
        wide = unrounded(psi, w, kept_of_it)
        start = psi.leaf_project_domain(wide)
        everywhere = start is wide
        leaves.append(Leaf(group, strength, psi, w, start, everywhere, now, kept_of_it))
    return leaves


def tracked(groups: list[ParamGroup]) -> list[ParamGroup]:
    """The parameter groups with a nonsmooth part."""
    return [group for group in groups if group.penalty.split()[1] is not None]


def rest_of(penalty: Penalty) -> Penalty:
    """The part of a penalty that is handled by its prox; it must have one."""
    rest = penalty.split()[1]
    assert rest is not None
    return rest


def first_subgradient(penalty: Penalty, w: Array) -> Array:
    """The subgradient at the first parameters; 0 where there is a choice."""
    rest = rest_of(penalty)
    rest.weak_convexity()  # Raises at once where it is not known.
    _, psi = rest.split_strength()
    return psi.leaf_gradient(psi.leaf_project_domain(widen(w)))


def read_subgradient(penalty: Penalty, w: Array, stored: Array) -> Array:
    """s, from what the state holds and the parameters as they come in."""
    _, psi = rest_of(penalty).split_strength()
    wide = widen(w)
    if psi.leaf_kink(wide) is None:
        return stored
    if wide.dtype != w.dtype:  # It held a weight, if this one is zero only now.
        stored = psi.leaf_project_dual(stored)
    s: Array = subgradient(psi, psi.leaf_project_domain(wide), stored)
    return s


@functools.partial(jax.jit, inline=True)
def subgradient(psi: Penalty, w: Array, at_kink: Array) -> Array:
    """A member of ∂ψ(w)."""
    result: Array = psi.leaf_subgradient(w, at_kink)
    return result


def unrounded(psi: Penalty, w: Array, stored: Array) -> Array:
    """The weight, with the digits that the state has of it in half precision.

    They count unless w was changed outside. (`reduce_precision`: the compiler may leave
    out a cast to and fro.)
    """
    wide = widen(w)
    kink = psi.leaf_kink(wide)
    if wide.dtype == w.dtype or kink is None:
        return wide
    kind = jnp.finfo(w.dtype)  # type: ignore[no-untyped-call]
    rounded = jax.lax.reduce_precision(stored, kind.nexp, kind.nmant)
    return jnp.where((rounded == wide) & ~kink, stored, wide)


def whole_gradient(penalty: Penalty, g: Any, w: Any, s: Any) -> Any:
    """The gradient of the whole objective, unless there is none of the loss."""
    return g if is_masked(g) else penalised_gradient(penalty, g, w, s)


@functools.partial(jax.jit, inline=True)
def penalised_gradient(penalty: Penalty, g: Array, w: Array, s: Any) -> Array:
    """Returns h = g + ∇S(w) + λ s."""
    smooth, rest = penalty.split()
    h = widen(g)
    if smooth is not None:
        h = h + smooth.leaf_gradient(widen(w))
    if rest is not None:
        h = h + jnp.asarray(rest.split_strength()[0], s.real.dtype) * s
    return h.astype(widest(w.dtype, g.dtype))


def move_leaf(leaf: Leaf, u: Any, t: Any) -> tuple[Any, Any]:
    """The update, and what the state is to hold of s."""
    if is_masked(u):
        return u, leaf.stored
    strength = leaf.strength
    known = isinstance(strength, (np.ndarray, np.generic))
    acts = bool(np.all(strength > 0)) if known else False
    t = bounded(t, rest_of(leaf.group.penalty).weak_convexity())
    here = (leaf.psi, strength, leaf.w, leaf.start, leaf.s, u, t)
    move, new = moved(*here, acts=acts, everywhere=leaf.everywhere)
    return move, new


def bounded(t: Any, weak_convexity: Any) -> Any:
    """T below one over the weak convexity, where the prox is one point."""
    if isinstance(weak_convexity, float) and weak_convexity == 0:
        return t
    return jnp.minimum(t, 0.5 / jnp.maximum(weak_convexity, 1e-30)).astype(t.dtype)


@functools.partial(jax.jit, inline=True, static_argnames=("acts", "everywhere"))
def moved(
    psi: Penalty,
    strength: Any,
    w: Array,
    start: Array,
    s: Array,
    u: Array,
    t: Any,
    acts: bool,
    everywhere: bool,
) -> tuple[Array, Array]:
    """Returns w' − w and s'; `acts`: the strength is known to be positive."""
    wide, step = widen(w), widen(u)
    move, new = psi.leaf_move(start, s, step, t)
    if not acts:
        # Without a strength the weight moves as if unwrapped, to the last bit.
        # (Multiplied to be of the shape and sharding of the leaf.)
        some = strength * jnp.ones_like(wide.real) > 0
        start = jnp.where(some, start, wide)
        move = jnp.where(some, move, step)
        if psi.leaf_kink(wide) is None:
            new = jnp.where(some, new, psi.leaf_gradient(wide + step))
    end = start + move
    if wide.dtype == w.dtype:
        if not everywhere:
            move = jnp.where(start == wide, move, end - wide)
        return move.astype(widest(w.dtype, u.dtype)), new
    rounded = widen(end.astype(w.dtype))
    kink = psi.leaf_kink(rounded)
    # The digits that rounding takes off: kept beside s, or in it.
    new = new + (end - rounded) / t if kink is None else jnp.where(kink, new, end)
    move = rounded - wide
    if not acts:
        move = jnp.where(some, move, step)
    return move.astype(widest(w.dtype, u.dtype)), new
