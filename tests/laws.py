"""The table of penalties under test, each with its definition in NumPy.

A definition is a function of a flat array: the leaves of the parameters one after the
other, along the last axis. The axes before it count points.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import hypothesis
import hypothesis.extra.numpy
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optareg import (
    L1,
    L2,
    MCP,
    SCAD,
    ElasticNet,
    GroupLasso,
    NuclearNorm,
    SparseGroupLasso,
    TotalVariation,
    centered,
    constraint,
    joined,
    masked,
    partition,
)
from optareg._tree import Tree
from optareg.penalties import Penalty, register_penalty
from optareg.penalties._base import ParamGroup, in_param_groups, map_strengths

# Its name before JAX 0.8.
if not hasattr(jax, "enable_x64"):
    import jax.experimental

    enable_x64 = jax.experimental.enable_x64
else:
    enable_x64 = jax.enable_x64

Value = Callable[[np.ndarray], np.ndarray]
ROOT2, ROOT3, ROOT6 = np.sqrt([2, 3, 6])


# Definitions, from the formulas of the docstrings.


def absolute(strength: Any) -> Value:
    """Σ strength · |x|."""
    return lambda x: np.sum(strength * np.abs(x), axis=-1)


def squares(strength: Any) -> Value:
    """Σ strength · |x|²."""
    return lambda x: np.sum(strength * np.abs(x) ** 2, axis=-1)


def total(*values: Value) -> Value:
    """The sum of definitions."""
    return lambda x: np.sum([value(x) for value in values], axis=0)


def nothing(x: np.ndarray) -> np.ndarray:
    """0."""
    return np.zeros(x.shape[:-1])


def of_mcp(r: np.ndarray, c: Any, gamma: float) -> np.ndarray:
    """The minimax concave penalty of |x|."""
    return np.where(r <= gamma * c, c * r - r**2 / (2 * gamma), gamma * c**2 / 2)


def of_scad(r: np.ndarray, c: Any, gamma: float) -> np.ndarray:
    """The smoothly clipped absolute deviation of |x|."""
    middle = (2 * gamma * c * r - r**2 - c**2) / (2 * (gamma - 1))
    end = c**2 * (gamma + 1) / 2
    return np.where(r <= c, c * r, np.where(r <= gamma * c, middle, end))


def folded(kind: Callable, strength: Any, gamma: float) -> Value:
    """The sum of a folded concave penalty."""
    return lambda x: np.sum(kind(np.abs(x), strength, gamma), axis=-1)


class Groups(NamedTuple):
    """Σ_g weight_g ‖x_g‖.

    Attributes:
      labels: the group of each entry.
      weights: the weight of each group, in the order of the labels; 0 is none.
    """

    labels: tuple[int, ...]
    weights: tuple[float, ...]

    @property
    def members(self) -> list[np.ndarray]:
        """The entries of each group."""
        return members(np.array(self.labels))

    def lengths(self, x: np.ndarray) -> np.ndarray:
        """‖x_g‖, along the last axis."""
        each = [np.linalg.norm(x[..., g], axis=-1) for g in self.members]
        return np.stack(each, axis=-1)

    def spread(self, each: np.ndarray) -> np.ndarray:
        """A number for each group, at each of its entries."""
        result = np.empty(len(self.labels))
        for g, x in zip(self.members, each, strict=True):
            result[g] = x
        return result

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return np.sum(self.lengths(x) * self.weights, axis=-1)


def members(labels: np.ndarray) -> list[np.ndarray]:
    """The indices of each group that has entries."""
    return [np.flatnonzero(labels == g) for g in np.unique(labels)]


def variation(lines: Any, strengths: Any) -> Value:
    """Σ strength · |x_{i+1} − x_i| over lines, given by their indices."""
    return lambda x: sum(
        c * np.sum(np.abs(np.diff(x[..., line], axis=-1)), axis=-1)
        for line, c in zip(lines, strengths, strict=True)
    )


def singular_values(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Those of all matrices of an array of this shape."""
    return np.linalg.svd(x.reshape(*x.shape[:-1], *shape), compute_uv=False)


