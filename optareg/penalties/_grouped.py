"""`Grouped`, the base of penalties on groups, and its checks."""

from typing import Any, ClassVar, Self

import jax
import numpy as np

from optareg._checks import is_traced
from optareg._tree import Tree, is_masked, path_name
from optareg.penalties._base import (
    ParamGroup,
    Penalty,
    check_strengths,
    strength_fields,
)
from optareg.penalties._choice import Choice, choose, plain_lists
from optareg.penalties._grouping import Axes, Labels

__all__ = ["Grouped"]

Array = jax.Array


class Grouped(Penalty):
    """The base of penalties on groups.

    Attributes:
      axis: the axes of `Axes`.
      groups: as given, a tree of labels; once the leaf is known, its `Labels` or None.
      size_scaled: whether the weight of a group is √size.
    """

    # The field with the strength on the norms of groups.
    of_groups: ClassVar[str] = "strength"

    axis: int | tuple[int, ...] | None
    groups: Any
    size_scaled: bool

    def __post_init__(self) -> None:
        check_strengths(self)
        check_grouping(self)

    def resolve(self, tree: Tree) -> list[ParamGroup]:
        return resolve_groups(self, super().resolve(tree), tree)

    def at_leaf(self, leaf: Array, path: tuple[Any, ...]) -> Self:
        check_axis(self.axis, leaf, path)
        return self

    def leaf_blocks(self, axis: int, shape: tuple[int, ...]) -> np.ndarray | None:
        return self.grouping.blocks(axis, shape)

    def take(self, rows: Array, axis: int, like: Array) -> Self:
        if isinstance(self.grouping, Axes):
            return super().take(rows, axis, like)
        # The number of entries of a group is not known here, so its root is a part of
        # the strength.
        sizes = self.grouping.sizes(like.shape)
        whole = self
        if self.size_scaled and np.any(sizes != sizes[:1]):
            weights = np.sqrt(sizes)[self.grouping.labels].astype(like.real.dtype)
            strength = getattr(self, self.of_groups) * weights
            whole = self.replace(**{self.of_groups: strength}, size_scaled=False)
        labels = Labels(np.arange(len(rows)) // np.max(sizes, initial=1))
        return super(Grouped, whole).take(rows, axis, like).replace(groups=labels)

    @property
    def grouping(self) -> Axes | Labels:
        """The groups of a leaf."""
        return Axes(self.axis) if self.groups is None else self.groups


def label_tree(groups: Any) -> Choice:
    """A tree of arrays of labels that can be the static part of a pytree."""

    def of_leaf(path: Any, labels: Any) -> Any:
        at = f" at {jax.tree_util.keystr(path)}" if path else ""
        return labels if is_masked(labels) else Labels.of(labels, at)

    labels = jax.tree_util.tree_map_with_path(of_leaf, groups, is_leaf=is_masked)
    return Choice.of(labels, "labels")


def resolve_groups(
    penalty: Grouped, param_groups: list[ParamGroup], tree: Tree
) -> list[ParamGroup]:
    """The parameter groups of a penalty on groups, with the labels of each, checked."""
    groups = penalty.groups
    entries = [None] * len(tree.leaves) if groups is None else choose(groups, tree)
    result = []
    for param_group in param_groups:
        (i,) = param_group.at
        leaf, path, labels = tree.leaves[i], path_name(tree.paths[i]), entries[i]
        if groups is not None:
            if not isinstance(labels, Labels):
                raise ValueError(
                    f"`groups` has no labels for the leaf at {path}. Leave the leaf out"
                    " with `masked`."
                )
            if labels.labels.shape != leaf.shape:
                raise ValueError(
                    f"the labels for the leaf at {path} have shape "
                    f"{labels.labels.shape}, but the leaf has shape {leaf.shape}. Each "
                    "entry needs a label."
                )
        resolved = param_group.penalty.replace(groups=labels)
        assert isinstance(resolved, Grouped)
        check_even(resolved, leaf, path)
        result.append(param_group._replace(penalty=resolved))
    return result


def check_even(penalty: Grouped, leaf: Array, path: str) -> None:
    """Raises if a concrete strength differs within a group."""
    for field in strength_fields(type(penalty)):
        strength = getattr(penalty, field)
        if np.ndim(strength) == 0 or is_traced(strength):
            continue
        entries = np.broadcast_to(np.asarray(strength), leaf.shape)
        if penalty.grouping.differs(entries):
            raise ValueError(
                f"`{field}` of {type(penalty).__name__} differs within a group of the "
                f"leaf at {path}. Give it one number for each group. With `axis`, that "
                "is an array of size 1 along those axes."
            )


def check_grouping(penalty: Grouped) -> None:
    """Normalises `axis` and `groups` of a new penalty, and checks them."""
    name, axis, groups = type(penalty).__name__, penalty.axis, penalty.groups
    if not isinstance(penalty.size_scaled, (bool, np.bool_)):
        raise TypeError(
            f"`size_scaled` of {name} must be a bool, got {penalty.size_scaled!r}."
        )
    if groups is not None and axis is not None:
        raise ValueError(f"{name} takes `axis` or `groups`, not both.")
    if axis is not None:
        axes = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
        whole = [isinstance(a, (int, np.integer)) for a in axes]
        if not axes or not all(whole) or any(isinstance(a, bool) for a in axes):
            raise TypeError(
                f"`axis` of {name} must be an integer or a tuple of them, got {axis!r}."
            )
        object.__setattr__(penalty, "axis", axes if len(axes) > 1 else int(axes[0]))
    if groups is not None:
        object.__setattr__(penalty, "groups", label_tree(plain_lists(groups, name)))


def check_axis(axis: Any, leaf: Array, path: tuple[Any, ...]) -> None:
    """Raises, naming the leaf, unless it has the axes."""
    axes = axis if isinstance(axis, tuple) else () if axis is None else (axis,)
    numbers = [a % leaf.ndim for a in axes if -leaf.ndim <= a < leaf.ndim]
    if len(set(numbers)) == len(axes):
        return
    raise ValueError(
        f"axis {axis} does not fit the leaf at {path_name(path)}, which has shape "
        f"{leaf.shape}. Leave it out with `masked`, or give it another penalty with "
        "`partition`."
    )
