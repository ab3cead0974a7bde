"""The refinements of a penalty against its definition: subgradients and what uses them.

∂R is known from the values of R alone. A subgradient p at w is one with R(v) ≥ R(w) +
⟨p, v − w⟩ for all v. It is the one nearest to −g if along d = −g − p it is as large as
any: the slope of R along d is ⟨p, d⟩.
"""

import functools
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from laws import (
    Case,
    Plain,
    coupled,
    every_penalty,
    flat,
    from_parts,
    in_parts,
    inner,
    law,
    neighbours,
    parts_of,
    points,
    positive_steps,
    rounded,
    slopes,
    strictly,
)
from optareg import GroupLasso
from optareg._tree import Tree
from optareg.penalties import Penalty, register_penalty
from optareg.penalties._base import in_param_groups
from optareg.penalties._norm import SIDEWAYS

pytestmark = pytest.mark.usefixtures("x64")
# Where to look: at any point, at what a prox makes of it, where all is at its kink.
places = st.sampled_from(["prox", "anywhere", "center"])
thresholds = st.one_of(st.floats(1e-3, 5), st.floats(100, 1e4))


@strictly
def near(penalty, w, g):
    """The nearest subgradient and its distance, and what −g is at the kink."""
    nearest = in_parts(penalty, lambda p, *x: p.leaf_nearest_subgradient(*x), w, g)
    residual = from_parts(penalty, lambda p, *x: p.leaf_residual(*x), w, g)
    projected = in_parts(penalty, lambda p, g: p.leaf_project_dual(-g), g)
    return nearest, residual, projected


@strictly
def subgradient(penalty, w, at_kink):
    return in_parts(penalty, lambda p, *x: p.leaf_subgradient(*x), w, at_kink)


@strictly
def moved(penalty, w, s, u, t):
    """Both results of `leaf_move`."""
    results = from_parts(penalty, lambda p, *x: p.leaf_move(*x, t), w, s, u)
    first, second = iter(results), iter(results)
    return (
        in_parts(penalty, lambda p, w: next(first)[0], w),
        in_parts(penalty, lambda p, w: next(second)[1], w),
    )


@strictly
def thresholded(penalty, w, t):
    """The prox, and what it takes off."""
    return (
        in_parts(penalty, lambda p, w: p.leaf_prox(w, t), w),
        in_parts(penalty, lambda p, w: p.leaf_conjugate_prox(w, t), w),
    )


@strictly
def dual_norm(penalty, g):
    return from_parts(penalty, lambda p, g: p.leaf_dual_norm(g), g)


@strictly
def places_of(penalty, w):
    """The center, the domain, kinks, and what counts as zero."""
    return (
        in_parts(penalty, lambda p, w: p.leaf_center(w), w),
        in_parts(penalty, lambda p, w: p.leaf_project_domain(w), w),
        from_parts(penalty, lambda p, w: p.leaf_kink(w), w),
        from_parts(penalty, lambda p, w: p.leaf_zeros(w), w),
    )


@strictly
def both_parts(penalty, w):
    """Value and gradient of the smooth part, and of the one with the prox."""
    tree = Tree(w)
    found = []
    for i in (0, 1):
        groups = [
            g._replace(penalty=g.penalty.split()[i]) for g in penalty.resolve(tree)
        ]
        groups = [g for g in groups if g.penalty is not None]
        values = [g.penalty.leaf_value(g.join(tree.leaves)) for g in groups]
        zeros = list(map(jnp.zeros_like, tree.leaves))
        gradients = in_param_groups(
            groups, lambda p, w: p.leaf_gradient(w), zeros, tree.leaves
        )
        found += [sum(values), tree.build(gradients)]
    return found


def prox(case: Case, w: np.ndarray, t: float) -> np.ndarray:
    """The prox of the part that has one."""
    x = flat(thresholded(case.penalty, case.tree(w), t)[0])
    return np.where(has_prox(case), x, w)


def has_prox(case: Case) -> np.ndarray:
    """Which entries are in a part with a prox."""
    return flat(in_parts_with_prox(case.penalty, case.tree(np.zeros(6)))) != 0


@strictly
def in_parts_with_prox(penalty, w):
    return in_parts(penalty, lambda p, w: jnp.ones_like(w), w)


