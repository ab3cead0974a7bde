"""Penalties on groups of entries: `GroupLasso` and `SparseGroupLasso`."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from optareg.penalties._base import Penalty, register_penalty, static
from optareg.penalties._grouped import Grouped
from optareg.penalties._l1 import L1
from optareg.penalties._norm import Norm, move_of_groups
from optareg.penalties._numbers import root, square

__all__ = ["GroupLasso", "SparseGroupLasso"]

Array = jax.Array


@register_penalty
class GroupLasso(Grouped, Norm):
    r"""The group lasso: R(w) = λ Σ_g √(size of g) ‖w_g‖₂. Whole groups become zero.

    Args:
      strength: λ, in units of the loss per unit of weight; no learning rate in it. A
        scalar, or a prefix tree of the parameters of scalars or arrays, each broadcast
        against its leaf and the same within a group.
      axis: the axes that the norm reduces over, as in `jnp.linalg.norm`: an integer or
        several. The other axes count the groups. For a Dense kernel (in, out), 0 makes
        a group of each output unit and 1 of each input. For a Conv kernel
        (h, w, in, out), (0, 1, 2) makes one of each filter. For attention
        (in, heads, head_dim), (0, 2) makes one of each head. None: the whole leaf is
        one group.
      groups: instead of `axis`, an array of integer labels, shaped as the leaf. Entries
        with one label are one group, wherever they are in the leaf. It may also be a
        tree of such arrays, a prefix of the parameters. Labels of different leaves are
        different groups; `joined` makes groups of several leaves.
      size_scaled: whether λ is multiplied by √size, so that large groups are not
        favoured. False: R(w) = λ Σ_g ‖w_g‖₂.

    Raises:
      TypeError: a strength is not a real number, or labels are not integers.
      ValueError: a concrete strength is negative, NaN or infinite; a label is negative;
        or `axis` and `groups` are both given. On use: `axis` is out of range for a
        leaf, labels are not shaped as it, or a strength differs within a group.

    The gradient is λ √size w_g / ‖w_g‖, and 0 where w_g = 0. The prox is
    w_g max(0, 1 − tλ√size / ‖w_g‖).

    >>> import jax.numpy as jnp
    >>> from optareg import GroupLasso
    >>> w = jnp.array([[3.0, 0.1], [4.0, 0.1]])
    >>> penalty = GroupLasso(1.0, axis=0, size_scaled=False)
    >>> print(penalty.prox(w, 1.0))
    [[2.4 0. ]
     [3.2 0. ]]

    Source: Yuan & Lin, Model selection and estimation in regression with grouped
    variables (2006).
    """

    strength: Any
    axis: int | tuple[int, ...] | None = static(default=None, kw_only=True)
    groups: Any = static(default=None, kw_only=True)
    size_scaled: bool = static(default=True, kw_only=True)

    def leaf_value(self, w: Array) -> Array:
        return jnp.sum(self._radii(self.strength, w) * self.lengths(w))

    def leaf_subgradient(self, w: Array, at_kink: Array) -> Array:
        length = self.lengths(w)
        zero = length == 0
        slope = self._radii(self.strength, w) / jnp.where(zero, 1, length)
        zero, slope = (self.grouping.spread(x, w) for x in (zero, slope))
        return jnp.where(zero, at_kink, w * slope)

    def leaf_noise_scale(self, w: Array) -> Any:
        if self.size_scaled:
            return 1.0
        sizes = np.sqrt(self.grouping.sizes(w.shape))
        return self.grouping.spread(jnp.asarray(sizes, w.real.dtype), w)

    def leaf_move(self, w: Array, s: Array, u: Array, t: Any) -> tuple[Array, Array]:
        return move_of_groups(
            w,
            s,
            u,
            t,
            self._radii(t * self.strength, w),
            self._radii(self.strength, w),
            self.grouping.sum,
            lambda x: self.grouping.spread(x, w),
        )

    def leaf_conjugate_prox(self, w: Array, step: Any) -> Array:
        length, radius = self.lengths(w), self._radii(step * self.strength, w)
        # A group with a NaN is not within: it becomes NaN, not zero. With a radius of 0
        # none is, since the squares of small weights may be zero.
        within = (length <= radius) & (radius > 0)
        safe = jnp.where(within | (length == 0), 1, length)
        share = jnp.where(within, 1, radius / safe)
        return w * self.grouping.spread(share, w)

    def leaf_dual_norm(self, g: Array) -> Array:
        radius = self._radii(self.strength, g)
        ratio = self.lengths(g) / jnp.where(radius > 0, radius, 1)
        return jnp.max(jnp.where(radius > 0, ratio, 0), initial=0)

    def leaf_group_norms(self, residual: Array) -> Array:
        return self.lengths(residual)

    def leaf_group_max(self, x: Array) -> Array:
        return jnp.broadcast_to(self.grouping.spread(self.grouping.max(x), x), x.shape)

    def lengths(self, w: Array) -> Array:
        """‖w_g‖ of each group; its derivative at 0 is 0."""
        return root(self.grouping.sum(square(w)))

    def _weights(self, w: Array) -> Array:
        sizes = self.grouping.sizes(w.shape)
        weights = np.sqrt(sizes) if self.size_scaled else np.ones_like(sizes, float)
        return jnp.asarray(weights, w.real.dtype)

    def _radii(self, radius: Any, w: Array) -> Array:
        """`radius`, a number for each entry, times the weight, for each group."""
        if np.ndim(radius) > 0:
            radius = self.grouping.max(jnp.broadcast_to(radius, w.shape))
        return jnp.multiply(radius, self._weights(w))


@register_penalty
class SparseGroupLasso(Grouped):
    r"""The sparse group lasso: R(w) = a Σ|w| + b Σ_g √(size of g) ‖w_g‖₂.

    Whole groups become zero, and entries within the groups that remain.

    Args:
      l1: a, as the strength of `L1`, the same within a group.
      group: b, as the strength of `GroupLasso`.
      axis: as for `GroupLasso`.
      groups: as for `GroupLasso`.
      size_scaled: as for `GroupLasso`.

    Raises:
      TypeError, ValueError: as for `GroupLasso`.

    The prox is that of the L1 part, followed by that of the group part.

    >>> import jax.numpy as jnp
    >>> from optareg import SparseGroupLasso
    >>> w = jnp.array([[4.0, 0.5], [0.5, -0.5]])
    >>> penalty = SparseGroupLasso(l1=1.0, group=1.0, axis=0, size_scaled=False)
    >>> print(penalty.prox(w, 1.0))
    [[2. 0.]
     [0. 0.]]

    Source: Simon, Friedman, Hastie & Tibshirani, A sparse-group lasso (2013).
    """

    of_groups: ClassVar[str] = "group"

    l1: Any
    group: Any
    axis: int | tuple[int, ...] | None = static(default=None, kw_only=True)
    groups: Any = static(default=None, kw_only=True)
    size_scaled: bool = static(default=True, kw_only=True)

    # By the parts: a share of the strengths has no derivative where they are zero.

    def leaf_value(self, w: Array) -> Array:
        l1, group = self._parts()
        return l1.leaf_value(w) + group.leaf_value(w)

    def leaf_gradient(self, w: Array) -> Array:
        l1, group = self._parts()
        return l1.leaf_gradient(w) + group.leaf_gradient(w)

    def leaf_prox(self, w: Array, step: Array) -> Array:
        l1, group = self._parts()
        return group.leaf_prox(l1.leaf_prox(w, step), step)

    def leaf_group_max(self, x: Array) -> Array:
        return self._parts()[1].leaf_group_max(x)

    def split(self) -> tuple[Penalty | None, Penalty | None]:
        return None, Mixture.of(*self._parts())

    def _parts(self) -> tuple[L1, GroupLasso]:
        l1 = L1(0).replace(strength=self.l1)
        names = ("axis", "groups", "size_scaled")
        group = GroupLasso(0).replace(
            strength=self.group, **{name: getattr(self, name) for name in names}
        )
        return l1, group


@register_penalty
class Mixture(Norm):
    """The sum of an L1 and a group lasso, as one norm: ψ = c ψ₁ + (1 − c) ψ₂.

    Attributes:
      strength: the sum of both strengths.
      share: c, the share of L1.
      l1: with strength 1.
      group: with strength 1.
    """

    strength: Any
    share: Any
    l1: L1
    group: GroupLasso

    @classmethod
    def of(cls, l1: L1, group: GroupLasso) -> "Mixture":
        """The sum of the two."""
        total = l1.strength + group.strength
        # NumPy keeps known strengths known within `jit`.
        where = np.where if isinstance(total, (np.ndarray, np.generic)) else jnp.where
        share = l1.strength / where(total > 0, total, np.ones((), total.dtype))
        one = np.ones((), total.dtype)
        parts = l1.replace(strength=one), group.replace(strength=one)
        return cls(total, share, *parts)

    def leaf_value(self, w: Array) -> Array:
        l1 = self.l1.replace(strength=self.strength * self.share)
        group = self.group.replace(strength=self.strength * (1 - self.share))
        return l1.leaf_value(w) + group.leaf_value(w)

    def leaf_subgradient(self, w: Array, at_kink: Array) -> Array:
        # In a group that is not zero, the group's norm is smooth, and L1 has the kinks.
        most = self.group.grouping.max(jnp.abs(w))
        some = self.group.grouping.spread(most, w) != 0  # Not `> 0`: NaN stays NaN.
        l1 = self.strength * self.share
        inner = self.l1.leaf_conjugate_prox(at_kink, l1)
        of_l1 = jnp.where(w == 0, inner, l1 * jnp.sign(w))
        of_group = self.group.leaf_subgradient(w, jnp.zeros_like(w))
        whole = of_l1 + self.strength * (1 - self.share) * of_group
        return jnp.where(some, whole, at_kink)

    def leaf_move(self, w: Array, s: Array, u: Array, t: Any) -> tuple[Array, Array]:
        # Entries that stay off zero do not pass through t, so they keep their digits.
        v, z = w + u, w + t * s + u
        dual = self.leaf_conjugate_prox(z, t)
        end = z - dual
        stays = ((v * jnp.conj(w)).real > 0) & (end != 0)
        new = jnp.where(stays, v, end)
        return jnp.where(stays, u, end - w), self.leaf_subgradient(new, dual / t)

    def leaf_conjugate_prox(self, w: Array, step: Any) -> Array:
        radius = step * self.strength
        rest = w - self.l1.leaf_conjugate_prox(w, radius * self.share)
        prox = rest - self.group.leaf_conjugate_prox(rest, radius * (1 - self.share))
        # Not the sum of both projections: its rounding would leave no exact zeros.
        return jnp.where(prox == 0, w, w - prox)

    def leaf_dual_norm(self, g: Array) -> Array:
        """By Newton's method, for each group, on a convex decreasing function of c."""
        a, b = self.strength * self.share, self.strength * (1 - self.share)
        size = jnp.abs(g)
        b = self.group._radii(b, size)
        # From the left of the root Newton's steps do not overshoot.
        start = jnp.zeros_like(b)

        def excess(c: Array) -> Array:
            each = self.group.grouping.spread(c, size)
            return self.group.lengths(jnp.maximum(size - each * a, 0)) - c * b

        def step(_: int, c: Array) -> Array:
            value, slope = jax.jvp(excess, (c,), (jnp.ones_like(c),))
            done = (value <= 0) | (slope >= 0)  # Not of NaN, which stays.
            return c + jnp.where(done, 0, -value / slope)

        return jnp.max(jax.lax.fori_loop(0, 50, step, start), initial=0)

    def leaf_group_norms(self, residual: Array) -> Array:
        return self.group.lengths(residual)

    def leaf_group_max(self, x: Array) -> Array:
        return self.group.leaf_group_max(x)
