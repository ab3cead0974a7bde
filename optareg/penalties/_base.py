"""What a penalty is: `Penalty`, and `Norm` for those that give zeros.

A penalty class states its formulas for one leaf. `Penalty` lifts them to trees, once:
strengths are broadcast, odd leaves pass through, and half precision is computed in
float32. To add a penalty, write one such class; every way to apply it then works. What
a penalty sees as one leaf is a `ParamGroup` of the tree: mostly one leaf, or several,
joined.
"""

import dataclasses
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np

from optareg._checks import check_number, is_number
from optareg._tree import Tree, is_masked, path_name, real, widen, widest
from optareg.penalties._param_group import ParamGroup, cover, in_param_groups

__all__ = [
    "ParamGroup",
    "Norm",
    "Penalty",
    "check_strengths",
    "cover",
    "in_param_groups",
    "register_penalty",
    "static",
    "strength_fields",
]

Array = jax.Array
PyTree = Any
T = TypeVar("T", bound="Penalty")


class Penalty:
    """A penalty R on a tree of parameters.

    Subclasses are decorated with `register_penalty`. Their fields are strengths,
    scalars or prefix trees of the parameters; in the `leaf_…` methods each is an array
    that broadcasts against that leaf.
    """

    # What a penalty author writes: one leaf, in float32 or wider.

    def leaf_value(self, w: Array) -> Array:
        """R(w), a scalar."""
        raise NotImplementedError

    def leaf_gradient(self, w: Array) -> Array:
        """A (sub)gradient of R at w, shaped as w; that of |w| at 0 is 0."""
        raise NotImplementedError

    def leaf_prox(self, w: Array, step: Array) -> Array:
        """argmin_x ½‖x − w‖² + step · R(x), shaped as w."""
        raise NotImplementedError

    def split(self) -> "tuple[Penalty | None, Norm | None]":
        """R as a smooth part, handled by its gradient, plus a nonsmooth one."""
        raise NotImplementedError

    def at_leaf(self, leaf: Array, path: tuple[Any, ...]) -> Self:
        """This penalty for one leaf; raises, naming it, if it does not fit."""
        del path
        return self

    # Whether R is a sum over entries: then a solver may work on some of them alone.
    entrywise: ClassVar[bool] = False
    # Whether R is convex: then where a solver starts does not change where it ends.
    convex: ClassVar[bool] = True

    def leaf_even(self, x: Array) -> Array:
        """The largest entry of x ≥ 0 among those that R does not take one by one."""
        return x if self.entrywise else jnp.full_like(x, jnp.max(x, initial=0))

    # What users call: whole trees.

    def value(self, params: PyTree) -> Array:
        """R(params).

        Args:
          params: a tree of floating or complex arrays of any shapes.

        Returns:
          A scalar, in float32 or wider. Its `jax.grad` is `gradient(params)`, at zero
          too (for complex leaves: its conjugate, as everywhere in JAX).

        Raises:
          TypeError: a penalised leaf is not floating or complex.
          ValueError: the structure or shape of a strength, mask or label does not fit.
        """
        tree = Tree(params)
        values = [
            param_group.penalty.leaf_value(widen(param_group.join(tree.leaves)))
            for param_group in self.resolve(tree)
        ]
        dtype = widest(jnp.float32, *(v.dtype for v in values))
        return sum((v.astype(dtype) for v in values), start=jnp.zeros((), dtype))

    def gradient(self, params: PyTree) -> PyTree:
        """The gradient of R at `params`; where R has its kink, the subgradient 0.

        Args:
          params: a tree of floating or complex arrays of any shapes.

        Returns:
          A tree with the shapes and dtypes of `params`; zeros at unpenalised leaves.

        Raises:
          TypeError, ValueError: as for `value`.
        """

        def of_leaf(penalty: Penalty, w: Array) -> Array:
            return penalty.leaf_gradient(widen(w)).astype(w.dtype)

        tree = Tree(params)
        zeros = [w if is_masked(w) else jnp.zeros_like(w) for w in tree.leaves]
        param_groups = self.resolve(tree)
        return tree.build(in_param_groups(param_groups, of_leaf, zeros, tree.leaves))

    def prox(self, params: PyTree, step: Any) -> PyTree:
        """The proximal point: argmin_x ½‖x − params‖² + step · R(x).

        Args:
          params: a tree of floating or complex arrays of any shapes.
          step: a scalar, not negative; usually the learning rate.

        Returns:
          A tree with the shapes and dtypes of `params`, with exact zeros where R is
          nonsmooth. NaN stays NaN.

        Raises:
          TypeError, ValueError: as for `value`, or for a `step` that is negative, not
            finite or no scalar.
        """
        check_number(step, "`step`", scalar=True)

        def of_leaf(penalty: Penalty, w: Array) -> Array:
            wide = widen(w)
            return penalty.leaf_prox(wide, real(step, wide)).astype(w.dtype)

        tree = Tree(params)
        param_groups = self.resolve(tree)
        return tree.build(
            in_param_groups(param_groups, of_leaf, tree.leaves, tree.leaves)
        )

    # How a tree becomes leaves.

    def resolve(self, tree: Tree) -> "list[ParamGroup]":
        """This penalty for each parameter group of `tree` that it penalises."""
        name = type(self).__name__
        columns = {
            field: tree.broadcast(getattr(self, field), f"`{field}` of {name}")
            for field in strength_fields(type(self))
            if tree.leaves
        }

        def of_leaf(i: int, path: tuple[Any, ...], leaf: Array) -> Penalty:
            if not jnp.issubdtype(leaf.dtype, jnp.inexact):
                raise TypeError(
                    f"the leaf at {path_name(path)} has dtype {leaf.dtype}, but {name} "
                    "is for floating or complex leaves. Cast it, or leave it out with "
                    "`masked`."
                )
            strengths = {
                field: leaf_strength(column[i], leaf, f"`{field}` of {name}", path)
                for field, column in columns.items()
            }
            return self.replace(**strengths).at_leaf(leaf, path)

        return [
            ParamGroup(of_leaf(i, path, leaf), (i,))
            for i, (path, leaf) in enumerate(zip(tree.paths, tree.leaves, strict=True))
            if not is_masked(leaf)
        ]

    def replace(self, **strengths: Any) -> Self:
        """A copy with other strengths, unchecked: JAX puts placeholders there."""
        new = object.__new__(type(self))
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = strengths.get(field.name, getattr(self, field.name))
            object.__setattr__(new, field.name, value)
        return new

    def take(self, rows: Array, axis: int, like: Array) -> Self:
        """This entrywise penalty of one leaf `like`, for some rows of it."""

        def of(strength: Any) -> Any:
            if np.ndim(strength) == 0:
                return strength
            return jnp.take(jnp.broadcast_to(strength, like.shape), rows, axis=axis)

        fields = strength_fields(type(self))
        return self.replace(**{f: of(getattr(self, f)) for f in fields})


