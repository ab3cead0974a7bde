"""`Smooth`, what is smooth in an objective: a loss, and the smooth part of penalties.

Of a loss made of matrix products (see `Heads`), products that are known are not taken
again, and derivatives are taken of the rest alone.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from optareg._tree import widest
from optareg.penalties._base import Penalty
from optareg.solve._curvature import curvature
from optareg.solve._heads import Heads
from optareg.solve._leaves import Leaves, add

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

    loss: Heads
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
        more, of_penalties = jax.value_and_grad(self._of_penalties)(w)
        return Point(w, products, value + more, conjugate(add(g, of_penalties)))

    def hessian(self, products: Products, w: Leaves) -> Callable[[Leaves], Leaves]:
        """The derivative of the gradient there."""
        bend = self.loss.hessian(products, w)
        of_penalties = bend_of(self.penalties, w)
        return lambda p: conjugate(add(bend(p), of_penalties(p)))

    def curvature(self, w: Leaves) -> Leaves:
        """The diagonal of the Hessian."""
        return curvature(self.loss, self.penalties, w)

    def along(self, w: Leaves, step: Leaves) -> Callable[[Array], Array]:
        """The smooth part at w − part · step, a function of the part."""
        both = jax.tree.map(lambda *xs: jnp.stack(xs), w, step)
        pairs = jax.vmap(self.products)(both)

        def value(part: Array) -> Array:
            def nearer(x: Array, step: Array) -> Array:
                return x - part.astype(x.real.dtype) * step

            here = tuple(map(nearer, w, step))
            return self.value(tuple(nearer(*z) for z in pairs), here)

        return value

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


def conjugate(w: Leaves) -> Leaves:
    """From gradients as JAX gives them to the direction of steepest ascent."""
    return tuple(map(jnp.conj, w))
