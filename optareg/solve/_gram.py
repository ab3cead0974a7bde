"""`Gram`: a quadratic loss near a point, by its Hessian as a matrix.

For a squared error that is the Gram matrix of the columns at work. Where they are few,
a product with it takes less than one with them, and linear systems are solved by its
Cholesky factor, however correlated columns are. On a path with many more rows than
columns it is made once for all strengths.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp

from optareg._tree import epsilon
from optareg.solve._curvature import diagonal
from optareg.solve._heads import Heads
from optareg.solve._leaves import Leaves, add, dot, scale
from optareg.solve._products import Chosen, Rows

__all__ = ["Gram"]

Array = jax.Array

# Of so many parameters it is factored; a larger one takes longer than conjugate
# gradients with it.
MOST_FACTORED = 72
# From data one of more pays up to so many, and if they are so many for each row of the
# data: with fewer it takes longer to make than it saves, with more its products take
# longer than those with data.
MOST_PARAMETERS, LEAST_PER_ROW, MOST_PER_ROW = 576, 0.5, 1.25


class Gram(NamedTuple):
    """value + g·d + ½ dᵀHd of d = w − center, a loss of the leaves w, as a `Heads`.

    Its products are H d. All numbers are real, and no leaf has more than one axis.

    Attributes:
      center: where value and gradient are known.
      value: the loss there.
      g: its gradient there.
      hessians: H of all leaves in a row; one for each size for which it pays.
      chosen: the rows that leaves are, if not all: with one number of sizes.
      data: the loss by products with data, for the other sizes; None if there are none.
    """

    center: Leaves
    value: Array
    g: Leaves
    hessians: dict[int, Array]
    chosen: tuple[Chosen | None, ...] = ()
    data: Heads | None = None

    @classmethod
    def of(
        cls, loss: Heads, w: Leaves, chosen: tuple[Chosen | None, ...]
    ) -> Self | None:
        """A loss of the rows that were chosen; None if a matrix never pays."""
        if not all(map(is_real_row, w)):
            return None
        loss = loss.kept()
        nothing = tuple(map(jnp.zeros_like, w))
        self = cls(nothing, jnp.zeros(()), nothing, {}, chosen, loss)
        rows = loss.rows(w)

        def matrix(i: int, w: Leaves) -> Array:
            return loss.part(i).hessian_matrix(self._first(w, i))

        of_sizes = {
            i: functools.partial(matrix, i)
            for i, size in enumerate(self._sizes)
            if i in self._some and pays(size, rows)
        }
        if not of_sizes:
            return None
        return self._replace(hessians=self._only_one(of_sizes, w))

    def around(self, w: Leaves, value: Array, g: Leaves) -> Self:
        """The same function where it is known at another point."""
        return self._replace(center=w, value=value, g=g)

    def take(self, chosen: Rows) -> Self:
        """Of some rows of all; to be taken `around` a point where others are zero."""
        pairs = list(zip(chosen, self.center, strict=True))
        center = tuple(x if c is None else c.take(x) for c, x in pairs)
        part = self._replace(center=center, g=center, chosen=tuple(chosen))
        (hessian,) = self.hessians.values()
        filled = any(c is not None and c.filled for c in chosen)
        mode = "fill" if filled else "clip"  # The first is slower.

        def places(i: int) -> Array:
            """Of the first rows, in the row of all leaves."""
            found, start = [], 0
            for c, x in pairs:
                place = jnp.arange(x.size)
                if c is not None:  # What is not there is past the end of all.
                    place = c.rows[: c.sizes[i]]
                    place = jnp.where(place < x.size, place, len(hessian) - start)
                found.append(start + place)
                start += x.size
            return jnp.concatenate(found)

        def matrix(i: int, hessian: Array) -> Array:
            some = places(i)
            rows = jnp.take(hessian, some, 0, mode=mode, fill_value=0)
            return jnp.take(rows, some, 1, mode=mode, fill_value=0)

        of_sizes = {i: functools.partial(matrix, i) for i in part._some}
        hessians = part._only_one(of_sizes, hessian)
        if len(part._some) < len(part._sizes):
            hessians[len(part._some)] = hessian
        return part._replace(hessians=hessians)

    @property
    def by_data(self) -> Heads:
        """The loss by products with data, of a matrix made of these."""
        assert self.data is not None
        return self.data

    @property
    def axes(self) -> tuple[int | None, ...]:
        """For each leaf the axis that is summed over; None for a number."""
        return tuple(0 if x.ndim else None for x in self.center)

    @property
    def entries(self) -> int:
        """The number of entries of the largest matrix."""
        return max(hessian.size for hessian in self.hessians.values())

    @property
    def factored(self) -> Array:
        """Whether linear systems are solved by a factor, for the size that it is."""
        each = jnp.array([self._has_factor(i) for i in range(len(self._sizes))])
        chosen = self._some_chosen
        return each[0] if chosen is None else each[chosen.which]

    def __call__(self, w: Leaves) -> Array:
        """The loss."""
        return self.tail(self.products(w), w)

    def products(self, w: Leaves) -> Leaves:
        """H d."""
        return self._times(self._from_center(w))

    def tail(self, products: Leaves, w: Leaves) -> Array:
        """The loss where they are known."""
        change = dot(add(self.g, scale(0.5, products)), self._from_center(w))
        return self.value + change.astype(self.value.dtype)

    def value_and_gradient(self, products: Leaves, w: Leaves) -> tuple[Array, Leaves]:
        """The same with its gradient."""
        return self.tail(products, w), add(self.g, products)

    def hessian(self, products: Leaves, w: Leaves) -> Callable[[Leaves], Leaves]:
        """The derivative of the gradient."""
        del products, w
        return self._times

    def diagonal(self, w: Leaves) -> Leaves:
        """That of the Hessian."""

        def of_size(i: int, w: Leaves) -> Leaves:
            if i in self.hessians:
                return self._leaves(jnp.diagonal(self.hessians[i]), i)
            part = diagonal(self._part(i), self._first(w, i))
            return self._leaves(jnp.concatenate([x.ravel() for x in part]), i)

        return self._of_size(of_size, w)

    def solve(self, keeps: Leaves, more: Leaves, b: Leaves) -> Leaves:
        """Solves (D H D + `more`) x = b, where D and `more` are diagonal, D is `keeps`.

        By a Cholesky factor. NaN if there is none, or H is too large for one.
        """

        def of_size(i: int, given: tuple[Leaves, Leaves, Leaves]) -> Leaves:
            if not self._has_factor(i):
                return tuple(jnp.full_like(x, jnp.nan) for x in given[2])
            hessian = self.hessians[i]
            d, m, b = (self._row(x, i) for x in given)
            # Of unit diagonal, so that columns of all scales keep their digits.
            size = jnp.square(d) * jnp.diagonal(hessian) + m
            root = jax.lax.rsqrt(jnp.where(size > 0, size, 1))
            ridge = 1 + len(root) * epsilon(root.dtype)
            kept = root * d
            on_diagonal = jnp.eye(len(root), dtype=bool)
            scaled = kept[:, None] * hessian * kept[None, :]
            unit = jnp.where(on_diagonal, ridge, scaled)
            factor = jax.lax.linalg.cholesky(unit, symmetrize_input=False)
            x = jax.scipy.linalg.cho_solve((factor, True), root * b)
            return self._leaves(root * x, i)

        return self._of_size(of_size, (keeps, more, b))

    # Leaves, and the first rows of them: as many as each of the sizes has.

    @property
    def _some_chosen(self) -> Chosen | None:
        return next((c for c in self.chosen if c is not None), None)

    @property
    def _some(self) -> range:
        """The places of the sizes that are not of all rows as they are."""
        chosen = self._some_chosen
        return range(1) if chosen is None else chosen.some

    @property
    def _sizes(self) -> list[int]:
        """The numbers of parameters."""
        chosen = self._some_chosen
        number = 1 if chosen is None else len(chosen.sizes)
        likes = [
            jax.eval_shape(functools.partial(self._first, i=i), self.center)
            for i in range(number)
        ]
        return [sum(x.size for x in like) for like in likes]

    def _has_factor(self, i: int) -> bool:
        return i in self.hessians and self._sizes[i] <= MOST_FACTORED

    def _of_size(self, f: Callable[[int, Any], Leaves], x: Any) -> Leaves:
        """The function f of the size that it is."""
        chosen = self._some_chosen
        result: Leaves = f(0, x) if chosen is None else chosen.of_size(f, x)
        return result

    def _only_one(
        self, arrays: Mapping[int, Callable[[Any], Array]], x: Any
    ) -> dict[int, Array]:
        """An array for some of the sizes, of which that is computed that it is."""
        chosen = self._some_chosen
        if chosen is None:
            return {i: array(x) for i, array in arrays.items()}
        return chosen.only_one(arrays, x)

    def _first(self, w: Leaves, i: int) -> Leaves:
        pairs = zip(self.chosen or (None,) * len(w), w, strict=True)
        return tuple(x if c is None else x[: c.sizes[i]] for c, x in pairs)

    def _row(self, w: Leaves, i: int) -> Array:
        return jnp.concatenate([x.ravel() for x in self._first(w, i)])

    def _leaves(self, row: Array, i: int) -> Leaves:
        parts, start = [], 0
        likes = self.center
        for like, first in zip(likes, self._first(likes, i), strict=True):
            part = row[start : start + first.size].astype(like.dtype)
            start += first.size
            part = jnp.pad(part, (0, like.size - first.size))
            parts.append(part.reshape(like.shape))
        return tuple(parts)

    def _from_center(self, w: Leaves) -> Leaves:
        return add(w, scale(-1.0, self.center))

    def _times(self, p: Leaves) -> Leaves:
        """The product of the Hessian with p."""

        def of_size(i: int, p: Leaves) -> Leaves:
            if i in self.hessians:
                return self._leaves(self.hessians[i] @ self._row(p, i), i)
            # Any products will do to take the Hessian at.
            part, first = self._part(i), self._first(self.center, i)
            likes = jax.eval_shape(part.products, first)
            anywhere = [jnp.zeros(z.shape, z.dtype) for z in likes]
            bent = part.hessian(anywhere, first)(self._first(p, i))
            return self._leaves(jnp.concatenate([x.ravel() for x in bent]), i)

        return self._of_size(of_size, p)

    def _part(self, i: int) -> Heads:
        return self.by_data.part(i)


def pays(size: int, rows: int) -> bool:
    """Whether a matrix of so many parameters is worth making from data."""
    some = size <= MOST_FACTORED or LEAST_PER_ROW * rows <= size <= MOST_PARAMETERS
    return some and size <= MOST_PER_ROW * rows


def is_real_row(x: Array) -> bool:
    """Whether a leaf is of real numbers along one axis at most."""
    return x.ndim <= 1 and not jnp.iscomplexobj(x)
