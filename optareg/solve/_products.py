"""Products of a leaf with a known matrix: `Head`; with some rows of the leaf: `Cut`."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp

from optareg.penalties._numbers import rows_of

__all__ = ["Chosen", "Cut", "Head", "Rows"]

Array = jax.Array

# Matrices with more entries are squared in blocks of so many.
MOST_ENTRIES = 2**20


class Head(NamedTuple):
    """A product of one leaf with a matrix that depends on no parameter.

    Attributes:
      leaf: the number of the leaf.
      matrix: the other factor.
      leaf_axis: the axis of the leaf that is summed over.
      matrix_axis: that of the matrix.
      leaf_first: whether the leaf is the first factor.
      params: of `jax.lax.dot_general`.
    """

    leaf: int
    matrix: Array
    leaf_axis: int
    matrix_axis: int
    leaf_first: bool
    params: dict[str, Any]

    def __call__(self, w: Array) -> Array:
        """The product with `w`."""
        pair = (w, self.matrix) if self.leaf_first else (self.matrix, w)
        return jax.lax.dot_general(*pair, **self.params)

    def transpose(self, z: Array, like: Array) -> Array:
        """The transposed product: from the shape of the result to that of the leaf."""
        shape = list(like.shape)
        shape[self.leaf_axis] = self.matrix.shape[self.matrix_axis]
        _, back = jax.vjp(self.__call__, jnp.zeros(shape, like.dtype))
        return jnp.asarray(*back(z))

    def row(self, i: Array, like: Array) -> Array:
        """The product with the unit vector i, of the shape and dtype of `like`."""
        row = jnp.take(self.matrix, i, axis=self.matrix_axis)
        return row.reshape(like.shape).astype(like.dtype)

    def transpose_of_squares(self, z: Array, like: Array) -> Array:
        """`transpose`, of the matrix with the squared size of each entry.

        A large one is squared block by block, so that it is never there as a whole.
        """
        rows = self.matrix.shape[self.matrix_axis]
        n = max(1, MOST_ENTRIES * rows // max(self.matrix.size, 1))
        if n >= rows:
            return self._squared().transpose(z, like)

        def add(out: Array, i: Array) -> tuple[Array, None]:
            start = jnp.minimum(i * n, rows - n)  # The last one may overlap.
            some = jax.lax.dynamic_slice_in_dim(self.matrix, start, n, self.matrix_axis)
            block = self._replace(matrix=some)._squared().transpose(z, like)
            axis = self.leaf_axis
            return jax.lax.dynamic_update_slice_in_dim(out, block, start, axis), None

        blocks = jnp.arange(-(-rows // n))
        return jax.lax.scan(add, jnp.zeros_like(like), blocks)[0]

    def _squared(self) -> Self:
        size = (self.matrix * self.matrix.conj()).real
        return self._replace(matrix=size.astype(self.matrix.dtype))


class Chosen(NamedTuple):
    """Some rows of a leaf, of which the first ones are worked on: how many may change.

    Attributes:
      rows: their numbers. One past the last is of a row that is not there, of zeros.
      axis: the axis that they are counted along.
      sizes: how many of the first ones it may be, rising; the last is all of them.
      which: the place of the size that it is.
      filled: whether some may not be there.
    """

    rows: Array
    axis: int
    sizes: tuple[int, ...]
    which: Array
    filled: bool

    def take(self, x: Array, other: float = 0) -> Array:
        """These rows of x; `other` where a row is not there."""
        return rows_of(x, self.rows, self.axis, other)

    def put(self, x: Array, values: Array) -> Array:
        """Zeros but in these rows of an array shaped as x."""
        at = (slice(None),) * self.axis + (self.rows,)
        unique = not self.filled
        return jnp.zeros_like(x).at[at].set(values, mode="drop", unique_indices=unique)

    def worked_on(self, like: Array) -> Array:
        """Where an array of these rows, of the shape of `like`, may change."""
        number = jnp.array(self.sizes)[self.which]
        place = jax.lax.broadcasted_iota(jnp.int32, like.shape, self.axis)
        return place < number


# For each leaf some of its rows; None for all.
Rows = Sequence[Chosen | None]


class Cut(NamedTuple):
    """A head of some rows of its leaf, the others being zero.

    A compiled program has fixed shapes. So there is a matrix for each number of rows
    that it may be, of which one is used; what is not a product has the largest shape.

    Attributes:
      parts: the head of the first rows, for each size.
      chosen: the rows.
    """

    parts: tuple[Head, ...]
    chosen: Chosen

    @classmethod
    def of(cls, head: Head, chosen: Chosen) -> Self:
        """The head of these rows."""

        def gather(size: int, rows: Array) -> Array:
            mode = "fill" if chosen.filled else "clip"  # The first is slower.
            some, axis = rows[:size], head.matrix_axis
            return jnp.take(head.matrix, some, axis, mode=mode, fill_value=0)

        def only(i: int, rows: Array) -> tuple[Array, ...]:
            """The matrix of one size; zeros are written sooner than others are read."""
            shapes = [
                jax.eval_shape(functools.partial(gather, size), rows)
                for size in chosen.sizes
            ]
            nothing = [jnp.zeros(x.shape, x.dtype) for x in shapes]
            return (*nothing[:i], gather(chosen.sizes[i], rows), *nothing[i + 1 :])

        branches = [functools.partial(only, i) for i in range(len(chosen.sizes))]
        matrices = one_of(chosen.which, branches, chosen.rows)
        return cls(tuple(head._replace(matrix=x) for x in matrices), chosen)

    @property
    def leaf(self) -> int:
        """The number of the leaf."""
        return self.parts[0].leaf

    def __call__(self, w: Array) -> Array:
        """The product with `w`."""

        def product(part: Head, size: int, w: Array) -> Array:
            return part(self._first(w, size))

        return self._of_part(product, w)

    def transpose(self, z: Array, like: Array) -> Array:
        """The transposed product, zero where there is nothing to work on."""
        return self._transposed(Head.transpose, z, like)

    def transpose_of_squares(self, z: Array, like: Array) -> Array:
        """`transpose`, of the matrix with the squared size of each entry."""
        return self._transposed(Head.transpose_of_squares, z, like)

    def _transposed(
        self, product: Callable[[Head, Array, Array], Array], z: Array, like: Array
    ) -> Array:
        def of_part(part: Head, size: int, z: Array) -> Array:
            some = product(part, z, self._first(like, size))
            ends = [(0, b - a) for a, b in zip(some.shape, like.shape, strict=True)]
            return jnp.pad(some, ends)

        return self._of_part(of_part, z)

    def _of_part(self, f: Callable[[Head, int, Array], Array], x: Array) -> Array:
        pairs = zip(self.parts, self.chosen.sizes, strict=True)
        branches = [functools.partial(f, *pair) for pair in pairs]
        result: Array = one_of(self.chosen.which, branches, x)
        return result

    def _first(self, w: Array, size: int) -> Array:
        return jax.lax.slice_in_dim(w, 0, size, axis=self.chosen.axis)


def one_of(which: Array, branches: Sequence[Callable[..., Any]], x: Array) -> Any:
    """branches[which](x)."""
    return branches[0](x) if len(branches) == 1 else jax.lax.switch(which, branches, x)
