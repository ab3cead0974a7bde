"""`choose_strength`: the best strength of a cross-validation, and the sparse one."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["Choice", "choose_strength"]

Array = jax.Array


class Choice(NamedTuple):
    """What `choose_strength` returns.

    Attributes:
      best: the place of the strength with the least mean error, an int32 scalar.
      one_se: that of the strongest whose mean error is at most one standard error more.
      mean: the mean error at each strength, shape (n,).
      standard_error: of these means, shape (n,).
      at_edge: whether the best is the strongest or the weakest: then the least error
        may be outside of the grid.
    """

    best: Array
    one_se: Array
    mean: Array
    standard_error: Array
    at_edge: Array


def choose_strength(strengths: Any, errors: Any) -> Choice:
    """The best strength of a cross-validation, and the one-standard-error rule's.

    Args:
      strengths: shape (n,), in any order. May be traced.
      errors: of each fold at each strength, shape (folds, n), of at least two folds.
        NaN counts as worst.

    Returns:
      A `Choice`, of places in `strengths`.

    Raises:
      ValueError: the shapes do not fit, or there are fewer than two folds.

    >>> import jax.numpy as jnp
    >>> from optareg import choose_strength
    >>> grid = jnp.array([1.0, 0.3, 0.1])
    >>> errors = jnp.array([[2.0, 1.1, 1.0], [4.0, 1.5, 1.5]])
    >>> choice = choose_strength(grid, errors)
    >>> print(grid[choice.best], grid[choice.one_se])
    0.1 0.3

    Source: Breiman, Friedman, Olshen & Stone, Classification and regression trees
    (1984), for the rule; Hastie, Tibshirani & Friedman, The elements of statistical
    learning (2009), section 7.10.
    """
    grid, errors = jnp.asarray(strengths), jnp.asarray(errors)
    if grid.ndim != 1 or errors.ndim != 2 or errors.shape[1:] != grid.shape:
        raise ValueError(
            "`choose_strength` needs strengths of shape (n,) and errors of shape "
            f"(folds, n), got {grid.shape} and {errors.shape}."
        )
    if len(errors) < 2 or not len(grid):
        raise ValueError(
            "`choose_strength` needs at least two folds and one strength, got "
            f"{len(errors)} and {len(grid)}."
        )
    mean = jnp.mean(errors, axis=0)
    spread = jnp.std(errors, axis=0, ddof=1) / jnp.sqrt(len(errors))
    worst = jnp.finfo(mean.dtype).max  # type: ignore[no-untyped-call]
    known = jnp.where(jnp.isnan(mean), worst, mean)
    best = jnp.argmin(known)
    # A fold without an error leaves no standard error.
    allowed = known[best] + jnp.nan_to_num(spread[best])
    one_se = jnp.argmax(jnp.where(known <= allowed, grid, -1))
    ends = (grid[best] == jnp.max(grid)) | (grid[best] == jnp.min(grid))
    return Choice(best.astype(jnp.int32), one_se.astype(jnp.int32), mean, spread, ends)
