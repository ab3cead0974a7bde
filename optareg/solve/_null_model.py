"""The null model: all that a penalty can hold is at its center, the rest is optimal.

`Held` is a penalty that holds its leaf there or not, as a traced number says. So the
null model and the model itself are solved by one program.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optareg._checks import is_traced
from optareg.penalties._base import Penalty
from optareg.penalties._register import data, register_penalty
from optareg.penalties._wrapped import Wrapped
from optareg.solve._leaves import Leaves

__all__ = ["acts", "all_penalised", "at_center", "hold", "partly_free"]

Array = jax.Array


@register_penalty
class Held(Wrapped):
    """R, or while `held` the constraint that w is at R's center where R acts.

    What is smooth in R stays as it is.

    Attributes:
      penalty: R, of one leaf.
      held: a bool scalar, may be traced.
    """

    penalty: Penalty
    held: Any = data()

    def split(self) -> tuple[Penalty | None, Penalty | None]:
        return self.penalty.split()[0], super().split()[1]

    def leaf_value(self, w: Array) -> Array:
        value = self.penalty.leaf_value(w)
        return jnp.where(self.held, jnp.zeros_like(value), value)

    def leaf_prox(self, w: Array, step: Array) -> Array:
        return self._put(self.penalty.leaf_prox(w, step), w)

    def leaf_conjugate_prox(self, w: Array, step: Any) -> Array:
        dual = self.penalty.leaf_conjugate_prox(w, step)
        return jnp.where(self._where(w), w - self.penalty.leaf_center(w), dual)

    def leaf_nearest_subgradient(self, w: Array, g: Array) -> Array:
        nearest = self.penalty.leaf_nearest_subgradient(w, g)
        return jnp.where(self._where(w), -g, nearest)

    def leaf_residual(self, w: Array, g: Array) -> Array:
        return self.penalty.leaf_residual(w, g)

    def leaf_project_domain(self, w: Array) -> Array:
        return self._put(self.penalty.leaf_project_domain(w), w)

    def _where(self, w: Array) -> Array:
        """The entries that are held."""
        return jnp.broadcast_to(self.held & acts(self.penalty), w.shape)

    def _put(self, new: Array, w: Array) -> Array:
        return jnp.where(self._where(w), self.penalty.leaf_center(w), new)


def hold(penalties: Sequence[Penalty], held: Any) -> tuple[Penalty, ...]:
    """The penalties, or while `held` those of the null model; None is never."""
    if held is None:
        return tuple(penalties)
    return tuple(Held(penalty, held) for penalty in penalties)


def at_center(penalties: Sequence[Penalty], w: Sequence[Array]) -> Leaves:
    """The leaves with all that is penalised at the center of its penalty."""
    norms = [penalty.split()[1] for penalty in penalties]
    return tuple(
        x if n is None else jnp.where(acts(n), n.leaf_center(x), x)
        for n, x in zip(norms, w, strict=True)
    )


def partly_free(penalties: Sequence[Penalty]) -> list[int]:
    """The numbers of leaves with entries that may have no strength.

    A traced number is assumed to be one: few problems have none, and this would cost
    all others.
    """

    def may_be_free(penalty: Penalty) -> bool:
        norm = penalty.split()[1]
        if norm is None:
            return True
        number = is_traced(acts(norm)) and np.ndim(acts(norm)) == 0
        return penalty.entrywise and not number and not all_penalised(norm)

    return [i for i, penalty in enumerate(penalties) if may_be_free(penalty)]


def all_penalised(norm: Penalty | None) -> bool:
    """Whether a norm is known to penalise every entry of its leaf."""
    if norm is None or is_traced(acts(norm)):
        return False
    return bool(np.all(np.asarray(acts(norm))))


def acts(norm: Penalty) -> Any:
    """Where a nonsmooth penalty acts: not where it has a strength, and that is 0."""
    strength = norm.split_strength()[0]
    return strength > 0
