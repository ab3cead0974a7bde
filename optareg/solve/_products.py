"""Products of a leaf with a known matrix: `Head`; with some rows of the leaf: `Cut`."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp

from optareg.penalties._numbers import rows_of

__all__ = ["Chosen", "Cut", "Head", "Rows"]

Array = jax.Array

# Matrices with more entries are squared in blocks of so many.
MOST_ENTRIES = 2**18


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

    def of_units(self, start: Array, number: int, like: Array) -> Array:
        """The products with so many unit vectors, each shaped and typed as `like`."""
        axis = self.matrix_axis
        some = jax.lax.dynamic_slice_in_dim(self.matrix, start, number, axis)
        some = jnp.moveaxis(some, axis, 0).reshape(number, *like.shape)
        # As an array of its own: XLA then takes the product with fewer rounding errors.
        return as_it_is(some.astype(like.dtype))

    def transpose_of_squares(self, z: Array, like: Array) -> Array:
        """`transpose`, of the matrix with the squared size of each entry.

        A large one is squared block by block, so that it is never there as a whole.
        """
        if self.matrix.size <= MOST_ENTRIES or self.matrix.ndim == 1:
            return self._squared().transpose(z, like)
        # Along the first axis of the product that is the matrix's, so that blocks are
        # read as they lie in memory.
        axis = 0 if self.matrix_axis else 1
        of_z = like.ndim - 1 if self.leaf_first else 0
        rows = self.matrix.shape[axis]
        n = max(1, MOST_ENTRIES * rows // self.matrix.size)

        def add(out: Array, i: Array) -> tuple[Array, None]:
            start = jnp.minimum(i * n, rows - n)  # The last one may overlap.
            some = jax.lax.dynamic_slice_in_dim(self.matrix, start, n, axis)
            part = jax.lax.dynamic_slice_in_dim(z, start, n, of_z)
            place = jax.lax.broadcasted_iota(jnp.int32, part.shape, of_z)
            part = jnp.where(start + place >= i * n, part, 0)
            return out + self._replace(matrix=some)._squared().transpose(
                part, like
            ), None

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
      filled: whether some of the first may not be there.
      whole: whether the last size is of all rows, as they are.
    """

    rows: Array
    axis: int
    sizes: tuple[int, ...]
    which: Array
    filled: bool
    whole: bool = False

    @property
    def some(self) -> range:
        """The places of the sizes that are not of all rows."""
        return range(len(self.sizes) - self.whole)

    def take(self, x: Array, other: float = 0) -> Array:
        """These rows of x; `other` where a row is not there."""
        return rows_of(x, self.rows, self.axis, other)

    def put(self, x: Array, values: Array) -> Array:
        """Zeros but in these rows of an array shaped as x."""
        at = (slice(None),) * self.axis + (self.rows,)
        unique = not self.filled
        return jnp.zeros_like(x).at[at].set(values, mode="drop", unique_indices=unique)

    def of_size(self, f: Callable[[int, Any], Any], x: Any) -> Any:
        """f(i, x), where i is the place of the size that it is."""
        branches = [functools.partial(f, i) for i in range(len(self.sizes))]
        if len(branches) == 1:
            return branches[0](x)
        return jax.lax.switch(self.which, branches, x)

    def only_one(
        self, arrays: Mapping[int, Callable[[Any], Array]], x: Any
    ) -> dict[int, Array]:
        """For some of the sizes an array, a function of x; only one is computed.

        That of the size that it is. The others are zeros, which are written sooner than
        numbers are read.
        """
        likes = {i: jax.eval_shape(array, x) for i, array in arrays.items()}

        def only(i: int, x: Any) -> dict[int, Array]:
            nothing = {j: jnp.zeros(y.shape, y.dtype) for j, y in likes.items()}
            return nothing | ({i: arrays[i](x)} if i in arrays else {})

        result: dict[int, Array] = self.of_size(only, x)
        return result

    def may_change(self, like: Array) -> Array:
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
      head: of all rows.
      chosen: the rows.
      flat: for each size but that of all rows, the matrix of the first ones in one
        row; if empty, it is gathered at each use.
    """

    head: Head
    chosen: Chosen
    flat: tuple[Array, ...] = ()

    def kept(self) -> Self:
        """The same with its matrices, for many products."""

        def matrix(i: int, rows: Array) -> Array:
            return in_a_row(self._gathered(i, rows))

        some = self.chosen.some
        of_sizes = {i: functools.partial(matrix, i) for i in some}
        matrices = self.chosen.only_one(of_sizes, self.chosen.rows)
        return self._replace(flat=tuple(matrices[i] for i in some))

    def part(self, i: int) -> Head:
        """The head of the first rows, of one size."""
        if i not in self.chosen.some:
            return self.head
        if not self.flat:
            return self.head._replace(matrix=self._gathered(i, self.chosen.rows))
        shape = list(self.head.matrix.shape)
        shape[self.head.matrix_axis] = self.chosen.sizes[i]
        return self.head._replace(matrix=self.flat[i].reshape(shape))

    def _gathered(self, i: int, rows: Array) -> Array:
        mode = "fill" if self.chosen.filled else "clip"  # The first is slower.
        some, axis = rows[: self.chosen.sizes[i]], self.head.matrix_axis
        return jnp.take(self.head.matrix, some, axis, mode=mode, fill_value=0)

    @property
    def leaf(self) -> int:
        """The number of the leaf."""
        return self.head.leaf

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
        def of_size(i: int, x: Array) -> Array:
            return f(self.part(i), self.chosen.sizes[i], x)

        result: Array = self.chosen.of_size(of_size, x)
        return result

    def _first(self, w: Array, size: int) -> Array:
        return jax.lax.slice_in_dim(w, 0, size, axis=self.chosen.axis)


def in_a_row(matrix: Array) -> Array:
    """Its numbers in memory row by row.

    XLA puts gathered columns one after another, which takes four times as long.
    """
    return as_it_is(matrix.reshape(-1))


def as_it_is(x: Array) -> Array:
    """As an array of its own, which XLA does not merge with what is made of it."""
    result: Array = jax.lax.optimization_barrier(x)  # type: ignore[no-untyped-call]
    return result