def place(case: Case, where: str, w: np.ndarray, t: float) -> np.ndarray:
    w = case.center + case.point(rounded(w))
    if where == "prox":
        return prox(case, w, t)
    return case.within.bring(w if where == "anywhere" else case.center + 0 * w)


def tolerance(case: Case, *arrays: np.ndarray) -> float:
    scale = np.prod([1 + np.max(np.abs(x)) for x in arrays])
    return (1e-12 if case.exact else 1e-6) * scale


@every_penalty
@law
@hypothesis.given(w=points, g=points, t=positive_steps, where=places)
def test_nearest_is_the_nearest_subgradient(case: Case, w, g, t, where):
    w, g = place(case, where, w, t), case.point(g, 10)
    # A singular value that rounding leaves of zero would be one to step across.
    w = np.where(np.abs(w - case.center) < 1e-12, case.center, w)
    nearest, residual, _ = near(case.penalty, case.tree(w), case.tree(g))
    p, rest = flat(nearest), case.rest
    # It is a subgradient …
    others = case.within.bring(
        np.concatenate([neighbours(w), case.center + neighbours(0 * w)])
    )
    gaps = rest(others) - rest(w) - inner(p, others - w)
    curved = case.curvature / 2 * np.sum(np.abs(others - w) ** 2, axis=-1)
    scale = tolerance(case, w, g) * (1 + np.max(np.abs(others - w), axis=-1))
    assert np.all(gaps + curved >= -scale)
    # … and as large along d as any.
    d = np.where(has_prox(case), -g - p, 0)
    distance = np.linalg.norm(d)
    each = [np.ravel(x) for x in residual]
    found = np.linalg.norm(np.concatenate([*each, [0.0]]))
    np.testing.assert_allclose(found, distance, rtol=1e-9, atol=tolerance(case, w, g))
    assert all(np.all(x >= 0) for x in each)
    if distance > 1e-3:
        d = d / distance
        values = [rest(w + h * d) for h in (1e-6, 1e-7)]
        slope, again = (
            (x - rest(w)) / h for x, h in zip(values, (1e-6, 1e-7), strict=True)
        )
        if not all(map(case.within.has, (w + 1e-6 * d, w + 1e-7 * d))):
            slope = again = np.inf
        if slope == again or abs(slope - again) <= 1e-5:
            assert slope <= inner(p, d) + 1e-4


@every_penalty
@law
@hypothesis.given(w=points, g=points, scale=st.sampled_from([1e-6, 1e6]))
def test_subgradients_of_norms_are_those_of_the_direction(case: Case, w, g, scale):
    w, g = case.point(rounded(w)), case.point(rounded(g))
    if np.any(case.center) or not case.finite_everywhere:
        return
    if not np.isclose(case.rest(2 * w), 2 * case.rest(w)):
        return
    found, far = (
        near(case.penalty, case.tree(x * w), case.tree(g))[0] for x in (1.0, scale)
    )
    atol = tolerance(case, g)
    np.testing.assert_allclose(flat(far), flat(found), rtol=0, atol=atol)


@every_penalty
@law
@hypothesis.given(w=points)
def test_where_it_is_infinite_nothing_is_a_subgradient(case: Case, w):
    w = case.point(w, 10)
    if not case.within.has(w):
        _, residual, _ = near(case.penalty, case.tree(w), case.tree(w))
        assert max(np.max(x) for x in residual) == np.inf


@every_penalty
@law
@hypothesis.given(w=points, g=points, t=positive_steps, where=places)
def test_subgradients_follow_from_the_weights(case: Case, w, g, t, where):
    w, g = place(case, where, w, t), case.point(g, 10)
    args = case.penalty, case.tree(w)
    nearest, _, projected = near(*args, case.tree(g))
    p, atol = flat(nearest), tolerance(case, w, g)
    same = flat(subgradient(*args, nearest))
    np.testing.assert_allclose(same, p, rtol=0, atol=atol)
    center, _, kinks, _ = places_of(*args)
    if all(kink is not None for kink in kinks):
        again = flat(subgradient(*args, projected))
        np.testing.assert_allclose(again, p, rtol=0, atol=atol)
        at_center, _, _ = near(case.penalty, center, case.tree(g))
        np.testing.assert_allclose(flat(projected), flat(at_center), rtol=0, atol=atol)
        expected = (w == case.center)[has_prox(case)]
        np.testing.assert_array_equal(in_order(case, kinks), expected)
    else:
        again = flat(subgradient(*args, case.tree(-g)))
        stored = np.where(has_prox(case), -g, 0)
        assert np.allclose(again, p, rtol=0, atol=atol) or np.all(again == stored)


