"""Trees: leaves, key paths, prefix trees, and errors that name the key path.

Only this module knows how Optax masks leaves. A *masked leaf* is `None` or
`optax.MaskedNode`: a place without a parameter, which passes through.
"""

import functools
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optareg._checks import is_traced

__all__ = [
    "Tree",
    "epsilon",
    "is_masked",
    "is_state",
    "numbers_only",
    "path_name",
    "real",
    "widen",
    "widest",
]

Array = jax.Array
PyTree = Any


def is_masked(x: Any) -> bool:
    """Whether `x` is a masked leaf."""
    return x is None or isinstance(x, optax.MaskedNode)


def is_state(x: Any) -> bool:
    """Whether `x` is the state of a transformation, or a tuple that holds some."""
    if not isinstance(x, tuple) or is_masked(x):
        return False
    of_optax = type(x).__module__.partition(".")[0] in ("optax", "optareg")
    return of_optax or any(map(is_state, x))


def numbers_only(tree: PyTree) -> PyTree:
    """`tree` with None for what has no numbers to count: PRNG keys and functions."""

    def has_numbers(x: Any) -> bool:
        dtype = getattr(x, "dtype", None)
        is_key = isinstance(x, jax.Array) and jnp.issubdtype(
            x.dtype, jax.dtypes.extended
        )
        return not (is_key or callable(x) or dtype == jax.dtypes.float0)

    return jax.tree.map(
        lambda x: x if is_masked(x) or has_numbers(x) else None, tree, is_leaf=is_masked
    )


def path_name(path: tuple[Any, ...]) -> str:
    """A key path as `jax.tree_util.keystr` writes it, or a name for the root."""
    return jax.tree_util.keystr(path) or "the root"