class Norm(Penalty):
    """A nonsmooth penalty λψ with ψ(c w) = c ψ(w) for c > 0; λ is `strength`.

    Two formulas say all of ψ that a transformation needs to know; a third,
    `leaf_dual_norm`, is for `max_strength`.
    """

    strength: Any

    def leaf_subgradient(self, w: Array, at_zero: Array) -> Array:
        """A member of ∂ψ(w); where ψ has its kink, the given one, `at_zero`."""
        raise NotImplementedError

    def leaf_dual(self, w: Array, radius: Any) -> Array:
        """The point of radius · ∂ψ(0) nearest to w, which is w − prox_{radius ψ}(w)."""
        raise NotImplementedError

    def leaf_dual_norm(self, g: Array) -> Array:
        """The least c ≥ 0 for which g is in c λ ∂ψ(0), a scalar; 0 for λ = 0."""
        raise NotImplementedError

    def leaf_size(self, residual: Array) -> Array:
        """The lengths of what ψ sums over: of entries, unless there are groups."""
        return jnp.abs(residual)

    def leaf_nearest(self, w: Array, g: Array) -> Array:
        """The member of λ ∂ψ(w) nearest to −g."""
        # Where λ is zero, so is the result, whatever the division gives.
        ratio = -g / jnp.maximum(self.strength, 1e-20)
        nearest = self.leaf_subgradient(w, self.leaf_dual(ratio, 1))
        return jnp.multiply(self.strength, nearest)

    def leaf_residual(self, w: Array, g: Array) -> Array:
        """How far −g is from λ ∂ψ(w), for each entry or group."""
        return self.leaf_size(g + self.leaf_nearest(w, g))

    def leaf_gradient(self, w: Array) -> Array:
        return jnp.multiply(self.strength, self.leaf_subgradient(w, jnp.zeros_like(w)))

    def leaf_prox(self, w: Array, step: Array) -> Array:
        # A difference, not a comparison: it is exactly zero, and it keeps NaN.
        return w - self.leaf_dual(w, step * self.strength)

    def split(self) -> tuple[Penalty | None, "Norm | None"]:
        return None, self


