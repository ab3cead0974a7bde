"""GroupLasso and SparseGroupLasso against their definitions, and against skglm."""

import functools
import re
from typing import NamedTuple

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from laws import vectors
from marks import some_long
from optareg import (
    L1,
    GroupLasso,
    SparseGroupLasso,
    by_path,
    masked,
    max_strength,
    minimize,
    partition,
    path,
    proximal,
    stationarity,
    summarize,
    target_sparsity,
)
from references import (
    Regression,
    accelerated_descent,
    adam,
    diabetes,
    members,
    nearest_to,
    soft,
    synthetic,
    train,
)


class Case(NamedTuple):
    """Σ_g weight_g ‖w_g‖ + l1 Σ|w|.

    Attributes:
      labels: the group of each entry.
      weights: the weight of each group, in the order of the labels.
      l1: the strength on single entries.
    """

    labels: tuple[int, ...]
    weights: tuple[float, ...]
    l1: float = 0.0

    @property
    def groups(self) -> list[np.ndarray]:
        return members(np.array(self.labels))

    def prox(self, w, step):
        """The soft threshold, then that of each group."""
        x = soft(np.ravel(w), step * self.l1)
        for g, weight in zip(self.groups, self.weights, strict=True):
            length = np.linalg.norm(x[g])
            x[g] *= max(0, 1 - step * weight / length) if length > 0 else 0
        return x

    def residual(self, w, g):
        """The largest distance of −g from the subdifferential at w, by the group."""
        w, g = np.ravel(w), np.ravel(g)
        lengths = []
        for at, weight in zip(self.groups, self.weights, strict=True):
            length = np.linalg.norm(w[at])
            if length == 0:
                inside = np.linalg.norm(soft(g[at], self.l1))
                lengths.append(max(inside - weight, 0))
                continue
            slope = g[at] + weight * w[at] / length
            slope = np.where(
                w[at] == 0, soft(slope, self.l1), slope + self.l1 * np.sign(w[at])
            )
            lengths.append(np.linalg.norm(slope))
        return max(lengths)


SCATTERED = np.array([0, 3, 0, 1, 3, 3])  # No entry has the label 2.


def near(w):
    """`w` without the numbers whose squares are none."""
    return np.where(np.abs(w) < 1e-100, 0, np.clip(w, -100, 100))


@pytest.mark.parametrize("l1", [0.0, 0.03, 0.1, 0.3])
def test_zeros_are_exact_whatever_the_rounding(l1):
    """Strong enough for all groups to vanish, in a step and in training."""
    w = jnp.asarray(np.random.default_rng(0).normal(size=(4, 1000)), jnp.float32)
    penalty = SparseGroupLasso(l1, 9.0, axis=0)
    assert not jnp.any(penalty.prox(w, 1.0))
    optimizer = proximal(optax.sgd(0.01), penalty, threshold=1.0)
    assert not jnp.any(train(optimizer, nearest_to(w), jnp.zeros_like(w), 3))


def test_no_penalty_moves_no_weight_however_small():
    w = jnp.array([1e-25, -1e-30])
    for penalty in (GroupLasso(0.0), SparseGroupLasso(0.0, 0.0)):
        np.testing.assert_array_equal(penalty.prox(w, 1.0), w)


# What an axis means.

AXES = {
    "dense output unit": ((3, 4), 0, lambda w, k: w[:, k], 4),
    "dense input feature": ((3, 4), 1, lambda w, k: w[k], 3),
    "dense output unit from the end": ((3, 4), -2, lambda w, k: w[:, k], 4),
    "conv filter": ((2, 3, 4, 5), (0, 1, 2), lambda w, k: w[..., k], 5),
    "conv filter from the end": ((2, 3, 4, 5), (-4, -3, -2), lambda w, k: w[..., k], 5),
    "conv input channel": ((2, 3, 4, 5), (0, 1, 3), lambda w, k: w[:, :, k], 4),
    "attention head": ((4, 3, 2), (0, 2), lambda w, k: w[:, k], 3),
    "attention head in another order": ((4, 3, 2), [2, 0], lambda w, k: w[:, k], 3),
    "whole leaf": ((3, 4), None, lambda w, k: w, 1),
    "whole vector": ((5,), 0, lambda w, k: w, 1),
    "numpy integer": ((3, 4), np.int64(1), lambda w, k: w[k], 3),
}


