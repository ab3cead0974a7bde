"""`centered`: a penalty on how far parameters are from given ones, R(w − at)."""

from typing import Any

import jax
import jax.numpy as jnp

from optareg._tree import Tree, is_masked, path_name
from optareg.penalties._base import ParamGroup, Penalty, data, register_penalty
from optareg.penalties._combinators import check_is_penalty

__all__ = ["centered"]

Array = jax.Array
PyTree = Any


def centered(penalty: Penalty, at: PyTree) -> Penalty:
    """`penalty` on the distance from given parameters: R(w − at).

    With `L1` most weights stay those of a pretrained model, to the last bit: sparse
    fine-tuning. With `GroupLasso` whole units do, with `NuclearNorm` the change is of
    low rank, with `L2` it is small (L2-SP).

    The prox is at + prox_R(w − at), and at itself where prox_R is 0. In the precision
    of the parameters that survives `optax.apply_updates`, p + (at − p), once p is
    within a factor of two of at, where the difference is exact; a p farther away comes
    nearer in one step, and is exact with the next one. Start from `at`, as fine-tuning
    does. Where at is 0, it survives from everywhere. What is kept is counted and frozen
    as zeros are: `target_sparsity` and `freeze_zeros` look at w = at.

    Args:
      penalty: any penalty. What it sees is w − at.
      at: parameters of the structure and shapes of those penalised; leaves that are not
        penalised may be masked. Cast to their dtypes. It is data, not a strength: it
        may be traced, and is not scaled.

    Returns:
      A penalty. It may be within `masked`, `partition` or around them; `at` has the
      structure of the whole parameters in both cases. Around `joined` too; within it,
      `at` is a dictionary from label to joined array, as strengths are.

    Raises:
      TypeError: `penalty` is no penalty, or `at` has a leaf that is no array.
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
    Tree(at)  # Raises where a leaf is no array.
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
                        "give it a place to be centered at."
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
class Shifted(Penalty):
    """R(w − at) on one leaf.

    Attributes:
      penalty: R, for this leaf.
      at: an array shaped as the leaf.
    """

    penalty: Penalty
    at: Any = data()

    # What is true of R is true of it.

    @property
    def scaled(self) -> bool:  # type: ignore[override]
        """Whether R is."""
        return self.penalty.scaled

    @property
    def entrywise(self) -> bool:  # type: ignore[override]
        """Whether R is."""
        return self.penalty.entrywise

    @property
    def convex(self) -> bool:  # type: ignore[override]
        """Whether R is."""
        return self.penalty.convex

    @property
    def strength(self) -> Any:
        """The strength of a penalty that is `scaled`."""
        return self.penalty.strength  # type: ignore[attr-defined]

    def leaf_value(self, w: Array) -> Array:
        return self.penalty.leaf_value(self._from(w))

    def leaf_gradient(self, w: Array) -> Array:
        return self.penalty.leaf_gradient(self._from(w))

    def leaf_prox(self, w: Array, step: Array) -> Array:
        d = self._from(w)
        return self._back(self.penalty.leaf_prox(d, step), d, w)

    def split(self) -> tuple[Penalty | None, Penalty | None]:
        smooth, rest = (
            None if part is None else Shifted(part, self.at)
            for part in self.penalty.split()
        )
        return smooth, rest

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
        # Where it moves to the kink, w − at is taken off: at, if that is exact.
        return self.penalty.leaf_move(self._from(w), s, u, t)

    def leaf_dual(self, w: Array, step: Any) -> Array:
        return self.penalty.leaf_dual(self._from(w), step)

    def leaf_project(self, s: Array) -> Array:
        return self.penalty.leaf_project(s)

    def leaf_domain(self, w: Array) -> Array:
        d = self._from(w)
        return self._back(self.penalty.leaf_domain(d), d, w)

    def leaf_largest_subgradient(self) -> Any:
        return self.penalty.leaf_largest_subgradient()

    def leaf_noise(self, w: Array) -> Any:
        return self.penalty.leaf_noise(w)

    def leaf_nearest(self, w: Array, g: Array) -> Array:
        return self.penalty.leaf_nearest(self._from(w), g)

    def leaf_residual(self, w: Array, g: Array) -> Array:
        return self.penalty.leaf_residual(self._from(w), g)

    def leaf_dual_norm(self, g: Array) -> Array:
        return self.penalty.leaf_dual_norm(g)

    def leaf_coupled_max(self, x: Array) -> Array:
        return self.penalty.leaf_coupled_max(x)

    def weak_convexity(self) -> Any:
        return self.penalty.weak_convexity()

    def unit(self) -> tuple[Any, Penalty]:
        strength, unit = self.penalty.unit()
        return strength, Shifted(unit, self.at)

    def take(self, rows: Array, axis: int, like: Array) -> "Shifted":
        return self.replace(
            penalty=self.penalty.take(rows, axis, like),
            at=jnp.take(self.at, rows, axis=axis),
        )

    def _from(self, w: Array) -> Array:
        """What R sees, w − at."""
        return jnp.subtract(w, self.at.astype(w.dtype))

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
