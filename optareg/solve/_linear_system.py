"""The linear system of a step of Newton's method, and of a solution's derivative."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from optareg.solve._gram import Gram
from optareg.solve._leaves import Leaves, add, all_finite, conjugate_gradients, scale
from optareg.solve._objective import Objective
from optareg.solve._smooth import Products, bend_of

__all__ = ["damped", "linear_system", "slope", "solution"]

Array = jax.Array
Operator = Callable[[Leaves], Leaves]

MOST_CG = 250


def slope(objective: Objective, z: Leaves, tau: Array | float) -> Operator:
    """The derivative of the proximal operator at z: for L1 it keeps the support."""
    _, dual = jax.linearize(lambda z: objective.dual(z, tau), z)
    return lambda p: add(p, scale(-1.0, dual(p)))


def damped(
    objective: Objective, w: Leaves, products: Products, damping: Array | float
) -> Operator:
    """The Hessian of the smooth part at w, plus `damping` / scales."""
    product = objective.smooth.hessian(products, w)

    def apply(p: Leaves) -> Leaves:
        return tuple(
            h + damping * x / c
            for h, x, c in zip(product(p), p, objective.scales, strict=True)
        )

    return apply


def linear_system(
    objective: Objective,
    hessian: Operator,
    prox_slope: Operator,
    tau: Array | float,
) -> Callable[[Leaves], tuple[Leaves, Leaves]]:
    """The symmetric matrix D H D + D (I − D) / (τ scales), D being `prox_slope`.

    Its product with p, and that of H D.
    """

    def matrix(p: Leaves) -> tuple[Leaves, Leaves]:
        q = prox_slope(p)
        bent = hessian(q)
        rest = tuple(
            (a - b) / (tau * c) for a, b, c in zip(p, q, objective.scales, strict=True)
        )
        return prox_slope(add(bent, rest)), bent

    return matrix


def solution(
    objective: Objective,
    w: Leaves,
    hessian: Operator,
    prox_slope: Operator,
    damping: Array,
    tau: Array,
    b: Leaves,
    accuracy: Array,
) -> tuple[Leaves, Leaves]:
    """Solves the system at w with the right side b, to a relative accuracy.

    Returns D p for the solution p, and H D p. Where the Hessian is a small matrix and
    the slope is diagonal, a Cholesky factor does it. There is none where the function
    is not convex; there, and for all else, conjugate gradients do.
    """
    smooth, scales = objective.smooth, objective.scales
    matrix = linear_system(objective, hessian, prox_slope, tau)

    def iterated(most: Array | int) -> tuple[Leaves, Leaves]:
        p, bent = conjugate_gradients(matrix, b, scales, accuracy, most)
        return prox_slope(p), bent

    if not (isinstance(smooth.loss, Gram) and objective.entrywise):
        return iterated(MOST_CG)
    keeps = prox_slope(tuple(map(jnp.ones_like, b)))
    bent = bend_of(smooth.penalties, w)(tuple(map(jnp.ones_like, b)))
    # What the matrix has beside D H D of the loss.
    rows = zip(keeps, scales, bent, strict=True)
    more = tuple(d * (damping * d + (1 - d) / tau) / c + d * h * d for d, c, h in rows)
    p = smooth.loss.solve(keeps, more, b)
    known = all_finite(p)
    q = prox_slope(p)
    by_factor = q, hessian(q)
    other = iterated(jnp.where(known, 0, MOST_CG))
    result: tuple[Leaves, Leaves] = jax.tree.map(
        lambda a, b: jnp.where(known, a, b), by_factor, other
    )
    return result