@pytest.mark.parametrize("name", AXES)
def test_an_axis_is_what_the_norm_reduces_over(name):
    shape, axis, group, count = AXES[name]
    w = np.random.default_rng(0).normal(size=shape)
    lengths = [np.linalg.norm(group(w, k)) for k in range(count)]
    sizes = [group(w, k).size for k in range(count)]
    np.testing.assert_allclose(
        GroupLasso(2.0, axis=axis, size_scaled=False).value(w),
        2 * np.sum(lengths),
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        GroupLasso(2.0, axis=axis).value(w), 2 * np.sqrt(sizes) @ lengths, rtol=1e-6
    )
    # At the median length, half of the groups vanish.
    step = np.median(lengths)
    x = GroupLasso(1.0, axis=axis, size_scaled=False).prox(w, step)
    gone = [bool(jnp.all(group(x, k) == 0)) for k in range(count)]
    tie = 1e-5 * step
    for k, length in enumerate(lengths):
        assert abs(length - step) < tie or gone[k] == (length < step)


def test_an_axis_is_the_same_as_its_labels():
    w = np.random.default_rng(0).normal(size=(2, 3, 4))
    labels = np.broadcast_to(np.arange(3)[:, None], (2, 3, 4))
    for make in (
        lambda **k: GroupLasso(0.4, **k),
        lambda **k: SparseGroupLasso(0.2, 0.4, **k),
    ):
        a, b = make(axis=(0, 2)), make(groups=labels)
        np.testing.assert_allclose(a.value(w), b.value(w), rtol=1e-6)
        np.testing.assert_allclose(a.prox(w, 1.0), b.prox(w, 1.0), atol=1e-6)
        np.testing.assert_allclose(a.gradient(w), b.gradient(w), atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 8, 12, 24])
def test_labels_in_turn_are_groups_of_the_flat_leaf(size):
    # Within an axis, of whole axes, across axes.
    w = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    labels = np.arange(24).reshape(w.shape) // size
    for make in (
        lambda **k: GroupLasso(0.4, **k),
        lambda **k: SparseGroupLasso(0.2, 0.4, **k),
    ):
        flat, rows = make(axis=1), w.reshape(-1, size)
        penalty = make(groups=labels)
        np.testing.assert_allclose(penalty.value(w), flat.value(rows), rtol=1e-6)
        for mine, other in (
            (penalty.prox(w, 1.0), flat.prox(rows, 1.0)),
            (penalty.gradient(w), flat.gradient(rows)),
        ):
            np.testing.assert_allclose(mine, other.reshape(w.shape), atol=1e-6)


def test_groups_of_one_are_single_weights():
    w = jnp.linspace(-1, 1, 9)
    alone = GroupLasso(0.4, groups=np.arange(9))
    np.testing.assert_allclose(alone.prox(w, 1.0), L1(0.4).prox(w, 1.0), atol=1e-7)
    # By another formula: to rounding.
    np.testing.assert_allclose(alone.gradient(w), L1(0.4).gradient(w), rtol=2e-7)


def test_the_sparse_one_without_a_part_is_the_other():
    w = jnp.linspace(-3, 3, 12).reshape(3, 4)
    for a, b in (
        (SparseGroupLasso(0.7, 0.0, axis=0), L1(0.7)),
        (SparseGroupLasso(0.0, 0.7, axis=0), GroupLasso(0.7, axis=0)),
    ):
        np.testing.assert_array_equal(a.prox(w, 0.5), b.prox(w, 0.5))
        np.testing.assert_allclose(a.gradient(w), b.gradient(w), rtol=2e-7)


# Trees, strengths, labels.

