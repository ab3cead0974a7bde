"""`Wrapped`: the penalty of one leaf, seen through another that changes a part of it.

A subclass overrides what it changes, and inherits the rest.
"""

from typing import Any, Self

import jax
import numpy as np

from optareg.penalties._base import Penalty

__all__ = ["Wrapped"]

Array = jax.Array


class Wrapped(Penalty):
    """What has all properties of R, its `penalty`, that do not depend on weights."""

    penalty: Penalty

    @property
    def scaled(self) -> bool:  # type: ignore[override]
        """Whether R is."""
        return self.penalty.scaled

    @property
    def entrywise(self) -> bool:  # type: ignore[override]
        """Whether R is."""
        return self.penalty.entrywise

    @property
    def convex(self) -> bool:  # type: ignore[override]
        """Whether R is."""
        return self.penalty.convex

    @property
    def strength(self) -> Any:
        """The strength of a penalty that is `scaled`."""
        return self.penalty.strength  # type: ignore[attr-defined]

    def weak_convexity(self) -> Any:
        return self.penalty.weak_convexity()

    def split(self) -> tuple[Penalty | None, Penalty | None]:
        smooth, rest = (
            None if part is None else self.replace(penalty=part)
            for part in self.penalty.split()
        )
        return smooth, rest

    def split_strength(self) -> tuple[Any, Penalty]:
        strength, psi = self.penalty.split_strength()
        return strength, self.replace(penalty=psi)

    def leaf_dual_norm(self, g: Array) -> Array:
        return self.penalty.leaf_dual_norm(g)

    def leaf_group_max(self, x: Array) -> Array:
        return self.penalty.leaf_group_max(x)

    def leaf_project_dual(self, s: Array) -> Array:
        return self.penalty.leaf_project_dual(s)

    def leaf_noise_scale(self, w: Array) -> Any:
        return self.penalty.leaf_noise_scale(w)

    def leaf_largest_subgradient(self) -> Any:
        return self.penalty.leaf_largest_subgradient()

    def leaf_blocks(self, axis: int, shape: tuple[int, ...]) -> np.ndarray | None:
        return self.penalty.leaf_blocks(axis, shape)

    def take(self, rows: Array, axis: int, like: Array) -> Self:
        return self.replace(penalty=self.penalty.take(rows, axis, like))
