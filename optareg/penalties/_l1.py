"""The lasso penalty λ Σ|w|: `L1`, and `NonNegative`, its form with `positive=True`."""

from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from optareg._tree import path_name
from optareg.penalties._base import (
    Penalty,
    check_strengths,
    register_penalty,
    static,
)
from optareg.penalties._norm import Norm, move_of_groups
from optareg.penalties._numbers import absolute, clip

__all__ = ["L1", "check_positive", "check_real"]

Array = jax.Array


@register_penalty
class L1(Norm):
    r"""The lasso penalty: R(w) = λ Σ|w|. Gives exact zeros.

    Args:
      strength: λ, in units of the loss per unit of weight; no learning rate in it. A
        scalar, or a prefix tree of the parameters of scalars or arrays, each broadcast
        against its leaf (the adaptive lasso). It may be traced.
      positive: whether negative weights are forbidden: R(w) = ∞ where one is. The prox
        is then max(w − tλ, 0). The gradient is that of L1: it ignores `positive`.

    Raises:
      TypeError: a strength is not a real number, or `positive` is not a bool. On use,
        `positive` is True and a leaf is complex.
      ValueError: a concrete strength is negative, NaN or infinite.

    The gradient is λ sign(w), with sign(0) = 0. The prox is the soft threshold,
    w − clip(w, −tλ, tλ).

    >>> import jax.numpy as jnp
    >>> from optareg import L1
    >>> w = jnp.array([-2.0, 0.5, 3.0])
    >>> print(L1(0.1).value(w), L1(0.1).gradient(w), L1(1.0).prox(w, 1.0))
    0.55 [-0.1  0.1  0.1] [-1.  0.  2.]

    Source: Tibshirani, Regression shrinkage and selection via the lasso (1996); its
    prox: Parikh & Boyd, Proximal algorithms (2014), section 6.5.2.
    """

    strength: Any
    positive: bool = static(default=False)

    entrywise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_strengths(self)
        check_positive(self)

    def at_leaf(self, leaf: Array, path: tuple[Any, ...]) -> "L1":
        check_real(self, leaf, path)
        return self

    def split(self) -> tuple[Penalty | None, Penalty | None]:
        return None, self._positive() if self.positive else self

    @classmethod
    def from_sklearn(cls, alpha: Any, positive: bool = False) -> Self:
        """The penalty of `sklearn.linear_model.Lasso(alpha, positive=…)`, λ = α.

        Its loss is ‖y − Xw‖² / (2n): take `0.5 * jnp.mean((y - X @ w) ** 2)`.

        Args:
          alpha: scikit-learn's `alpha`, a scalar or an array, not negative.
          positive: as scikit-learn's.

        Returns:
          An `L1`.

        Raises:
          TypeError, ValueError: as for `L1`.

        >>> from optareg import L1
        >>> L1.from_sklearn(alpha=0.1)
        L1(strength=0.1, positive=False)
        """
        return cls(alpha, positive)

    def leaf_value(self, w: Array) -> Array:
        value = jnp.sum(self.strength * absolute(w))
        return value + outside(w) if self.positive else value

    def leaf_gradient(self, w: Array) -> Array:
        return jnp.multiply(self.strength, jnp.sign(w))

    def leaf_prox(self, w: Array, step: Array) -> Array:
        if self.positive:
            return self._positive().leaf_prox(w, step)
        return super().leaf_prox(w, step)

    def _positive(self) -> "NonNegative":
        return NonNegative().replace(strength=self.strength)

    def leaf_subgradient(self, w: Array, at_kink: Array) -> Array:
        sign = jnp.sign(w)
        return jax.lax.select(sign == 0, at_kink, jnp.multiply(self.strength, sign))

    def leaf_move(self, w: Array, s: Array, u: Array, t: Any) -> tuple[Array, Array]:
        # A weight that stays off zero does not pass through t, so it keeps its digits.
        if jnp.iscomplexobj(w):
            return move_of_groups(
                w, s, u, t, t * self.strength, self.strength, lambda x: x, lambda x: x
            )
        # (In this order, as w' reads s', compilers keep all of it in one pass. The sum
        # w + ts + u is not formed: a large t would take digits off v.)
        v = w + u
        share = s + v * (1 / t)
        new = jnp.clip(share, -self.strength, self.strength)
        end = jnp.where(new == share, 0, v - t * (new - s))
        stays = jnp.sign(w) * jnp.sign(v) > 0
        return jnp.where(stays, v, end) - w, new

    def leaf_dual_norm(self, g: Array) -> Array:
        penalised = self.strength > 0
        ratio = jnp.abs(g) / jnp.where(penalised, self.strength, 1)
        return jnp.max(jnp.where(penalised, ratio, 0), initial=0)

    def leaf_conjugate_prox(self, w: Array, step: Any) -> Array:
        radius = step * self.strength
        if jnp.iscomplexobj(w):
            size = absolute(w)
            share = radius / jnp.where(size == 0, 1, size)
            return w * jnp.where(size >= radius, share, 1)
        return clip(w, jnp.broadcast_to(jnp.asarray(radius, w.dtype), w.shape))