def nuclear(strength: Any, shape: tuple[int, ...]) -> Value:
    """Σ strength · singular values of matrices, strength one for each matrix."""

    def value(x: np.ndarray) -> np.ndarray:
        each = np.sum(singular_values(x, shape), axis=-1)
        return np.sum((strength * each).reshape(*x.shape[:-1], -1), axis=-1)

    return value


# What is at its kink: what `sparsity` counts.


def entries(x: np.ndarray) -> np.ndarray:
    return x == 0


def whole_groups(labels: Any) -> Callable:
    return lambda x: np.array([np.all(x[g] == 0) for g in members(np.array(labels))])


def ties(lines: Any) -> Callable:
    return lambda x: np.concatenate([np.diff(x[line]) == 0 for line in lines])


def ranks(shape: tuple[int, ...]) -> Callable:
    def zero(x: np.ndarray) -> np.ndarray:
        values = singular_values(x, shape)
        return (values <= 1e-14 * np.max(values, axis=-1, keepdims=True)).ravel()

    return zero


# Convex sets.


def everywhere(x: np.ndarray) -> np.ndarray:
    return np.ones(x.shape[:-1], bool)


def itself(x: np.ndarray) -> np.ndarray:
    return x


class Set(NamedTuple):
    """Where a penalty is finite.

    Attributes:
      has: whether points are in it, to the rounding of what makes them.
      bring: any point to one of the set, not to the nearest one.
    """

    has: Callable[[np.ndarray], np.ndarray] = everywhere
    bring: Callable[[np.ndarray], np.ndarray] = itself

    def moved(self, at: np.ndarray) -> "Set":
        """The same around `at`."""
        return Set(lambda x: self.has(x - at), lambda x: at + self.bring(x - at))


def norm(x: np.ndarray, order: int) -> np.ndarray:
    return np.linalg.norm(x, order, axis=-1, keepdims=True)


POSITIVE = Set(lambda x: np.all(x >= 0, axis=-1), np.abs)
BOX = Set(
    lambda x: np.all((x >= -0.5) & (x <= 1), axis=-1), lambda x: np.clip(x, -0.5, 1)
)
SIMPLEX = Set(
    lambda x: np.all(x >= -1e-9, axis=-1) & (np.abs(np.sum(x, axis=-1) - 1) <= 1e-9),
    lambda x: (np.abs(x) + 1e-3) / norm(np.abs(x) + 1e-3, 1),
)
L1_BALL = Set(
    lambda x: norm(x, 1)[..., 0] <= 1.5 + 1e-9,
    lambda x: x / np.maximum(norm(x, 1) / 1.5, 1),
)
L2_BALL = Set(
    lambda x: norm(x, 2)[..., 0] <= 1 + 1e-9, lambda x: x / np.maximum(norm(x, 2), 1)
)


# Projections of a user, whose dtypes and ranks are as strict rules want them.


def onto_box(x: jax.Array) -> jax.Array:
    return jnp.clip(x, -0.5, 1.0)


def onto_simplex(x: jax.Array) -> jax.Array:
    """By the threshold that the sorted entries show."""
    x = x - jnp.max(x)  # Which is the same for the set, and for its digits not.
    falling = jnp.flip(jnp.sort(x))
    excess = (jnp.cumsum(falling) - 1) / jnp.arange(1, x.size + 1, dtype=x.dtype)
    return jnp.maximum(x - jnp.max(excess), 0)


def onto_l1_ball(x: jax.Array) -> jax.Array:
    size = jnp.abs(x)
    inside = jnp.sum(size) <= 1.5
    return jnp.where(inside, x, jnp.sign(x) * 1.5 * onto_simplex(size / 1.5))


def onto_l2_ball(x: jax.Array) -> jax.Array:
    return x / jnp.sqrt(jnp.maximum(jnp.sum(x * x), 1))


# Penalties of a user: a value and a prox, and all else by what every penalty has.


