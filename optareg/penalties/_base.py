"""What a penalty is: the contract, and how formulas of one leaf serve a whole tree.

A penalty class states its formulas for one leaf: `leaf_value` and `leaf_prox` at least.
`Penalty` lifts them to trees, once: strengths are broadcast, masked leaves pass
through, and half precision is computed in float32. What a penalty sees as one leaf is
a `ParamGroup` of the tree: mostly one leaf, or several, joined.
"""

import dataclasses
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from optareg._checks import check_number, is_number, is_traced
from optareg._tree import Tree, is_masked, path_name, real, widen, widest
from optareg.penalties import _fallbacks
from optareg.penalties._param_group import ParamGroup, cover, in_param_groups
from optareg.penalties._register import (
    check_strengths,
    data,
    is_registered,
    map_strengths,
    register_penalty,
    static,
    strength_fields,
)

__all__ = [
    "ParamGroup",
    "Penalty",
    "check_strengths",
    "cover",
    "data",
    "in_param_groups",
    "map_strengths",
    "register_penalty",
    "static",
    "strength_fields",
]

Array = jax.Array
PyTree = Any


class Penalty:
    """A penalty R on a tree of parameters.

    Subclasses are decorated with `register_penalty`. Their fields are strengths,
    scalars or prefix trees of the parameters; in the `leaf_…` methods each is an array
    that broadcasts against that leaf.
    """

    # What a penalty author must write: one leaf, in float32 or wider.

    def leaf_value(self, w: Array) -> Array:
        """R(w), a scalar."""
        raise NotImplementedError(_fallbacks.missing(self, "leaf_value"))

    def leaf_prox(self, w: Array, step: Array) -> Array:
        """argmin_x ½‖x − w‖² + step · R(x), shaped as w, for step > 0."""
        raise NotImplementedError(_fallbacks.missing(self, "leaf_prox"))

    # What an author may say of it, all of it true of nothing by default.

    # Whether R is `strength` times a ψ without a strength. Then the threshold of
    # `proximal` is in units of the weights, and a strength of 0 is no penalty.
    scaled: ClassVar[bool] = False
    # Whether R is a sum over entries: then a solver may work on some of them alone.
    entrywise: ClassVar[bool] = False
    # Whether R is convex: then where a solver starts does not change where it ends.
    convex: ClassVar[bool] = True

    # Refinements: each has a fallback that is right for every penalty.

    def leaf_gradient(self, w: Array) -> Array:
        """A (sub)gradient of R at w. By default the automatic one of `leaf_value`."""
        return _fallbacks.gradient(self, w)

    def split(self) -> "tuple[Penalty | None, Penalty | None]":
        """R as a smooth part, handled by its gradient, plus one handled by its prox.

        By default all of R has a prox. A smooth part needs no state in `proximal`, and
        is what makes a nonconvex penalty convex but for it.
        """
        return None, self

    def leaf_kink(self, w: Array) -> Array | None:
        """Where the subgradient does not follow from w: zeros, for norms; bools like w.

        None by default: it follows nowhere, as where R couples entries.
        """
        del w
        return None

    def leaf_subgradient(self, w: Array, at_kink: Array) -> Array:
        """A member of ∂R(w): at the kink the one nearest to `at_kink`."""
        del w
        return at_kink

    def leaf_project_domain(self, w: Array) -> Array:
        """The nearest point at which R is finite: by default w, as R always is."""
        return w

    def leaf_largest_subgradient(self) -> Any:
        """A number that members of ∂R do not exceed at weights off zero, or 0."""
        return 0.0

    def leaf_project_dual(self, s: Array) -> Array:
        """The member of ∂R at its kink nearest to s."""
        return s

    def leaf_noise_scale(self, w: Array) -> Any:
        """How long a step is in what R couples, over R's weight, in steps of an entry.

        For a group of n entries √n over its weight. Of `scaled` penalties alone.
        """
        del w
        return 1.0

    def leaf_move(self, w: Array, s: Array, u: Array, t: Any) -> tuple[Array, Array]:
        """W' − w and s' for z = w + ts + u, w' = prox_tR(z), s' = (z − w')/t.

        By default just that. In a sum, digits of w below those of t s are lost: a
        refinement adds u to w where w stays off its kink.
        """
        z = w + t * s + u
        new = self.leaf_prox(z, t)
        return new - w, (z - new) / t

    def leaf_conjugate_prox(self, w: Array, step: Any) -> Array:
        """W − prox(w), by default this difference, which may have fewer digits."""
        return w - self.leaf_prox(w, step)

    def leaf_nearest_subgradient(self, w: Array, g: Array) -> Array:
        """The member of ∂R(w) nearest to −g. By default by a small proximal step."""
        return _fallbacks.nearest(self, w, g)

    def leaf_residual(self, w: Array, g: Array) -> Array:
        """How far −g is from ∂R(w), for each entry or group. By default as above."""
        return jnp.abs(g + self.leaf_nearest_subgradient(w, g))

    def leaf_dual_norm(self, g: Array) -> Array:
        """The least c ≥ 0 with −g in c ∂R(0), ∞ if there is none: by bisection."""
        return _fallbacks.dual_norm(self, g)

    def leaf_center(self, w: Array) -> Array:
        """Where all of a leaf is at its kink: zero, by default."""
        return jnp.zeros_like(w)

    def leaf_zeros(self, w: Array) -> Array | None:
        """What is at its kink, a bool for each entry or group; None: not to count."""
        return self.leaf_kink(w)

    def leaf_group_max(self, x: Array) -> Array:
        """The largest entry of x ≥ 0 among those that R couples; a scalar for all."""
        return x if self.entrywise else jnp.max(x, initial=0)

    def weak_convexity(self) -> Any:
        """ρ for which R + ½ρ‖w‖² is convex: to say if R is not, and has no `split`."""
        if self.convex:
            return 0.0
        raise NotImplementedError(
            f"{type(self).__name__} is not convex: it must either have a `split` with a"
            " convex second part, or say its `weak_convexity()`."
        )

    def at_leaf(self, leaf: Array, path: tuple[Any, ...]) -> Self:
        """This penalty for one leaf; raises, naming it, if it does not fit."""
        del path
        return self

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
            group.penalty.leaf_value(widen(group.join(tree.leaves)))
            for group in self.resolve(tree)
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
        return tree.build(
            in_param_groups(self.resolve(tree), of_leaf, zeros, tree.leaves)
        )

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
        groups = self.resolve(tree)
        return tree.build(in_param_groups(groups, of_leaf, tree.leaves, tree.leaves))

    # How a tree becomes leaves.

    def resolve(self, tree: Tree) -> list[ParamGroup]:
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

    def replace(self, **fields: Any) -> Self:
        """A copy with other fields, unchecked: JAX puts placeholders there."""
        new = object.__new__(type(self))
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = fields.get(field.name, getattr(self, field.name))
            object.__setattr__(new, field.name, value)
        return new

    def split_strength(self) -> "tuple[Any, Penalty]":
        """λ and ψ with R = λψ: if R is `scaled` at a strength of 1, else 1 and R."""
        if not self.scaled:
            return np.float32(1), self
        strength: Any = getattr(self, "strength")  # noqa: B009
        return strength, self.replace(strength=np.ones((), strength.dtype))

    def take(self, rows: Array, axis: int, like: Array) -> Self:
        """This entrywise penalty of one leaf `like`, for some rows of it."""

        def of(strength: Any) -> Any:
            if np.ndim(strength) == 0:
                return strength
            return jnp.take(jnp.broadcast_to(strength, like.shape), rows, axis=axis)

        fields = strength_fields(type(self))
        return self.replace(**{f: of(getattr(self, f)) for f in fields})

    # Marks the end of a penalty's own methods.
    is_contract: ClassVar[bool] = True

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Raises what helps: for a forgotten decorator, and a name of another field."""
        if not is_registered(cls):
            raise TypeError(
                f"{cls.__name__} is no penalty yet: decorate the class with "
                '`@register_penalty`; see "How to add a penalty" in CONTRIBUTING.md.'
            )
        fields = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
        for name in kwargs:
            if name not in fields:
                hint = (
                    f" From scikit-learn's, use `{cls.__name__}.from_sklearn`."
                    if name in ("alpha", "l1_ratio") and hasattr(cls, "from_sklearn")
                    else ""
                )
                raise TypeError(
                    f"{cls.__name__} has no argument `{name}`, but "
                    f"{', '.join(f'`{f}`' for f in fields)}.{hint}"
                )
        return object.__new__(cls)

    def __add__(self, other: Any) -> Any:
        """Raises what helps."""
        raise TypeError(
            "penalties are not added with `+`: use `partition` for other leaves, "
            "`ElasticNet` for L1 + L2, `SparseGroupLasso` for L1 + groups."
        )

    __radd__ = __add__


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

    def split(self) -> tuple[Penalty | None, Penalty | None]:
        return None, None


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
