"""`constraint`: 0 within a convex set and ∞ outside, given by the projection on it."""

import functools
from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp
import optax

from optareg._tree import epsilon, path_name, widen
from optareg.penalties._base import Penalty, data, register_penalty, static
from optareg.penalties._numbers import without_negative_zeros

__all__ = ["constraint"]

Array = jax.Array

# Spheres have no nearest point of their own for every point: not convex.
NOT_CONVEX = (
    optax.projections.projection_l1_sphere,
    optax.projections.projection_l2_sphere,
)


def constraint(projection: Callable[[Any], Any]) -> Penalty:
    """The constraint that each leaf is in a convex set: R(w) = 0 within, ∞ outside.

    The prox is the projection at any step. `proximal` keeps every iterate in the set;
    the gradient of R is 0, so `add_penalty_gradient` does nothing. There is no strength
    to choose: `target_sparsity`, `path` and `max_strength` raise.

    Args:
      projection: a function from an array to the nearest point of a convex set, of the
        same shape: any of `optax.projections` whose set is convex, or your own. It is
        called on each leaf apart, in float32 or wider. That the set is convex is not
        checked, except for Optax's spheres. Bind arguments by `functools.partial`, or
        by `jax.tree_util.Partial` if they are arrays or traced; for `jit` a function is
        the same if it is the same object.

    Returns:
      A penalty. It is 0 for a w within a few roundings of the set, in the dtype of w.
      For one set of several leaves, put `joined` around it; for other leaves without
      it, `masked`.

    Raises:
      TypeError: `projection` is not callable; on use, a leaf is not floating or
        complex, or the projection does not return an array.
      ValueError: the set is known not to be convex; on use, the projection changes the
        shape.

    >>> import functools, jax.numpy as jnp, optax
    >>> from optareg import constraint
    >>> box = functools.partial(optax.projections.projection_box, lower=0.0, upper=1.0)
    >>> penalty = constraint(box)
    >>> w = jnp.array([-0.5, 0.5, 2.0])
    >>> print(penalty.prox(w, 0.1), penalty.value(w), penalty.value(w.clip(0, 1)))
    [0.  0.5 1. ] inf 0.0

    Source: Parikh & Boyd, Proximal algorithms (2014), section 1.2.
    """
    if not callable(projection) or isinstance(projection, type):
        raise TypeError(
            f"`constraint` needs a function that projects an array, got {projection!r}."
            " For example `optax.projections.projection_simplex`."
        )
    if isinstance(projection, Penalty):
        raise TypeError(f"`constraint` needs a projection, got {projection!r}.")
    if innermost(projection) in NOT_CONVEX:
        raise ValueError(
            f"the set of `{name_of(projection)}` is not convex, and `constraint` is for"
            " convex sets. Take the ball for the sphere, or normalise in the model."
        )
    if not isinstance(projection, jax.tree_util.Partial):
        projection = jax.tree_util.Partial(projection)  # type: ignore[no-untyped-call]
    return Constraint(projection)


@register_penalty
class Constraint(Penalty):
    """What `constraint` returns.

    Attributes:
      projection: a `jax.tree_util.Partial`, whose arguments are no strengths.
      rounding: that of the dtype of the leaf; set when the leaf is known.
    """

    projection: Any = data()
    rounding: float = static(default=0.0)

    def at_leaf(self, leaf: Array, path: tuple[Any, ...]) -> Self:
        name = f"the projection `{name_of(self.projection)}`"
        result = jax.eval_shape(lambda w: self.projection(widen(w)), leaf)
        if not hasattr(result, "shape"):
            raise TypeError(
                f"{name} must return an array, got {result!r} for the leaf at "
                f"{path_name(path)}."
            )
        if result.shape != leaf.shape:
            raise ValueError(
                f"{name} returns shape {result.shape} for the leaf at "
                f"{path_name(path)} of shape {leaf.shape}. It must keep the shape; "
                "leave the leaf out with `masked` if it is not for it."
            )
        return self.replace(rounding=epsilon(leaf.dtype))

    def leaf_value(self, w: Array) -> Array:
        w = jax.lax.stop_gradient(w)
        least = jnp.max(jnp.abs(w - self._project(w)), initial=0)
        scale = jnp.max(jnp.abs(w), initial=0)
        # A sum of n entries, each rounded, is off by √n roundings or so.
        slack = 4 * max(w.size, 1) ** 0.5 * max(self.rounding, epsilon(w.dtype))
        within = (least <= slack * scale) & jnp.isfinite(least)
        value = jnp.where(within, 0, jnp.inf)
        return jnp.where(jnp.any(jnp.isnan(w)), jnp.nan, value).astype(w.real.dtype)

    def leaf_gradient(self, w: Array) -> Array:
        return jnp.where(jnp.isnan(w), w, jnp.zeros_like(w))

    def leaf_prox(self, w: Array, step: Array) -> Array:
        return self._project(w)

    def leaf_domain(self, w: Array) -> Array:
        return self._project(w)

    def leaf_nearest(self, w: Array, g: Array) -> Array:
        # By a small step, of which half of the digits are right; where that is all
        # that they show, by one as large as the weights, right at an optimum.
        near = super().leaf_nearest(w, g)
        size, slope = (jnp.max(jnp.abs(x), initial=0) for x in (w, g))
        step = jnp.where((size > 0) & (slope > 0), size, 1)
        step = step / jnp.where((size > 0) & (slope > 0), slope, 1)
        far = (w - self._project(w - step * g)) / step - g
        noise = 4 * epsilon(w.dtype) ** 0.5 * slope
        return jnp.where(jnp.max(jnp.abs(g + near), initial=0) <= noise, far, near)

    def leaf_residual(self, w: Array, g: Array) -> Array:
        """That of the normal cone at w; ∞ outside of the set, where there is none."""
        return super().leaf_residual(w, g) + self.leaf_value(w)

    def _project(self, w: Array) -> Array:
        projected = jnp.asarray(self.projection(w)).astype(w.dtype)
        projected = without_negative_zeros(projected)
        # A comparison in a projection takes NaN for a number.
        return jnp.where(jnp.isnan(w), w, projected)


def innermost(projection: Any) -> Any:
    """The function itself, without what binds its arguments."""
    while isinstance(projection, functools.partial):
        projection = projection.func
    return projection


def name_of(projection: Any) -> str:
    """The name of a function, whatever binds its arguments."""
    function = innermost(projection)
    return getattr(function, "__name__", None) or repr(function)
