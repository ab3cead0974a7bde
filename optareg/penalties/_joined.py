"""`joined`: a penalty on several leaves as one array, a row for each unit."""

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from optareg._tree import Tree, is_masked, path_name
from optareg.penalties._base import Penalty, register_penalty, static
from optareg.penalties._choice import (
    ByMatch,
    Chooser,
    as_chooser,
    check_found,
    check_regex,
    choose,
)
from optareg.penalties._combinators import check_is_penalty
from optareg.penalties._param_group import ParamGroup

__all__ = ["joined"]

PyTree = Any
Axes = tuple[int, ...]


def joined(
    penalty: Penalty,
    labels: PyTree | Chooser | str,
    *,
    axis: int | Sequence[int] | Mapping[str, int | Sequence[int]] = -1,
) -> Penalty:
    r"""`penalty` on leaves joined to one array, in which each unit is a row.

    The leaves of one label must have the same number of units, counted along `axis`.
    They are joined to an array of shape (units, n). `penalty` sees it as one leaf. For
    instance `GroupLasso(λ, axis=1)` removes the incoming weights of a unit, its bias
    and the scale of its norm together.

    Args:
      penalty: any penalty. Its strengths, masks and labels are for a dictionary from
        label to joined array. If labels cannot be sorted, the keys are their `repr`.
      labels: a regular expression, which is searched in each leaf's key path as by
        `by_path`. Leaves are joined if its groups (…) match the same text, or if its
        whole match is the same where it has no groups. Leaves without a match are left
        out. Or a tree of labels, a prefix of the parameters, or a function from the
        parameters to such a tree. A label None leaves its leaves out.
      axis: the axis along which units are counted. In Flax that is −1 for the kernel,
        bias and scale of a layer, and −2 for the heads of query, key and value in
        attention. Of several axes, each combination of places is a unit: `(0, -1)` for
        layers stacked along axis 0. `()` makes one unit of all. If leaves differ, give
        a mapping from regular expressions to axes. A leaf takes the first one found in
        its key path, or −1 if none is.

    Returns:
      A penalty. A row has the order of the leaves in the parameters. Units along
      several axes have the order of the axes given, with the last one fastest.

    Raises:
      TypeError: `penalty` is not a penalty, a label is not hashable, or an axis is not
        an integer.
      ValueError: an expression is not valid. On use, it is found in no key path, leaves
        of one label differ in the number of units or in dtype, or labels are not a
        prefix of the parameters.

    For all units of a Flax network with layers Dense_0, LayerNorm_0, Dense_1, … write
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

    Three layers of four inputs and five units, stacked for `jax.lax.scan`:

    >>> params = {"layers": {"kernel": jnp.ones((3, 4, 5)), "bias": jnp.ones((3, 5))}}
    >>> group = GroupLasso(1.0, axis=1, size_scaled=False)
    >>> value = joined(group, "layers", axis=(0, -1)).value(params)
    >>> print(f"{value:.3f}")  # 15 units of 4 + 1 weights.
    33.541

    The incoming and the outgoing weights of each hidden unit: the columns of one
    kernel, their biases, and the rows of the next kernel:

    >>> params = {"up": {"kernel": jnp.ones((4, 5)), "bias": jnp.ones(5)}}
    >>> params |= {"down": {"kernel": jnp.ones((5, 4)), "bias": jnp.ones(4)}}
    >>> regex = r"(mlp).*(?:up|down'\]\['kernel)"
    >>> units = joined(group, regex, axis={"down": 0, "up": -1})
    >>> print(units.value({"mlp": params}))  # 5 units of 4 + 1 + 4 weights.
    15.0

    The attention heads of a transformer with stacked layers. In Flax query, key and
    value have the shape (layers, inputs, heads, dim), and biases. The output's kernel
    has the shape (layers, heads, dim, outputs). Write
    `joined(GroupLasso(1e-3, axis=1), r"(layers).*(?:query|key|value|out'\]\['kernel)",
    axis={"out": (0, 1), "query|key|value": (0, -2)})`.
    """
    check_is_penalty(penalty, "joined")
    chooser = (
        ByMatch(check_regex(labels))
        if isinstance(labels, str)
        else as_chooser(labels, "labels")
    )
    given = axis if isinstance(axis, Mapping) else {"": axis}
    axes = tuple((check_regex(r, "axis"), check_axes(x)) for r, x in given.items())
    return Joined(penalty, chooser, axes)


