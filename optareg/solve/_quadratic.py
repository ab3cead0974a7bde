"""Quadratic losses of more rows than parameters, in as many rows as parameters.

For a squared error that is the triangle of the QR decomposition in place of the data.
A path solves so often that this pays.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Literal
from jax.flatten_util import ravel_pytree

from optareg._tree import epsilon
from optareg.solve._heads import Heads, evaluate, run, variables

__all__ = ["reduced"]

Array = jax.Array

# More parameters take longer to decompose than a path saves; with less than twice as
# many rows there is little to save.
MOST_PARAMETERS, LEAST_RATIO = 1024, 2


def reduced(loss: ClosedJaxpr, leaves: Sequence[Array]) -> ClosedJaxpr | None:
    """The same function of the leaves, to rounding, of fewer rows; None if not so.

    Its derivative with respect to data must not be taken: eigenvectors may have none.
    """
    loss = ClosedJaxpr(loss.jaxpr, jax.lax.stop_gradient(loss.consts))
    if any(x.ndim > 1 or jnp.iscomplexobj(x) for x in leaves):
        return None
    heads = Heads.of(loss, leaves)
    products = jax.eval_shape(lambda: heads.products(leaves))
    start = tuple(map(jnp.zeros_like, leaves))
    flat, unravel = ravel_pytree(start)
    if flat.size > MOST_PARAMETERS or not is_quadratic(loss, leaves):
        return None
    if sum(z.size for z in products) < LEAST_RATIO * flat.size:
        return None

    slope = ravel_pytree(heads.value_and_gradient(heads.products(start), start)[1])[0]
    hessian = heads.hessian_matrix(start)
    # Of unit diagonal, so that columns of all scales keep their digits.
    diagonal = jnp.diagonal(hessian)
    scale = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1))
    unit = hessian / (scale[None, :] * scale[:, None])
    root, shift = factor(unit, slope / scale)
    # loss(w) = ½‖R w + s‖² + b·w + c, where b is what no row can say.
    rows = root * scale[None, :]
    rest = slope - rows.T @ shift
    constant = evaluate(loss, start) - 0.5 * jnp.sum(shift**2)
    of_leaves = jax.vmap(unravel)(rows)
    of_rest = unravel(rest)

    def same(*leaves: Array) -> Array:
        z, total = shift, constant
        for part, b, w in zip(of_leaves, of_rest, leaves, strict=True):
            z = z + part @ w if w.ndim else z + part * w
            total = total + (b @ w if w.ndim else b * w)
        return total + 0.5 * jnp.sum(z**2)

    return jax.make_jaxpr(same)(*leaves)


def factor(matrix: Array, b: Array) -> tuple[Array, Array]:
    """R and s with RᵀR = `matrix`, symmetric and not negative, and Rᵀs near b."""
    tiny = len(matrix) * epsilon(matrix.dtype)

    def triangle(matrix: Array) -> tuple[Array, Array]:
        return lower.T, jax.scipy.linalg.solve_triangular(lower, b, lower=True)

    def singular(matrix: Array) -> tuple[Array, Array]:
        values, vectors = jnp.linalg.eigh(matrix)
        some = values > tiny * jnp.max(values, initial=0)
        roots = jnp.sqrt(jnp.where(some, values, 0))
        s = jnp.where(some, vectors.T @ b / jnp.where(some, roots, 1), 0)
        return roots[:, None] * vectors.T, s

    lower = jnp.linalg.cholesky(matrix)
    # NaN where it does not exist.
    regular = jnp.min(jnp.diagonal(lower), initial=1) ** 2 > tiny
    root, s = jax.lax.cond(regular, triangle, singular, matrix)
    return root, s


# What may have kinks: a gradient with one of these is not linear, whatever its
# derivative says.
KINKS = {
    *("abs", "sign", "max", "min", "clamp", "floor", "ceil", "round", "rem"),
    *("gt", "ge", "lt", "le", "eq", "ne", "sort", "top_k", "argmax", "argmin"),
    *("reduce_max", "reduce_min", "cummax", "cummin", "is_finite", "and", "or", "not"),
    *("while", "cond", "scan", "custom_vjp_call", "custom_jvp_call", "nextafter"),
}


def is_quadratic(loss: ClosedJaxpr, leaves: Sequence[Array]) -> bool:
    """Whether the gradient is known to be linear in the leaves.

    That is: the program of Hessian times vector does not read the leaves, and none of
    `KINKS` does in the program of the gradient.
    """

    def gradient(leaves: Sequence[Array]) -> Any:
        return jax.grad(lambda leaves: evaluate(loss, leaves))(leaves)

    def bend(*both: Array) -> Any:
        w, v = both[: len(leaves)], both[len(leaves) :]
        return jax.jvp(gradient, (w,), (v,))[1]

    if any(e.primitive.name in KINKS for e in reading(lambda *w: gradient(w), leaves)):
        return False
    number = len(leaves)
    return not reading(bend, [*leaves, *leaves], number)


def reading(
    f: Callable[..., Any], arguments: Sequence[Array], number: int | None = None
) -> list[Any]:
    """The equations of f's program that read the first `number` arguments.

    Directly or not, and only those that the results need.
    """

    def flat(*arguments: Array) -> Any:
        calls = jax.make_jaxpr(f)(*arguments)
        return run(calls.jaxpr, calls.consts, arguments)

    jaxpr = jax.make_jaxpr(flat)(*arguments).jaxpr
    needed = {v for v in jaxpr.outvars if not isinstance(v, Literal)}
    equations = []
    for equation in reversed(jaxpr.eqns):
        if any(v in needed for v in equation.outvars):
            # The power 0 reads nothing; JAX before 0.7 differentiates squares to it.
            if equation.primitive.name == "integer_pow" and not equation.params["y"]:
                continue
            needed.update(variables(equation))
            equations.append(equation)
    moving = set(jaxpr.invars[:number])
    result = []
    for equation in reversed(equations):
        if any(v in moving for v in variables(equation)):
            moving.update(equation.outvars)
            result.append(equation)
    return result
