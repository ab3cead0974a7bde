"""Penalties made of penalties: `masked`, `partition`, `joined`; `by_path` for masks.

Each shows a penalty another tree, in which leaves are masked or joined, and is a
penalty itself.
"""

import dataclasses
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from optareg._checks import is_number
from optareg._tree import Tree, is_masked, path_name
from optareg.penalties._base import ParamGroup, Penalty, register_penalty, static

__all__ = [
    "Choice",
    "by_path",
    "check_is_penalty",
    "choose",
    "masked",
    "partition",
    "joined",
]

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


def joined(
    penalty: Penalty, labels: PyTree | Chooser | str, *, axis: int = -1
) -> Penalty:
    """`penalty` on leaves joined to one: what belongs to a unit becomes one row.

    The leaves of one label must have as many units, counted along `axis`. They are
    joined to an array of shape (units, n), a row for each unit, which `penalty` sees as
    one leaf: `GroupLasso(λ, axis=1)` then removes a unit's incoming weights, its bias
    and the scale of its norm together, or not at all.

    Args:
      penalty: any penalty. Its strengths, masks and labels see a dictionary from label
        to joined array.
      labels: a regular expression, searched in each leaf's key path as by `by_path`:
        leaves are joined if what its group (…) matches is the same, or the whole match
        if it has none, and left out if there is no match. Or a tree of labels, a prefix
        of the parameters, or a function from the parameters to one; None leaves out.
      axis: the axis along which units are counted, in every leaf: in Flax the last one
        for the kernel, bias and scale of a layer; −2 for the heads of the query, key
        and value of attention.

    Returns:
      A penalty. The order within a row is that of the leaves of the parameters.

    Raises:
      TypeError: `penalty` is no penalty, or a label is not hashable.
      ValueError: the expression is not valid; on use, leaves of one label differ in the
        number of units or in dtype, or labels are no prefix of the parameters.

    All units of a Flax network with layers Dense_0, LayerNorm_0, Dense_1, … are
    `joined(GroupLasso(1e-3, axis=1), r"(?:Dense|LayerNorm)_([01])")`.

    >>> import jax.numpy as jnp
    >>> from optareg import GroupLasso, joined
    >>> kernel = jnp.array([[2.0, 0.25], [4.0, -0.25]])
    >>> params = {"Dense_0": {"kernel": kernel, "bias": jnp.array([4.0, 0.5])}}
    >>> penalty = joined(GroupLasso(1.0, axis=1, size_scaled=False), "Dense_0")
    >>> small = penalty.prox(params, 3.0)["Dense_0"]
    >>> print(small["kernel"], small["bias"])
    [[1. 0.]
     [2. 0.]] [2. 0.]
    """
    check_is_penalty(penalty, "joined")
    if not isinstance(axis, (int, np.integer)):
        raise TypeError(f"`axis` of `joined` must be an integer, got {axis!r}.")
    if isinstance(labels, str):
        chooser: Chooser = ByMatch(check_regex(labels))
    else:
        chooser = labels if callable(labels) else Choice.of(labels, "labels")
    return Joined(penalty, chooser, int(axis))


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
    return ByPath(check_regex(regex))


def check_regex(regex: Any) -> str:
    """Raises unless `regex` is a regular expression."""
    if not isinstance(regex, str):
        raise TypeError(f"`regex` must be a string, got {regex!r}.")
    try:
        re.compile(regex)
    except re.error as error:
        raise ValueError(f"`regex` is not valid: {regex!r}, {error}.") from None
    return regex


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
class ByMatch:
    """The labels of a regular expression in `joined`."""

    regex: str

    def __call__(self, params: PyTree) -> PyTree:
        def label(path: Any, _: Any) -> Any:
            found = re.search(self.regex, jax.tree_util.keystr(path))
            if found is None:
                return None
            return "/".join(g or "" for g in found.groups()) or found.group()

        return jax.tree_util.tree_map_with_path(label, params)


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
        for path, leaf in pairs:
            if not is_masked(leaf):
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

    def resolve(self, tree: Tree) -> list[ParamGroup]:
        mask = choose(self.mask, tree, "mask")
        return self.penalty.resolve(
            tree.keep(not is_masked(entry) and bool(entry) for entry in mask)
        )


@register_penalty
class Partition(Penalty):
    """What `partition` returns."""

    penalties: dict[Hashable, Penalty | None]
    labels: Chooser = static()

    def resolve(self, tree: Tree) -> list[ParamGroup]:
        labels = choose(self.labels, tree, "labels")
        for path, leaf, label in zip(tree.paths, tree.leaves, labels, strict=True):
            if not is_masked(leaf):
                check_label(label, self.penalties, path)
        return [
            param_group
            for name, penalty in self.penalties.items()
            if penalty is not None
            for param_group in penalty.resolve(
                tree.keep(label == name for label in labels)
            )
        ]


@register_penalty
class Joined(Penalty):
    """What `joined` returns."""

    penalty: Penalty
    labels: Chooser = static()
    axis: int = static()

    def resolve(self, tree: Tree) -> list[ParamGroup]:
        labels = choose(self.labels, tree)
        groups: dict[Hashable, list[int]] = {}
        for i, (leaf, label) in enumerate(zip(tree.leaves, labels, strict=True)):
            if not is_masked(leaf) and not is_masked(label):
                groups.setdefault(label, []).append(i)
        for label, at in groups.items():
            check_ties(self.axis, label, at, tree)
        whole = {
            label: ParamGroup(self.penalty, tuple(at), self.axis)
            for label, at in groups.items()
        }
        joined = Tree({label: b.join(tree.leaves) for label, b in whole.items()})
        order = [whole[path[0].key] for path in joined.paths]
        param_groups = self.penalty.resolve(joined)
        if any(param_group.axis is not None for param_group in param_groups):
            raise ValueError(
                "`joined` within `joined` is not supported: give one label."
            )
        return [order[b.at[0]]._replace(penalty=b.penalty) for b in param_groups]


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


def check_ties(axis: int, label: Any, at: Sequence[int], tree: Tree) -> None:
    """Raises unless leaves of one label can be joined along `axis`."""
    for i in at:
        leaf, name = tree.leaves[i], path_name(tree.paths[i])
        first, first_name = tree.leaves[at[0]], path_name(tree.paths[at[0]])
        if not -leaf.ndim <= axis < leaf.ndim:
            raise ValueError(
                f"the leaf at {name} has shape {leaf.shape}, and no axis {axis} to "
                f"count the units of {label!r} along. Give it no label, or set `axis`."
            )
        if leaf.shape[axis] != first.shape[axis]:
            raise ValueError(
                f"the leaf at {name} has {leaf.shape[axis]} units along axis {axis}, "
                f"but that at {first_name} has {first.shape[axis]}; both have the "
                f"label {label!r}. Give them different labels."
            )
        if leaf.dtype != first.dtype:
            raise ValueError(
                f"the leaf at {name} has dtype {leaf.dtype}, but that at {first_name} "
                f"has {first.dtype}; both have the label {label!r}. Cast one of them."
            )