@register_penalty
class Joined(Penalty):
    """What `joined` returns.

    Attributes:
      penalty: the penalty of the joined arrays.
      labels: the labels of the leaves.
      axes: pairs of a regular expression and the axes of leaves in whose path it is.
    """

    penalty: Penalty
    labels: Chooser = static()
    axes: tuple[tuple[str, Axes], ...] = static()

    def resolve(self, tree: Tree) -> list[ParamGroup]:
        labels = choose(self.labels, tree)
        members: dict[Hashable, list[int]] = {}
        for i, (leaf, label) in enumerate(zip(tree.leaves, labels, strict=True)):
            if not is_masked(leaf) and not is_masked(label):
                members.setdefault(label, []).append(i)
        if members:
            for regex, _ in self.axes:
                check_found(regex, tree.paths)
        groups = {
            key: ParamGroup(self.penalty, tuple(at), self.axes_of(label, at, tree))
            for key, (label, at) in zip(
                sortable(list(members)), members.items(), strict=True
            )
        }
        arrays = Tree({key: group.join(tree.leaves) for key, group in groups.items()})
        order = [groups[path[0].key] for path in arrays.paths]
        resolved = self.penalty.resolve(arrays)
        if any(group.axes is not None for group in resolved):
            raise ValueError(
                "`joined` within `joined` is not supported: give one label."
            )
        return [order[g.at[0]]._replace(penalty=g.penalty) for g in resolved]

    def axes_of(
        self, label: Hashable, at: Sequence[int], tree: Tree
    ) -> tuple[Axes, ...]:
        """The axes of the leaves of one label, checked."""

        def of_leaf(i: int) -> Axes:
            name = jax.tree_util.keystr(tree.paths[i])
            return next((axes for r, axes in self.axes if re.search(r, name)), (-1,))

        all_axes = tuple(map(of_leaf, at))
        for i, axes in zip(at, all_axes, strict=True):
            check_fits(label, i, axes, tree)
            check_alike(label, (at[0], i), (all_axes[0], axes), tree)
        return all_axes


def sortable(labels: list[Hashable]) -> list[Any]:
    """`labels` as keys of a dictionary that JAX can sort."""
    try:
        sorted(labels)  # type: ignore[type-var]
    except TypeError:
        return list(map(repr, labels))
    return labels


def check_axes(axis: Any) -> Axes:
    """`axis` as a tuple; raises unless it is one integer or several."""
    axes = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
    if any(isinstance(x, bool) or not isinstance(x, (int, np.integer)) for x in axes):
        raise TypeError(
            f"`axis` of `joined` must be an integer or a tuple of integers, got "
            f"{axis!r}. If leaves have different axes, give a mapping from regular "
            "expressions to axes."
        )
    return tuple(map(int, axes))


def check_fits(label: Any, i: int, axes: Axes, tree: Tree) -> None:
    """Raises unless a leaf has `axes`, each once."""
    shape, name = tree.leaves[i].shape, path_name(tree.paths[i])
    n = len(shape)
    if not all(-n <= axis < n for axis in axes):
        missing = next(axis for axis in axes if not -n <= axis < n)
        raise ValueError(
            f"the leaf at {name} has shape {shape}, so no axis {missing}, along which "
            f"the units of {label!r} are counted. Give it no label, or set `axis`."
        )
    if len({axis % n for axis in axes}) < len(axes):
        raise ValueError(
            f"the leaf at {name} has shape {shape}. There {along(axes)} are not all "
            f"different, but the units of {label!r} are counted along them. Give it no "
            "label, or set `axis`."
        )


def check_alike(
    label: Any, at: tuple[int, int], axes: tuple[Axes, Axes], tree: Tree
) -> None:
    """Raises unless two leaves of one label have as many units, and one dtype."""
    first, leaf = (tree.leaves[i] for i in at)
    names = [path_name(tree.paths[i]) for i in at]
    units = [
        tuple(tree.leaves[i].shape[axis] for axis in counted)
        for i, counted in zip(at, axes, strict=True)
    ]
    if units[0] != units[1]:
        expected, found = (" × ".join(map(str, counts)) for counts in units)
        other = f" along {along(axes[0])}" if axes[0] != axes[1] else ""
        raise ValueError(
            f"the leaf at {names[1]} has {found} units along {along(axes[1])}, but "
            f"that at {names[0]} has {expected}{other}. Both have the label {label!r}. "
            "Give them different labels, or set `axis`."
        )
    if leaf.dtype != first.dtype:
        raise ValueError(
            f"the leaf at {names[1]} has dtype {leaf.dtype}, but that at {names[0]} "
            f"has {first.dtype}. Both have the label {label!r}. Cast one of them."
        )


def along(axes: Axes) -> str:
    """The axes in words."""
    return f"axis {axes[0]}" if len(axes) == 1 else f"axes {axes}"
