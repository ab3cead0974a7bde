"""Penalties on groups of entries: all of a group is zero, or none of it need be."""

import dataclasses
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from optareg._checks import is_traced
from optareg._tree import Tree, is_masked, path_name
from optareg.penalties._base import (
    Norm,
    ParamGroup,
    Penalty,
    check_strengths,
    register_penalty,
    static,
    strength_fields,
)
from optareg.penalties._combinators import Choice, choose
from optareg.penalties._elementwise import L1

__all__ = ["GroupLasso", "SparseGroupLasso"]

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Axes:
    """Groups along the axes that a norm reduces over; all of them for None."""

    axis: Any

    def sum(self, x: Array) -> Array:
        """The sum over each group."""
        return jnp.sum(x, self.axis, keepdims=True)

    def max(self, x: Array) -> Array:
        """The largest entry of each group, at least −1, which only an empty one has.

        Not at least 0: where x ≥ 0 is 0, that would halve the derivative.
        """
        return jnp.max(x, self.axis, keepdims=True, initial=-1)

    def spread(self, x: Array, like: Array) -> Array:
        """A number for each group, at each of its entries; broadcasting does it."""
        del like
        return x

    def differs(self, x: np.ndarray) -> bool:
        """Whether the entries of some group are not all the same."""
        if not x.size:
            return False
        least, most = (f(x, self.axis, keepdims=True) for f in (np.min, np.max))
        return bool(np.any(least != most))

    def sizes(self, shape: tuple[int, ...]) -> np.ndarray:
        """The number of entries of the groups of an array of this shape."""
        return np.asarray(np.sum(np.ones(shape), self.axis, keepdims=True))


@dataclasses.dataclass(frozen=True, eq=False)
class Labels:
    """Groups by an integer label for each entry, hashable by its content."""

    labels: np.ndarray  # From 0, without gaps.

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Labels) and np.array_equal(self.labels, other.labels)

    def __hash__(self) -> int:
        return hash((self.labels.shape, self.labels.tobytes()))

    @property
    def count(self) -> int:
        """One more than the largest label."""
        return int(self.labels.max(initial=-1)) + 1

    def sum(self, x: Array) -> Array:
        """The sum over each group."""
        return jax.ops.segment_sum(x.ravel(), self.labels.ravel(), self.count)

    def max(self, x: Array) -> Array:
        """The largest entry of each group."""
        return jax.ops.segment_max(x.ravel(), self.labels.ravel(), self.count)

    def spread(self, x: Array, like: Array) -> Array:
        """A number for each group, at each of its entries."""
        return x[self.labels.reshape(like.shape)]

    def differs(self, x: np.ndarray) -> bool:
        """Whether the entries of some group are not all the same."""
        first = np.zeros(self.count)
        first[self.labels.ravel()] = x.ravel()
        return bool(np.any(first[self.labels] != x))

    def sizes(self, shape: tuple[int, ...]) -> np.ndarray:
        """The number of entries of the groups."""
        del shape
        return np.bincount(self.labels.ravel(), minlength=self.count)

    @classmethod
    def of(cls, labels: Any, where: str) -> "Labels":
        """Checks `labels`, known integers that are not negative, and numbers them."""
        if is_traced(labels):
            raise TypeError(
                f"the labels{where} are traced. Groups decide the shape of the program:"
                " make the penalty outside of `jit`, or close over the labels."
            )
        array = np.array(labels)
        if not np.issubdtype(array.dtype, np.integer):
            raise TypeError(
                f"the labels{where} must be integers, got dtype {array.dtype}."
            )
        if array.size and array.min() < 0:
            raise ValueError(
                f"the labels{where} must not be negative, got {array.min()}. "
                "An entry that is to be a group alone gets a label of its own."
            )
        # A number that no entry has is no group, least of all one that is zero.
        _, numbers = np.unique(array, return_inverse=True)
        numbers = numbers.reshape(array.shape)
        numbers.setflags(write=False)
        return cls(numbers)


class Grouped(Penalty):
    """What penalties on groups share: how the entries of a leaf make groups."""

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

    @property
    def grouping(self) -> Axes | Labels:
        """The groups of a leaf."""
        return Axes(self.axis) if self.groups is None else self.groups