PARAMS = {
    "Dense_0": {
        "kernel": jnp.array([[0.3, 3.0, -0.1], [0.4, -4.0, 0.2]]),
        "bias": jnp.array([5.0, 0.1, 0.2]),
    },
    "Dense_1": {"kernel": jnp.array([[0.1], [0.2], [-0.2]]), "bias": jnp.array([9.0])},
}


def gone(tree):
    """Which entries are exactly zero."""
    return jax.tree.map(lambda x: np.asarray(x == 0).tolist(), tree)


def test_masked_and_partition_leave_the_rest_alone():
    kernels = masked(GroupLasso(1.0, axis=0, size_scaled=False), by_path("kernel"))
    parts = partition(
        {True: GroupLasso(1.0, axis=0, size_scaled=False), False: None},
        by_path("kernel"),
    )
    for penalty in (kernels, parts):
        np.testing.assert_allclose(penalty.value(PARAMS), 0.5 + 5 + 0.05**0.5 + 0.3)
        assert gone(penalty.prox(PARAMS, 1.0)) == {
            "Dense_0": {
                "kernel": [[True, False, True]] * 2,
                "bias": [False, False, False],
            },
            "Dense_1": {"kernel": [[True]] * 3, "bias": [False]},
        }


def test_strengths_may_be_trees_of_one_for_each_group():
    strength = {
        "Dense_0": {"kernel": np.array([[0.1, 10.0, 0.0]]), "bias": 0.0},
        "Dense_1": {"kernel": 1.0, "bias": 0},
    }
    x = GroupLasso(strength, axis=0).prox(PARAMS, 1.0)
    assert gone(x["Dense_0"]["kernel"]) == [[False, True, False]] * 2
    assert gone(x["Dense_1"]["kernel"]) == [[True]] * 3
    np.testing.assert_array_equal(x["Dense_0"]["bias"], PARAMS["Dense_0"]["bias"])
    two = SparseGroupLasso(strength, {"Dense_0": 0.0, "Dense_1": 1.0}, axis=0)
    assert gone(two.prox(PARAMS, 1.0)["Dense_1"]["kernel"]) == [[True]] * 3


def test_labels_may_be_a_tree():
    labels = {
        "Dense_0": {
            "kernel": np.array([[0, 1, 0], [0, 0, 0]]),
            "bias": np.array([2, 0, 2]),
        },
        "Dense_1": {"kernel": np.zeros((3, 1), int), "bias": np.array([4])},
    }
    penalty = GroupLasso(1.0, groups=labels, size_scaled=False)
    flat = [np.ravel(x) for x in jax.tree.leaves(PARAMS)]
    flat_labels = [np.ravel(x) for x in jax.tree.leaves(labels)]
    expected = sum(
        np.linalg.norm(w[g])
        for w, at in zip(flat, flat_labels, strict=True)
        for g in members(at)
    )
    np.testing.assert_allclose(penalty.value(PARAMS), expected, rtol=1e-6)
    # Labels of one leaf alone will do, where a mask leaves out the others.
    only = {"Dense_0": {"kernel": labels["Dense_0"]["kernel"], "bias": None}}
    some = masked(
        GroupLasso(1.0, groups={**only, "Dense_1": None}, size_scaled=False),
        by_path("0.*kernel"),
    )
    np.testing.assert_allclose(some.value(PARAMS), 3 + np.sqrt(0.3 + 16), rtol=1e-6)


def test_labels_may_be_a_list_of_arrays_for_a_list_of_leaves():
    labels = [np.array([0, 0, 1]), np.array([0, 1, 1])]
    leaves = [jnp.array([3.0, 4.0, 2.0]), jnp.array([1.0, 6.0, 8.0])]
    penalty = GroupLasso(1.0, groups=labels, size_scaled=False)
    assert penalty.value(leaves) == 5 + 2 + 1 + 10