def in_order(case: Case, arrays: list) -> np.ndarray:
    """Arrays of the parts, in the order of the weights."""
    rest = iter(arrays)
    put = in_parts(case.penalty, lambda p, w: next(rest), case.like)
    return flat(put)[has_prox(case)]


@every_penalty
@law
@hypothesis.given(w=points, g=points, u=points, t=thresholds, where=places)
def test_move_is_a_prox_of_weights_and_subgradient(case: Case, w, g, u, t, where):
    w, u = place(case, where, w, min(t, 1.0)), case.point(u, 10)
    nearest, _, _ = near(case.penalty, case.tree(w), case.tree(case.point(g, 10)))
    move, new = moved(case.penalty, case.tree(w), nearest, case.tree(u), t)
    s, new, some = flat(nearest), flat(new), has_prox(case)
    end = w + flat(move)
    each = t if case.turns is None else capped(case, w, u, t)
    z = w + each * s + u
    atol = tolerance(case, w, u) * (1 + t)
    expected = np.empty_like(z)
    for x in np.unique(each):
        expected = np.where(np.equal(each, x), prox(case, z, x), expected)
    straight = case.goes_straight & (
        np.real((end - case.center) * np.conj(w - case.center)) > 0
    )
    straight &= np.isclose(end, w + u, rtol=0, atol=atol)
    kept = some & ~straight
    np.testing.assert_allclose(end[kept], expected[kept], rtol=0, atol=atol)
    whole = coupled(case) if case.goes_straight else np.eye(6, dtype=bool)
    at_center = ~np.any(whole & (end != case.center), axis=1)
    kept = some & (at_center | (np.equal(each, t) & (not case.goes_straight)))
    sum_of_moves = flat(move) + t * (new - s)
    np.testing.assert_allclose(sum_of_moves[kept], u[kept], rtol=0, atol=atol)
    at_end, _, _ = near(case.penalty, case.tree(end), case.tree(-new))
    # Of directions from the center, digits are lost near it.
    close = (end != case.center) & (np.abs(end - case.center) < 1e-3)
    # Of ties, w + (w' - w) may be off by its rounding.
    gaps = np.abs(np.subtract.outer(end - case.center, end - case.center))
    torn = coupled(case) & (gaps > 0) & (gaps <= 1e-12 * (1 + np.max(np.abs(end))))
    known = some & ~np.any(coupled(case) & (close | np.any(torn, axis=1)), axis=1)
    np.testing.assert_allclose(
        flat(at_end)[known], new[known], rtol=0, atol=10 * atol / t + atol
    )


def capped(case: Case, w: np.ndarray, u: np.ndarray, t: float) -> np.ndarray:
    """The threshold of each entry: of a group off zero, in units of its size."""
    before, after = (case.turns.lengths(x - case.center) for x in (w, w + u))
    weights = np.array(case.turns.weights)
    most = SIDEWAYS * np.maximum(before, after) / np.where(weights > 0, weights, 1)
    return case.turns.spread(
        np.where((before > 0) & (weights > 0), np.minimum(t, most), t)
    )


@every_penalty
@law
@hypothesis.given(w=points, t=thresholds, where=places)
def test_without_a_step_nothing_moves(case: Case, w, t, where):
    """To the last bit, where the subgradient follows from the weights."""
    w = place(case, where, w, min(t, 1.0))
    args = case.penalty, case.tree(w)
    s, zero = subgradient(*args, case.tree(0 * w)), case.tree(0 * w)
    if all(kink is not None for kink in places_of(*args)[2]):
        still = w != case.center
        np.testing.assert_array_equal(flat(moved(*args, s, zero, t)[0])[still], 0)


@every_penalty
@law
@hypothesis.given(w=points, t=positive_steps)
def test_dual_is_what_the_prox_takes_off(case: Case, w, t):
    w = case.point(w, 100)
    x, dual = map(flat, thresholded(case.penalty, case.tree(w), t))
    some = has_prox(case)
    np.testing.assert_allclose(
        (w - x)[some], dual[some], rtol=0, atol=1e-13 * (1 + np.max(np.abs(w)))
    )