@register_penalty
class Plain(Penalty):
    """λ ‖w‖ of the whole leaf."""

    strength: Any

    def leaf_value(self, w: jax.Array) -> jax.Array:
        return self.strength * jnp.sqrt(jnp.sum((w * jnp.conj(w)).real))

    def leaf_prox(self, w: jax.Array, step: jax.Array) -> jax.Array:
        length = jnp.sqrt(jnp.sum((w * jnp.conj(w)).real))
        radius = step * self.strength
        stays = ~(length <= radius)  # A NaN does.
        return jnp.where(stays, w * (1 - radius / jnp.where(stays, length, 1)), 0)


@register_penalty
class Whole(MCP):
    """MCP handled by its prox alone."""

    def split(self) -> tuple[Penalty | None, Penalty | None]:
        return None, self

    def weak_convexity(self) -> float:
        return 1 / self.gamma


# The table.


class Case(NamedTuple):
    """A penalty of six weights, its definition and its traits.

    Attributes:
      penalty: the penalty under test.
      value: R(x) of flat arrays, where it is finite.
      like: parameters, of which the shapes and dtypes count.
      smooth: the part of `value` that is handled by its gradient.
      within: where R is finite.
      zeros: what is at its kink, a bool for each entry, group, …; None: not counted.
      center: where all of it is.
      penalised: which entries are drawn to the center.
      convex, entrywise: as `Penalty` has them.
      scaled: likewise, of what has a prox.
      curvature: the weak convexity of what has a prox.
      turns: the groups that `leaf_move` turns.
      goes_straight: whether in `leaf_move` entries that stay off zero move by the step.
      exact: whether subgradients have all digits; else half of them.
    """

    penalty: Penalty
    value: Value
    like: Any = np.zeros(6)
    smooth: Value = nothing
    within: Set = Set()
    zeros: Callable | None = None
    center: Any = 0.0
    penalised: Any = True
    convex: bool = True
    entrywise: bool = False
    scaled: bool = False
    curvature: float = 0.0
    turns: Groups | None = None
    goes_straight: bool = False
    exact: bool = True

    @property
    def is_complex(self) -> bool:
        return any(np.iscomplexobj(x) for x in jax.tree.leaves(self.like))

    @property
    def finite_everywhere(self) -> bool:
        return self.within.has is everywhere

    @property
    def rest(self) -> Value:
        """The part with the prox."""
        return lambda x: self.value(x) - self.smooth(x)

    def point(self, x: np.ndarray, most: float = np.inf) -> np.ndarray:
        """A flat point from twelve numbers. Squares that are zero have no direction."""
        if self.is_complex or not self.entrywise:
            x = np.where(np.abs(x) < 1e-100, 0, x)
        x = np.clip(x, -most, most)
        return x[:6] + 1j * x[6:] if self.is_complex else x[:6]

    def tree(self, x: np.ndarray) -> Any:
        """Parameters from a flat array."""
        leaves, treedef = jax.tree.flatten(self.like)
        ends = np.cumsum([leaf.size for leaf in leaves])
        parts = np.split(np.asarray(x), ends[:-1])
        return jax.tree.unflatten(
            treedef,
            [
                jnp.asarray(part.reshape(leaf.shape))
                for part, leaf in zip(parts, leaves, strict=True)
            ],
        )


def shifted(case: Case, at: np.ndarray) -> Case:
    """The case with its center at `at`."""
    zeros = case.zeros
    return case._replace(
        penalty=centered(case.penalty, case.tree(at)),
        value=lambda x: case.value(x - at),
        smooth=lambda x: case.smooth(x - at),
        within=case.within if case.finite_everywhere else case.within.moved(at),
        zeros=None if zeros is None else lambda x: zeros(x - at),
        center=at + case.center,
    )


