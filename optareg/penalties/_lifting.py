"""How formulas for one leaf serve a whole tree.

`resolve` makes a penalty for each leaf: strengths are broadcast against it, and masked
leaves are left out. `value`, `gradient` and `prox` compute in float32 or wider.
"""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from optareg._checks import check_number, is_number, is_traced
from optareg._tree import Tree, is_masked, path_name, real, widen, widest
from optareg.penalties._numbers import rows_of
from optareg.penalties._param_group import ParamGroup, in_param_groups
from optareg.penalties._register import strength_fields

if TYPE_CHECKING:
    from optareg.penalties._base import Penalty

__all__ = ["gradient", "prox", "resolve", "take", "value"]

Array = jax.Array
PyTree = Any


def take(penalty: Any, rows: Array, axis: int, like: Array) -> Any:
    """A penalty with the strengths of some rows of its leaf, which is shaped `like`.

    A row that there is not has a strength of 0.
    """

    def of(strength: Any) -> Any:
        if np.ndim(strength) == 0:
            return strength
        return rows_of(jnp.broadcast_to(strength, like.shape), rows, axis)

    names = strength_fields(type(penalty))
    return penalty.replace(**{name: of(getattr(penalty, name)) for name in names})


def value(penalty: "Penalty", params: PyTree) -> Array:
    """R(params), the sum over all parameter groups."""
    tree = Tree(params)
    values = [
        group.penalty.leaf_value(widen(group.join(tree.leaves)))
        for group in penalty.resolve(tree)
    ]
    dtype = widest(jnp.float32, *(v.dtype for v in values))
    return sum((v.astype(dtype) for v in values), start=jnp.zeros((), dtype))


def gradient(penalty: "Penalty", params: PyTree) -> PyTree:
    """The gradient of R; zeros at unpenalised leaves."""

    def of_leaf(penalty: "Penalty", w: Array) -> Array:
        return penalty.leaf_gradient(widen(w)).astype(w.dtype)

    tree = Tree(params)
    zeros = [w if is_masked(w) else jnp.zeros_like(w) for w in tree.leaves]
    groups = penalty.resolve(tree)
    return tree.build(in_param_groups(groups, of_leaf, zeros, tree.leaves))


def prox(penalty: "Penalty", params: PyTree, step: Any) -> PyTree:
    """The proximal point of R; unpenalised leaves as they are."""
    check_number(step, "`step`", scalar=True)

    def of_leaf(penalty: "Penalty", w: Array) -> Array:
        wide = widen(w)
        return penalty.leaf_prox(wide, real(step, wide)).astype(w.dtype)

    tree = Tree(params)
    groups = penalty.resolve(tree)
    return tree.build(in_param_groups(groups, of_leaf, tree.leaves, tree.leaves))


def resolve(penalty: "Penalty", tree: Tree) -> list[ParamGroup]:
    """A parameter group for each leaf, with the strengths of that leaf."""
    name = type(penalty).__name__
    columns = {
        field: tree.broadcast(getattr(penalty, field), f"`{field}` of {name}")
        for field in strength_fields(type(penalty))
        if tree.leaves
    }

    def of_leaf(i: int, path: tuple[Any, ...], leaf: Array) -> "Penalty":
        if not is_computed_with(leaf.dtype):
            raise TypeError(
                f"the leaf at {path_name(path)} has dtype {leaf.dtype}, but {name} is "
                "for floating or complex leaves, of 16 bits at least. Cast it, or "
                "leave it out with `masked`."
            )
        strengths = {
            field: leaf_strength(column[i], leaf, f"`{field}` of {name}", path)
            for field, column in columns.items()
        }
        return penalty.replace(**strengths).at_leaf(leaf, path)

    return [
        ParamGroup(of_leaf(i, path, leaf), (i,))
        for i, (path, leaf) in enumerate(zip(tree.paths, tree.leaves, strict=True))
        if not is_masked(leaf)
    ]


def is_computed_with(dtype: Any) -> bool:
    """Whether JAX's arithmetic promotes numbers of this dtype: none of 8 bits."""
    floating = jnp.issubdtype(dtype, jnp.inexact)
    return floating and jnp.finfo(dtype).bits >= 16  # type: ignore[no-untyped-call]


def leaf_strength(strength: Any, leaf: Array, what: str, path: Any) -> Any:
    """`strength` as an array that broadcasts against `leaf`, in its wide dtype."""
    where = path_name(path)
    if not is_number(strength):
        raise TypeError(
            f"{what} for the leaf at {where} must be a number, got {strength!r}."
            + (" Give 0, or mask the leaf." if is_masked(strength) else "")
        )
    shape = np.shape(strength)
    try:
        fits = np.broadcast_shapes(shape, leaf.shape) == leaf.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{what} has shape {shape}, which does not broadcast to the shape "
            f"{leaf.shape} of the leaf at {where}. To train many strengths "
            "at once, `jax.vmap` over the penalty."
        )
    dtype = jnp.finfo(widen(leaf).dtype).dtype  # type: ignore[no-untyped-call]
    most = 0.0 if is_traced(strength) else np.max(np.asarray(strength), initial=0)
    if most > jnp.finfo(dtype).max:  # type: ignore[no-untyped-call]
        raise ValueError(
            f"{what} for the leaf at {where} is {most}, more than its {dtype} can hold."
        )
    return real(strength, widen(leaf))
