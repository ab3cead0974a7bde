"""`positive=True` of L1 and ElasticNet, against scikit-learn and SciPy."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
import sklearn.linear_model

from optareg import (
    L1,
    ElasticNet,
    add_penalty_gradient,
    by_path,
    masked,
    max_strength,
    minimize,
    partition,
    path,
    proximal,
    stationarity,
)
from references import (
    adam,
    diabetes,
    nearest_to,
    synthetic,
    train,
)


def test_positive_is_part_of_the_structure():
    traces = 0

    @jax.jit
    def prox(penalty, w):
        nonlocal traces
        traces += 1
        return penalty.prox(w, 1.0)

    w = jnp.array([-2.0, 2.0])
    np.testing.assert_array_equal(prox(L1(0.5, positive=True), w), [0.0, 1.5])
    np.testing.assert_array_equal(prox(L1(0.0, positive=True), w), [0.0, 2.0])
    assert traces == 1
    np.testing.assert_array_equal(prox(L1(0.5), w), [-1.5, 1.5])
    assert traces == 2
    assert jax.tree.leaves(ElasticNet(0.5, 0.25, positive=True)) == [0.5, 0.25]


def test_a_sweep_from_zero_and_arrays_with_zeros():
    w = jnp.array([-2.0, 1.0, 3.0])
    strengths = jnp.array([0.0, 1.0, 5.0])
    swept = jax.vmap(lambda p: p.prox(w, 1.0))(L1(strengths, positive=True))
    np.testing.assert_array_equal(swept, [[0, 1, 3], [0, 0, 2], [0, 0, 0]])
    each = L1(np.array([0.0, 0.0, 1.0]), positive=True).prox(w, 1.0)
    np.testing.assert_array_equal(each, [0.0, 1.0, 2.0])


def test_masked_and_partition_leave_the_rest_negative():
    params = {"kernel": jnp.array([-2.0, 3.0]), "bias": jnp.array([-1.0])}
    for penalty in (
        masked(L1(0.5, positive=True), by_path("kernel")),
        partition({1: L1(0.5, positive=True), 2: None}, {"kernel": 1, "bias": 2}),
    ):
        x = penalty.prox(params, 1.0)
        np.testing.assert_array_equal(x["kernel"], [0.0, 2.5])
        np.testing.assert_array_equal(x["bias"], [-1.0])
        assert penalty.value(params) == np.inf
        assert penalty.value({**params, "kernel": jnp.array([0.0, 3.0])}) == 1.5


# Solving.

PROBLEMS = {"diabetes": diabetes, "synthetic": synthetic}
# Of the strength at which everything is zero; zero leaves the constraint alone.
SHARES = np.array([0.1, 1.01, 0.5, 0.99, 0.0])
pairs = pytest.mark.parametrize(
    ("data", "l1_ratio"), [("diabetes", 1.0), ("synthetic", 0.4)]
)


def make(alpha, l1_ratio):
    if l1_ratio == 1:
        return L1.from_sklearn(alpha, positive=True)
    return ElasticNet.from_sklearn(alpha, l1_ratio, positive=True)


@functools.cache
def solutions(data, l1_ratio):
    """The largest strength, and the coefficients for each of the `SHARES` of it."""
    problem = PROBLEMS[data]()
    start = -jnp.ones(problem.X.shape[1])
    largest = float(max_strength(problem.loss, start, make(1.0, l1_ratio)))
    found = path(problem.loss, start, make(SHARES * largest, l1_ratio))
    assert np.all(found.converged)
    return problem, largest, dict(zip(SHARES, np.asarray(found.params), strict=True))


@functools.cache
def by_sklearn(data, l1_ratio, alpha):
    model = sklearn.linear_model.ElasticNet(
        alpha, l1_ratio=l1_ratio, positive=True, fit_intercept=False, tol=1e-13
    )
    return model.set_params(max_iter=1_000_000).fit(*PROBLEMS[data]()).coef_


@pytest.mark.usefixtures("x64")
@pairs
class TestOptimum:
    """Least squares, from negative weights."""

    @pytest.mark.parametrize("share", [0.1, 0.5])
    def test_it_is_that_of_sklearn(self, data, l1_ratio, share):
        problem, largest, found = solutions(data, l1_ratio)
        expected = by_sklearn(data, l1_ratio, share * largest)
        w = found[share]
        np.testing.assert_allclose(w, expected, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(w == 0, expected == 0)
        assert np.all(w >= 0)
        assert 0 < np.sum(w == 0) < len(w)
        penalty = make(share * largest, l1_ratio)
        assert stationarity(penalty, w, problem.gradient(w)) < 1e-9

    def test_training_with_adam_ends_there(self, data, l1_ratio):
        problem, largest, _ = solutions(data, l1_ratio)
        expected = by_sklearn(data, l1_ratio, 0.1 * largest)
        optimizer = proximal(adam(0.1, 4000), make(0.1 * largest, l1_ratio))
        w = train(optimizer, problem.loss, -jnp.ones(len(expected)), 4000)
        np.testing.assert_allclose(w, expected, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(w == 0, expected == 0)

    def test_everything_is_zero_just_above_the_largest_strength(self, data, l1_ratio):
        problem, largest, found = solutions(data, l1_ratio)
        g = problem.gradient(0 * found[1.01])
        np.testing.assert_allclose(largest, np.max(-g) / l1_ratio, rtol=1e-14)
        assert np.all(found[1.01] == 0)
        assert np.any(found[0.99] != 0)

    def test_without_strength_it_is_nonnegative_least_squares(self, data, l1_ratio):
        problem, _, found = solutions(data, l1_ratio)
        expected, _ = scipy.optimize.nnls(*problem)
        np.testing.assert_allclose(found[0.0], expected, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(found[0.0] == 0, expected == 0)


@pytest.mark.usefixtures("x64")
def test_minimize_and_training_of_nonnegative_least_squares():
    problem = diabetes()
    expected, _ = scipy.optimize.nnls(*problem)
    start = -jnp.ones(len(expected))
    solution = minimize(problem.loss, start, L1(0.0, positive=True))
    assert solution.converged
    trained = train(
        proximal(adam(0.1, 4000), L1(0.0, positive=True)), problem.loss, start, 4000
    )
    for w in (solution.params, trained):
        np.testing.assert_allclose(w, expected, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(w == 0, expected == 0)


def test_the_largest_strength_is_zero_where_all_should_be_negative():
    target = jnp.array([-3.0, -1.0])
    assert max_strength(nearest_to(target), target, L1(1.0, positive=True)) == 0


@pytest.mark.usefixtures("x64")
def test_the_gradient_alone_knows_nothing_of_the_sign():
    target = np.array([3.0, -2.0])
    w = train(
        optax.chain(add_penalty_gradient(L1(0.5, positive=True)), optax.sgd(0.2)),
        nearest_to(target),
        jnp.zeros(2),
        100,
    )
    np.testing.assert_allclose(w, [2.5, -1.5], rtol=0, atol=3 * 0.2 * 0.5)


# Bad input.


@pytest.mark.parametrize("make", [L1, lambda x, p: ElasticNet(x, 0.1, p)])
@pytest.mark.parametrize("value", [1, 0, None, "yes", 0.5, np.ones(2, bool)], ids=str)
def test_positive_is_a_bool(make, value):
    with pytest.raises(TypeError, match=r"`positive` of (L1|ElasticNet) must be True"):
        make(0.1, value)


@pytest.mark.parametrize("make", [L1, lambda x, positive: ElasticNet(x, 0.1, positive)])
def test_a_complex_leaf_is_refused_with_its_path(make):
    params = {"a": jnp.ones(2), "b": jnp.ones(3, jnp.complex64)}
    penalty = make(0.1, positive=True)
    for call in (
        penalty.value,
        jax.jit(penalty.gradient),
        lambda w: penalty.prox(w, 0.1),
        proximal(adam(0.1, 10), penalty).init,
        lambda w: stationarity(penalty, w, w),
    ):
        with pytest.raises(TypeError, match=r"\['b'\].*complex64.*`positive=True`"):
            call(params)
    some = masked(penalty, {"a": True, "b": False})
    assert jnp.isfinite(some.value(params))


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(st.booleans(), st.floats(0, 3))
def test_constructors_pass_it_on(positive, alpha):
    assert L1.from_sklearn(alpha, positive=positive) == L1(alpha, positive)
    both = ElasticNet.from_sklearn(alpha, 0.5, positive=positive)
    assert both == ElasticNet(alpha / 2, alpha / 4, positive)
