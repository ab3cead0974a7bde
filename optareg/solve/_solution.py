"""What the solver returns: `Outcome` in arrays, `Solution` in the user's tree."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["Outcome", "Solution", "near_enough"]

Array = jax.Array
Leaves = tuple[Array, ...]


class Solution(NamedTuple):
    """What `minimize` and `path` return.

    Attributes:
      params: the parameters found, a tree as that given.
      stationarity: how far they are from optimal, as `stationarity` measures it.
      steps: the number of iterations, an int32 scalar.
      converged: whether the tolerance was reached, a bool scalar.
    """

    params: Any
    stationarity: Array
    steps: Array
    converged: Array


class Outcome(NamedTuple):
    """The end of a search.

    Attributes:
      w: the parameters.
      stationarity: how far they are from optimal.
      distance: the same in the units of the goal.
      steps: the number of iterations.
      damping: for a problem nearby to begin with.
    """

    w: Leaves
    stationarity: Array
    distance: Array
    steps: Array
    damping: Array

    def reaches(self, tol: Any) -> Array:
        """Whether the search reached a tolerance, which must be finite."""
        return near_enough(self.distance, tol)


def near_enough(distance: Array, tol: Any) -> Array:
    """Whether a distance from optimal is within a tolerance, which must be finite."""
    enough: Array = (distance <= tol) & jnp.isfinite(tol)
    return enough
