"""`Norm`: what all penalties λψ with ψ(cw) = cψ(w) for c > 0 share.

The prox of such a penalty subtracts the projection onto its dual ball, step · λ ∂ψ(0).
"""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from optareg.penalties._base import Penalty
from optareg.penalties._numbers import clip, root, square

__all__ = ["Norm", "move_of_groups"]

Array = jax.Array

# A bound on T for a group that is not zero, in units of the group's own norm. A larger
# one suppresses more noise, and turns groups more slowly (`benchmarks/minibatches.py`).
SIDEWAYS = 30.0
TINY = 1e-37


class Norm(Penalty):
    """A penalty λψ with ψ(c w) = c ψ(w) for c > 0, zero at zero; λ is `strength`.

    Subclasses write `leaf_value`, `leaf_subgradient`, `leaf_dual_norm`, and
    `leaf_conjugate_prox`, the projection onto the dual ball of radius step · λ.
    """

    strength: Any

    scaled: ClassVar[bool] = True

    def leaf_conjugate_prox(self, w: Array, step: Any) -> Array:
        """The projection of w onto the dual ball step · ∂R(0): w − prox(w)."""
        raise NotImplementedError

    def leaf_group_norms(self, residual: Array) -> Array:
        """The norm of each group; without groups, of each entry."""
        return jnp.abs(residual)

    def leaf_kink(self, w: Array) -> Array:
        return w == 0

    def leaf_zeros(self, w: Array) -> Array:
        return self.leaf_group_norms(w) == 0

    def leaf_project_dual(self, s: Array) -> Array:
        return self.leaf_conjugate_prox(s, 1)

    def leaf_nearest_subgradient(self, w: Array, g: Array) -> Array:
        return self.leaf_subgradient(w, self.leaf_project_dual(-g))

    def leaf_residual(self, w: Array, g: Array) -> Array:
        return self.leaf_group_norms(g + self.leaf_nearest_subgradient(w, g))

    def leaf_gradient(self, w: Array) -> Array:
        return self.leaf_subgradient(w, jnp.zeros_like(w))

    def leaf_prox(self, w: Array, step: Array) -> Array:
        # Not a comparison: this difference gives exact zeros too, and keeps NaN.
        return w - self.leaf_conjugate_prox(w, step)


def move_of_groups(
    w: Array,
    s: Array,
    u: Array,
    t: Any,
    radius: Any,
    weights: Any,
    total: Callable[[Array], Array],
    spread: Callable[[Array], Array],
) -> tuple[Array, Array]:
    """`leaf_move` for ψ = Σ weight · ‖w_g‖, with digits relative to w, not to t.

    A group off zero is w = ρd with ‖d‖ = 1. Let v = w + u and T = t · weight. Then
    z = v + Td, and the prox is (‖z‖ − T) z/‖z‖. It is written as v and a correction,
    which is exactly zero for u = 0::

        e  = ‖z‖ − T − ρ = (2(ρ + T)⟨u, d⟩ + ‖u‖²) / (‖z‖ + ρ + T)
        w' = 0 for ρ + e ≤ 0, else v − (T/‖z‖)(u − e d)

    There T is at most `SIDEWAYS` times the group's own norm. Else t would outgrow the
    group, which could then not turn. Nor does T shorten a turn to less than the last
    digit of w, where rounding would take all of it. A group at zero takes the plain
    prox.

    Args:
      w: the leaf.
      s: a subgradient of ψ at w.
      u: the optimizer's update.
      t: the threshold, broadcast against w.
      radius: T, for each group.
      weights: the weight of each group.
      total: a function from entries to the sum over each group.
      spread: a function from a number for each group to one for each entry.

    Returns:
      w' − w and s', both shaped as w.
    """
    size_w = root(total(square(w)))
    some = size_w > 0
    off_zero = spread(some)
    # q is all that is needed of u and s. What follows reads w and q only, as do the
    # sums over groups. All other norms follow from those sums.
    q = jnp.where(off_zero, u, w + t * s + u)
    along, size_q = total((q * jnp.conj(w)).real), root(total(square(q)))
    one = jnp.where(some, size_w, 1)
    size_v = root(jnp.maximum(size_w**2 + 2 * along + size_q**2, 0))
    near = jnp.minimum(radius, SIDEWAYS * jnp.maximum(size_w, size_v))
    # ‖z‖² − (ρ + T)², as z = v + Td = (ρ + T)d + u.
    growth = 2 * (one + near) * (along / one) + size_q**2
    size = root(jnp.maximum((one + near) ** 2 + growth, 0))
    e = growth / jnp.maximum(size + one + near, TINY)
    vanishes = jnp.where(some, one + e <= 0, size_q <= radius)
    share = near / jnp.maximum(size, TINY)
    left = 1 - radius / jnp.where(size_q == 0, 1, size_q)
    size_end = jnp.where(some, one + e, size_q * left)
    slope = weights / jnp.where(size_end == 0, 1, size_end)
    vanishes, share, e, left, slope, whole, one, each = map(
        spread, (vanishes, share, e, left, slope, radius, one, weights)
    )
    d = w / one
    turn = q - e * d
    digit = jnp.finfo(w.dtype).eps * jnp.abs(w)  # type: ignore[no-untyped-call]
    lost = jnp.abs((1 - share) * turn) < digit
    step = jnp.where(lost, e * d + clipped(turn, digit), q - share * turn)
    end = jnp.where(off_zero, w + step, q * left)
    # With the whole T, not the bounded one: so t (s' − s) is u less w' − w.
    at_zero = jnp.where(
        off_zero, ((w + q) / jnp.maximum(whole, TINY) + d) * each, q / t
    )
    new = jnp.where(vanishes, at_zero, end * slope)
    other = jnp.where(vanishes, 0, end) - w
    return jnp.where(off_zero & ~vanishes, step, other), new


def clipped(x: Array, size: Array) -> Array:
    """X with its real and its imaginary part at most of that size."""
    if jnp.iscomplexobj(x):
        return jax.lax.complex(clip(x.real, size), clip(x.imag, size))
    return clip(x, size)
