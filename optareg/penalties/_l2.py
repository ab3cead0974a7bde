"""The ridge penalty λ Σ w²: `L2`."""

from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp

from optareg._checks import check_number
from optareg.penalties._base import Penalty, check_strengths, register_penalty

__all__ = ["L2"]

Array = jax.Array


@register_penalty
class L2(Penalty):
    r"""The ridge penalty: R(w) = λ Σ w², without a ½. It shrinks, and makes no zeros.

    Args:
      strength: λ, in units of the loss per squared unit of weight; no learning rate in
        it. A scalar, or a prefix tree of scalars or arrays. It may be traced.

    Raises:
      TypeError: a strength is not a real number.
      ValueError: a concrete strength is negative, NaN or infinite.

    The gradient is 2λw. The prox is w / (1 + 2tλ).

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

        Returns:
          An `L2`.

        Raises:
          TypeError, ValueError: as for `L2`.

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

    def split(self) -> tuple[Penalty | None, Penalty | None]:
        return self, None