def test_a_label_that_no_entry_has_is_no_group():
    w = jnp.array([1.0, 0.0, 0.0, 2.0, 0.0])
    for labels in ([7, 3, 3, 7, 10**9], [0, 1, 1, 0, 2]):
        for penalty in (
            GroupLasso(1.0, groups=labels),
            SparseGroupLasso(0.5, 1.0, groups=labels),
        ):
            total = summarize(w, penalty).total
            assert (total.groups, total.zero_groups) == (3, 2)
            state = target_sparsity(optax.sgd(0.1), penalty, 0.5).init(w)
            np.testing.assert_allclose(state.share, 2 / 3, rtol=1e-6)
    none = GroupLasso(1.0, groups=np.zeros(0, int))
    assert summarize(jnp.ones(0), none).total.groups == 0


@pytest.mark.parametrize("grouping", [{"axis": 0}, {"groups": [[0, 1], [0, 1]]}])
@pytest.mark.parametrize(
    "make",
    [lambda **k: GroupLasso(0.3, **k), lambda **k: SparseGroupLasso(0.1, 0.3, **k)],
)
def test_nan_stays_within_its_group(make, grouping):
    penalty, w = make(**grouping), jnp.array([[jnp.nan, 1.0], [2.0, 1.0]])
    for x in (penalty.gradient(w), penalty.prox(w, 0.1)):
        assert jnp.isnan(x[:, 0]).any() and jnp.isfinite(x[:, 1]).all()
    assert jnp.isnan(penalty.value(w))
    assert jnp.isnan(stationarity(penalty, w, jnp.zeros((2, 2))))


def test_a_leading_axis_of_strengths_is_mapped():
    w = jnp.linspace(-1, 1, 6)
    strengths = jnp.array([0.0, 0.1, 1.0])
    for make in (
        lambda c: GroupLasso(c, groups=SCATTERED),
        lambda c: SparseGroupLasso(c, c, groups=SCATTERED),
    ):
        swept = jax.vmap(lambda p: p.prox(w, 1.0))(make(strengths))
        np.testing.assert_array_equal(swept[0], w)
        np.testing.assert_allclose(swept[1], make(0.1).prox(w, 1.0), atol=1e-6)
        np.testing.assert_array_equal(swept[2], np.zeros(6))


def test_equal_groups_are_compiled_once():
    traces = 0

    @jax.jit
    def value(penalty, w):
        nonlocal traces
        traces += 1
        return penalty.value(w)

    w = jnp.ones(6)
    for strength in (1.0, 2.0):
        value(GroupLasso(strength, groups=np.array(SCATTERED)), w)
        value(GroupLasso(strength, groups=SCATTERED.tolist()), w)
    assert traces == 1
    value(GroupLasso(1.0, groups=SCATTERED[::-1]), w)
    assert traces == 2
    a, b = (GroupLasso(1.0, groups=SCATTERED) for _ in range(2))
    assert a == b and hash(a) == hash(b)
    value(GroupLasso(1.0, axis=0), w)
    value(GroupLasso(3.0, axis=(0,)), w)
    assert traces == 3


def test_labels_are_copied():
    labels = np.array(SCATTERED)
    penalty = GroupLasso(1.0, groups=labels)
    before = penalty.value(jnp.ones(6))
    labels[:] = 0
    assert penalty.value(jnp.ones(6)) == before


@pytest.mark.parametrize("groups", [None, np.array([[0, 1, 2], [0, 1, 2]])])
@pytest.mark.parametrize("make", [np.asarray, jnp.asarray])
def test_a_strength_for_each_group_may_be_closed_over(make, groups):
    axis = 0 if groups is None else None
    penalty = GroupLasso(make([[0.5, 1.0, 0.0]]), axis=axis, groups=groups)
    w = jnp.ones((2, 3))
    np.testing.assert_allclose(jax.jit(penalty.value)(w), penalty.value(w), rtol=1e-6)
    optimizer = proximal(adam(0.1, 10), penalty)
    assert jnp.all(jnp.isfinite(train(optimizer, nearest_to(0 * w), w, 10)))


# Solving.