EACH = np.array([0.3, 0.0, 1.0, 0.7, 0.0, 2.0])
WIDE, COMPLEX = np.zeros((2, 3)), np.zeros(6, complex)
SCATTERED = np.array([0, 3, 0, 1, 3, 3])  # No entry has the label 2.
OUT, IN, ONE = (0, 1, 2) * 2, (0, 0, 0, 1, 1, 1), (0,) * 6
ALONE = tuple(range(6))
BY_LABELS = Groups(tuple(SCATTERED), (0.5 * ROOT2, 0.5, 0.5 * ROOT3))
# Kernel and bias of a layer with two units; the leaves in the order of their keys.
LAYER = {"bias": np.zeros(2), "kernel": np.zeros((2, 2))}
UNITS = (0, 1, 0, 1, 0, 1)
DOWN = ([0, 3], [1, 4], [2, 5])
# So that differences to round numbers are exact.
AT = np.array([0.5, -1.25, 0.0, 2.0, -0.75, 1.0])


def lasso(penalty: Penalty, strength: Any, **traits: Any) -> Case:
    """A case whose prox is that of L1 for both parts."""
    some = np.broadcast_to(np.asarray(strength) > 0, 6)
    # What is not penalised is not drawn to zero, but counts where it is.
    rest = {"zeros": entries, "entrywise": True, "penalised": some, **traits}
    return Case(penalty, **{"value": absolute(strength), **rest})


def concave(penalty: Any, kind: Callable, **traits: Any) -> Case:
    c, gamma = penalty.strength, penalty.gamma
    value = folded(kind, c, gamma)
    return lasso(
        penalty,
        c,
        value=value,
        smooth=lambda x: value(x) - absolute(c)(x),
        scaled=True,
        convex=False,
        **traits,
    )


def grouped(penalty: Penalty, groups: Groups, like: Any = WIDE, **traits: Any) -> Case:
    rest = {"zeros": whole_groups(groups.labels), "scaled": True, **traits}
    rest = {"turns": groups, **rest}
    some = groups.spread(np.array(groups.weights) > 0) > 0
    mine = {"value": groups, "like": like, "penalised": some}
    return Case(penalty, **{**mine, **rest})


def sparse(penalty: Penalty, l1: float, groups: Groups, like: Any = WIDE) -> Case:
    some = (l1 > 0) | (groups.spread(np.array(groups.weights)) > 0)
    value = total(absolute(l1), groups)
    return grouped(
        penalty,
        groups,
        like,
        value=value,
        turns=None,
        goes_straight=True,
        penalised=some,
    )


def matrices(strength: Any, like: np.ndarray) -> Case:
    shape, each = like.shape, strength
    if np.ndim(strength):
        each = strength[..., 0, 0]
    return Case(
        NuclearNorm(strength),
        nuclear(each, shape),
        like,
        zeros=ranks(shape),
        scaled=True,
        penalised=np.broadcast_to(np.asarray(strength) > 0, shape).ravel(),
    )


