"""Masks and labels: by a tree, a function, or a regular expression.

`by_path` is a mask by key path. A `Choice` is a tree of bools or labels. It is
hashable, as the static part of a pytree must be. A chooser is a `Choice` or a function
of the user's; `choose` asks it for the entry of each leaf.
"""

import dataclasses
import re
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import numpy as np

from optareg._tree import Tree, is_masked, path_name

__all__ = [
    "ByMatch",
    "Choice",
    "Chooser",
    "as_chooser",
    "by_path",
    "check_found",
    "check_regex",
    "choose",
    "plain_lists",
]

PyTree = Any
Chooser = Callable[[PyTree], PyTree]


def by_path(regex: str) -> "ByPath":
    """A mask by key path: True for each leaf in whose path `regex` is found.

    `jax.tree_util.keystr` writes the path, for example
    `['params']['Dense_0']['kernel']`. `re.search` looks for `regex` in it.

    Args:
      regex: a regular expression.

    Returns:
      A function from parameters to a tree of bools. Functions of equal expressions are
      equal. The function raises ValueError, with a list of the key paths, if `regex` is
      found in none of them. The paths of masked leaves count too.

    Raises:
      TypeError: `regex` is not a string.
      ValueError: `regex` is not a valid regular expression.

    >>> from optareg import by_path
    >>> by_path("kernel")({"Dense_0": {"kernel": 1.0, "bias": 0.0}})
    {'Dense_0': {'bias': False, 'kernel': True}}
    """
    return ByPath(check_regex(regex))


def check_regex(regex: Any, what: str = "regex") -> str:
    """Raises unless `regex` is a regular expression."""
    if not isinstance(regex, str):
        raise TypeError(f"`{what}` must be a string, got {regex!r}.")
    try:
        re.compile(regex)
    except re.error as error:
        raise ValueError(f"`{what}` is not valid: {regex!r}, {error}.") from None
    return regex


@dataclasses.dataclass(frozen=True)
class ByPath:
    """The function that `by_path` returns."""

    regex: str

    def __call__(self, params: PyTree) -> PyTree:
        return search(self.regex, params, bool)


@dataclasses.dataclass(frozen=True)
class ByMatch:
    """Labels by a regular expression: its groups, or the whole match if it has none."""

    regex: str

    def __call__(self, params: PyTree) -> PyTree:
        def label(found: re.Match[str] | None) -> Any:
            if found is None:
                return None
            return "/".join(g or "" for g in found.groups()) or found.group()

        return search(self.regex, params, label)


def search(
    regex: str, params: PyTree, entry: Callable[[re.Match[str] | None], Any]
) -> PyTree:
    """The entry for the match in each leaf's key path; masked leaves stay masked.

    Raises:
      ValueError: `regex` is found in no key path.
    """
    pairs, treedef = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_masked)
    if not all(is_masked(leaf) for _, leaf in pairs):
        check_found(regex, [path for path, _ in pairs])
    entries = [
        leaf if is_masked(leaf) else entry(re.search(regex, jax.tree_util.keystr(path)))
        for path, leaf in pairs
    ]
    return jax.tree.unflatten(treedef, entries)


def check_found(regex: str, paths: Sequence[Any], most: int = 10) -> None:
    """Raises unless `regex` is found in one of the key paths."""
    names = list(map(jax.tree_util.keystr, paths))
    if any(re.search(regex, name) for name in names):
        return
    listed = ", ".join(map(path_name, paths[:most]))
    rest = f", and {len(paths) - most} more" if len(paths) > most else ""
    raise ValueError(
        f"the regular expression {regex!r} is found in no key path of the parameters. "
        f"There are {listed}{rest}."
    )


@dataclasses.dataclass(frozen=True)
class Choice:
    """A hashable tree of bools or labels.

    Attributes:
      leaves: the bools or labels.
      paths: their key paths.
      treedef: the structure of the tree.
    """

    leaves: tuple[Hashable, ...]
    paths: tuple[Any, ...] = dataclasses.field(repr=False)
    treedef: Any = dataclasses.field(repr=False)

    @classmethod
    def of(cls, tree: PyTree, what: str) -> "Choice":
        """The choice of `tree`; its leaves are checked."""
        pairs, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_masked)
        if callable(tree) and not pairs:
            raise TypeError(
                f"the {what} can be called, but it is a pytree without leaves: "
                f"{tree!r}. If it is to be called, wrap it in a function: "
                f"`lambda params: {what}(params)`."
            )
        for path, leaf in pairs:
            if not is_masked(leaf):
                check_choice(leaf, what, path)
        paths, leaves = zip(*pairs, strict=True) if pairs else ((), ())
        return cls(leaves, paths, treedef)

    def __call__(self, _: PyTree) -> PyTree:
        return jax.tree.unflatten(self.treedef, self.leaves)


def as_chooser(choice: PyTree | Chooser, what: str) -> Chooser:
    """`choice` itself if it is a function, or the `Choice` of a tree.

    A module with a `__call__` is a tree. As for `optax.masked`, a function is a pytree
    whose leaves are all callable.
    """
    leaves = jax.tree.leaves(choice)
    if callable(choice) and leaves and all(map(callable, leaves)):
        return choice
    return Choice.of(choice, what)


def choose(chooser: Chooser, tree: Tree, what: str = "labels") -> list[Any]:
    """The bool or label of each leaf. An empty tree is JAX's placeholder: no leaves."""
    if not tree.leaves:
        return []
    choice = chooser(tree.whole)
    chosen = tree.broadcast(choice, f"the {what}")
    for path, leaf, entry in zip(tree.paths, tree.leaves, chosen, strict=True):
        if not is_masked(leaf):
            check_choice(entry, what, path)
    return chosen


def check_choice(entry: Any, what: str, path: tuple[Any, ...]) -> None:
    """Raises unless `entry` can stand in a mask or a tree of labels."""
    if what == "mask" and not isinstance(entry, (bool, np.bool_)):
        hint = "To weight single coordinates, give the strength as an array."
        if isinstance(entry, str):
            hint = f"To choose by key path, use `by_path({entry!r})`."
        elif is_masked(entry):
            hint = "There is a parameter. Write False to leave it out."
        elif callable(entry):
            hint = (
                "The mask is a pytree, so it is not called. If it is to be called, "
                "write `lambda params: mask(params)`."
            )
        raise TypeError(
            f"the mask must have True or False at {path_name(path)}, got {entry!r}. "
            + hint
        )
    if not isinstance(entry, Hashable):
        raise TypeError(f"the label at {path_name(path)} is not hashable: {entry!r}.")


def plain_lists(groups: Any, name: str) -> Any:
    """`groups`, with lists of integers as the array that they mean."""
    labels = jax.tree.leaves(groups)
    numbers = all(isinstance(label, (int, np.integer)) for label in labels)
    if not isinstance(groups, (list, tuple)) or not numbers:
        return groups
    try:
        return np.asarray(groups)
    except ValueError:
        raise ValueError(
            f"`groups` of {name} must have a label for each entry, got lists of "
            f"different lengths: {groups!r}. From the sizes of the groups, in order, "
            "labels are `np.repeat(np.arange(len(sizes)), sizes)`."
        ) from None
