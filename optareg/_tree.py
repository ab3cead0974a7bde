"""Trees: leaves with their key paths, masked leaves, prefixes, and errors about them.

The only module that knows about the odd leaves of Optax trees: `None` and
`optax.MaskedNode` are *masked leaves*, places without a parameter, which pass through.
"""

import functools
from collections.abc import Iterable
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optareg._checks import is_traced

__all__ = ["Tree", "epsilon", "is_masked", "path_name", "real", "widen", "widest"]

Array = jax.Array
PyTree = Any


def is_masked(x: Any) -> bool:
    """Whether `x` is a place of a tree that holds no parameter."""
    return x is None or isinstance(x, optax.MaskedNode)


def path_name(path: tuple[Any, ...]) -> str:
    """A key path as `jax.tree_util.keystr` writes it; the bare root has a name too."""
    return jax.tree_util.keystr(path) or "the root"


class Tree:
    """A tree taken apart: `paths`, `leaves`, and what is needed to rebuild it.

    Masked leaves count here, so that a tree with more of them still lines up.
    """

    def __init__(self, tree: PyTree):
        pairs, self._treedef = jax.tree_util.tree_flatten_with_path(
            tree, is_leaf=is_masked
        )
        self.whole = tree
        self.paths = [path for path, _ in pairs]
        self.leaves = [self._leaf(*pair) for pair in pairs]

    @staticmethod
    def _leaf(path: tuple[Any, ...], leaf: Any) -> Any:
        try:
            return leaf if is_masked(leaf) else jnp.asarray(leaf)
        except (TypeError, ValueError):
            raise TypeError(
                f"the leaf at {path_name(path)} must be an array, got {leaf!r}."
            ) from None

    def build(self, leaves: Iterable[Any]) -> PyTree:
        """A tree of this structure from one value for each leaf."""
        return jax.tree.unflatten(self._treedef, list(leaves))

    def keep(self, chosen: Iterable[bool]) -> Self:
        """This tree with masked leaves where a leaf is not chosen."""
        pairs = zip(self.leaves, chosen, strict=True)
        return type(self)(self.build(x if c else optax.MaskedNode() for x, c in pairs))

    def match(self, other: PyTree, what: str) -> list[Any]:
        """The leaves of a tree of the same structure and shapes, masked ones aside."""
        leaves, treedef = jax.tree.flatten(other, is_leaf=is_masked)
        if treedef != self._treedef:  # type: ignore[operator]
            raise ValueError(
                f"{what} must have the structure of the parameters: "
                + self._difference(other, what, prefix=False)
            )
        for path, mine, theirs in zip(self.paths, self.leaves, leaves, strict=True):
            if is_masked(mine) or is_masked(theirs) or np.shape(theirs) == mine.shape:
                continue
            raise ValueError(
                f"{path_name(path)} of {what} has shape {np.shape(theirs)}, but the "
                f"parameter has shape {mine.shape}."
            )
        return leaves

    def broadcast(self, prefix: PyTree, what: str) -> list[Any]:
        """The entry of the prefix tree `prefix` for each leaf."""
        entries: list[Any] = []

        def spread(entry: Any, subtree: PyTree) -> None:
            entries.extend([entry] * len(jax.tree.leaves(subtree, is_leaf=is_masked)))

        try:
            jax.tree.map(spread, prefix, self.whole, is_leaf=is_masked)
        except (ValueError, TypeError, KeyError):
            raise ValueError(
                f"{what} must be one value, or a tree with one for each leaf or branch "
                "of the parameters: " + self._difference(prefix, what, prefix=True)
            ) from None
        return entries

    def _difference(self, other: PyTree, what: str, prefix: bool) -> str:
        """The first key path at which `other` is not (a prefix of) this structure."""
        pairs, treedef = jax.tree_util.tree_flatten_with_path(other, is_leaf=is_masked)
        theirs = [path for path, _ in pairs]
        for path in theirs:
            if not any(mine[: len(path)] == path for mine in self.paths):
                return f"{path_name(path)} of {what} is not in the parameters."
        for mine in self.paths:
            if not any(mine[: len(path)] == path for path in theirs):
                return f"{path_name(mine)} of the parameters is not in {what}."
        for path in theirs:
            if path not in self.paths and not prefix:
                return f"{path_name(path)} of {what} is a leaf, not a branch."
        return f"the containers differ, {treedef} against {self._treedef}."


def widest(*dtypes: Any) -> Any:
    """The promotion of `dtypes`, by the standard rules also where strict ones are set.

    The result is then cast to explicitly, so nothing is promoted silently.
    """
    with jax.numpy_dtype_promotion("standard"):
        return functools.reduce(jnp.promote_types, dtypes)


def widen(x: Array) -> Array:
    """`x` in the precision to compute in: its own, or float32 if that is wider."""
    return x.astype(widest(x.dtype, jnp.float32))


def epsilon(dtype: Any) -> float:
    """The distance from 1 to the next number of a floating or complex dtype."""
    return float(jnp.finfo(dtype).eps)  # type: ignore[no-untyped-call]


def real(x: Any, like: Array) -> Any:
    """`x` as a real array of the precision of `like`, itself real or complex.

    A known scalar stays known within `jit`, where `jnp.asarray` would trace it.
    """
    dtype = jnp.finfo(like.dtype).dtype  # type: ignore[no-untyped-call]
    known = np.ndim(x) == 0 and not is_traced(x)
    return np.asarray(x, dtype) if known else jnp.asarray(x, dtype)