ENTRY_BY_ENTRY = {
    "L1": lasso(L1(0.7), 0.7, scaled=True),
    "L1-of-0": lasso(L1(0.0), 0.0, scaled=True),
    "L1-of-each": lasso(L1(EACH), EACH, scaled=True),
    "L1-of-columns": lasso(
        L1(EACH[None, :3]), np.tile(EACH[:3], 2), scaled=True, like=WIDE
    ),
    "L1-complex": lasso(
        L1(0.7), 0.7, scaled=True, like=COMPLEX, turns=Groups(ALONE, (0.7,) * 6)
    ),
    "L1-complex-of-each": lasso(
        L1(EACH), EACH, scaled=True, like=COMPLEX, turns=Groups(ALONE, tuple(EACH))
    ),
    "L1-positive": lasso(L1(0.7, positive=True), 0.7, within=POSITIVE),
    "L1-positive-of-0": lasso(L1(0.0, positive=True), 0.0, within=POSITIVE),
    "L2": Case(L2(0.4), squares(0.4), smooth=squares(0.4), entrywise=True),
    "L2-complex-of-each": Case(
        L2(EACH), squares(EACH), COMPLEX, smooth=squares(EACH), entrywise=True
    ),
    "ElasticNet": lasso(
        ElasticNet(0.5, 0.3),
        0.5,
        value=total(absolute(0.5), squares(0.3)),
        smooth=squares(0.3),
        scaled=True,
    ),
    "ElasticNet-without-l1": lasso(
        ElasticNet(0.0, 0.3), 0.0, value=squares(0.3), smooth=squares(0.3), scaled=True
    ),
    "ElasticNet-without-l2": lasso(ElasticNet(0.5, 0.0), 0.5, scaled=True),
    "ElasticNet-complex": lasso(
        ElasticNet(EACH, 0.3),
        EACH,
        value=total(absolute(EACH), squares(0.3)),
        smooth=squares(0.3),
        scaled=True,
        like=COMPLEX,
        turns=Groups(ALONE, tuple(EACH)),
    ),
    "ElasticNet-positive": lasso(
        ElasticNet(0.5, 0.3, positive=True),
        0.5,
        value=total(absolute(0.5), squares(0.3)),
        smooth=squares(0.3),
        within=POSITIVE,
    ),
    "MCP": concave(MCP(0.7, 3.0), of_mcp),
    "MCP-near-its-bound": concave(MCP(0.7, 1.05), of_mcp),
    "MCP-complex-of-each": concave(
        MCP(EACH, 3.0), of_mcp, like=COMPLEX, turns=Groups(ALONE, tuple(EACH))
    ),
    "MCP-by-its-prox": lasso(
        Whole(0.7, 3.0),
        0.7,
        value=folded(of_mcp, 0.7, 3.0),
        zeros=None,
        convex=False,
        curvature=1 / 3,
        exact=False,
    ),
    "SCAD": concave(SCAD(0.7, 3.7), of_scad),
    "SCAD-near-its-bound": concave(SCAD(0.7, 2.05), of_scad),
    "SCAD-complex": concave(
        SCAD(0.7, 3.7), of_scad, like=COMPLEX, turns=Groups(ALONE, (0.7,) * 6)
    ),
}
IN_GROUPS = {
    "GroupLasso-of-columns": grouped(
        GroupLasso(0.7, axis=0), Groups(OUT, (0.7 * ROOT2,) * 3)
    ),
    "GroupLasso-of-rows": grouped(
        GroupLasso(0.4, axis=1), Groups(IN, (0.4 * ROOT3,) * 2)
    ),
    "GroupLasso-of-the-leaf": grouped(GroupLasso(0.3), Groups(ONE, (0.3 * ROOT6,))),
    "GroupLasso-by-labels": grouped(
        GroupLasso(0.5, groups=SCATTERED), BY_LABELS, np.zeros(6)
    ),
    "GroupLasso-not-scaled": grouped(
        GroupLasso(0.5, groups=SCATTERED, size_scaled=False),
        Groups(tuple(SCATTERED), (0.5,) * 3),
        np.zeros(6),
    ),
    "GroupLasso-not-scaled-of-columns": grouped(
        GroupLasso(0.5, axis=0, size_scaled=False), Groups(OUT, (0.5,) * 3)
    ),
    "GroupLasso-of-each": grouped(
        GroupLasso(np.array([[0.2, 0, 1]]), axis=0),
        Groups(OUT, (0.2 * ROOT2, 0, ROOT2)),
    ),
    "GroupLasso-of-each-label": grouped(
        GroupLasso(np.array([0.2, 0, 0.2, 1, 0, 0]), groups=SCATTERED),
        Groups(tuple(SCATTERED), (0.2 * ROOT2, 1, 0)),
        np.zeros(6),
    ),
    "GroupLasso-of-0": grouped(GroupLasso(0.0, axis=0), Groups(OUT, (0.0,) * 3)),
    "GroupLasso-complex": grouped(
        GroupLasso(0.5, groups=SCATTERED), BY_LABELS, COMPLEX
    ),
    "SparseGroupLasso": sparse(
        SparseGroupLasso(0.3, 0.4, axis=0), 0.3, Groups(OUT, (0.4 * ROOT2,) * 3)
    ),
    "SparseGroupLasso-by-labels": sparse(
        SparseGroupLasso(0.3, 0.4, groups=SCATTERED, size_scaled=False),
        0.3,
        Groups(tuple(SCATTERED), (0.4,) * 3),
        np.zeros(6),
    ),
    "SparseGroupLasso-without-l1": sparse(
        SparseGroupLasso(0.0, 0.4, axis=1), 0.0, Groups(IN, (0.4 * ROOT3,) * 2)
    ),
    "SparseGroupLasso-of-0": sparse(
        SparseGroupLasso(0.0, 0.0), 0.0, Groups(ONE, (0.0,))
    ),
    "SparseGroupLasso-complex": sparse(
        SparseGroupLasso(0.3, 0.4), 0.3, Groups(ONE, (0.4 * ROOT6,)), COMPLEX
    ),
}
COUPLED = {
    "TotalVariation": Case(
        TotalVariation(0.6),
        variation([range(6)], [0.6]),
        zeros=ties([range(6)]),
        scaled=True,
    ),
    "TotalVariation-of-0": Case(
        TotalVariation(0.0),
        nothing,
        zeros=ties([range(6)]),
        scaled=True,
        penalised=False,
    ),
    "TotalVariation-of-each": Case(
        TotalVariation(np.tile([0.5, 0.0, 1.5], (2, 1)), axis=0),
        variation(DOWN, [0.5, 0.0, 1.5]),
        WIDE,
        zeros=ties(DOWN),
        scaled=True,
        penalised=np.array([True, False, True] * 2),
    ),
    "TotalVariation-of-lines-of-one": Case(
        TotalVariation(0.6),
        nothing,
        np.zeros((6, 1)),
        zeros=lambda x: np.zeros(0, bool),
        scaled=True,
        penalised=False,
    ),
    "NuclearNorm": matrices(0.6, WIDE),
    "NuclearNorm-of-0": matrices(0.0, WIDE),
    "NuclearNorm-tall": matrices(0.6, np.zeros((3, 2))),
    "NuclearNorm-complex": matrices(0.6, np.zeros((2, 3), complex)),
    "NuclearNorm-of-each": matrices(
        np.array([0.5, 0.0]).reshape(2, 1, 1), np.zeros((2, 1, 3))
    ),
    "NuclearNorm-of-equal": matrices(np.full((2, 3), 0.5), WIDE),
    "box": Case(constraint(onto_box), nothing, within=BOX, exact=False),
    "simplex": Case(constraint(onto_simplex), nothing, within=SIMPLEX, exact=False),
    "L1-ball": Case(constraint(onto_l1_ball), nothing, within=L1_BALL, exact=False),
    "L2-ball": Case(constraint(onto_l2_ball), nothing, within=L2_BALL, exact=False),
    "of-a-user": Case(Plain(0.8), Groups(ONE, (0.8,)), exact=False, center=0.0),
    "of-a-user-complex": Case(
        Plain(0.8), Groups(ONE, (0.8,)), COMPLEX, exact=False, center=0.0
    ),
}
ON_TREES = {
    "joined": grouped(
        joined(GroupLasso(0.5, axis=1), {"bias": "u", "kernel": "u"}),
        Groups(UNITS, (0.5 * ROOT3,) * 2),
        LAYER,
    ),
    "joined-sparse": sparse(
        joined(SparseGroupLasso(0.2, 0.5, axis=1, size_scaled=False), "bias|kernel"),
        0.2,
        # The whole match is the label: two arrays.
        Groups((0, 1, 2, 3, 2, 3), (0.5,) * 4),
        LAYER,
    ),
    "joined-of-each": grouped(
        joined(
            GroupLasso({"u": np.array([[0.5], [0.0]])}, axis=1),
            {"bias": "u", "kernel": "u"},
        ),
        Groups(UNITS, (0.5 * ROOT3, 0.0)),
        LAYER,
    ),
    "joined-along-axes": Case(
        joined(NuclearNorm(0.4), {"a": "u", "b": "u"}, axis={"a": (0, 1), "b": (1, 0)}),
        lambda x: nuclear(0.4, (2, 3))(x[..., [0, 1, 4, 2, 3, 5]]),
        {"a": np.zeros((1, 2, 2)), "b": np.zeros((2, 1))},
        zeros=lambda x: ranks((2, 3))(x[[0, 1, 4, 2, 3, 5]]),
        scaled=True,
    ),
    "masked": grouped(
        masked(GroupLasso(0.5, axis=0), {"bias": False, "kernel": True}),
        Groups((0, 1, 2, 3, 2, 3), (0, 0, 0.5 * ROOT2, 0.5 * ROOT2)),
        LAYER,
        zeros=lambda x: whole_groups((0, 1, 0, 1))(x[2:]),
    ),
    "partition": Case(
        partition(
            {"some": L1(0.6), "pairs": GroupLasso(0.5, axis=0)},
            {"bias": "some", "kernel": "pairs"},
        ),
        total(
            lambda x: absolute(0.6)(x[..., :2]),
            Groups((0, 1, 2, 3, 2, 3), (0, 0, 0.5 * ROOT2, 0.5 * ROOT2)),
        ),
        LAYER,
        zeros=lambda x: np.append(whole_groups((0, 1, 0, 1))(x[2:]), x[:2] == 0),
        scaled=True,
        turns=Groups((0, 1, 2, 3, 2, 3), (0.6, 0.6, 0.5 * ROOT2, 0.5 * ROOT2)),
    ),
}
BARE = {**ENTRY_BY_ENTRY, **IN_GROUPS, **COUPLED, **ON_TREES}
TO_MOVE = [
    "L1",
    "L1-complex-of-each",
    "L1-positive",
    "ElasticNet",
    "MCP",
    "MCP-by-its-prox",
    "GroupLasso-not-scaled",
    "SparseGroupLasso",
    "NuclearNorm",
    "box",
    "joined",
]
MOVED = {f"centered-{n}": shifted(BARE[n], AT) for n in TO_MOVE}
CASES = {**BARE, **MOVED}
# The first of each class of penalties, of real and of complex numbers: where all would
# take long.
OF_EACH_KIND = list(
    {
        (type(case.penalty), case.is_complex, case.finite_everywhere): name
        for name, case in reversed(CASES.items())
    }.values()
)[::-1]


