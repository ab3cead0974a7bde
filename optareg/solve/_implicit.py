"""`with_derivative`: a solution, with its derivative.

The solution is a fixed point of the proximal gradient step, w = prox(w − c ∇f(w)), for
any c > 0. So its derivative solves a linear system on the support, by the implicit
function theorem.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from optareg._precision import all_digits
from optareg._tree import epsilon
from optareg.penalties._base import Penalty
from optareg.solve._composite import Composite, Goal
from optareg.solve._heads import Heads
from optareg.solve._leaves import Leaves, add, conjugate_gradients, dot
from optareg.solve._linear_system import damped, linear_system, slope
from optareg.solve._solution import Outcome

__all__ = ["with_derivative"]

Array = jax.Array

MOST_CG = 10_000


def with_derivative(
    traced: ClosedJaxpr, penalties: tuple[Penalty, ...], outcome: Outcome, goal: Goal
) -> Outcome:
    """`outcome`, the solution for `traced`, with its derivative.

    Where the goal is not reached, that is NaN.
    """
    # What `run` closes over outlives this call, so it must hold no tracer: of the loss
    # only the code, of the leaves only the shapes.
    code, leaves_like = traced.jaxpr, jax.eval_shape(lambda: outcome.w)

    def problem(consts: Any, penalties: Any) -> Composite:
        return Composite(Heads.of(ClosedJaxpr(code, consts), leaves_like), penalties)

    @jax.custom_jvp
    def run(consts: Any, penalties: Any, outcome: Outcome, goal: Goal) -> Outcome:
        del consts, penalties, goal
        return outcome

    # JAX may trace it when the solver has ended.
    @run.defjvp
    @all_digits
    def run_jvp(primals: Any, tangents: Any) -> tuple[Outcome, Outcome]:
        consts, penalties, _, goal = primals
        outcome = run(*primals)
        w = outcome.w
        composite = problem(consts, penalties)
        found = composite.point(w)
        here = composite.objective(found)
        # The fixed point is the same with any scales.
        here = here._replace(scales=jax.lax.stop_gradient(here.scales))
        y = here.nearest(w, found.g)

        def point(consts: Any, penalties: Any) -> Leaves:
            """The proximal gradient step from w."""
            composite = problem(consts, penalties)
            g = composite.point(w).g
            there = composite.unscaled(w)._replace(scales=here.scales)
            steps = zip(w, here.scales, g, strict=True)
            z = tuple(x - c * g for x, c, g in steps)
            return tuple(a - b for a, b in zip(z, there.dual(z, 1.0), strict=True))

        _, moved = jax.jvp(point, (consts, penalties), tangents[:2])
        rows = zip(w, here.scales, y, strict=True)
        prox_slope = slope(here, tuple(x + c * d for x, c, d in rows), 1.0)
        hessian = damped(here, w, found.products, 0.0)
        system = linear_system(here, hessian, prox_slope, 1.0)
        accuracy = epsilon(outcome.stationarity.dtype) ** 0.75

        def matrix(parts: Leaves) -> Leaves:
            return real_parts(system(from_parts(parts, w))[0])

        of_complex = [
            c for c, x in zip(here.scales, w, strict=True) if jnp.iscomplexobj(x)
        ]
        scales = (*here.scales, *of_complex)

        def cg(matrix: Any, b: Leaves) -> Leaves:
            def both(p: Leaves) -> tuple[Leaves, Leaves]:
                return matrix(p), p

            return conjugate_gradients(both, b, scales, accuracy, MOST_CG)[0]

        # With D the slope of the prox: w' = moved + D p, and
        # (D H D + D (I − D) / c) p = D (moved / c − H moved).
        pairs = zip(moved, here.scales, hessian(moved), strict=True)
        b = prox_slope(tuple(m / c - h for m, c, h in pairs))
        # To be transposed, all of them must depend on the tangents, and then count.
        b = linked(b)
        # The matrix is symmetric as one of real numbers.
        parts = jax.lax.custom_linear_solve(
            matrix, real_parts(b), solve=cg, symmetric=True
        )
        p = from_parts(linked(parts), w)
        reached = outcome.reaches(goal.tol)
        of_w = tuple(
            x * jnp.where(reached, 1, jnp.nan).astype(x.dtype)
            for x in add(moved, prox_slope(p))
        )
        zero = jax.tree.map(zero_tangent, outcome)
        return outcome, zero._replace(w=of_w)

    fixed = jax.lax.stop_gradient((outcome, goal))
    return run(traced.consts, penalties, *fixed)


def linked(w: Leaves) -> Leaves:
    """The same leaves, each of which depends on all: no derivative is missing."""
    nothing = 0 * dot(w, tuple(map(jnp.ones_like, w)))
    return tuple(x + nothing.astype(x.dtype) for x in w)


def real_parts(w: Leaves) -> Leaves:
    """Of each leaf the real part; then of complex ones the imaginary part."""
    imaginary = tuple(x.imag for x in w if jnp.iscomplexobj(x))
    return (*(x.real for x in w), *imaginary)


def from_parts(parts: Leaves, like: Leaves) -> Leaves:
    """The leaves of these parts, complex where others are."""
    imaginary = iter(parts[len(like) :])
    return tuple(
        jax.lax.complex(x, next(imaginary)) if jnp.iscomplexobj(w) else x
        for x, w in zip(parts, like, strict=False)
    )


def zero_tangent(x: Array) -> Any:
    """The tangent of what is taken to depend on nothing."""
    if jnp.issubdtype(x.dtype, jnp.inexact):
        return jnp.zeros_like(x)
    return np.zeros(x.shape, jax.dtypes.float0)
