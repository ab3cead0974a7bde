"""`centered`: a penalty on the difference to given parameters, R(w − at)."""

from typing import Any, Self

import jax
import jax.numpy as jnp

from optareg._tree import Tree, epsilon, is_masked, path_name
from optareg.penalties._base import ParamGroup, Penalty, data, register_penalty
from optareg.penalties._combinators import check_is_penalty
from optareg.penalties._numbers import rows_of
from optareg.penalties._wrapped import Wrapped

__all__ = ["centered"]

Array = jax.Array
PyTree = Any


def centered(penalty: Penalty, at: PyTree) -> Penalty:
    """`penalty` on the difference to given parameters: R(w − at).

    It is for fine-tuning a pretrained model. With `L1` most weights stay as they were,
    to the last bit. With `GroupLasso` whole units stay. With `NuclearNorm` the change
    has a low rank. With `L2` it is small (L2-SP).

    The prox is at + prox_R(w − at), and at itself where prox_R is 0. This value
    survives `optax.apply_updates`, which computes p + (at − p), if the difference is
    exact. It is exact if p is within a factor of two of at, or if at is 0. Any other p
    comes near in one step, and is exact after the next one. So start from `at`.
    `target_sparsity` counts weights with w = at as zeros;
    `freeze_zeros(optimizer, at=at)` keeps them.

    Args:
      penalty: any penalty. What it sees is w − at.
      at: a tree with the structure and shapes of the parameters. Leaves that are not
        penalised may be masked. It is cast to the dtypes of the parameters. It is data,
        not a strength: it may be traced, and is not scaled.

    Returns:
      A penalty. It may be put within `masked` or `partition`, or around them. In both
      cases `at` has the structure of all parameters. It may be put around `joined` too.
      Within `joined`, `at` is a dictionary from label to joined array, as strengths
      are.

    Raises:
      TypeError: `penalty` is not a penalty, or `at` has a leaf that is not an array.
      ValueError: on use, the structure or a shape differs from the parameters, or a
        penalised leaf is masked in `at`.

    >>> import jax.numpy as jnp
    >>> from optareg import L1, centered
    >>> pretrained = jnp.array([0.1, 0.7, -0.3])
    >>> penalty = centered(L1(1.0), at=pretrained)
    >>> print(penalty.prox(jnp.array([0.15, 1.7, -0.3]), 0.2))
    [ 0.1  1.5 -0.3]

    Source: Li, Grandvalet & Davoine, Explicit inductive bias for transfer learning with
    convolutional networks (2018), for L2; Guo, Rush & Kim, Parameter-efficient transfer
    learning with diff pruning (2021), for sparse differences.
    """
    check_is_penalty(penalty, "centered")
    Tree(at)  # Raises if a leaf is not an array.
    return Centered(penalty, at)


@register_penalty
class Centered(Penalty):
    """What `centered` returns."""

    penalty: Penalty
    at: PyTree = data()

    def resolve(self, tree: Tree) -> list[ParamGroup]:
        groups = self.penalty.resolve(tree)
        if not tree.leaves:
            return groups
        at = tree.match(self.at, "`at` of `centered`")
        for group in groups:
            for i in group.at:
                if is_masked(at[i]):
                    raise ValueError(
                        f"the leaf at {path_name(tree.paths[i])} is penalised, but "
                        "masked in `at` of `centered`. Leave it out with `masked`, or "
                        "give its values in `at`."
                    )
        cast = [
            x if is_masked(x) or is_masked(w) else jnp.asarray(x).astype(w.dtype)
            for x, w in zip(at, tree.leaves, strict=True)
        ]
        return [
            group._replace(penalty=Shifted(group.penalty, group.join(cast)))
            for group in groups
        ]


@register_penalty
class Shifted(Wrapped):
    """R(w − at) on one leaf.

    Attributes:
      penalty: R, for this leaf.
      at: an array shaped as the leaf.
    """

    penalty: Penalty
    at: Any = data()

    def leaf_value(self, w: Array) -> Array:
        return self.penalty.leaf_value(self._inside(w))

    def leaf_gradient(self, w: Array) -> Array:
        return self.penalty.leaf_gradient(self._from(w))

    def leaf_prox(self, w: Array, step: Array) -> Array:
        d = self._from(w)
        return self._back(self.penalty.leaf_prox(d, step), d, w)

    def leaf_kink(self, w: Array) -> Array | None:
        return self.penalty.leaf_kink(self._from(w))

    def leaf_center(self, w: Array) -> Array:
        center: Array = self.at.astype(w.dtype) + self.penalty.leaf_center(w)
        return center

    def leaf_zeros(self, w: Array) -> Array | None:
        return self.penalty.leaf_zeros(self._from(w))

    def leaf_subgradient(self, w: Array, at_kink: Array) -> Array:
        return self.penalty.leaf_subgradient(self._from(w), at_kink)

    def leaf_move(self, w: Array, s: Array, u: Array, t: Any) -> tuple[Array, Array]:
        # The move of w − at is that of w. At the kink it is −(w − at).
        return self.penalty.leaf_move(self._from(w), s, u, t)

    def leaf_conjugate_prox(self, w: Array, step: Any) -> Array:
        return self.penalty.leaf_conjugate_prox(self._from(w), step)

    def leaf_project_domain(self, w: Array) -> Array:
        d = self._from(w)
        return self._back(self.penalty.leaf_project_domain(d), d, w)

    def leaf_nearest_subgradient(self, w: Array, g: Array) -> Array:
        return self.penalty.leaf_nearest_subgradient(self._from(w), g)

    def leaf_residual(self, w: Array, g: Array) -> Array:
        return self.penalty.leaf_residual(self._inside(w), g)

    def take(self, rows: Array, axis: int, like: Array) -> Self:
        at = rows_of(self.at, rows, axis)
        return super().take(rows, axis, like).replace(at=at)

    def _from(self, w: Array) -> Array:
        """What R sees: w − at."""
        return jnp.subtract(w, self.at.astype(w.dtype))

    def _inside(self, w: Array) -> Array:
        """The same, but within the domain of R where only rounding is in the way.

        The digits of w − at are those of w and of `at`, which may be much larger.
        """
        d = self._from(w)
        near = self.penalty.leaf_project_domain(d)
        if near is d:
            return d
        sizes = jnp.maximum(jnp.abs(w), jnp.abs(self.at.astype(w.dtype)))
        digits = max(epsilon(w.dtype), epsilon(self.at.dtype))
        slack = 4 * max(w.size, 1) ** 0.5 * digits * jnp.max(sizes, initial=0)
        off = jnp.max(jnp.abs(near - d), initial=0)
        return jnp.where((off > 0) & (off <= slack), near, d)

    def _back(self, new: Array, d: Array, w: Array) -> Array:
        return back(new, d, w, self.at.astype(w.dtype))


@jax.custom_jvp
def back(new: Array, d: Array, w: Array, at: Array) -> Array:
    """The sum at + new; at itself where new is 0, and w where nothing moved."""
    # A sum would change the sign of −0.
    return jnp.where(new == 0, at, jnp.where(new == d, w, at + new))


@back.defjvp
def back_jvp(
    primals: tuple[Array, Array, Array, Array],
    tangents: tuple[Array, Array, Array, Array],
) -> tuple[Array, Array]:
    """That of the sum, whichever it is: a strength of 0 moves it too."""
    moved, _, _, of_at = tangents
    return back(*primals), moved + of_at