# Points. Of a fixed shape, so that nothing is compiled anew; with the places where it
# matters.

coordinates = st.one_of(
    st.sampled_from([0.0, -0.0, 0.7, -0.7, 1e-300, 1e8]),
    st.floats(-10, 10, allow_subnormal=False),
)
vectors = hypothesis.extra.numpy.arrays(np.float64, (6,), elements=coordinates)
points = hypothesis.extra.numpy.arrays(np.float64, (12,), elements=coordinates)
steps = st.floats(0, 5, allow_subnormal=False)
positive_steps = st.floats(1e-3, 5)


def rounded(x: np.ndarray) -> np.ndarray:
    """Zero and equal, or far enough from it for a finite difference."""
    return np.round(4 * np.clip(x, -10, 10)) / 4


SCALES = 10.0 ** np.arange(-8, 2)


def neighbours(x: np.ndarray, seed: int = 0) -> np.ndarray:
    """Points near to x and far, along axes and not, with some entries zero or not."""
    rng = np.random.default_rng(seed)
    n = len(x)
    far = SCALES[:, None, None]
    around = x + far * rng.normal(size=(len(SCALES), 20, n))
    along = x + far * np.concatenate([np.eye(n), -np.eye(n)])
    shrunk = x * (1 - SCALES[:9, None]) * (rng.random((50, 9, n)) < 0.8)
    if np.iscomplexobj(x):
        around = around + 1j * far * rng.normal(size=(len(SCALES), 20, n))
        along = np.concatenate([along, x + 1j * (along - x)])
    return np.concatenate([p.reshape(-1, n) for p in (around, along, shrunk)])


