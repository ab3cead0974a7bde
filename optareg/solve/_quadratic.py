"""Quadratic losses: which they are, and of those of many rows the Hessian.

A path solves so often that making it once pays.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Literal

from optareg.solve._gram import Gram, is_real_row
from optareg.solve._heads import Heads, evaluate, run, variables

__all__ = ["by_hessian", "is_quadratic"]

Array = jax.Array

# More parameters take longer than a path saves; with less than twice as many rows there
# is little to save.
MOST_PARAMETERS, LEAST_RATIO = 1024, 2


def by_hessian(loss: ClosedJaxpr, leaves: Sequence[Array]) -> Gram | None:
    """The same function of the leaves, to rounding, without data; None if not so.

    Its derivative with respect to data is not known.
    """
    loss = ClosedJaxpr(loss.jaxpr, jax.lax.stop_gradient(loss.consts))
    if not all(map(is_real_row, leaves)):
        return None
    heads = Heads.of(loss, leaves)
    size = sum(x.size for x in leaves)
    if size > MOST_PARAMETERS or heads.rows(leaves) < LEAST_RATIO * size:
        return None
    if not is_quadratic(loss, leaves):
        return None
    zeros = tuple(map(jnp.zeros_like, leaves))
    value, g = heads.value_and_gradient(heads.products(zeros), zeros)
    return Gram(zeros, value, tuple(g), {0: heads.hessian_matrix(zeros)})


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
