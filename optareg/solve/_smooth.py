"""`Smooth`, what is smooth in an objective: a loss, and the smooth part of penalties.

Of a loss made of matrix products (see `Heads`), products that are known are not taken
again, and derivatives are taken of the rest alone.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp

from optareg._tree import widest
from optareg.penalties._base import Penalty
from optareg.solve._curvature import diagonal, of_both
from optareg.solve._gram import Gram
from optareg.solve._heads import Heads
from optareg.solve._leaves import Leaves, add, scale

__all__ = ["Point", "Products", "Smooth", "bend_of"]

Array = jax.Array
Products = tuple[Array, ...]


class Point(NamedTuple):
    """Leaves, and what a `Smooth` is there.

    Attributes:
      w: the leaves.
      products: those of the loss's matrices with the leaves.
      value: the smooth part.
      g: its gradient, the direction of steepest ascent.
    """

    w: Leaves
    products: Products
    value: Array
    g: Leaves


class Smooth(NamedTuple):
    """The smooth part of an objective.

    Attributes:
      loss: a scalar function of the leaves.
      penalties: the smooth part of the penalty of each leaf, or None.
    """

    loss: Heads | Gram
    penalties: tuple[Penalty | None, ...]

    def products(self, w: Leaves) -> Products:
        """Those of the loss with the leaves."""
        return tuple(self.loss.products(w))

    def value(self, products: Products, w: Leaves) -> Array:
        """The smooth part at w, of which the products are known."""
        return self.loss.tail(products, w) + self._of_penalties(w)

    def gradient(self, products: Products, w: Leaves) -> Leaves:
        """The direction of steepest ascent there."""
        return self.point(products, w).g

    def point(self, products: Products, w: Leaves) -> Point:
        """Both."""
        value, g = self.loss.value_and_gradient(products, w)
        return self.with_penalties(Point(w, products, value, conjugate(g)))

    def with_penalties(self, point: Point) -> Point:
        """From a point of the loss alone."""
        return self._more(point, 1.0)

    def without_penalties(self, point: Point) -> Point:
        """To one of the loss alone, of which the penalties may change."""
        return self._more(point, -1.0)

    def hessian(self, products: Products, w: Leaves) -> Callable[[Leaves], Leaves]:
        """The derivative of the gradient there."""
        bend = self.loss.hessian(products, w)
        of_penalties = bend_of(self.penalties, w)
        return lambda p: conjugate(add(bend(p), of_penalties(p)))

    def curvature(self, w: Leaves) -> Leaves:
        """The diagonal of the Hessian."""
        loss = self.loss
        of_loss = loss.diagonal(w) if isinstance(loss, Gram) else diagonal(loss, w)
        return of_both(of_loss, self.penalties, w)

    def around(self, here: Point) -> tuple[Self, Point]:
        """The same where a quadratic loss is known at a point, for the most digits."""
        assert isinstance(self.loss, Gram)
        _, _, value, g = self.without_penalties(here)
        loss = self.loss.around(here.w, value, g)
        nothing = tuple(map(jnp.zeros_like, here.w))
        return self._replace(loss=loss), here._replace(products=nothing)

    def along(self, w: Leaves, step: Leaves) -> Callable[[Array], Array]:
        """The smooth part at w − part · step, a function of the part."""
        ends = jax.tree.map(lambda x, step: jnp.stack([x, x - step]), w, step)
        pairs = jax.vmap(self.products)(ends)

        def value(part: Array) -> Array:
            def between(x: Array, end: Array) -> Array:
                return x + part.astype(x.real.dtype) * (end - x)

            here, products = (tuple(between(*x) for x in xs) for xs in (ends, pairs))
            return self.value(products, here)

        return value

    def _more(self, point: Point, factor: float) -> Point:
        """With so many times the penalties."""
        more, slope = jax.value_and_grad(self._of_penalties)(point.w)
        g = add(point.g, scale(factor, conjugate(slope)))
        return point._replace(value=point.value + factor * more, g=g)

    def _of_penalties(self, w: Leaves) -> Array:
        return value_of(self.penalties, w)


def value_of(penalties: Sequence[Penalty | None], w: Leaves) -> Array:
    """That of the penalties at w, together; of None it is 0."""
    pairs = zip(penalties, w, strict=True)
    values = [p.leaf_value(x) for p, x in pairs if p is not None]
    return sum(values, start=jnp.zeros((), widest(*(x.real.dtype for x in w))))


def bend_of(
    penalties: Sequence[Penalty | None], w: Leaves
) -> Callable[[Leaves], Leaves]:
    """The derivative of their gradient at w."""
    _, bend = jax.linearize(jax.grad(functools.partial(value_of, penalties)), w)
    result: Callable[[Leaves], Leaves] = bend
    return result


def conjugate(w: Sequence[Array]) -> Leaves:
    """From gradients as JAX gives them to the direction of steepest ascent."""
    return tuple(map(jnp.conj, w))
