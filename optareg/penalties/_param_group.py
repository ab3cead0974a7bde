"""Parameter groups: a penalty, and the leaves of a tree which it sees as one array.

`ParamGroup` joins leaves to that array and puts it back. `in_param_groups` maps a
function over groups.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from optareg._sharding import explicit_sharding, placed
from optareg._tree import is_masked, widest

if TYPE_CHECKING:
    from optareg.penalties._base import Penalty

__all__ = ["ParamGroup", "in_param_groups"]

Array = jax.Array


class ParamGroup(NamedTuple):
    """A penalty with strengths for one array, and the leaves that make this array.

    Attributes:
      penalty: its `leaf_…` methods take the array.
      at: the indices of the leaves in `Tree.leaves`.
      axes: for each of joined leaves, the axes along which its units are counted. The
        array has the shape (units, n). None if the array is one leaf, as it is.
    """

    penalty: "Penalty"
    at: tuple[int, ...]
    axes: tuple[tuple[int, ...], ...] | None = None

    def join(self, leaves: Sequence[Any]) -> Any:
        """The array made of its `leaves`; masked if they all are."""
        mine = [leaves[i] for i in self.at]
        if self.axes is None or all(map(is_masked, mine)):
            return mine[0]
        if any(map(is_masked, mine)):
            raise ValueError(
                "the leaves are joined to one array, but some have an update and some "
                "have none. Mask all of them, or none of them."
            )
        axes = self.axes
        dtype = widest(*(jnp.asarray(x).dtype for x in mine))

        def concatenate(*leaves: Array) -> Array:
            return jnp.concatenate(list(map(to_rows, leaves, axes)), axis=1)

        arrays = [jnp.asarray(x, dtype) for x in mine]
        return placed(concatenate, sharding_of_units(arrays, axes))(*arrays)

    def put(self, array: Any, into: list[Any], like: Sequence[Any]) -> None:
        """Puts the parts of `array` into a list of leaves; `like` has their shapes."""
        if self.axes is None or is_masked(array):
            for i in self.at:
                into[i] = array
            return
        start = 0
        for i, axes in zip(self.at, self.axes, strict=True):
            leaf = like[i]
            piece = functools.partial(
                from_rows, start=start, axes=axes, shape=leaf.shape
            )
            into[i] = placed(piece, explicit_sharding(leaf))(array)
            start += math.prod(leaf.shape) // max(len(array), 1)


def to_rows(leaf: Array, axes: tuple[int, ...]) -> Array:
    """The array (units, n) of a leaf whose units are counted along `axes`."""
    moved = jnp.moveaxis(leaf, axes, range(len(axes)))
    units, rest = moved.shape[: len(axes)], moved.shape[len(axes) :]
    return moved.reshape(math.prod(units), math.prod(rest))


def from_rows(
    rows: Array, *, start: int, axes: tuple[int, ...], shape: tuple[int, ...]
) -> Array:
    """The leaf from the columns of `rows` at `start` on: the inverse of `to_rows`."""
    counted = [axis % len(shape) for axis in axes]
    units = [shape[axis] for axis in counted]
    rest = [size for axis, size in enumerate(shape) if axis not in counted]
    leaf = rows[:, start : start + math.prod(rest)].reshape(*units, *rest)
    return jnp.moveaxis(leaf, range(len(axes)), axes)


def sharding_of_units(
    leaves: Sequence[Array], axes: Sequence[tuple[int, ...]]
) -> NamedSharding | None:
    """The sharding of the joined array: that of the first leaf with sharded units."""
    found = None
    for leaf, counted in zip(leaves, axes, strict=True):
        sharding = explicit_sharding(leaf)
        if sharding is None:
            continue
        parts = [sharding.spec[axis] for axis in counted]
        names = [
            name
            for part in parts
            if part is not None
            for name in (part if isinstance(part, tuple) else (part,))
        ]
        if names or found is None:
            spec = PartitionSpec(tuple(names) or None, None)  # type: ignore[no-untyped-call]
            found = NamedSharding(sharding.mesh, spec)
        if names:
            break
    return found


def in_param_groups(
    param_groups: Sequence[ParamGroup],
    f: Callable[..., Any],
    rest: Sequence[Any],
    *columns: Sequence[Any],
) -> list[Any]:
    """A leaf each: f(penalty, …) of the `columns` in a group, and `rest` elsewhere."""
    result = list(rest)
    for param_group in param_groups:
        value = f(param_group.penalty, *map(param_group.join, columns))
        param_group.put(value, result, columns[0])
    return result
