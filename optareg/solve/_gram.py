"""`Gram`: a quadratic smooth function near a point, by its Hessian as a matrix.

For a squared error that is the Gram matrix of the columns at work. Where they are few,
a product with it takes less than one with them, and linear systems are solved by its
Cholesky factor, however correlated columns are.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp

from optareg._tree import epsilon
from optareg.penalties._base import Penalty
from optareg.solve._curvature import curvature, of_penalty
from optareg.solve._heads import Heads
from optareg.solve._leaves import Leaves, add, dot, scale
from optareg.solve._products import Chosen
from optareg.solve._smooth import Point, Products, Smooth, bend_of

__all__ = ["Gram"]

Array = jax.Array

# With more parameters it takes longer than it saves; with more of them than so many
# times the rows of the data, products with these take less.
MOST_PARAMETERS, MOST_PER_ROW = 72, 1.25


class Gram(NamedTuple):
    """value + g·d + ½ dᵀHd of d = w − center, as a `Smooth` of the leaves w.

    Attributes:
      center: where value and gradient g are known; products there are zero.
      loss: the loss, whose Hessian is the same everywhere.
      penalties: the smooth part of the penalty of each leaf, or None.
      chosen: the rows that leaves are: with one number of sizes, and one of them.
      hessians: of the loss, for the sizes for which it pays. For the others products
        are those with the data.
    """

    center: Point
    loss: Heads
    penalties: tuple[Penalty | None, ...]
    chosen: tuple[Chosen | None, ...]
    hessians: dict[int, Array]

    @classmethod
    def of(
        cls, smooth: Smooth, center: Point, chosen: tuple[Chosen | None, ...]
    ) -> Self | None:
        """A quadratic function of the rows that were chosen; None if it never pays."""
        w = center.w
        if any(x.ndim > 1 or jnp.iscomplexobj(x) for x in w):
            return None
        center = center._replace(products=tuple(map(jnp.zeros_like, w)))
        loss = smooth.loss
        self = cls(center, loss, smooth.penalties, chosen, {})
        rows = sum(z.size for z in jax.eval_shape(loss.products, w))

        def matrix(i: int, w: Leaves) -> Array:
            return loss.part(i).hessian_matrix(self._first(w, i))

        def pays(i: int) -> bool:
            size = sum(x.size for x in jax.eval_shape(lambda: self._first(w, i)))
            return bool(size <= min(MOST_PARAMETERS, MOST_PER_ROW * rows))

        of_sizes = {
            i: functools.partial(matrix, i) for i in range(self._sizes) if pays(i)
        }
        if not of_sizes:
            return None
        others = [i for i in range(self._sizes) if i not in of_sizes]
        hessians = self._some_chosen.only_one(of_sizes, w)
        return self._replace(loss=loss.kept(others), hessians=hessians)

    @property
    def known(self) -> Array:
        """Whether there is a matrix for the size that it is."""
        each = [i in self.hessians for i in range(self._sizes)]
        return jnp.array(each)[self._some_chosen.which]

    def products(self, w: Leaves) -> Products:
        """H d."""
        return self._times(self._from_center(w))

    def value(self, products: Products, w: Leaves) -> Array:
        """The function at w."""
        change = dot(add(self.center.g, scale(0.5, products)), self._from_center(w))
        return self.center.value + change.astype(self.center.value.dtype)

    def gradient(self, products: Products, w: Leaves) -> Leaves:
        """Its gradient there."""
        del w
        return add(self.center.g, products)

    def point(self, products: Products, w: Leaves) -> Point:
        """Both."""
        return Point(w, products, self.value(products, w), self.gradient(products, w))

    def hessian(self, products: Products, w: Leaves) -> Callable[[Leaves], Leaves]:
        """The derivative of the gradient."""
        del products, w
        return self._times

    def curvature(self, w: Leaves) -> Leaves:
        """The diagonal of the Hessian."""

        def diagonal(i: int, w: Leaves) -> Leaves:
            if i in self.hessians:
                return self._leaves(jnp.diagonal(self.hessians[i]), i)
            part = curvature(self.loss.part(i), (None,) * len(w), self._first(w, i))
            return self._leaves(jnp.concatenate([x.ravel() for x in part]), i)

        rows = zip(self._of_size(diagonal, w), self.penalties, w, strict=True)
        return tuple(jnp.abs(h + of_penalty(p, x)) for h, p, x in rows)

    def solve(self, keeps: Leaves, more: Leaves, b: Leaves) -> Leaves:
        """Solves (D H D + `more`) x = b, where D and `more` are diagonal, D is `keeps`.

        By a Cholesky factor, for entrywise penalties. NaN if there is none, or no H.
        """
        of_penalties = zip(self.penalties, keeps, more, strict=True)
        more = tuple(m + d * of_penalty(p, d) * d for p, d, m in of_penalties)

        def of_size(i: int, given: tuple[Leaves, Leaves, Leaves]) -> Leaves:
            if i not in self.hessians:
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
    def _some_chosen(self) -> Chosen:
        return next(c for c in self.chosen if c is not None)

    @property
    def _sizes(self) -> int:
        return len(self._some_chosen.sizes)

    def _of_size(self, f: Callable[[int, Any], Leaves], x: Any) -> Leaves:
        """The function f of the size that it is."""
        result: Leaves = self._some_chosen.of_size(f, x)
        return result

    def _first(self, w: Leaves, i: int) -> Leaves:
        pairs = zip(self.chosen, w, strict=True)
        return tuple(x if c is None else x[: c.sizes[i]] for c, x in pairs)

    def _row(self, w: Leaves, i: int) -> Array:
        return jnp.concatenate([x.ravel() for x in self._first(w, i)])

    def _leaves(self, row: Array, i: int) -> Leaves:
        parts, start = [], 0
        likes = self.center.w
        for like, first in zip(likes, self._first(likes, i), strict=True):
            part = row[start : start + first.size].astype(like.dtype)
            start += first.size
            part = jnp.pad(part, (0, like.size - first.size))
            parts.append(part.reshape(like.shape))
        return tuple(parts)

    def _from_center(self, w: Leaves) -> Leaves:
        return add(w, scale(-1.0, self.center.w))

    def _times(self, p: Leaves) -> Leaves:
        """The product of the Hessian with p."""

        def of_size(i: int, p: Leaves) -> Leaves:
            if i in self.hessians:
                return self._leaves(self.hessians[i] @ self._row(p, i), i)
            # Any products will do to take the Hessian at.
            part, first = self.loss.part(i), self._first(self.center.w, i)
            likes = jax.eval_shape(part.products, first)
            anywhere = [jnp.zeros(z.shape, z.dtype) for z in likes]
            bent = part.hessian(anywhere, first)(self._first(p, i))
            return self._leaves(jnp.concatenate([x.ravel() for x in bent]), i)

        bend = bend_of(self.penalties, self.center.w)
        return add(self._of_size(of_size, p), bend(p))
