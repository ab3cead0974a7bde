"""Penalties made of penalties: `masked`, `partition`, and `by_path` to choose leaves.

Each hides the leaves that a penalty must not see, as holes, and is a penalty itself.
"""

import dataclasses
import re
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import numpy as np

from optareg._checks import is_number
from optareg._tree import Tree, is_hole, path_name
from optareg.penalties.base import Block, Penalty, register_penalty, static

__all__ = ["by_path", "check_is_penalty", "masked", "partition"]

PyTree = Any
Chooser = Callable[[PyTree], PyTree]


def masked(penalty: Penalty, mask: PyTree | Chooser) -> Penalty:
    """`penalty` on some leaves only; True means penalised, as in `optax.masked`.

    Args:
      penalty: any penalty.
      mask: a tree of bools, a prefix of the parameters, or a function from the
        parameters to such a tree, for instance `by_path("kernel")`.

    Returns:
      A penalty. Value, gradient, prox and every transformation see the same choice;
      for leaves left out nothing is computed and nothing is stored.

    Raises:
      TypeError: `penalty` is no penalty, or the mask has a leaf that is no bool.
      ValueError: on use, the mask is no prefix of the parameters.

    >>> import jax.numpy as jnp
    >>> from optareg import L1, masked
    >>> params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    >>> penalty = masked(L1(0.5), {"kernel": True, "bias": False})
    >>> print(penalty.value(params))
    3.0
    """
    check_is_penalty(penalty, "masked")
    return Masked(penalty, mask if callable(mask) else Choice.of(mask, "mask"))


def partition(
    penalties: Mapping[Hashable, Penalty | None], labels: PyTree | Chooser
) -> Penalty:
    """Another penalty for each label, as `optax.partition` has transformations.

    Args:
      penalties: a penalty for each label; None leaves that label unpenalised.
      labels: a tree of labels, a prefix of the parameters, or a function from the
        parameters to such a tree.

    Returns:
      A penalty: the sum of `penalties`, each on its leaves.

    Raises:
      TypeError: an entry of `penalties` is no penalty, or a label is not hashable.
      ValueError: a label has no penalty, or the labels are no prefix of the parameters.

    >>> import jax.numpy as jnp
    >>> from optareg import L1, L2, partition
    >>> params = {"first": jnp.ones(4), "second": jnp.ones(3)}
    >>> labels = {"first": "sparse", "second": "small"}
    >>> print(partition({"sparse": L1(1.0), "small": L2(2.0)}, labels).value(params))
    10.0
    """
    if not isinstance(penalties, Mapping):
        raise TypeError(
            f"`partition` needs a mapping from labels to penalties, got {penalties!r}."
        )
    for label, penalty in penalties.items():
        if penalty is not None:
            check_is_penalty(penalty, f"partition` for label `{label}")
    if callable(labels):
        return Partition(dict(penalties), labels)
    choice = Choice.of(labels, "labels")
    for path, label in zip(choice.paths, choice.leaves, strict=True):
        check_label(label, penalties, path)
    return Partition(dict(penalties), choice)


def by_path(regex: str) -> "ByPath":
    """A mask function: True for the leaves whose key path `regex` is found in.

    The path is written by `jax.tree_util.keystr`, for example
    `['params']['Dense_0']['kernel']`, and searched with `re.search`.

    Args:
      regex: a regular expression.

    Returns:
      A function from parameters to a tree of bools; equal for equal expressions.

    Raises:
      TypeError: `regex` is no string.
      ValueError: `regex` is no valid regular expression.

    >>> from optareg import by_path
    >>> by_path("kernel")({"Dense_0": {"kernel": 1.0, "bias": 0.0}})
    {'Dense_0': {'bias': False, 'kernel': True}}
    """
    if not isinstance(regex, str):
        raise TypeError(f"`regex` must be a string, got {regex!r}.")
    try:
        re.compile(regex)
    except re.error as error:
        raise ValueError(f"`regex` is not valid: {regex!r}, {error}.") from None
    return ByPath(regex)