@every_penalty
@law
@hypothesis.given(g=points)
def test_dual_norm_is_the_least_strength_that_holds_all(case: Case, g):
    """C with prox_cR(center − g) = center; ∞ where not even the largest one holds."""
    some = np.broadcast_to(case.penalised, 6) & has_prox(case)
    if case.curvature or not (case.finite_everywhere or case.entrywise):
        return  # Other sets than these have no center.
    if not np.any(some):
        return
    g = case.point(rounded(g))
    _, held = thresholded(case.penalty, case.tree(case.center + g), 1e6)
    for g in (g, flat(held)):  # noqa: B020
        holds = functools.partial(is_held, case, g, some)
        found = max(dual_norm(case.penalty, case.tree(g)), default=0.0)
        if not holds(1e6, 1e-9):
            assert found == np.inf
        else:
            assert holds(found * (1 + 1e-6) + 1e-300, 1e-12)
            assert found < 1e-6 or not holds(found * (1 - 1e-3), 1e-6 * found)


@every_penalty
def test_dual_norm_of_nan_is_no_number(case: Case):
    """A gradient that is no number must not look like one that is held."""
    some = np.broadcast_to(case.penalised, 6)
    if case.curvature or not np.all(some):
        return
    (norm,) = dual_norm(case.penalty, case.tree(np.full(6, np.nan)))[:1] or [np.nan]
    assert not np.isfinite(norm)


def is_held(case: Case, g: np.ndarray, some: np.ndarray, c: float, rtol: float) -> bool:
    """Whether −g moves nothing from the center at c times the strengths."""
    moves = np.abs(prox(case, case.center - g, c) - case.center)
    return np.max(moves[some], initial=0) <= rtol * (1 + np.max(np.abs(g)))


@every_penalty
@law
@hypothesis.given(w=points, t=positive_steps, where=places)
def test_zeros_are_what_is_at_its_kink(case: Case, w, t, where):
    w = place(case, where, rounded(w), t)
    center, _, _, zeros = places_of(case.penalty, case.tree(w))
    np.testing.assert_array_equal(
        flat(center), np.where(has_prox(case), case.center, 0)
    )
    if case.zeros is None:
        assert all(zero is None for zero in zeros)
    else:
        found = np.concatenate([np.ravel(zero) for zero in zeros])
        np.testing.assert_array_equal(found, case.zeros(w))


@every_penalty
@law
@hypothesis.given(w=points, v=points)
def test_the_domain_is_where_it_is_finite(case: Case, w, v):
    w, v, some = case.point(w, 100), case.point(v, 10), has_prox(case)
    domain = np.where(some, flat(places_of(case.penalty, case.tree(w))[1]), w)
    if case.finite_everywhere:
        np.testing.assert_array_equal(domain, w)
    assert case.within.has(domain)
    others = case.within.bring(np.concatenate([neighbours(domain), v[None]]))
    assert np.all(
        inner(w - domain, others - domain) <= 1e-9 * (1 + np.max(np.abs(w))) ** 2
    )


