"""Parameter groups: a penalty, and the leaves of a tree which it sees as one array.

`ParamGroup` joins leaves to that array and puts it back; `in_param_groups` maps a
function over groups, and `cover` adds the leaves which are in none.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp

from optareg._tree import Tree, is_masked, widest

if TYPE_CHECKING:
    from optareg.penalties._base import Penalty

__all__ = ["ParamGroup", "cover", "in_param_groups"]


class ParamGroup(NamedTuple):
    """A penalty with strengths for one array, and the leaves which that array is.

    Attributes:
      penalty: its `leaf_…` methods take the array.
      at: the numbers of the leaves, in the order of `Tree.leaves`.
      axis: for joined leaves, the axis along which their units are counted: the array
        has the shape (units, n), a row for each. None for a leaf as it is.
    """

    penalty: "Penalty"
    at: tuple[int, ...]
    axis: int | None = None

    def join(self, leaves: Sequence[Any]) -> Any:
        """The array made of `leaves`; masked if they all are."""
        mine = [leaves[i] for i in self.at]
        if self.axis is None or all(map(is_masked, mine)):
            return mine[0]
        if any(map(is_masked, mine)):
            raise ValueError(
                "of the leaves of one joined group, some have an update and some have "
                "none. Mask all of them, or none."
            )
        dtype = widest(*(jnp.asarray(x).dtype for x in mine))
        rows = [jnp.moveaxis(jnp.asarray(x, dtype), self.axis, 0) for x in mine]
        return jnp.concatenate([x.reshape(len(x), -1) for x in rows], axis=1)

    def put(self, array: Any, into: list[Any], like: Sequence[Any]) -> None:
        """Puts `array` in the places of its leaves, which are shaped as in `like`."""
        if self.axis is None or is_masked(array):
            for i in self.at:
                into[i] = array
            return
        start = 0
        for i in self.at:
            shape = jnp.moveaxis(like[i], self.axis, 0).shape
            size = like[i].size // max(shape[0], 1)
            piece = array[:, start : start + size].reshape(shape)
            into[i] = jnp.moveaxis(piece, 0, self.axis)
            start += size


def in_param_groups(
    param_groups: Sequence[ParamGroup],
    f: Callable[..., Any],
    rest: Sequence[Any],
    *columns: Sequence[Any],
) -> list[Any]:
    """f(penalty, …) of the leaves in `columns` for each group; `rest` elsewhere."""
    result = list(rest)
    for param_group in param_groups:
        value = f(param_group.penalty, *map(param_group.join, columns))
        param_group.put(value, result, columns[0])
    return result


def cover(param_groups: Sequence[ParamGroup], tree: Tree) -> list[ParamGroup]:
    """The parameter groups, and one of `Nothing` for each leaf that is in none."""
    from optareg.penalties._base import Nothing

    taken = {i for param_group in param_groups for i in param_group.at}
    rest = [i for i, x in enumerate(tree.leaves) if i not in taken and not is_masked(x)]
    everything = [*param_groups, *(ParamGroup(Nothing(), (i,)) for i in rest)]
    return sorted(everything, key=lambda param_group: param_group.at)
