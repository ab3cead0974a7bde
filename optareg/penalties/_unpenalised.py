"""Unpenalised leaves: the penalty R = 0, and `cover`, which gives it to them."""

from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp

from optareg._tree import Tree, is_masked
from optareg.penalties._base import ParamGroup, Penalty, register_penalty

__all__ = ["cover"]

Array = jax.Array


@register_penalty
class Unpenalised(Penalty):
    """No penalty: R = 0."""

    entrywise: ClassVar[bool] = True

    def leaf_value(self, w: Array) -> Array:
        return jnp.zeros((), w.real.dtype)

    def leaf_gradient(self, w: Array) -> Array:
        return jnp.zeros_like(w)

    def leaf_prox(self, w: Array, step: Array) -> Array:
        return w

    def split(self) -> tuple[Penalty | None, Penalty | None]:
        return None, None


def cover(param_groups: Sequence[ParamGroup], tree: Tree) -> list[ParamGroup]:
    """The parameter groups, and one that is unpenalised for each leaf in none."""
    taken = {i for param_group in param_groups for i in param_group.at}
    rest = [i for i, x in enumerate(tree.leaves) if i not in taken and not is_masked(x)]
    everything = [*param_groups, *(ParamGroup(Unpenalised(), (i,)) for i in rest)]
    return sorted(everything, key=lambda param_group: param_group.at)
