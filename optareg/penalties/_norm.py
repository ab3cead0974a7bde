"""`Norm`: what penalties λψ share for which ψ(cw) = cψ(w).

Of such a penalty the prox takes off the projection onto the dual ball, λ ∂ψ(0).
"""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from optareg.penalties._base import Penalty

__all__ = ["Norm", "move_of_groups"]

Array = jax.Array

# How many times a group's own size T is at most, where the group is not zero. Larger
# values suppress more noise, and turn groups more slowly (`benchmarks/minibatches.py`).
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
        """The point of step · ∂R(0) nearest to w, which is w − prox(w)."""
        raise NotImplementedError

    def leaf_group_norms(self, residual: Array) -> Array:
        """The lengths of what ψ sums over: of entries, unless there are groups."""
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
        # A difference, not a comparison: it is exactly zero, and it keeps NaN.
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

    For a group w = ρd off zero, with v = w + u and T = t · weight, z = v + Td and the
    prox is (‖z‖ − T) z/‖z‖. It is written as a correction of u, which is exactly zero
    for u = 0::

        e  = ‖z‖ − T − ρ = (2(ρ + T)⟨u, d⟩ + ‖u‖²) / (‖z‖ + ρ + T)
        w' = 0 for ρ + e ≤ 0, else v − (T/‖z‖)(u − e d)

    T is at most `SIDEWAYS` times the group's own size there, which t outgrows: else a
    group would not turn. A group at zero has the plain prox.

    Args:
      w: the leaf.
      s: a subgradient of ψ there.
      u: the step.
      t: the threshold, broadcast against w.
      radius: T, for each group.
      weights: the weight of each group.
      total: from entries to the sum over each group.
      spread: from a number for each group to one for each entry.
    """
    size_w = root(total(square(w)))
    some = size_w > 0
    off_zero = spread(some)
    # One array holds what is needed of u and s: what follows reads w and it, and the
    # sums over groups are of those two. All other sizes follow from them.
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
    step = q - share * (q - e * d)
    end = jnp.where(off_zero, w + step, q * left)
    # Of the whole T, so that t (s' − s) is what of u is not in w' − w.
    at_zero = jnp.where(
        off_zero, ((w + q) / jnp.maximum(whole, TINY) + d) * each, q / t
    )
    new = jnp.where(vanishes, at_zero, end * slope)
    other = jnp.where(vanishes, 0, end) - w
    return jnp.where(off_zero & ~vanishes, step, other), new


def square(x: Array) -> Array:
    """|x|²."""
    return (x * jnp.conj(x)).real


def root(x: Array) -> Array:
    """√x, with a derivative of 0 at 0."""
    zero = x == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, x)))