@register_penalty
class GroupLasso(Grouped, Norm):
    r"""The group lasso: R(w) = λ Σ_g √(size of g) ‖w_g‖₂. Whole groups become zero.

    Args:
      strength: λ, in units of the loss per unit of weight; no learning rate in it. A
        scalar, or a prefix tree of the parameters of scalars or arrays, each broadcast
        against its leaf and the same within a group.
      axis: what the norm reduces over, as in `jnp.linalg.norm`: an integer or several;
        the rest of the axes count the groups. For a Dense kernel (in, out), 0 makes a
        group of each output unit and 1 of each input; for a Conv kernel (h, w, in, out)
        (0, 1, 2) one of each filter; for attention (in, heads, head_dim), (0, 2) one of
        each head. None: the whole leaf is one group.
      groups: instead of `axis`, an array of integer labels, shaped as the leaf, or a
        tree of such arrays, a prefix of the parameters: entries of one label are one
        group, wherever they are in the leaf. Labels of different leaves are different
        groups; `joined` makes groups of several leaves.
      size_scaled: whether λ is multiplied by √size, so that large groups are not
        favoured. False: R(w) = λ Σ_g ‖w_g‖₂.

    Raises:
      TypeError: a strength is not a real number, labels are no integers.
      ValueError: a concrete strength is negative, NaN or infinite; a label is negative;
        `axis` and `groups` are both given; on use, `axis` is out of range for a leaf,
        labels are not shaped as it, or a strength differs within a group.

    Gradient λ √size w_g / ‖w_g‖, 0 where w_g = 0; prox w_g max(0, 1 − tλ√size / ‖w_g‖).

    >>> import jax.numpy as jnp
    >>> from optareg import GroupLasso
    >>> w = jnp.array([[3.0, 0.1], [4.0, 0.1]])
    >>> penalty = GroupLasso(1.0, axis=0, size_scaled=False)
    >>> print(penalty.prox(w, 1.0))
    [[2.4 0. ]
     [3.2 0. ]]

    Source: Yuan & Lin, Model selection and estimation in regression with grouped
    variables (2006).
    """

    strength: Any
    axis: int | tuple[int, ...] | None = static(default=None, kw_only=True)
    groups: Any = static(default=None, kw_only=True)
    size_scaled: bool = static(default=True, kw_only=True)

    def leaf_value(self, w: Array) -> Array:
        return jnp.sum(self._radii(self.strength, w) * self.lengths(w))

    def leaf_subgradient(self, w: Array, at_zero: Array) -> Array:
        length = self.lengths(w)
        zero = length == 0
        slope = self._weights(w) / jnp.where(zero, 1, length)
        zero, slope = (self.grouping.spread(x, w) for x in (zero, slope))
        return jnp.where(zero, at_zero, w * slope)

    def leaf_dual(self, w: Array, radius: Any) -> Array:
        length, radius = self.lengths(w), self._radii(radius, w)
        # A group with a NaN is not within: it becomes NaN, not zero. Nor is one at
        # radius 0, however small its weights, whose squares may be zero.
        within = (length <= radius) & (radius > 0)
        safe = jnp.where(within | (length == 0), 1, length)
        share = jnp.where(within, 1, radius / safe)
        return w * self.grouping.spread(share, w)

    def leaf_dual_norm(self, g: Array) -> Array:
        radius = self._radii(self.strength, g)
        ratio = self.lengths(g) / jnp.where(radius > 0, radius, 1)
        return jnp.max(jnp.where(radius > 0, ratio, 0), initial=0)

    def leaf_size(self, residual: Array) -> Array:
        return self.lengths(residual)

    def leaf_even(self, x: Array) -> Array:
        return jnp.broadcast_to(self.grouping.spread(self.grouping.max(x), x), x.shape)

    def lengths(self, w: Array) -> Array:
        """‖w_g‖ of each group; its derivative at 0 is 0."""
        square = self.grouping.sum((w * jnp.conj(w)).real)
        zero = square == 0
        return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, square)))

    def _weights(self, w: Array) -> Array:
        sizes = self.grouping.sizes(w.shape)
        weights = np.sqrt(sizes) if self.size_scaled else np.ones_like(sizes, float)
        return jnp.asarray(weights, w.real.dtype)

    def _radii(self, radius: Any, w: Array) -> Array:
        """`radius`, a number for each entry, times the weight, for each group."""
        if np.ndim(radius) > 0:
            radius = self.grouping.max(jnp.broadcast_to(radius, w.shape))
        return jnp.multiply(radius, self._weights(w))


@register_penalty
class SparseGroupLasso(Grouped):
    r"""The sparse group lasso: R(w) = a Σ|w| + b Σ_g √(size of g) ‖w_g‖₂.

    Whole groups become zero, and entries within the groups that remain.

    Args:
      l1: a, as the strength of `L1`, the same within a group.
      group: b, as the strength of `GroupLasso`.
      axis: as for `GroupLasso`.
      groups: as for `GroupLasso`.
      size_scaled: as for `GroupLasso`.

    Raises:
      TypeError, ValueError: as for `GroupLasso`.

    The prox is that of the L1 part, then that of the group part.

    >>> import jax.numpy as jnp
    >>> from optareg import SparseGroupLasso
    >>> w = jnp.array([[4.0, 0.5], [0.5, -0.5]])
    >>> penalty = SparseGroupLasso(l1=1.0, group=1.0, axis=0, size_scaled=False)
    >>> print(penalty.prox(w, 1.0))
    [[2. 0.]
     [0. 0.]]

    Source: Simon, Friedman, Hastie & Tibshirani, A sparse-group lasso (2013).
    """

    l1: Any
    group: Any
    axis: int | tuple[int, ...] | None = static(default=None, kw_only=True)
    groups: Any = static(default=None, kw_only=True)
    size_scaled: bool = static(default=True, kw_only=True)

    def leaf_value(self, w: Array) -> Array:
        return self._norm().leaf_value(w)

    def leaf_gradient(self, w: Array) -> Array:
        return self._norm().leaf_gradient(w)

    def leaf_prox(self, w: Array, step: Array) -> Array:
        return self._norm().leaf_prox(w, step)

    def leaf_even(self, x: Array) -> Array:
        return self._norm().group.leaf_even(x)

    def split(self) -> tuple[Penalty | None, Norm | None]:
        return None, self._norm()

    def _norm(self) -> "Mixture":
        l1 = L1(0).replace(strength=self.l1)
        names = ("axis", "groups", "size_scaled")
        group = GroupLasso(0).replace(
            strength=self.group, **{name: getattr(self, name) for name in names}
        )
        return Mixture.of(l1, group)


