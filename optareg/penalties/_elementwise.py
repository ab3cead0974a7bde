"""Convex penalties on single entries: L1 λ Σ|w|, L2 λ Σ w², ElasticNet, the sum."""

from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from optareg._checks import check_number
from optareg._tree import path_name
from optareg.penalties._base import (
    Norm,
    Penalty,
    check_strengths,
    register_penalty,
    static,
)

__all__ = ["L1", "L2", "ElasticNet"]

Array = jax.Array


@register_penalty
class L1(Norm):
    r"""The lasso penalty: R(w) = λ Σ|w|. Gives exact zeros.

    Args:
      strength: λ, in units of the loss per unit of weight; no learning rate in it. A
        scalar, or a prefix tree of the parameters of scalars or arrays, each broadcast
        against its leaf (the adaptive lasso). It may be traced.
      positive: whether weights must not be negative either: R(w) = ∞ where one is. Its
        prox is max(w − tλ, 0). The gradient cannot know of it: there it does nothing.

    Raises:
      TypeError: a strength is not a real number; `positive` is no bool; on use, it is
        True and a leaf is complex.
      ValueError: a concrete strength is negative, NaN or infinite.

    Gradient λ sign(w), with sign(0) = 0; prox w − clip(w, −tλ, tλ), the soft threshold.

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

    def split(self) -> tuple[Penalty | None, Norm | None]:
        return None, NonNegative.of(self.strength) if self.positive else self

    @classmethod
    def from_sklearn(cls, alpha: Any, positive: bool = False) -> Self:
        """The penalty of `sklearn.linear_model.Lasso(alpha, positive=…)`, λ = α.

        Its loss is ‖y − Xw‖² / (2n): take `0.5 * jnp.mean((y - X @ w) ** 2)`.

        Args:
          alpha: scikit-learn's `alpha`, a scalar or an array, not negative.
          positive: as scikit-learn's.

        >>> from optareg import L1
        >>> L1.from_sklearn(alpha=0.1)
        L1(strength=0.1, positive=False)
        """
        return cls(alpha, positive)

    def leaf_value(self, w: Array) -> Array:
        if self.positive:
            return NonNegative.of(self.strength).leaf_value(w)
        return jnp.sum(self.strength * absolute(w))

    def leaf_gradient(self, w: Array) -> Array:
        return jnp.multiply(self.strength, jnp.sign(w))

    def leaf_prox(self, w: Array, step: Array) -> Array:
        if self.positive:
            return NonNegative.of(self.strength).leaf_prox(w, step)
        return super().leaf_prox(w, step)

    def leaf_subgradient(self, w: Array, at_zero: Array) -> Array:
        sign = jnp.sign(w)
        return jax.lax.select(sign == 0, at_zero, sign)

    def leaf_dual_norm(self, g: Array) -> Array:
        penalised = self.strength > 0
        ratio = jnp.abs(g) / jnp.where(penalised, self.strength, 1)
        return jnp.max(jnp.where(penalised, ratio, 0), initial=0)

    def leaf_dual(self, w: Array, radius: Any) -> Array:
        if jnp.iscomplexobj(w):
            size = absolute(w)
            share = radius / jnp.where(size == 0, 1, size)
            return w * jnp.where(size >= radius, share, 1)
        return clip(w, jnp.broadcast_to(jnp.asarray(radius, w.dtype), w.shape))


@register_penalty
class NonNegative(Norm):
    """R(w) = λ c Σ w for w ≥ 0, else ∞: what L1 is, where weights must not be negative.

    Attributes:
      strength: λ > 0, a unit for subgradients, of which any number below c is one at 0.
      share: c.
    """

    strength: Any
    share: Any

    entrywise: ClassVar[bool] = True

    @classmethod
    def of(cls, strength: Any) -> "NonNegative":
        """With λc = `strength`, which may be zero: the constraint is left then."""
        known = isinstance(strength, (np.ndarray, np.generic))
        where = np.where if known else jnp.where
        one = np.ones((), strength.dtype)
        some = strength > 0
        # At 0 the share is `strength`, so that the product has its derivative.
        return cls(where(some, strength, one), where(some, one, strength))

    def leaf_value(self, w: Array) -> Array:
        # `absolute`, so that the gradient at 0 is 0 here too.
        total = jnp.sum(self.strength * self.share * absolute(w))
        return total + jnp.where(jnp.any(w < 0), jnp.inf, 0)

    def leaf_subgradient(self, w: Array, at_zero: Array) -> Array:
        share = jnp.broadcast_to(jnp.asarray(self.share, w.dtype), w.shape)
        return jax.lax.select(w == 0, at_zero, share)

    def leaf_dual(self, w: Array, radius: Any) -> Array:
        return jnp.minimum(w, jnp.asarray(radius * self.share, w.dtype))

    def leaf_dual_norm(self, g: Array) -> Array:
        return (
            L1(0)
            .replace(strength=self.strength * self.share)
            .leaf_dual_norm(jnp.minimum(g, 0))
        )

    def leaf_residual(self, w: Array, g: Array) -> Array:
        return jnp.where(w < 0, jnp.inf, super().leaf_residual(w, g))


@register_penalty
class L2(Penalty):
    r"""The ridge penalty: R(w) = λ Σ w², without a ½. Shrinks, never gives a zero.

    Args:
      strength: λ, in units of the loss per squared unit of weight; no learning rate in
        it. A scalar, or a prefix tree of scalars or arrays. It may be traced.

    Raises:
      TypeError: a strength is not a real number.
      ValueError: a concrete strength is negative, NaN or infinite.

    Gradient 2λw; prox w / (1 + 2tλ).

    >>> import jax.numpy as jnp
    >>> from optareg import L2
    >>> w = jnp.array([-2.0, 0.0, 1.0])
    >>> print(L2(0.5).value(w), L2(0.5).gradient(w), L2(0.5).prox(w, 1.0))
    2.5 [-2.  0.  1.] [-1.   0.   0.5]

    Source: Hoerl & Kennard, Ridge regression (1970).
    """

    strength: Any

    entrywise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_strengths(self)

    @classmethod
    def from_weight_decay(cls, weight_decay: Any) -> Self:
        """The penalty whose gradient is `weight_decay * w`, λ = weight_decay / 2.

        `optax.add_decayed_weights(weight_decay)` and PyTorch's `SGD(weight_decay=…)`
        add that gradient. `optax.adamw` does not: it decays after Adam's scaling.

        Args:
          weight_decay: a scalar or an array, not negative.

        >>> from optareg import L2
        >>> L2.from_weight_decay(0.01)
        L2(strength=0.005)
        """
        check_number(weight_decay, "`weight_decay`")
        return cls(weight_decay / 2)

    def leaf_value(self, w: Array) -> Array:
        return jnp.sum(self.strength * jnp.real(w * jnp.conj(w)))

    def leaf_gradient(self, w: Array) -> Array:
        return jnp.multiply(2 * self.strength, w)

    def leaf_prox(self, w: Array, step: Array) -> Array:
        return jnp.divide(w, 1 + 2 * step * self.strength)

    def split(self) -> tuple[Penalty | None, Norm | None]:
        return self, None


@register_penalty
class ElasticNet(Penalty):
    r"""The elastic net: R(w) = a Σ|w| + b Σ w², without a ½. Zeros, and shared weight.

    Args:
      l1: a, as the strength of `L1`.
      l2: b, as the strength of `L2`.
      positive: as for `L1`.

    Raises:
      TypeError: as for `L1`.
      ValueError: a concrete strength is negative, NaN or infinite.

    Gradient a sign(w) + 2bw; prox (w − clip(w, −ta, ta)) / (1 + 2tb).

    >>> import jax.numpy as jnp
    >>> from optareg import ElasticNet
    >>> w = jnp.array([-2.0, 0.5, 3.0])
    >>> penalty = ElasticNet(l1=1.0, l2=0.5)
    >>> print(penalty.value(w), penalty.gradient(w), penalty.prox(w, 1.0))
    12.125 [-3.   1.5  4. ] [-0.5  0.   1. ]

    Source: Zou & Hastie, Regularization and variable selection via the elastic net
    (2005), there called the naive elastic net.
    """

    l1: Any
    l2: Any
    positive: bool = static(default=False)

    entrywise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_strengths(self)
        check_positive(self)

    def at_leaf(self, leaf: Array, path: tuple[Any, ...]) -> "ElasticNet":
        check_real(self, leaf, path)
        return self

    @classmethod
    def from_sklearn(cls, alpha: Any, l1_ratio: Any, positive: bool = False) -> Self:
        """The penalty of `sklearn.linear_model.ElasticNet(alpha, l1_ratio=ρ)`.

        That is αρ Σ|w| + ½ α(1−ρ) Σ w², so a = αρ and b = α(1−ρ)/2, beside the loss
        ‖y − Xw‖² / (2n).

        Args:
          alpha: scikit-learn's `alpha`, not negative.
          l1_ratio: scikit-learn's `l1_ratio`, from 0 to 1.
          positive: as scikit-learn's.

        >>> from optareg import ElasticNet
        >>> ElasticNet.from_sklearn(alpha=1.0, l1_ratio=0.5)
        ElasticNet(l1=0.5, l2=0.25, positive=False)
        """
        check_number(alpha, "`alpha`")
        check_number(l1_ratio, "`l1_ratio`", most=1)
        return cls(alpha * l1_ratio, alpha * (1 - l1_ratio) / 2, positive)

    @classmethod
    def from_glmnet(cls, lambda_: Any, alpha: Any) -> Self:
        """The penalty of R's `glmnet(lambda = lambda_, alpha = alpha)`.

        glmnet's `alpha` is scikit-learn's `l1_ratio` and its `lambda` is `alpha`. Note
        that glmnet also standardises X, and for the Gaussian family y.

        Args:
          lambda_: glmnet's `lambda`, not negative.
          alpha: glmnet's `alpha`, from 0 (ridge) to 1 (lasso).

        >>> from optareg import ElasticNet
        >>> ElasticNet.from_glmnet(lambda_=1.0, alpha=0.5)
        ElasticNet(l1=0.5, l2=0.25, positive=False)
        """
        check_number(lambda_, "`lambda_`")
        check_number(alpha, "`alpha`", most=1)
        return cls.from_sklearn(lambda_, alpha)

    @classmethod
    def from_jaxopt(cls, lam: Any, gamma: Any) -> Self:
        """The penalty of `jaxopt.prox.prox_elastic_net(x, (lam, gamma))`.

        That is λ Σ|w| + ½ λγ Σ w², so a = λ and b = λγ/2.

        Args:
          lam: JAXopt's `lam`, not negative.
          gamma: JAXopt's `gamma`, not negative.

        >>> from optareg import ElasticNet
        >>> ElasticNet.from_jaxopt(lam=1.0, gamma=0.5)
        ElasticNet(l1=1.0, l2=0.25, positive=False)
        """
        check_number(lam, "`lam`")
        check_number(gamma, "`gamma`")
        return cls(lam, lam * gamma / 2)

    def leaf_value(self, w: Array) -> Array:
        smooth, nonsmooth = self._parts()
        return nonsmooth.leaf_value(w) + smooth.leaf_value(w)

    def leaf_gradient(self, w: Array) -> Array:
        smooth, nonsmooth = self._parts()
        return nonsmooth.leaf_gradient(w) + smooth.leaf_gradient(w)

    def leaf_prox(self, w: Array, step: Array) -> Array:
        smooth, nonsmooth = self._parts()
        return smooth.leaf_prox(nonsmooth.leaf_prox(w, step), step)

    def split(self) -> tuple[Penalty | None, Norm | None]:
        smooth, nonsmooth = self._parts()
        return smooth, nonsmooth.split()[1]

    def _parts(self) -> tuple[L2, L1]:
        # `replace`, not the constructor: the strengths are checked already.
        l1 = L1(0, self.positive).replace(strength=self.l1)
        return L2(0).replace(strength=self.l2), l1


@jax.custom_jvp
def clip(w: Array, radius: Array) -> Array:
    """`w` within ±radius; its ends move with a radius of 0 too, unlike JAX's."""
    return jax.lax.clamp(-radius, w, radius)