@every_penalty
@law
@hypothesis.given(w=points)
def test_the_parts_make_the_whole(case: Case, w):
    w = case.within.bring(case.center + case.point(rounded(w)))
    smooth, smooth_slope, rest, rest_slope = both_parts(case.penalty, case.tree(w))
    np.testing.assert_allclose(smooth, case.smooth(w), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(rest, case.rest(w), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(flat(smooth_slope), slopes(case.smooth, w), atol=1e-5)
    np.testing.assert_allclose(flat(rest_slope), slopes(case.rest, w), atol=1e-5)


@every_penalty
def test_traits_are_as_said(case: Case):
    rng = np.random.default_rng(0)
    wholes = [group.penalty for group in case.penalty.resolve(Tree(case.like))]
    parts = [part.penalty for part in parts_of(case.penalty, case.like)]
    assert all(p.convex for p in wholes) == case.convex
    assert all(p.entrywise for p in wholes) == case.entrywise
    assert all(p.entrywise for p in parts) == case.entrywise or not parts
    assert all(p.scaled for p in parts) == case.scaled or not parts
    assert all(p.convex for p in parts) == (case.curvature == 0)
    assert {float(p.weak_convexity()) for p in parts} <= {case.curvature}
    # By the definition: as curved as that, and no more.
    x = rng.uniform(0.1, 2, (1000, 6))
    d = 0.01 * np.eye(6)[rng.integers(6, size=1000)]
    second = case.rest(x + d) - 2 * case.rest(x) + case.rest(x - d)
    assert np.min(second) >= -1e-4 * case.curvature * 1.01 - 1e-12
    if case.curvature:
        assert np.min(second) <= -1e-4 * case.curvature * 0.99


@every_penalty
def test_a_scaled_penalty_is_its_strength_times_one_without(case: Case):
    w = case.tree(case.center + case.point(np.linspace(-2, 3, 12)))

    def at_unit(p, w):
        strength, psi = p.split_strength()
        assert p.strength is strength if p.scaled else strength == 1
        return psi.leaf_prox(w, np.float64(0.7) * strength)

    found = flat(in_parts(case.penalty, at_unit, w))
    expected = flat(thresholded(case.penalty, w, 0.7)[0])
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-14)
    if case.turns is not None or (case.entrywise and case.scaled):
        # A step of one in all that is coupled, over ψ of that.
        labels = range(6) if case.turns is None else case.turns.labels
        noise = flat(
            in_parts(
                case.penalty,
                lambda p, w: (
                    jnp.ones_like(w) * p.split_strength()[1].leaf_noise_scale(w)
                ),
                case.like,
            )
        )
        for g in np.unique(labels):
            ones = np.array(labels) == g
            if np.all(has_prox(case)[ones]):
                tree = case.tree(case.center + ones)
                psi = sum(
                    from_parts(
                        case.penalty,
                        lambda p, w: p.split_strength()[1].leaf_value(w),
                        tree,
                    )
                )
                np.testing.assert_allclose(noise[ones], ones.sum() / psi, rtol=1e-7)


@every_penalty
def test_the_largest_subgradient_is_one(case: Case):
    rng = np.random.default_rng(0)
    slopes = []
    for _ in range(20):  # In any order, with any signs.
        d = rng.permutation(1.0 + np.arange(6)) * rng.choice([-1, 1], 6)
        w = case.center + case.within.bring(d) * has_prox(case)
        slopes.append(np.max(np.abs(flat(both_parts(case.penalty, case.tree(w))[3]))))
    largest = [
        np.max(p.penalty.leaf_largest_subgradient())
        for p in parts_of(case.penalty, case.tree(w))
    ]
    # A user's penalty may leave it out, and a scaled one does not need it.
    known = case.entrywise and case.exact and not case.scaled
    for x in largest:
        assert np.isclose(x, max(slopes)) or (x == 0 and not known)


@every_penalty
def test_coupled_entries_have_one_maximum(case: Case):
    x = np.random.default_rng(0).random(6)
    tree = Tree(case.tree(x))
    for groups in (case.penalty.resolve(tree), parts_of(case.penalty, tree.whole)):
        found = in_param_groups(
            groups,
            lambda p, x: jnp.broadcast_to(p.leaf_group_max(x), x.shape),
            tree.leaves,
            tree.leaves,
        )
        found = flat(tree.build(found))
        each = np.array([np.max(x[mine]) for mine in coupled(case)])
        if case.entrywise:
            np.testing.assert_array_equal(found, x)
        elif case.finite_everywhere:
            some = np.broadcast_to(case.penalised, 6)
            if case.turns is not None or "Sparse" in type(case.penalty).__name__:
                np.testing.assert_array_equal(found[some], each[some])
            assert np.all(found[some] >= each[some]) and np.all(np.isin(found, x))
        else:
            np.testing.assert_array_equal(found, np.full(6, np.max(x)))


@every_penalty
def test_a_penalty_may_be_taken_apart_into_blocks_of_rows(case: Case):
    """The prox and the value of some blocks are those of the whole, there."""
    w = case.tree(case.center + case.point(np.linspace(-2, 3, 12)))
    groups = case.penalty.resolve(Tree(w))
    if len(groups) > 1 or not hasattr(w, "ndim"):
        return
    (group,) = groups
    penalty = group.penalty
    for axis in range(w.ndim):
        blocks = penalty.leaf_blocks(axis, w.shape)
        assert blocks is not None or not case.entrywise
        if blocks is None:
            continue
        there = np.sort(blocks[blocks < w.shape[axis]])
        np.testing.assert_array_equal(there, np.arange(w.shape[axis]))
        rows = jnp.asarray(blocks[[-1, 0]] if len(blocks) > 2 else blocks[-1:]).ravel()
        take = functools.partial(jnp.take, axis=axis, mode="fill", fill_value=0)
        some, part = penalty.take(rows, axis, w), take(w, rows)
        found = some.leaf_prox(part, 0.7)
        expected = take(penalty.leaf_prox(w, 0.7), rows)
        np.testing.assert_allclose(found, expected, rtol=1e-14, atol=1e-15)
        if not np.any(case.center):
            at = (slice(None),) * axis + (rows,)
            rest_zero = jnp.zeros_like(w).at[at].set(part, mode="drop")
            whole = penalty.leaf_value(rest_zero)
            np.testing.assert_allclose(some.leaf_value(part), whole, rtol=1e-13)


def test_groups_are_blocks_of_rows():
    """By labels in any order, or by axes; what crosses the rows is no block."""

    def blocks(shape, rows, **kwargs):
        (group,) = GroupLasso(1.0, **kwargs).resolve(Tree(jnp.ones(shape)))
        found = group.penalty.leaf_blocks(rows, shape)
        return None if found is None else found.tolist()

    assert blocks((4,), 0, groups=np.array([1, 0, 0, 1])) == [[1, 2], [0, 3]]
    # Filled up to the largest with a row that is not there, if few are much larger.
    assert blocks((5,), 0, groups=np.array([1, 0, 1, 0, 1])) == [[1, 3, 5], [0, 2, 4]]
    assert blocks((8,), 0, groups=np.array([0, 0, 0, 0, 0, 1, 2, 3])) == [
        [0, 1, 2, 3, 4],
        *([i, 8, 8, 8, 8] for i in (5, 6, 7)),
    ]
    assert blocks((9,), 0, groups=np.array([*[0] * 5, 1, 2, 3, 4])) is not None
    assert blocks((12,), 0, groups=np.array([*[0] * 6, 1, 2, 3, 4, 5, 6])) is None
    assert blocks((3, 2), 0, axis=1) == blocks((3, 2), 0, axis=-1) == [[0], [1], [2]]
    assert blocks((3, 2), 1, axis=1) is None
    assert blocks((3, 2), 0) is None
    assert blocks((4, 1), 0, groups=np.array([[0], [0], [1], [1]])) is None


# What the table has not, of penalties with a value and a prox alone.


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_the_unit_of_the_loss_makes_no_difference(unit):
    w, g = jnp.array([3.0, -4.0]), unit * jnp.array([0.5, 2.0])
    found = Plain(0.8 * unit).leaf_nearest_subgradient(w, g)
    np.testing.assert_allclose(found, unit * np.array([0.48, -0.64]), rtol=1e-6)


def test_a_gradient_near_zero_sets_no_scale():
    """The step must be small beside R's own slope too."""
    w = jnp.array([3.0, -4.0])
    for g in (1e-80 * jnp.ones(2), 1e-9 * jnp.ones(2), jnp.zeros(2)):
        found = Plain(0.8).leaf_nearest_subgradient(w, g)
        np.testing.assert_allclose(found, [0.48, -0.64], rtol=1e-6)


@register_penalty
class OneSided(Penalty):
    """λ Σ max(w, 0)."""

    strength: Any

    def leaf_value(self, w: jax.Array) -> jax.Array:
        return self.strength * jnp.sum(jnp.maximum(w, 0))

    def leaf_prox(self, w: jax.Array, step: jax.Array) -> jax.Array:
        return jnp.where(w > 0, jnp.maximum(w - step * self.strength, 0), w)


@pytest.mark.parametrize("strength", [1e-12, 0.3, 1e12])
def test_dual_norm_of_what_holds_on_one_side(strength):
    """∂R(0) is [0, λ] for each entry."""
    penalty = OneSided(strength)
    found = penalty.leaf_dual_norm(jnp.array([-0.6, 0.0, -1.2]))
    np.testing.assert_allclose(found, 1.2 / strength, rtol=1e-13)
    assert penalty.leaf_dual_norm(jnp.array([-0.6, 0.0, 0.1])) == np.inf
    assert penalty.leaf_dual_norm(jnp.zeros(3)) == 0
