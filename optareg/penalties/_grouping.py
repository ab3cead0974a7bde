"""How the entries of a leaf make groups: along `Axes`, or by `Labels`."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optareg._checks import is_traced

__all__ = ["Axes", "Labels"]

Array = jax.Array

# Blocks of groups are filled up to the largest, to at most so many times their rows.
MOST_FILLED = 3


@dataclasses.dataclass(frozen=True)
class Axes:
    """Groups along the axes that a norm reduces over; None is all axes."""

    axis: Any

    def sum(self, x: Array) -> Array:
        """The sum over each group."""
        return jnp.sum(x, self.axis, keepdims=True)

    def max(self, x: Array) -> Array:
        """The largest entry of each group of x ≥ 0; −1 for an empty group.

        Not 0 for an empty one: that would halve the derivative where all of x is 0.
        """
        return jnp.max(x, self.axis, keepdims=True, initial=-1)

    def spread(self, x: Array, like: Array) -> Array:
        """A number for each group, given to its entries: broadcasting does it."""
        del like
        return x

    def differs(self, x: np.ndarray) -> bool:
        """Whether the entries of some group are not all the same."""
        if not x.size:
            return False
        least, most = (f(x, self.axis, keepdims=True) for f in (np.min, np.max))
        return bool(np.any(least != most))

    def sizes(self, shape: tuple[int, ...]) -> np.ndarray:
        """The number of entries of the groups of an array of this shape."""
        return np.asarray(np.sum(np.ones(shape), self.axis, keepdims=True))

    def blocks(self, axis: int, shape: tuple[int, ...]) -> np.ndarray | None:
        """Rows with whole groups, shape (blocks, rows each); None if there are none."""
        inner = np.atleast_1d(range(len(shape)) if self.axis is None else self.axis)
        if axis in inner % len(shape):
            return None
        return np.arange(shape[axis])[:, None]


@dataclasses.dataclass(frozen=True, eq=False)
class Labels:
    """Groups by an integer label for each entry; hashable by its content.

    Attributes:
      labels: all integers from 0 to the largest label.
    """

    labels: np.ndarray

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Labels) and np.array_equal(self.labels, other.labels)

    def __hash__(self) -> int:
        return hash((self.labels.shape, self.labels.tobytes()))

    @property
    def count(self) -> int:
        """One more than the largest label."""
        return int(self.labels.max(initial=-1)) + 1

    @functools.cached_property
    def each(self) -> int:
        """The size of groups of one size that follow one another, else 0."""
        flat = self.labels.ravel()
        size = flat.size // max(self.count, 1)
        rising = np.array_equal(flat, np.arange(flat.size) // max(size, 1))
        return size if rising and size * self.count == flat.size else 0

    def sum(self, x: Array) -> Array:
        """The sum over each group."""
        if self.each:  # Without scattering, which is slow, to compile too.
            rows, inner = self._apart(x.shape)
            return jnp.sum(x.reshape(rows), inner)
        # Not of a flat array, for which shards of a matrix would be put together.
        zeros = jnp.zeros(self.count, x.dtype)
        return zeros.at[self._like(x)].add(x)

    def max(self, x: Array) -> Array:
        """The largest entry of each group."""
        if self.each:
            rows, inner = self._apart(x.shape)
            return jnp.max(x.reshape(rows), inner)
        least = jnp.full(self.count, -jnp.inf, x.dtype)
        return least.at[self._like(x)].max(x)

    def spread(self, x: Array, like: Array) -> Array:
        """A number for each group, given to each of its entries."""
        if self.each:
            rows, inner = self._apart(like.shape)
            each = jnp.expand_dims(x, inner)
            return jnp.broadcast_to(each, rows).reshape(like.shape)
        return x[self._like(like)]

    def _like(self, x: Array) -> np.ndarray:
        return self.labels.reshape(x.shape)

    def _apart(self, shape: tuple[int, ...]) -> tuple[list[int], tuple[int, ...]]:
        """A shape in which groups of one size fill some axes, and these axes.

        Only one axis is split, where that can be: so it may stay sharded.
        """
        inner = 1
        for axis in range(len(shape) - 1, -1, -1):
            many, rest = divmod(self.each, inner)
            if not rest and shape[axis] % many == 0:
                rows = [*shape[:axis], shape[axis] // many, many, *shape[axis + 1 :]]
                return rows, tuple(range(axis + 1, len(rows)))
            inner *= shape[axis]
        return [self.count, self.each], (1,)

    def differs(self, x: np.ndarray) -> bool:
        """Whether the entries of some group are not all the same."""
        first = np.zeros(self.count)
        first[self.labels.ravel()] = x.ravel()
        return bool(np.any(first[self.labels] != x))

    def sizes(self, shape: tuple[int, ...]) -> np.ndarray:
        """The number of entries of the groups."""
        if self.each:  # As `sum` has them.
            rows, inner = self._apart(shape)
            return np.full(rows[: inner[0]], self.each)
        return np.bincount(self.labels.ravel(), minlength=self.count)

    def blocks(self, axis: int, shape: tuple[int, ...]) -> np.ndarray | None:
        """The same for groups in a vector; None where few of them are much larger."""
        del axis
        if len(shape) != 1 or not self.count:
            return None
        sizes = self.sizes(shape)
        if self.count * np.max(sizes) > MOST_FILLED * shape[0]:
            return None
        order = np.argsort(self.labels, kind="stable")
        place = np.arange(shape[0]) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        blocks = np.full((self.count, np.max(sizes)), shape[0])
        blocks[self.labels[order], place] = order
        return blocks

    @classmethod
    def of(cls, labels: Any, where: str) -> "Labels":
        """Checks `labels`, concrete integers from 0, and numbers them without gaps."""
        if is_traced(labels):
            raise TypeError(
                f"the labels{where} are traced, but groups decide the shape of the "
                "program. Make the penalty outside of `jit`, or close over the labels."
            )
        array = np.array(labels)
        if not np.issubdtype(array.dtype, np.integer):
            raise TypeError(
                f"the labels{where} must be integers, got dtype {array.dtype}."
            )
        if array.size and array.min() < 0:
            raise ValueError(
                f"the labels{where} must not be negative, got {array.min()}. "
                "Give an entry that is to be a group alone a label of its own."
            )
        # A label that no entry has is not a group, so it must not count as zero.
        _, numbers = np.unique(array, return_inverse=True)
        numbers = numbers.reshape(array.shape)
        numbers.setflags(write=False)
        return cls(numbers)