@clip.defjvp
def clip_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    """The derivative of `clip`."""
    (w, radius), (dw, dr) = primals, tangents
    end = jnp.sign(w) * dr
    return clip(w, radius), jax.lax.select(jnp.abs(w) >= radius, end, dw)


def along(w: Array, r: Array, size: Array) -> Array:
    """An array with the signs, or phases, of w, and other sizes than r = |w|."""
    if jnp.iscomplexobj(w):
        zero = r == 0
        return jnp.where(zero, 0, w * (size / jnp.where(zero, 1, r)))
    return jnp.where(size == 0, 0, jnp.sign(w) * size)  # Without zeros of sign −1.


def absolute(w: Array) -> Array:
    """|w|, with the subgradient 0 at 0, where `jax.grad(jnp.abs)` has 1."""
    if jnp.iscomplexobj(w):
        # The square root has an infinite slope at 0: keep it away from there.
        zero = w == 0
        return jnp.where(zero, 0, jnp.abs(jnp.where(zero, 1, w)))
    return w * jax.lax.stop_gradient(jnp.sign(w))


def check_positive(penalty: L1 | ElasticNet) -> None:
    """Raises unless `positive` is a bool."""
    if not isinstance(penalty.positive, (bool, np.bool_)):
        raise TypeError(
            f"`positive` of {type(penalty).__name__} must be True or False, "
            f"got {penalty.positive!r}."
        )


def check_real(penalty: L1 | ElasticNet, leaf: Array, path: tuple[Any, ...]) -> None:
    """Raises, naming the leaf, if complex numbers would have to be positive."""
    if penalty.positive and jnp.iscomplexobj(leaf):
        raise TypeError(
            f"the leaf at {path_name(path)} has dtype {leaf.dtype}, but with "
            f"`positive=True` {type(penalty).__name__} is for real leaves."
        )