class Setting(NamedTuple):
    """Least squares on unequal, scattered groups, and a penalty of strength c.

    Attributes:
      problem: the data.
      labels: the group of each feature.
      l1: the share of L1 in it.
      scaled: whether groups are weighted by the root of their size.
    """

    problem: Regression
    labels: np.ndarray
    l1: float = 0.0
    scaled: bool = True

    def make(self, c):
        kwargs = {"groups": self.labels, "size_scaled": self.scaled}
        if self.l1 == 0:
            return GroupLasso(c, **kwargs)
        return SparseGroupLasso(self.l1 * c, (1 - self.l1) * c, **kwargs)

    def case(self, c):
        sizes = np.array([len(g) for g in members(self.labels)])
        weights = (1 - self.l1) * c * (np.sqrt(sizes) if self.scaled else sizes**0)
        labels = tuple(self.labels)
        return Case(labels, weights, self.l1 * c)


DIABETES_GROUPS = np.array([0, 4, 1, 1, 0, 2, 2, 4, 2, 2])
SYNTHETIC_GROUPS = np.arange(24) ** 2 % 7  # Labels 0, 1, 2 and 4, of unequal size.
SETTINGS = {
    "diabetes": Setting(diabetes(), DIABETES_GROUPS, scaled=False),
    "synthetic": Setting(synthetic(), SYNTHETIC_GROUPS),
    "synthetic sparse": Setting(synthetic(), SYNTHETIC_GROUPS, l1=0.4),
}
# Of the strength at which everything is zero.
SHARES = np.array([0.1, 1.01, 0.5, 0.99])


@functools.cache
def solutions(name):
    """The largest strength, and the coefficients for each of the `SHARES` of it."""
    problem, make = SETTINGS[name].problem, SETTINGS[name].make
    start = jnp.ones(problem.X.shape[1])
    largest = float(max_strength(problem.loss, start, make(1.0)))
    found = path(problem.loss, 0 * start, make(SHARES * largest))
    assert np.all(found.converged)
    return largest, dict(zip(SHARES, np.asarray(found.params), strict=True))


def vanished(w, labels):
    """The groups that are zero as a whole."""
    return [g.tolist() for g in members(labels) if np.all(w[g] == 0)]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", SETTINGS)