@dataclasses.dataclass(frozen=True)
class ByPath:
    """The function that `by_path` returns."""

    regex: str

    def __call__(self, params: PyTree) -> PyTree:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: bool(re.search(self.regex, jax.tree_util.keystr(path))),
            params,
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
        pairs, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_hole)
        for path, leaf in pairs:
            if not is_hole(leaf):
                check_choice(leaf, what, path)
        paths, leaves = zip(*pairs, strict=True) if pairs else ((), ())
        return cls(leaves, paths, treedef)

    def __call__(self, _: PyTree) -> PyTree:
        return jax.tree.unflatten(self.treedef, self.leaves)


@register_penalty
class Masked(Penalty):
    """What `masked` returns."""

    penalty: Penalty
    mask: Chooser = static()

    def resolve(self, tree: Tree) -> list[Block]:
        mask = choose(self.mask, tree, "mask")
        return self.penalty.resolve(
            tree.keep(not is_hole(entry) and bool(entry) for entry in mask)
        )


@register_penalty
class Partition(Penalty):
    """What `partition` returns."""

    penalties: dict[Hashable, Penalty | None]
    labels: Chooser = static()

    def resolve(self, tree: Tree) -> list[Block]:
        labels = choose(self.labels, tree, "labels")
        for path, leaf, label in zip(tree.paths, tree.leaves, labels, strict=True):
            if not is_hole(leaf):
                check_label(label, self.penalties, path)
        return [
            block
            for name, penalty in self.penalties.items()
            if penalty is not None
            for block in penalty.resolve(tree.keep(label == name for label in labels))
        ]


def choose(chooser: Chooser, tree: Tree, what: str) -> list[Any]:
    """The mask or label of each leaf. Not asked on an empty tree, a placeholder."""
    if not tree.leaves:
        return []
    choice = chooser(tree.whole)
    chosen = tree.broadcast(choice, f"the {what}")
    for path, leaf, entry in zip(tree.paths, tree.leaves, chosen, strict=True):
        if not is_hole(leaf):
            check_choice(entry, what, path)
    return chosen


def check_choice(entry: Any, what: str, path: tuple[Any, ...]) -> None:
    """Raises unless `entry` can stand in a mask or a tree of labels."""
    if what == "mask" and not isinstance(entry, (bool, np.bool_)):
        hint = (
            f"To choose by key path, use `by_path({entry!r})`."
            if isinstance(entry, str)
            else "To weight single coordinates, give the strength as an array."
        )
        raise TypeError(
            f"the mask must have True or False at {path_name(path)}, got {entry!r}. "
            + hint
        )
    if not isinstance(entry, Hashable):
        raise TypeError(f"the label at {path_name(path)} is not hashable: {entry!r}.")


def check_label(label: Any, penalties: Mapping[Any, Any], path: Any) -> None:
    """Raises unless there is a penalty for `label`."""
    if label not in penalties:
        raise ValueError(
            f"the label {label!r} at {path_name(path)} has no penalty; there are "
            f"penalties for {sorted(map(repr, penalties))}. Use None for no penalty."
        )


def check_is_penalty(x: Any, where: str) -> None:
    """Raises unless `x` is a penalty."""
    if isinstance(x, Penalty):
        return
    hint = ""
    if isinstance(x, type) and issubclass(x, Penalty):
        hint = f" Give it a strength, as in `{x.__name__}(1e-3)`."
    elif hasattr(x, "update"):
        hint = " Are the arguments swapped?"
    elif callable(x):
        hint = (
            " A schedule of penalties goes around everything, as in "
            "`lambda step: masked(L1(f(step)), mask)`."
        )
    elif is_number(x):
        hint = " Give a number as a strength, as in `L1(1e-3)`."
    raise TypeError(f"`{where}` needs a penalty, got {x!r}.{hint}")