class Tree:
    """A tree as a list of leaves, which can be built again.

    Masked leaves are leaves here. So trees that are masked in other places still match.

    Attributes:
      whole: the tree.
      paths: the key path of each leaf.
      leaves: the leaves, as JAX arrays or masked.
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
            hint = (
                " Leave functions out, as in `eqx.filter(model, eqx.is_inexact_array)`."
                if callable(leaf)
                else ""
            )
            raise TypeError(
                f"the leaf at {path_name(path)} must be an array, got {leaf!r}.{hint}"
            ) from None

    def build(self, leaves: Iterable[Any]) -> PyTree:
        """A tree of this structure from one value for each leaf."""
        return jax.tree.unflatten(self._treedef, list(leaves))

    def keep(self, chosen: Iterable[bool]) -> Self:
        """This tree with masked leaves where a leaf is not chosen."""
        pairs = zip(self.leaves, chosen, strict=True)
        return type(self)(self.build(x if c else optax.MaskedNode() for x, c in pairs))

    def match(self, other: PyTree, what: str) -> list[Any]:
        """The leaves of a tree of the same structure and shapes; some may be masked."""
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
        """The entry of the prefix tree `prefix` for each leaf.

        For a masked leaf it is any entry of its branch, or None.
        """
        entries, treedef = jax.tree.flatten(prefix, is_leaf=is_masked)
        pairs = line_up(iter(entries), treedef, iter(self.leaves), self._treedef)
        try:
            return list(pairs)
        except MismatchError:
            raise ValueError(
                f"{what} must be one value, or a tree with one for each leaf or branch "
                "of the parameters: " + self._difference(prefix, what, prefix=True)
            ) from None

    def _difference(self, other: PyTree, what: str, prefix: bool) -> str:
        """In words, the first key path at which the structure of `other` differs."""
        pairs, treedef = jax.tree_util.tree_flatten_with_path(other, is_leaf=is_masked)
        theirs = [path for path, _ in pairs]
        hint = hint_about(self.whole, self._treedef, other, treedef)
        masked = [
            path
            for path, leaf in zip(self.paths, self.leaves, strict=True)
            if prefix and is_masked(leaf)
        ]
        for path in theirs:
            if not any(begins(mine, path) for mine in self.paths) and not any(
                begins(path, mine) for mine in masked
            ):
                return f"{path_name(path)} of {what} is not in the parameters.{hint}"
        for mine in self.paths:
            if not any(begins(mine, path) for path in theirs):
                return f"{path_name(mine)} of the parameters is not in {what}.{hint}"
        for path in theirs:
            if path not in self.paths and not prefix:
                return f"{path_name(path)} of {what} is a leaf, not a branch.{hint}"
        return difference_of_containers(treedef, self._treedef, self.paths, what) + hint


def begins(path: tuple[Any, ...], start: tuple[Any, ...]) -> bool:
    """Whether the key path `path` is `start`, or goes on from it."""
    return path[: len(start)] == start


class MismatchError(Exception):
    """A tree is not a prefix of another one."""


def line_up(
    entries: Iterator[Any], theirs: Any, leaves: Iterator[Any], mine: Any
) -> Iterator[Any]:
    """The entry of a prefix tree for each leaf of a tree, by their treedefs."""
    if is_leaf(theirs):
        entry = next(entries)
        yield from (entry for _ in islice(leaves, mine.num_leaves))
    elif is_leaf(mine):
        if not is_masked(next(leaves)):
            raise MismatchError
        unused = list(islice(entries, theirs.num_leaves))
        yield unused[0] if unused else None
    elif not same_node(theirs, mine):
        raise MismatchError
    else:
        for a, b in zip(theirs.children(), mine.children(), strict=True):
            yield from line_up(entries, a, leaves, b)


def is_leaf(treedef: Any) -> bool:
    """Whether a treedef is that of one leaf, not that of a container."""
    return bool(treedef.num_nodes == treedef.num_leaves == 1)


def same_node(a: Any, b: Any) -> bool:
    """Whether the outermost containers of two treedefs are alike."""
    return a.node_data() == b.node_data() and len(a.children()) == len(b.children())


def first_difference(
    theirs: Any, mine: Any, leaf: int = 0, depth: int = 0
) -> tuple[int, int, Any, Any] | None:
    """The first two containers that differ, after their first leaf and their depth."""
    if is_leaf(theirs) or is_leaf(mine):
        return None
    if not same_node(theirs, mine):
        return leaf, depth, theirs, mine
    for a, b in zip(theirs.children(), mine.children(), strict=True):
        found = first_difference(a, b, leaf, depth + 1)
        if found:
            return found
        leaf += b.num_leaves
    return None


def difference_of_containers(theirs: Any, mine: Any, paths: Any, what: str) -> str:
    """In words, how two trees with the same key paths differ."""
    found = first_difference(theirs, mine)
    if found is None:
        return "the containers differ."
    leaf, depth, a, b = found
    at = path_name(paths[leaf][:depth] if leaf < len(paths) else ())
    their_type, my_type = (x.node_data()[0].__name__ for x in (a, b))
    if their_type == my_type:
        return (
            f"at {at}, {what} has a `{my_type}` whose keys or static fields are not "
            "those of the parameters."
        )
    return f"at {at}, {what} has a `{their_type}`, the parameters a `{my_type}`."


def hint_about(mine: PyTree, my_treedef: Any, other: PyTree, other_treedef: Any) -> str:
    """A hint what to do about a difference, or no text."""
    if is_state(mine) != is_state(other):
        return " Are the state and the parameters swapped?"
    if containers_of_nnx(my_treedef) != containers_of_nnx(other_treedef):
        return (
            " `nnx.as_pure` takes the Variables out of an `nnx.State`, and "
            "`nnx.to_pure_dict` makes a dictionary of it."
        )
    return ""


def containers_of_nnx(treedef: Any) -> set[Any]:
    """The types of Flax NNX among the containers of a treedef."""
    node = treedef.node_data()
    is_nnx = node is not None and node[0].__module__.startswith("flax.nnx")
    return {node[0] for _ in range(is_nnx)}.union(
        *map(containers_of_nnx, treedef.children())
    )


def widest(*dtypes: Any) -> Any:
    """The promotion of `dtypes` by JAX's standard rules, even if strict ones are set.

    The callers cast to the result explicitly, so nothing is promoted silently.
    """
    with jax.numpy_dtype_promotion("standard"):
        return functools.reduce(jnp.promote_types, dtypes)


def widen(x: Array) -> Array:
    """`x` in the precision to compute in: its own one, and at least float32."""
    return x.astype(widest(x.dtype, jnp.float32))


def epsilon(dtype: Any) -> float:
    """The distance from 1 to the next number of a floating or complex dtype."""
    return float(jnp.finfo(dtype).eps)  # type: ignore[no-untyped-call]


def real(x: Any, like: Array) -> Any:
    """`x` as a real array with the precision of `like`, which may be complex.

    A known scalar stays known within `jit`; `jnp.asarray` would trace it there.
    """
    dtype = jnp.finfo(like.dtype).dtype  # type: ignore[no-untyped-call]
    known = np.ndim(x) == 0 and not is_traced(x)
    return np.asarray(x, dtype) if known else jnp.asarray(x, dtype)