class TestOptimum:
    """Least squares on unequal, scattered groups."""

    @pytest.mark.parametrize("share", [0.1, 0.5])
    def test_it_is_that_of_skglm(self, name, share):
        skglm = pytest.importorskip("skglm")
        problem, labels, l1, scaled = SETTINGS[name]
        if l1 > 0:
            pytest.skip("skglm has no sparse group lasso for least squares")
        largest, found = solutions(name)
        groups = members(labels)
        sizes = np.array([len(g) for g in groups], float)
        model = skglm.GroupLasso(
            [g.tolist() for g in groups],
            alpha=share * largest,
            weights=np.sqrt(sizes) if scaled else np.ones(len(sizes)),
            tol=1e-12,
            fit_intercept=False,
        )
        theirs = model.fit(*problem).coef_
        np.testing.assert_allclose(found[share], theirs, rtol=0, atol=1e-6)
        assert vanished(found[share], labels) == vanished(theirs, labels)
        assert share < 0.5 or vanished(theirs, labels)

    @pytest.mark.parametrize("share", [0.1, 0.5])
    def test_it_is_that_of_plain_descent(self, name, share):
        problem, l1 = SETTINGS[name].problem, SETTINGS[name].l1
        largest, found = solutions(name)
        case, w = SETTINGS[name].case(share * largest), found[share]
        expected = accelerated_descent(problem, case.prox)
        assert case.residual(expected, problem.gradient(expected)) < 1e-12
        np.testing.assert_allclose(w, expected, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(w == 0, expected == 0)
        assert (
            stationarity(SETTINGS[name].make(share * largest), w, problem.gradient(w))
            < 1e-9
        )
        assert share < 0.5 or np.any(w == 0)
        if l1 > 0 and share < 0.5:  # Zeros within a group that stays.
            assert len(vanished(w, SETTINGS[name].labels)) < np.sum(w == 0)

    def test_training_with_adam_ends_there(self, name):
        setting, (largest, found) = SETTINGS[name], solutions(name)
        optimizer = proximal(
            adam(0.05, 4000), setting.make(0.5 * largest), threshold=0.1
        )
        start = jnp.zeros(len(setting.labels))
        w = train(optimizer, setting.problem.loss, start, 4000)
        np.testing.assert_allclose(w, found[0.5], rtol=0, atol=1e-6)
        np.testing.assert_array_equal(w == 0, found[0.5] == 0)

    def test_everything_is_zero_just_above_the_largest_strength(self, name):
        problem, labels, l1, scaled = SETTINGS[name]
        largest, found = solutions(name)
        assert np.all(found[1.01] == 0)
        assert np.any(found[0.99] != 0)
        if l1 == 0:
            g = problem.gradient(0 * found[1.01])
            by_hand = [
                np.linalg.norm(g[at]) / (np.sqrt(len(at)) if scaled else 1)
                for at in members(labels)
            ]
            np.testing.assert_allclose(largest, max(by_hand), rtol=1e-14)


@pytest.mark.usefixtures("x64")
def test_units_of_a_multivariate_regression():
    """By the axis of a kernel (in, out), an input is out for all outputs or none."""
    X, y = diabetes()
    Y = np.stack([y, y**2, np.sin(3 * y)], axis=1)

    def loss(W):
        return 0.5 * jnp.mean(jnp.sum((jnp.asarray(Y) - jnp.asarray(X) @ W) ** 2, 1))

    import sklearn.linear_model

    model = sklearn.linear_model.MultiTaskLasso(
        0.1, fit_intercept=False, tol=1e-12, max_iter=100_000
    )
    expected = model.fit(X, Y).coef_.T
    penalty = GroupLasso(0.1, axis=1, size_scaled=False)
    solution = minimize(loss, jnp.zeros((10, 3)), penalty)
    np.testing.assert_allclose(solution.params, expected, rtol=0, atol=1e-6)
    zero_rows = np.all(expected == 0, axis=1)
    np.testing.assert_array_equal(np.all(solution.params == 0, axis=1), zero_rows)
    assert 0 < zero_rows.sum() < 10


# Bad input.

KERNEL = re.escape("['Dense_0']['kernel']")
BIAS = re.escape("['Dense_0']['bias']")
BOTH = pytest.mark.parametrize(
    "make",
    [GroupLasso, lambda c, **kwargs: SparseGroupLasso(c, 0.1, **kwargs)],
    ids=["GroupLasso", "SparseGroupLasso"],
)


def raises(error, *words):
    """Expects `error` whose message has all of the regular expressions `words`."""
    return pytest.raises(error, match="".join(f"(?=(?s:.*){word})" for word in words))


@BOTH
@pytest.mark.parametrize(
    ("groups", "error", "words"),
    [
        (np.array([0, -1]), ValueError, ["negative", "-1"]),
        ([0.0, 1.0], TypeError, ["integers", "float"]),
        (np.array([True, False]), TypeError, ["integers", "bool"]),
        ("kernel", TypeError, ["integers"]),
        ({"a": np.array([0, -2])}, ValueError, [re.escape("['a']"), "-2"]),
        ({"a": np.array([0.5])}, TypeError, [re.escape("['a']"), "integers"]),
        ([[0, 1], [2]], ValueError, ["each entry", "different lengths"]),
    ],
    ids=[
        "negative",
        "float",
        "bool",
        "string",
        "negative in a tree",
        "float in one",
        "lists of members",
    ],
)
def test_bad_labels_are_refused_at_once(make, groups, error, words):
    with raises(error, "label", *words):
        make(0.1, groups=groups)


@BOTH
def test_traced_labels_are_refused_with_a_way_out(make):
    with raises(TypeError, "labels", "traced", "outside of `jit`"):
        jax.jit(lambda labels: make(0.1, groups=labels).value(jnp.ones(3)))(
            jnp.array([0, 0, 1])
        )


KERNEL_LABELS = np.zeros((2, 3), int)
MISFITS = {
    "labels of another shape": (
        {"groups": {"Dense_0": {"kernel": KERNEL_LABELS, "bias": np.zeros(2, int)}}},
        [BIAS, r"\(2,\)", r"\(3,\)"],
    ),
    "labels transposed": (
        {"groups": {"Dense_0": {"kernel": KERNEL_LABELS.T, "bias": np.zeros(3, int)}}},
        [KERNEL, r"\(3, 2\)", r"\(2, 3\)"],
    ),
    "labels of one leaf only": ({"groups": KERNEL_LABELS}, [BIAS, r"\(3,\)"]),
    "labels that broadcast": ({"groups": np.arange(3)}, [KERNEL, r"\(2, 3\)"]),
    "labels missing": ({"groups": {"Dense_0": {"kernel": KERNEL_LABELS}}}, [BIAS]),
    "labels none": (
        {"groups": {"Dense_0": {"kernel": KERNEL_LABELS, "bias": None}}},
        [BIAS, "`masked`"],
    ),
    "axis out of range": ({"axis": 1}, [BIAS, "axis 1", "`masked`"]),
    "axis out of range below": ({"axis": -2}, [BIAS, "axis -2"]),
    "axes out of range": ({"axis": (0, 1, 2)}, [BIAS, re.escape("(0, 1, 2)")]),
    "axis repeated": ({"axis": (0, 0)}, ["Dense_0", re.escape("(0, 0)")]),
    "axis repeated from the end": ({"axis": (0, -1)}, [BIAS, re.escape("(0, -1)")]),
}


@BOTH
@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_names_the_leaf(make, name):
    kwargs, words = MISFITS[name]
    penalty = make(0.1, **kwargs)
    params = {"Dense_0": PARAMS["Dense_0"]}
    for call in (
        penalty.value,
        jax.jit(penalty.gradient),
        lambda w: penalty.prox(w, 0.1),
        proximal(adam(0.1, 10), penalty).init,
        lambda w: stationarity(penalty, w, w),
        lambda w: max_strength(lambda w: 0.0, w, penalty),
    ):
        with raises(ValueError, *words):
            call(params)


@BOTH
@pytest.mark.parametrize("axis", [0.5, "0", (0, 1.0), (), (0, None)])
def test_an_axis_that_is_no_integer_is_refused(make, axis):
    with raises(TypeError, "`axis`", "integer", re.escape(repr(axis))):
        make(0.1, axis=axis)


@BOTH
def test_an_axis_and_labels_are_not_both_taken(make):
    with raises(ValueError, "`axis`", "`groups`", "not both"):
        make(0.1, axis=0, groups=np.arange(3))


@BOTH
@pytest.mark.parametrize("value", [1, None, "yes", np.ones(2)])
def test_size_scaled_is_a_bool(make, value):
    with raises(TypeError, "`size_scaled`", "bool"):
        make(0.1, axis=0, size_scaled=value)


@BOTH
@pytest.mark.parametrize("grouping", [{"axis": 1}, {"groups": KERNEL_LABELS}])
def test_a_strength_that_differs_within_a_group_is_refused(make, grouping):
    params = {"Dense_0": PARAMS["Dense_0"]}
    for row in ([0.1, 0.2, 0.1], [0.2, 0.1, 0.2]):
        strength = {"Dense_0": {"kernel": np.array(row), "bias": 0.1}}
        penalty = masked(make(strength, **grouping), by_path("kernel"))
        for call in (penalty.value, proximal(adam(0.1, 10), penalty).init):
            with raises(ValueError, "differs within a group", KERNEL):
                call(params)


@pytest.mark.parametrize("value", [-0.1, np.nan, np.inf])
def test_a_bad_strength_is_refused_by_name(value):
    for make, name in (
        (lambda x: GroupLasso(x, axis=0), "`strength` of GroupLasso"),
        (lambda x: SparseGroupLasso(x, 0.1), "`l1` of SparseGroupLasso"),
        (lambda x: SparseGroupLasso(0.1, x), "`group` of SparseGroupLasso"),
    ):
        with raises(ValueError, name, "finite and at least 0"):
            make(value)


@BOTH
@pytest.mark.parametrize(
    "params",
    [{}, {"a": None}, jnp.ones((0, 3)), jnp.ones((3, 0))],
    ids=["empty", "hole", "no rows", "no columns"],
)
@pytest.mark.parametrize("strength", [0.1, np.array([[0.1]])])
def test_nothing_to_penalise_is_fine(make, params, strength):
    penalty = make(strength, axis=0)
    assert penalty.value(params) == 0
    assert jax.tree.map(jnp.shape, penalty.prox(params, 1.0)) == jax.tree.map(
        jnp.shape, params
    )
    proximal(adam(0.1, 10), penalty).init(params)


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(
    labels=st.lists(st.integers(0, 4), min_size=6, max_size=6),
    w=vectors,
)
def test_any_labels_are_groups(labels, w):
    w = near(w)
    expected = sum(
        np.sqrt(len(g)) * np.linalg.norm(w[g]) for g in members(np.array(labels))
    )
    found = GroupLasso(1.0, groups=labels).value(np.float32(w))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# Working sets.

UNEQUAL = np.repeat(np.arange(400), np.random.default_rng(4).integers(1, 8, 400))[:400]
SHUFFLED = np.random.default_rng(5).permutation(UNEQUAL)
BLOCKS = {
    "groups that follow one another": GroupLasso(1.0, groups=np.arange(400) // 4),
    "scattered groups": GroupLasso(
        1.0, groups=np.random.default_rng(3).permutation(np.arange(400) // 4)
    ),
    "a strength for each": GroupLasso(
        np.repeat(np.linspace(0.5, 2, 100), 4), groups=np.arange(400) // 4
    ),
    "sparse groups": SparseGroupLasso(0.5, 0.5, groups=np.arange(400) // 4),
    "groups of 1 to 7": GroupLasso(1.0, groups=UNEQUAL),
    "the same, scattered": GroupLasso(1.0, groups=SHUFFLED),
    "the same, not scaled": GroupLasso(1.0, groups=SHUFFLED, size_scaled=False),
    "a strength for each of these": GroupLasso(
        np.linspace(0.5, 2, SHUFFLED.max() + 1)[SHUFFLED], groups=SHUFFLED
    ),
    "sparse groups of 1 to 7": SparseGroupLasso(0.5, 0.5, groups=SHUFFLED),
    "rows of a matrix": GroupLasso(1.0, axis=1),
    "sparse rows": SparseGroupLasso(0.5, 0.5, axis=-1),
}

SOME_BLOCKS = [
    "groups that follow one another",
    "the same, scattered",
    "a strength for each of these",
    "sparse groups of 1 to 7",
    "rows of a matrix",
]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", some_long(BLOCKS, *SOME_BLOCKS))
def test_whole_groups_are_worked_on_and_all_are_checked(name):
    """As on all rows, which is how a loss without a matrix product is solved."""
    shape = (400, 2) if "row" in name else (400,)
    rng = np.random.default_rng(0)
    w = np.zeros(shape)
    w[:24] = rng.normal(size=w[:24].shape)
    X = rng.normal(size=(60, 400))
    y = X @ w + 0.1 * rng.normal(size=X[:, 0].shape + shape[1:])

    @functools.partial(jax.jit, static_argnames="products")
    def solve(scale, products):
        def loss(w):
            columns = X.reshape(60, 400, *(1,) * (w.ndim - 1))
            z = X @ w if products else jnp.sum(columns * w, axis=1)
            return 0.5 * jnp.mean((z - y) ** 2)

        start = jnp.zeros(shape)
        most = max_strength(loss, start, BLOCKS[name])
        penalty = jax.tree.map(lambda x: x * scale * most, BLOCKS[name])
        return minimize(loss, start, penalty)

    for scale in (0.5, 0.1):
        some, everything = (solve(scale, products) for products in (True, False))
        assert some.converged and everything.converged
        np.testing.assert_allclose(some.params, everything.params, atol=1e-8)
        np.testing.assert_array_equal(some.params != 0, everything.params != 0)
        assert 0 < np.mean(np.asarray(some.params) != 0) < 0.5
