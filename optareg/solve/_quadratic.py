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
    flat, unravel = ravel_pytree(tuple(map(jnp.zeros_like, leaves)))
    if flat.size > MOST_PARAMETERS or not is_quadratic(loss, leaves):
        return None
    if sum(z.size for z in products) < LEAST_RATIO * flat.size:
        return None

    slope, hessian = derivatives(heads, unravel(flat))
    # Of unit diagonal, so that columns of all scales keep their digits.
    diagonal = jnp.diagonal(hessian)
    scale = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1))
    unit = hessian / (scale[None, :] * scale[:, None])
    root, shift = factor(unit, slope / scale)
    # loss(w) = ½‖R w + s‖² + b·w + c, where b is what no row can say.
    rows = root * scale[None, :]
    rest = slope - rows.T @ shift
    constant = evaluate(loss, unravel(flat)) - 0.5 * jnp.sum(shift**2)
    of_leaves = jax.vmap(unravel)(rows)
    of_rest = unravel(rest)

    def same(*leaves: Array) -> Array:
        z, total = shift, constant
        for part, b, w in zip(of_leaves, of_rest, leaves, strict=True):
            z = z + part @ w if w.ndim else z + part * w
            total = total + (b @ w if w.ndim else b * w)
        return total + 0.5 * jnp.sum(z**2)

    return jax.make_jaxpr(same)(*leaves)


def derivatives(loss: Heads, leaves: Sequence[Array]) -> tuple[Array, Array]:
    """The gradient and the Hessian of a loss, of all leaves in a row."""

    def gradient(products: list[Array], leaves: list[Array]) -> Array:
        return ravel_pytree(loss.value_and_gradient(products, leaves)[1])[0]

    products = loss.products(leaves)
    slope, bend = jax.linearize(gradient, products, list(leaves))

    def rows(leaf: int) -> Array:
        """Those of one leaf."""

        def row(i: Array) -> Array:
            units = [jnp.zeros_like(w) for w in leaves]
            w = leaves[leaf]
            units[leaf] = jnp.zeros(w.size, w.dtype).at[i].set(1).reshape(w.shape)
            # The product with a unit vector is read, not computed.
            pairs = zip(loss.heads, products, strict=True)
            zs = [h.row(i, z) if h.leaf == leaf else 0 * z for h, z in pairs]
            return jnp.asarray(bend(zs, units))

        return jax.vmap(row)(jnp.arange(leaves[leaf].size))

    return slope, jnp.concatenate([rows(leaf) for leaf in range(len(leaves))])


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
