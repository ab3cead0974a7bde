"""The elastic net a Σ|w| + b Σ w²: `ElasticNet`, the sum of `L1` and `L2`."""

from typing import Any, ClassVar, Self

import jax

from optareg._checks import check_number
from optareg.penalties._base import (
    Penalty,
    check_strengths,
    register_penalty,
    static,
)
from optareg.penalties._l1 import L1, check_positive, check_real
from optareg.penalties._l2 import L2

__all__ = ["ElasticNet"]

Array = jax.Array


@register_penalty
class ElasticNet(Penalty):
    r"""The elastic net: R(w) = a Σ|w| + b Σ w², without a ½.

    It makes exact zeros as `L1`. Correlated inputs share their weight, as with `L2`.

    Args:
      l1: a, as the strength of `L1`.
      l2: b, as the strength of `L2`.
      positive: as for `L1`.

    Raises:
      TypeError: as for `L1`.
      ValueError: a concrete strength is negative, NaN or infinite.

    The gradient is a sign(w) + 2bw. The prox is (w − clip(w, −ta, ta)) / (1 + 2tb).

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

        It is αρ Σ|w| + ½ α(1−ρ) Σ w², so a = αρ and b = α(1−ρ)/2. Its loss is
        ‖y − Xw‖² / (2n).

        Args:
          alpha: scikit-learn's `alpha`, not negative.
          l1_ratio: scikit-learn's `l1_ratio`, from 0 to 1.
          positive: as scikit-learn's.

        Returns:
          An `ElasticNet`.

        Raises:
          TypeError: an argument is not a real number.
          ValueError: an argument is out of its range.

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

        glmnet's `alpha` is scikit-learn's `l1_ratio`. Its `lambda` is scikit-learn's
        `alpha`. glmnet also standardises X, and for the Gaussian family y.

        Args:
          lambda_: glmnet's `lambda`, not negative.
          alpha: glmnet's `alpha`, from 0 (ridge) to 1 (lasso).

        Returns:
          An `ElasticNet`.

        Raises:
          TypeError, ValueError: as for `from_sklearn`.

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

        It is λ Σ|w| + ½ λγ Σ w², so a = λ and b = λγ/2.

        Args:
          lam: JAXopt's `lam`, not negative.
          gamma: JAXopt's `gamma`, not negative.

        Returns:
          An `ElasticNet`.

        Raises:
          TypeError, ValueError: as for `from_sklearn`.

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

    def split(self) -> tuple[Penalty | None, Penalty | None]:
        smooth, nonsmooth = self._parts()
        return smooth, nonsmooth.split()[1]

    def _parts(self) -> tuple[L2, L1]:
        # `replace`, not the constructor: the strengths are checked already.
        l1 = L1(0, self.positive).replace(strength=self.l1)
        return L2(0).replace(strength=self.l2), l1
