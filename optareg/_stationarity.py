"""The optimality residual of parameters: `stationarity`."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optareg._tree import Tree, is_masked, widen, widest
from optareg.penalties._base import Penalty
from optareg.penalties._combinators import check_is_penalty
from optareg.penalties._unpenalised import cover

__all__ = ["greatest", "residuals", "stationarity", "with_smooth"]

Array = jax.Array
PyTree = Any


def stationarity(penalty: Penalty, params: PyTree, grads: PyTree) -> Array:
    """How far parameters are from optimal: the distance of −∇L(w) from ∂R(w).

    For L1 that is |g + λ sign(w)| at a nonzero weight and max(|g| − λ, 0) at a zero
    one. If loss and penalty are convex, it is zero at the optimum and nowhere else. If
    not, it is zero at every point that meets the first-order optimality conditions.

    Args:
      penalty: any penalty; at unpenalised parameters the distance is |g|.
      params: a tree of floating or complex arrays of any shapes. May be traced.
      grads: the gradient of the loss alone at `params`, as `jax.grad` gives it.

    Returns:
      A scalar, in float32 or wider: the largest distance over all entries, or groups
      for penalties on groups. Its unit is that of the loss per unit of weight. NaN if a
      gradient is NaN.

    Raises:
      TypeError: `penalty` is not a penalty, or a penalised leaf is not floating or
        complex.
      ValueError: `grads`, or a strength, mask or label does not fit `params`.

    >>> import jax.numpy as jnp
    >>> from optareg import L1, stationarity
    >>> w, grads = jnp.array([2.0, 0.0, 0.0]), jnp.array([-1.0, 0.9, 1.25])
    >>> print(stationarity(L1(1.0), w, grads))
    0.25

    Source: the KKT conditions, Rockafellar, Convex analysis (1970), theorem 27.4.
    """
    check_is_penalty(penalty, "stationarity")
    return greatest(residuals(penalty, params, grads))


def residuals(penalty: Penalty, params: PyTree, grads: PyTree) -> list[Array]:
    """The optimality residuals of each parameter group."""
    tree = Tree(params)
    g = tree.match(grads, "`grads`")
    param_groups = cover(penalty.resolve(tree), tree)
    columns = [(b.penalty, b.join(tree.leaves), b.join(g)) for b in param_groups]
    return [residual(*c) for c in columns if not is_masked(c[-1])]


def residual(penalty: Penalty, w: Array, g: Any) -> Array:
    """The optimality residuals of one parameter group, by entry or group of entries."""
    if not jnp.issubdtype(w.dtype, jnp.inexact):
        return jnp.zeros((), jnp.float32)
    w, g = with_smooth(penalty, w, g)
    nonsmooth = penalty.split()[1]
    return jnp.abs(g) if nonsmooth is None else nonsmooth.leaf_residual(w, g)


def with_smooth(penalty: Penalty, w: Array, g: Any) -> tuple[Array, Array]:
    """The parameters, and the direction of steepest ascent of loss + smooth penalty.

    Both in float32 or wider; g is the loss's gradient as JAX gives it.
    """
    w, g = widen(w), jnp.conj(widen(jnp.asarray(g)))
    smooth = penalty.split()[0]
    return w, g if smooth is None else g + smooth.leaf_gradient(w)


def greatest(parts: Sequence[Array]) -> Array:
    """The largest entry of all, in float32 or wider; NaN if there is one."""
    dtype = widest(jnp.float32, *(part.dtype for part in parts))
    each = [jnp.max(part, initial=0).astype(dtype) for part in parts]
    return functools.reduce(jnp.maximum, each, jnp.zeros((), dtype))
