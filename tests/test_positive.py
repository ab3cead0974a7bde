"""`positive=True` of L1 and ElasticNet, against scikit-learn and SciPy."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import sklearn.linear_model

from laws import steps, vectors
from optareg import (
    L1,
    ElasticNet,
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
    RATE,
    WAYS,
    adam,
    assert_least,
    diabetes,
    nearest_to,
    synthetic,
    train,
)

law = hypothesis.settings(
    max_examples=25,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
# The strengths of Σ|w| and of Σ w².
CASES = {
    "L1": (L1(0.7, positive=True), 0.7, 0.0),
    "L1 of 0": (L1(0.0, positive=True), 0.0, 0.0),
    "ElasticNet": (ElasticNet(0.5, 0.3, positive=True), 0.5, 0.3),
    "ElasticNet without l1": (ElasticNet(0.0, 0.3, positive=True), 0.0, 0.3),
    "ElasticNet without l2": (ElasticNet(0.5, 0.0, positive=True), 0.5, 0.0),
}
every_case = pytest.mark.parametrize(
    ("penalty", "a", "b"), CASES.values(), ids=CASES.keys()
)


def formula(w, a, b, step):
    """The prox: max(w − ta, 0) / (1 + 2tb)."""
    return np.maximum(w - step * a, 0) / (1 + 2 * step * b)


@pytest.mark.usefixtures("x64")
@every_case
class TestDefinitions:
    """Value, gradient and prox, each from the formula in NumPy."""

    @law
    @hypothesis.given(w=vectors)
    def test_value_is_infinite_where_a_weight_is_negative(self, penalty, a, b, w):
        inside = np.abs(w)
        expected = np.sum(a * inside + b * inside**2)
        found = penalty.value(jnp.asarray(inside))
        np.testing.assert_allclose(found, expected, rtol=1e-14)
        found = penalty.value(jnp.asarray(w))
        assert found == (np.inf if np.any(w < 0) else penalty.value(inside))

    @law
    @hypothesis.given(w=vectors)
    def test_gradient_is_that_without_the_sign(self, penalty, a, b, w, strict):
        expected = a * np.sign(w) + 2 * b * w
        found = penalty.gradient(jnp.asarray(w))
        np.testing.assert_allclose(found, expected, rtol=1e-14, atol=1e-290)

    @law
    @hypothesis.given(w=vectors, step=steps)
    def test_prox_is_the_formula_and_least(self, penalty, a, b, w, step, strict):
        w = np.where(np.abs(w) < 1e-290, 0, np.clip(w, -100, 100))
        x = np.asarray(penalty.prox(jnp.asarray(w), step))
        expected = formula(w, a, b, step)
        np.testing.assert_allclose(x, expected, rtol=1e-14, atol=1e-14)
        np.testing.assert_array_equal(x == 0, expected == 0)
        assert not np.any(np.signbit(x))

        def value(x):
            inside = np.sum(a * np.abs(x) + b * x**2, axis=-1)
            return np.where(np.any(x < 0, axis=-1), np.inf, inside)

        if step > 0:  # Zero times infinity: there the constraint stays.
            assert_least(value, x, w, step)

    @law
    @hypothesis.given(v=vectors, w=vectors, step=steps)
    def test_prox_is_firmly_nonexpansive(self, penalty, a, b, v, w, step):
        v, w = np.clip(v, -100, 100), np.clip(w, -100, 100)
        x, y = (np.asarray(penalty.prox(jnp.asarray(u), step)) for u in (v, w))
        gap = np.sum((x - y) * (v - w)) - np.sum((x - y) ** 2)
        assert gap >= -1e-14 * np.sum((v - w) ** 2)

    @law
    @hypothesis.given(w=vectors, g=vectors)
    def test_stationarity(self, penalty, a, b, w, g):
        found = stationarity(penalty, jnp.asarray(w), jnp.asarray(g))
        if np.any(w < 0):
            assert found == np.inf
        inside = np.abs(w)
        slope = g + a + 2 * b * inside
        # At zero any slope upwards is as good as none.
        expected = np.where(inside == 0, np.maximum(-slope, 0), np.abs(slope)).max()
        found = stationarity(penalty, jnp.asarray(inside), jnp.asarray(g))
        np.testing.assert_allclose(found, expected, rtol=1e-14, atol=1e-14)

    def test_nan_stays(self, penalty, a, b):
        w = jnp.array([jnp.nan, 1.0, jnp.inf])
        x = penalty.prox(w, 1.0)
        np.testing.assert_array_equal(np.isfinite(x), [False, True, False])
        assert jnp.isnan(x[0])
        assert jnp.isnan(penalty.value(w))
        assert jnp.isnan(penalty.gradient(w)[0])

    def test_derivatives_are_the_gradient_and_finite(self, penalty, a, b):
        w = jnp.array([0.0, -0.0, 1e-15, 0.7, 2.0])
        # The gradient knows of no constraint, and nor does that of an infinite value.
        outside = w - 1
        by_jax = jax.grad(penalty.value)(outside)
        np.testing.assert_allclose(by_jax, penalty.gradient(outside), rtol=1e-14)
        by_jax = jax.grad(penalty.value)(w)
        assert jnp.all(jnp.isfinite(by_jax))
        np.testing.assert_allclose(by_jax, penalty.gradient(w), rtol=1e-14)
        through = jax.grad(lambda w: jnp.sum(penalty.prox(w, 0.5) ** 2))(w)
        assert jnp.all(jnp.isfinite(through))

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
    def test_half_precision_is_computed_in_single(self, penalty, a, b, dtype):
        w = jnp.linspace(-3, 3, 7).astype(dtype)
        x = penalty.prox(w, 0.5)
        assert x.dtype == dtype
        single = penalty.prox(w.astype(jnp.float32), 0.5)
        np.testing.assert_array_equal(x, single.astype(dtype))
        assert penalty.value(w).dtype == jnp.float32


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("step", [0.0, 0.3, 4.0])
def test_prox_is_the_best_of_a_dense_grid(step):
    grid = np.linspace(0, 5, 5001)
    for penalty, a, b in CASES.values():
        for w in (-3.0, -0.1, 0.0, 0.2, 0.7, 4.0):
            on_grid = 0.5 * (grid - w) ** 2 + step * (a * grid + b * grid**2)
            x = penalty.prox(jnp.array(w), step)
            assert abs(x - grid[np.argmin(on_grid)]) <= 0.0011


@every_case
def test_single_precision_is_never_promoted(penalty, a, b, strict):
    w = jnp.linspace(-3, 3, 6)

    @jax.jit
    def everything(penalty, w, step):
        rest = penalty.gradient(w), penalty.prox(w, step)
        return penalty.value(w), stationarity(penalty, w, w), *rest

    assert {x.dtype for x in everything(penalty, w, 0.5)} == {jnp.dtype("float32")}


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
@pytest.mark.parametrize("way", [way for way in WAYS if "gradient" not in way])
def test_every_way_takes_it(way):
    target = np.array([3.0, -2.0, 1.2, -0.45, 0.1, 0.3])
    names = [*CASES, "free"]
    parts = {name: penalty for name, (penalty, _, _) in CASES.items()}
    penalty = partition({**parts, "free": None}, {n: n for n in names})
    w = train(
        WAYS[way](penalty),
        nearest_to({n: target for n in names}),
        {n: jnp.linspace(-1, 1, 6) for n in names},
        1000,
    )
    np.testing.assert_allclose(w["free"], target, rtol=0, atol=1e-6)
    for name, (_, a, b) in CASES.items():
        expected = formula(target, a, b, 1.0)
        np.testing.assert_allclose(w[name], expected, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(w[name] == 0, expected == 0, err_msg=name)


@pytest.mark.usefixtures("x64")
def test_the_gradient_alone_knows_nothing_of_the_sign():
    target = np.array([3.0, -2.0])
    w = train(
        WAYS["gradient-sgd"](L1(0.5, positive=True)),
        nearest_to(target),
        jnp.zeros(2),
        100,
    )
    np.testing.assert_allclose(w, [2.5, -1.5], rtol=0, atol=3 * RATE * 0.5)


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