def inner(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The real inner product along the last axis."""
    return np.sum(np.real(x * np.conj(y)), axis=-1)


def objective(value: Value, x: np.ndarray, w: np.ndarray, step: float) -> np.ndarray:
    """½‖x − w‖² + step · R(x), the one that the prox minimises."""
    return 0.5 * np.sum(np.abs(x - w) ** 2, axis=-1) + step * value(x)


def slopes(value: Value, x: np.ndarray, h: float = 1e-6) -> np.ndarray:
    """The gradient by central differences, where it has the subgradient 0 at a kink."""
    d = h * np.eye(len(x))
    slope = (value(x + d) - value(x - d)) / (2 * h)
    if np.iscomplexobj(x):
        slope = slope + 1j * (value(x + 1j * d) - value(x - 1j * d)) / (2 * h)
    return slope


def coupled(case: Case) -> np.ndarray:
    """Which entries R couples: where a mixed difference is not 0, and what follows."""
    rng, graph = np.random.default_rng(0), np.eye(6, dtype=bool)
    for _ in range(20):
        x, d = (case.point(rng.normal(size=12)) for _ in range(2))
        a = np.diag(d)
        alone = case.value(x + a)
        both = case.value(x + a[:, None] + a)
        mixed = both - alone[:, None] - alone + case.value(x)
        graph |= np.abs(mixed) > 1e-9 * (1 - np.eye(6)) + 1e9 * np.eye(6)
    return np.linalg.matrix_power(graph.astype(int), 6) > 0


# What is compiled, of flat arrays and back.


def strictly(f: Callable) -> Callable:
    """`f` compiled, for real arrays without silent promotions of dtypes or ranks."""

    @functools.wraps(f)
    def strict(*args: Any) -> Any:
        if any(map(jnp.iscomplexobj, jax.tree.leaves(args))):
            return f(*args)
        with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
            return f(*args)

    return jax.jit(strict)


def flat(tree: Any) -> np.ndarray:
    """The leaves of a tree, one after the other."""
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


@strictly
def compiled_prox(penalty: Penalty, w: Any, step: Any) -> Any:
    return penalty.prox(w, step)


def prox(case: Case, w: np.ndarray, step: float) -> np.ndarray:
    """The prox under test, of a flat array."""
    return flat(compiled_prox(case.penalty, case.tree(w), step))


def times(penalty: Any, factor: Any) -> Any:
    """The penalty with all strengths multiplied."""
    return map_strengths(lambda x: jnp.asarray(x, factor.dtype) * factor, penalty)


def parts_of(penalty: Penalty, tree: Any) -> list[ParamGroup]:
    """What has a prox of each parameter group."""
    groups = penalty.resolve(Tree(tree))
    parts = [group._replace(penalty=group.penalty.split()[1]) for group in groups]
    return [part for part in parts if part.penalty is not None]


def in_parts(penalty: Penalty, f: Callable, *trees: Any) -> Any:
    """f(part, …) of each part, put together again; zeros elsewhere."""
    tree = Tree(trees[0])
    zeros = [jnp.zeros_like(x) for x in tree.leaves]
    columns = [Tree(x).leaves for x in trees]
    return tree.build(in_param_groups(parts_of(penalty, trees[0]), f, zeros, *columns))


def from_parts(penalty: Penalty, f: Callable, *trees: Any) -> list[Any]:
    """f(part, …) of each part, as it is."""
    columns = [Tree(x).leaves for x in trees]
    parts = parts_of(penalty, trees[0])
    return [f(part.penalty, *map(part.join, columns)) for part in parts]


# How a law is written: decorated so, with `case` first.

# What a penalty does elsewhere it does at its center: three of those are enough, by
# default.
every_penalty = pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            id=name,
            marks=pytest.mark.long if name in {*MOVED} - {*OF_EACH_KIND} else (),
        )
        for name, case in CASES.items()
    ],
)
law = hypothesis.settings(
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
