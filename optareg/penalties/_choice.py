"""Choices of leaves: by a tree of bools or labels, a function, or a regular expression.

`by_path` is a mask by key path. A `Choice` is a tree of choices that is hashable, as
the static part of a pytree must be; `choose` asks either for the entry of each leaf.
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
]

PyTree = Any
Chooser = Callable[[PyTree], PyTree]


def by_path(regex: str) -> "ByPath":
    """A mask function: True for the leaves whose key path `regex` is found in.

    The path is written by `jax.tree_util.keystr`, for example
    `['params']['Dense_0']['kernel']`, and searched with `re.search`.

    Args:
      regex: a regular expression.

    Returns:
      A function from parameters to a tree of bools; equal for equal expressions. It
      raises ValueError, with the key paths there are, if `regex` is found in none of
      them. The path of a masked leaf counts as well: what another mask leaves out is
      there.

    Raises:
      TypeError: `regex` is no string.
      ValueError: `regex` is no valid regular expression.

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
    """Labels by a regular expression: its groups, or the whole match without any."""

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
    """The entry for the match in each leaf's key path; masked leaves stay as they are.

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
    """A fixed tree of bools or labels, hashable, as the static part of a pytree is."""

    leaves: tuple[Hashable, ...]
    paths: tuple[Any, ...] = dataclasses.field(repr=False)
    treedef: Any = dataclasses.field(repr=False)

    @classmethod
    def of(cls, tree: PyTree, what: str) -> "Choice":
        """Takes `tree` apart and checks its leaves."""
        pairs, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_masked)
        if callable(tree) and not pairs:
            raise TypeError(
                f"the {what} can be called, but is a pytree without leaves, got "
                f"{tree!r}. To call it, wrap it in a function: `lambda params: "
                f"{what}(params)`."
            )
        for path, leaf in pairs:
            if not is_masked(leaf):
                check_choice(leaf, what, path)
        paths, leaves = zip(*pairs, strict=True) if pairs else ((), ())
        return cls(leaves, paths, treedef)

    def __call__(self, _: PyTree) -> PyTree:
        return jax.tree.unflatten(self.treedef, self.leaves)


def as_chooser(choice: PyTree | Chooser, what: str) -> Chooser:
    """A function as it is, and a tree as one.

    A module with a `__call__` is a tree: as for `optax.masked`, what is called is
    callable in all its leaves.
    """
    leaves = jax.tree.leaves(choice)
    if callable(choice) and leaves and all(map(callable, leaves)):
        return choice
    return Choice.of(choice, what)


def choose(chooser: Chooser, tree: Tree, what: str = "labels") -> list[Any]:
    """The mask or label of each leaf. Not asked on an empty tree, a placeholder."""
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
            hint = "There is a parameter: say False to leave it out."
        elif callable(entry):
            hint = (
                "A pytree is a mask itself. To call it: `lambda params: mask(params)`."
            )
        raise TypeError(
            f"the mask must have True or False at {path_name(path)}, got {entry!r}. "
            + hint
        )
    if not isinstance(entry, Hashable):
        raise TypeError(f"the label at {path_name(path)} is not hashable: {entry!r}.")