def static(**kwargs: Any) -> Any:
    """A dataclass field of a penalty that is no strength: hashable, never traced."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


def strength_fields(cls: type[Penalty]) -> tuple[str, ...]:
    """The names of the fields of `cls` that are strengths."""
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    return tuple(f.name for f in fields if not f.metadata.get("static"))


@dataclass_transform(frozen_default=True, field_specifiers=(static,))
def register_penalty(cls: type[T]) -> type[T]:
    """Makes `cls` a frozen dataclass and a pytree whose leaves are its strengths."""
    cls = dataclasses.dataclass(frozen=True)(cls)
    names = strength_fields(cls)
    others = tuple(
        f.name
        for f in dataclasses.fields(cls)  # type: ignore[arg-type]
        if f.name not in names
    )

    def flatten_with_keys(penalty: T) -> tuple[Any, Any]:
        children, aux = flatten(penalty)
        keys = map(jax.tree_util.GetAttrKey, names)
        return tuple(zip(keys, children, strict=True)), aux

    def flatten(penalty: T) -> tuple[Any, Any]:
        children = tuple(getattr(penalty, name) for name in names)
        return children, tuple(getattr(penalty, name) for name in others)

    def unflatten(aux: Any, children: Any) -> T:
        # Around the constructor, whose checks would reject JAX's placeholders.
        new = object.__new__(cls)
        for name, value in zip(names + others, (*children, *aux), strict=True):
            object.__setattr__(new, name, value)
        return new

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


@register_penalty
class Nothing(Penalty):
    """No penalty: R = 0."""

    entrywise: ClassVar[bool] = True

    def leaf_value(self, w: Array) -> Array:
        return jnp.zeros((), w.real.dtype)

    def leaf_gradient(self, w: Array) -> Array:
        return jnp.zeros_like(w)

    def leaf_prox(self, w: Array, step: Array) -> Array:
        return w

    def split(self) -> tuple[Penalty | None, Norm | None]:
        return None, None


def check_strengths(penalty: Penalty) -> None:
    """Raises unless every concrete strength is a finite number, not negative."""
    for field in strength_fields(type(penalty)):
        pairs = jax.tree_util.tree_leaves_with_path(
            getattr(penalty, field), is_leaf=is_masked
        )
        for path, strength in pairs:
            at = f" at {jax.tree_util.keystr(path)}" if path else ""
            check_number(strength, f"`{field}` of {type(penalty).__name__}{at}")


def leaf_strength(strength: Any, leaf: Array, what: str, path: Any) -> Any:
    """`strength` as an array that broadcasts against `leaf`, in its wide dtype."""
    if not is_number(strength):
        raise TypeError(
            f"{what} for the leaf at {path_name(path)} must be a number, "
            f"got {strength!r}."
        )
    shape = np.shape(strength)
    try:
        fits = np.broadcast_shapes(shape, leaf.shape) == leaf.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{what} has shape {shape}, which does not broadcast to the shape "
            f"{leaf.shape} of the leaf at {path_name(path)}. To train many strengths "
            "at once, `jax.vmap` over the penalty."
        )
    return real(strength, widen(leaf))