@register_penalty
class Mixture(Norm):
    """The sum of an L1 and a group lasso, as one norm: ψ = c ψ₁ + (1 − c) ψ₂.

    Attributes:
      strength: the sum of both strengths.
      share: c, the share of L1.
      l1: with strength 1.
      group: with strength 1.
    """

    strength: Any
    share: Any
    l1: L1
    group: GroupLasso

    @classmethod
    def of(cls, l1: L1, group: GroupLasso) -> "Mixture":
        """The sum of the two."""
        total = l1.strength + group.strength
        # What is known stays known within `jit`.
        where = np.where if isinstance(total, (np.ndarray, np.generic)) else jnp.where
        share = l1.strength / where(total > 0, total, np.ones((), total.dtype))
        one = np.ones((), total.dtype)
        parts = l1.replace(strength=one), group.replace(strength=one)
        return cls(total, share, *parts)

    def leaf_value(self, w: Array) -> Array:
        l1 = self.l1.replace(strength=self.strength * self.share)
        group = self.group.replace(strength=self.strength * (1 - self.share))
        return l1.leaf_value(w) + group.leaf_value(w)

    def leaf_subgradient(self, w: Array, at_zero: Array) -> Array:
        # In a group that is not zero, the L1 part alone decides at zero entries.
        some = self.group.leaf_even(jnp.abs(w)) != 0  # Not `> 0`: NaN stays NaN.
        inner = self.l1.leaf_dual(at_zero, self.share)
        sign = self.share * jnp.sign(w)
        of_l1 = jnp.where(w == 0, inner, sign)
        of_group = self.group.leaf_subgradient(w, jnp.zeros_like(w))
        return jnp.where(some, of_l1 + (1 - self.share) * of_group, at_zero)

    def leaf_dual(self, w: Array, radius: Any) -> Array:
        rest = w - self.l1.leaf_dual(w, radius * self.share)
        prox = rest - self.group.leaf_dual(rest, radius * (1 - self.share))
        # Not the sum of both parts, whose rounding would leave no exact zeros.
        return jnp.where(prox == 0, w, w - prox)

    def leaf_dual_norm(self, g: Array) -> Array:
        """By Newton's method on a convex falling function of c for each group."""
        a, b = self.strength * self.share, self.strength * (1 - self.share)
        size = jnp.abs(g)
        b = self.group._radii(b, size)
        # From the left of the root, where the steps do not overshoot.
        start = jnp.zeros_like(b)

        def excess(c: Array) -> Array:
            each = self.group.grouping.spread(c, size)
            return self.group.lengths(jnp.maximum(size - each * a, 0)) - c * b

        def step(_: int, c: Array) -> Array:
            value, slope = jax.jvp(excess, (c,), (jnp.ones_like(c),))
            move = jnp.where((value > 0) & (slope < 0), -value / slope, 0)
            return c + move

        return jnp.max(jax.lax.fori_loop(0, 50, step, start), initial=0)

    def leaf_size(self, residual: Array) -> Array:
        return self.group.lengths(residual)

    def leaf_even(self, x: Array) -> Array:
        return self.group.leaf_even(x)


# Labels in trees, and checks.


def label_tree(groups: Any) -> Choice:
    """A tree of arrays of labels, as the static part of a pytree."""

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
    """Raises if a strength, where it is known, differs within a group."""
    for field in strength_fields(type(penalty)):
        strength = getattr(penalty, field)
        if np.ndim(strength) == 0 or is_traced(strength):
            continue
        entries = np.broadcast_to(np.asarray(strength), leaf.shape)
        if penalty.grouping.differs(entries):
            raise ValueError(
                f"`{field}` of {type(penalty).__name__} differs within a group of the "
                f"leaf at {path}. Give it one number for each group: for `axis` "
                "an array of size 1 along those axes."
            )


def check_grouping(penalty: Grouped) -> None:
    """Normalises `axis` and `groups` of a new penalty, and checks what can be."""
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


def plain_lists(groups: Any, name: str) -> Any:
    """`groups`, but lists of nothing but integers as the array they are meant as."""
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
