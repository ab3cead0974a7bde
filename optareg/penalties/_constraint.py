"""`constraint`: 0 in a convex set and ∞ outside, given by the projection onto it."""

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

# Spheres are not convex: the centre has no nearest point.
NOT_CONVEX = (
    optax.projections.projection_l1_sphere,
    optax.projections.projection_l2_sphere,
)


def constraint(projection: Callable[[Any], Any]) -> Penalty:
    """The constraint that each leaf is in a convex set: R(w) = 0 within, ∞ outside.

    The prox is the projection, at any step. `proximal` keeps every iterate in the set.
    The gradient of R is 0, so `add_penalty_gradient` does nothing. There is no strength
    to choose, so `target_sparsity`, `path` and `max_strength` raise.

    Args:
      projection: a function from an array to the nearest point of a convex set, of the
        same shape. It is one of `optax.projections` whose set is convex, or your own.
        It is called on each leaf alone, in float32 or wider. Optax's spheres are
        refused; otherwise it is not checked that the set is convex. Bind arguments by
        `functools.partial`, or by `jax.tree_util.Partial` if they are arrays or traced.
        `jit` compiles anew for another function object.

    Returns:
      A penalty. It is 0 for a w within a few roundings of the set, in the dtype of w.
      Put `joined` around it for one set of several leaves, or `masked` for some leaves.

    Raises:
      TypeError: `projection` is not callable. On use, a leaf is not floating or
        complex, or the projection does not return an array.
      ValueError: the set is known not to be convex. On use, the projection changes the
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
      projection: a `jax.tree_util.Partial`. Its arguments are not strengths.
      rounding: the epsilon of the leaf's dtype, set when the leaf is known.
    """

    projection: Any = data()
    rounding: float = static(default=0.0)

    def at_leaf(self, leaf: Array, path: tuple[Any, ...]) -> Self:
        name = f"the projection `{name_of(self.projection)}`"

        def of_whole() -> Any:  # Not of the leaf, which may have explicit sharding.
            return self.projection(widen(jnp.zeros(leaf.shape, leaf.dtype)))

        result = jax.eval_shape(of_whole)
        if not hasattr(result, "shape"):
            raise TypeError(
                f"{name} must return an array, got {result!r} for the leaf at "
                f"{path_name(path)}."
            )
        if result.shape != leaf.shape:
            raise ValueError(
                f"{name} returns shape {result.shape} for the leaf at "
                f"{path_name(path)} of shape {leaf.shape}. It must keep the shape. If "
                "the projection is not for this leaf, leave it out with `masked`."
            )
        return self.replace(rounding=epsilon(leaf.dtype))

    def leaf_value(self, w: Array) -> Array:
        w = jax.lax.stop_gradient(w)
        least = jnp.max(jnp.abs(w - self._project(w)), initial=0)
        scale = jnp.max(jnp.abs(w), initial=0)
        # A sum of n rounded entries is off by about √n roundings.
        slack = 4 * max(w.size, 1) ** 0.5 * max(self.rounding, epsilon(w.dtype))
        within = (least <= slack * scale) & jnp.isfinite(least)
        value = jnp.where(within, 0, jnp.inf)
        return jnp.where(jnp.any(jnp.isnan(w)), jnp.nan, value).astype(w.real.dtype)

    def leaf_gradient(self, w: Array) -> Array:
        return jnp.where(jnp.isnan(w), w, jnp.zeros_like(w))

    def leaf_prox(self, w: Array, step: Array) -> Array:
        return self._project(w)

    def leaf_project_domain(self, w: Array) -> Array:
        return self._project(w)

    def leaf_nearest_subgradient(self, w: Array, g: Array) -> Array:
        # A small step has half of the digits. If they show no residual, take a step as
        # large as the weights: at an optimum it is right to all digits.
        near = super().leaf_nearest_subgradient(w, g)
        size, slope = (jnp.max(jnp.abs(x), initial=0) for x in (w, g))
        step = jnp.where((size > 0) & (slope > 0), size, 1)
        step = step / jnp.where((size > 0) & (slope > 0), slope, 1)
        far = (w - self._project(w - step * g)) / step - g
        noise = 4 * epsilon(w.dtype) ** 0.5 * slope
        return jnp.where(jnp.max(jnp.abs(g + near), initial=0) <= noise, far, near)

    def leaf_residual(self, w: Array, g: Array) -> Array:
        """The distance from −g to the normal cone at w; ∞ if w is not in the set."""
        return super().leaf_residual(w, g) + self.leaf_value(w)

    def _project(self, w: Array) -> Array:
        projected = jnp.asarray(self.projection(w)).astype(w.dtype)
        projected = without_negative_zeros(projected)
        # A comparison in the projection may have lost a NaN.
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
