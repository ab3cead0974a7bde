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

from optareg._tree import is_masked, widest

if TYPE_CHECKING:
    from optareg.penalties._base import Penalty

__all__ = ["ParamGroup", "in_param_groups"]

Array = jax.Array


class ParamGroup(NamedTuple):
    """A penalty with strengths for one array, and the leaves which that array is.

    Attributes:
      penalty: its `leaf_…` methods take the array.
      at: the numbers of the leaves, in the order of `Tree.leaves`.
      axes: for joined leaves, the axes along which the units of each are counted: the
        array has the shape (units, n), a row for each. None for a leaf as it is.
    """

    penalty: "Penalty"
    at: tuple[int, ...]
    axes: tuple[tuple[int, ...], ...] | None = None

    def join(self, leaves: Sequence[Any]) -> Any:
        """The array made of `leaves`; masked if they all are."""
        mine = [leaves[i] for i in self.at]
        if self.axes is None or all(map(is_masked, mine)):
            return mine[0]
        if any(map(is_masked, mine)):
            raise ValueError(
                "of the leaves joined to one array, some have an update and some have "
                "none. Mask all of them, or none."
            )
        axes = self.axes
        dtype = widest(*(jnp.asarray(x).dtype for x in mine))

        def concatenate(*leaves: Array) -> Array:
            return jnp.concatenate(list(map(to_rows, leaves, axes)), axis=1)

        arrays = [jnp.asarray(x, dtype) for x in mine]
        return placed(concatenate, sharding_of_units(arrays, axes))(*arrays)

    def put(self, array: Any, into: list[Any], like: Sequence[Any]) -> None:
        """Puts `array` in the places of its leaves, which are shaped as in `like`."""
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
    """The leaf whose rows begin at the column `start`: the inverse of `to_rows`."""
    counted = [axis % len(shape) for axis in axes]
    units = [shape[axis] for axis in counted]
    rest = [size for axis, size in enumerate(shape) if axis not in counted]
    leaf = rows[:, start : start + math.prod(rest)].reshape(*units, *rest)
    return jnp.moveaxis(leaf, range(len(axes)), axes)


# Explicit sharding: a type says how an array is sharded, and what would change that
# without a word, such as joining arrays sharded in other ways, raises.


def explicit_sharding(x: Any) -> NamedSharding | None:
    """How the type of `x` says that it is sharded; None if it does not say."""
    sharding = getattr(jax.typeof(x), "sharding", None)
    spec = getattr(sharding, "spec", ())
    return sharding if any(part is not None for part in spec) else None


def sharding_of_units(
    leaves: Sequence[Array], axes: Sequence[tuple[int, ...]]
) -> NamedSharding | None:
    """The sharding of an array of units: that of the first leaf which has one."""
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


def placed(f: Callable[..., Array], sharding: NamedSharding | None) -> Any:
    """`f` with its result sharded so, and whatever XLA takes within."""
    # An old JAX has no explicit sharding.
    if sharding is None or not hasattr(jax.sharding, "auto_axes"):
        return f
    return jax.sharding.auto_axes(f, out_sharding=sharding)


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