@register_penalty
class NonNegative(Penalty):
    """R(w) = λ Σ w for w ≥ 0, else ∞: `L1` with `positive=True`.

    At zero every number up to λ is a subgradient. It is not `scaled`, since a λ of 0
    leaves the constraint w ≥ 0.

    Attributes:
      strength: λ ≥ 0.
    """

    strength: Any = 0.0

    entrywise: ClassVar[bool] = True

    def leaf_value(self, w: Array) -> Array:
        # `absolute`, so that the derivative at 0 is 0, as for L1.
        return jnp.sum(self.strength * absolute(w)) + outside(w)

    def leaf_gradient(self, w: Array) -> Array:
        return jnp.multiply(self.strength, jnp.sign(w))

    def leaf_prox(self, w: Array, step: Array) -> Array:
        return w - self.leaf_conjugate_prox(w, step)

    def leaf_kink(self, w: Array) -> Array:
        return w == 0

    def leaf_project_domain(self, w: Array) -> Array:
        return jnp.where(w < 0, 0, w)  # NaN stays.

    def leaf_largest_subgradient(self) -> Any:
        return self.strength

    def leaf_subgradient(self, w: Array, at_kink: Array) -> Array:
        strength = jnp.asarray(self.strength, w.dtype)
        return jnp.where(w == 0, jnp.minimum(at_kink, strength), strength)

    def leaf_move(self, w: Array, s: Array, u: Array, t: Any) -> tuple[Array, Array]:
        # As for L1.
        v = w + u
        share = s + v * (1 / t)
        new = jnp.minimum(share, self.strength)
        end = jnp.where(new == share, 0, v - t * (new - s))
        stays = (w > 0) & (v > 0)
        return jnp.where(stays, v, end) - w, new

    def leaf_project_dual(self, s: Array) -> Array:
        return jnp.minimum(s, self.strength)

    def leaf_conjugate_prox(self, w: Array, step: Any) -> Array:
        return jnp.minimum(w, jnp.asarray(step * self.strength, w.dtype))

    def leaf_nearest_subgradient(self, w: Array, g: Array) -> Array:
        return self.leaf_subgradient(w, -g)

    def leaf_residual(self, w: Array, g: Array) -> Array:
        return jnp.where(
            w < 0, jnp.inf, jnp.abs(g + self.leaf_nearest_subgradient(w, g))
        )

    def leaf_dual_norm(self, g: Array) -> Array:
        l1 = L1(0).replace(strength=self.strength)
        return l1.leaf_dual_norm(jnp.minimum(g, 0))


def outside(w: Array) -> Array:
    """∞ where a weight is negative, else 0."""
    return jnp.where(jnp.any(w < 0), jnp.inf, 0).astype(w.dtype)


def check_positive(penalty: Any) -> None:
    """Raises unless `positive` is a bool."""
    if not isinstance(penalty.positive, (bool, np.bool_)):
        raise TypeError(
            f"`positive` of {type(penalty).__name__} must be True or False, "
            f"got {penalty.positive!r}."
        )


def check_real(penalty: Any, leaf: Array, path: tuple[Any, ...]) -> None:
    """Raises, naming the leaf, if it is complex and has to be positive."""
    if penalty.positive and jnp.iscomplexobj(leaf):
        raise TypeError(
            f"the leaf at {path_name(path)} has dtype {leaf.dtype}, but with "
            f"`positive=True` {type(penalty).__name__} is for real leaves."
        )
