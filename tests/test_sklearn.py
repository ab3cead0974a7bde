"""What scikit-learn's tests of its coordinate descent ask, asked of the solver.

Each question is put to both: the answer is scikit-learn's own, found in the test, or
known by hand. What other files ask already is not here: solutions on real data, those
that are positive, `LassoCV`, and strengths at which all is zero without weights.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
import sklearn.datasets
import sklearn.linear_model
from sklearn.linear_model import MultiTaskElasticNet, MultiTaskLasso
from sklearn.model_selection import KFold

from optareg import (
    L1,
    ElasticNet,
    GroupLasso,
    by_path,
    masked,
    max_strength,
    minimize,
    path,
)

pytestmark = pytest.mark.usefixtures("x64")

EXACT = {"tol": 1e-14, "max_iter": 1_000_000}


def weighted(X, y, weights):
    """Of rows with weights, so that their sum does not matter, as in scikit-learn."""
    share = weights / jnp.sum(weights)
    return lambda p: 0.5 * jnp.sum(share * (y - X @ p["w"] - p.get("b", 0)) ** 2)


def start(columns, intercept=True):
    w = {"w": jnp.zeros(columns)}
    return w | {"b": jnp.zeros(())} if intercept else w


def enet(alpha, l1_ratio=1.0, positive=False):
    """scikit-learn's penalty, of the coefficients alone."""
    return masked(ElasticNet.from_sklearn(alpha, l1_ratio, positive), by_path("w"))


@functools.cache
def solver(intercept=True, positive=False):
    """One program a shape, for all data, weights and strengths."""

    def solve(X, y, weights, alpha, l1_ratio, at=None):
        return minimize(
            weighted(X, y, weights),
            start(X.shape[1], intercept) if at is None else at,
            enet(alpha, l1_ratio, positive),
            tol=1e-13,
        )

    return jax.jit(solve)


def solve(X, y, alpha, l1_ratio=1.0, weights=None, intercept=True, positive=False):
    """Coefficients and intercept: those of the solver, which has converged."""
    weights = np.ones(len(y)) if weights is None else weights
    found = solver(intercept, positive)(X, y, weights, alpha, l1_ratio)
    assert found.converged
    return np.asarray(found.params["w"]), found.params.get("b", 0.0)


def by_sklearn(X, y, alpha, l1_ratio=1.0, weights=None, **options):
    model = sklearn.linear_model.ElasticNet(
        alpha=alpha, l1_ratio=l1_ratio, **{**EXACT, **options}
    )
    model.fit(X, y, sample_weight=weights)
    return model.coef_, model.intercept_


def assert_same(ours, theirs, tolerance=1e-8):
    """Coefficients, their zeros, and intercepts."""
    (w, b), (expected, intercept) = ours, theirs
    scale = max(np.abs(expected).max(), np.abs(intercept))
    np.testing.assert_allclose(w, expected, rtol=0, atol=tolerance * scale)
    np.testing.assert_allclose(b, intercept, rtol=0, atol=tolerance * scale)
    np.testing.assert_array_equal(w == 0, expected == 0)


def random_data(rows=20, columns=5, seed=0):
    """Not centred, and with an offset."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(size=(rows, columns))
    return X, X[:, :2] @ [2.0, -1.0] + 3 + 0.3 * rng.normal(size=rows)


# A line through three points, and nothing at all.

LINE = np.array([[-1.0], [0.0], [1.0]])
PAIRS = [(1e-8, 1.0), (0.1, 1.0), (0.5, 1.0), (0.5, 0.3), (0.5, 0.5), (1.0, 1.0)]


@functools.cache
def line():
    alphas, ratios = np.array(PAIRS).T
    each = jax.vmap(solver(), (None, None, None, 0, 0))
    found = jax.jit(each)(LINE, LINE[:, 0], np.ones(3), alphas, ratios)
    assert found.converged.all()
    return found.params["w"][:, 0], found.params["b"]


def test_a_line_has_the_coefficients_known_by_hand():
    w, b = line()
    alphas, ratios = np.array(PAIRS).T
    curvature = 2 / 3
    l1, l2 = alphas * ratios, alphas * (1 - ratios)
    expected = np.maximum(curvature - l1, 0) / (curvature + l2)
    np.testing.assert_allclose(w, expected, rtol=1e-12)
    np.testing.assert_allclose(expected[[1, 2, 4]], [0.85, 0.25, 5 / 11], rtol=1e-12)
    assert w[-1] == 0  # Exactly.
    np.testing.assert_allclose(b, 0, atol=1e-15)
    theirs = [by_sklearn(LINE, LINE[:, 0], *pair)[0][0] for pair in PAIRS]
    np.testing.assert_allclose(w, theirs, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("l1_ratio", [1.0, 0.5])
def test_a_line_that_falls_has_no_positive_coefficient(l1_ratio):
    w, b = solve(LINE, -LINE[:, 0], 0.1, l1_ratio, positive=True)
    assert w == 0 and not np.signbit(w)
    np.testing.assert_allclose(b, 0, atol=1e-15)


def test_data_of_zeros_has_a_solution_of_zeros():
    X, y = np.zeros((3, 1)), np.zeros(3)
    w, b = solve(X, y, 0.1)
    assert w == 0 and b == 0
    assert max_strength(weighted(X, y, np.ones(3)), start(1), enet(1.0)) == 0


@pytest.mark.parametrize("level", [0.0, 5.0])
def test_equal_targets_need_the_intercept_alone(level):
    X, y = random_data()
    w, b = solve(X, np.full_like(y, level), 1e-3, 0.5)
    np.testing.assert_array_equal(w, 0)
    np.testing.assert_allclose(b, level, rtol=1e-14)
    loss = weighted(X, np.full_like(y, level), np.ones(len(y)))
    assert max_strength(loss, start(5), enet(1.0)) < 1e-13


def test_one_column_of_ones_keeps_its_shape():
    w, _ = solve(np.ones((3, 1)), np.ones(3), 0.25, intercept=False)
    np.testing.assert_allclose(w, [0.75], rtol=1e-12)


# Weights of rows.


AT = [(0.01, 0.5), (0.3, 1.0)]  # Without zeros, and with.


@pytest.mark.parametrize("intercept", [True, False])
class TestWeights:
    """As often as its weight says, a row is there."""

    def ours(self, X, y, weights, intercept):
        return [
            solve(X, y, *setting, weights=weights, intercept=intercept)
            for setting in AT
        ]

    def theirs(self, X, y, weights, intercept):
        return [
            by_sklearn(X, y, *setting, weights=weights, fit_intercept=intercept)
            for setting in AT
        ]

    def test_they_are_those_of_scikit_learn_and_their_sum_is_nothing(self, intercept):
        X, y = random_data()
        weights = np.random.default_rng(1).uniform(0.01, 2, len(y))
        theirs = self.theirs(X, y, weights, intercept)
        assert [np.any(w == 0) for w, _ in theirs] == [False, True]
        for factor in (1.0, np.pi, 1e6):
            ours = self.ours(X, y, factor * weights, intercept)
            for one, other in zip(ours, theirs, strict=True):
                assert_same(one, other)

    def test_equal_ones_are_none(self, intercept):
        X, y = random_data()
        theirs = self.theirs(X, y, None, intercept)
        for ours in (np.ones(len(y)), np.full(len(y), 123.0)):
            pairs = zip(self.ours(X, y, ours, intercept), theirs, strict=True)
            for one, other in pairs:
                assert_same(one, other)

    def test_a_row_without_weight_is_not_there(self, intercept):
        X, y = random_data()
        weights = np.random.default_rng(1).uniform(0.01, 2, len(y))
        weights[-5:], y[-5:] = 0, 1000 * y[-5:]
        theirs = self.theirs(X[:-5], y[:-5], weights[:-5], intercept)
        ours = self.ours(X, y, weights, intercept)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)

    def test_a_whole_number_repeats_the_row(self, intercept):
        X, y = random_data()
        times = np.random.default_rng(1).integers(0, 4, len(y))
        again = np.repeat(np.arange(len(y)), times)
        theirs = self.theirs(X[again], y[again], None, intercept)
        for one, other in zip(self.ours(X, y, times, intercept), theirs, strict=True):
            assert_same(one, other)


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("intercept", [True, False])
def test_above_the_max_strength_of_weighted_rows_scikit_learn_has_zeros(
    intercept, positive
):
    X = np.array([[3.0, -1.0], [2.0, -5.0], [5.0, -3.0], [1.0, -4.0]])
    y, weights = X @ [1.0, -2.0], np.array([1.0, 10.0, 1.0, 10.0])
    loss, params = weighted(X, y, weights), start(2, intercept)
    most = float(max_strength(loss, params, enet(1.0, 0.5, positive)))
    middle = weights * intercept / weights.sum()
    slopes = (X - middle @ X).T @ (weights * (y - middle @ y)) / weights.sum()
    slopes = slopes if positive else np.abs(slopes)
    np.testing.assert_allclose(most, slopes.max() / 0.5, rtol=1e-10)
    options = {"weights": weights, "fit_intercept": intercept, "positive": positive}
    assert np.all(by_sklearn(X, y, 1.001 * most, 0.5, **options)[0] == 0)
    assert np.any(by_sklearn(X, y, 0.99 * most, 0.5, **options)[0] != 0)


# The ends of the elastic net.


@functools.cache
def low_rank_data(seed=0):
    """Columns of about ten directions: the Hessian is ill-conditioned."""
    X, y = sklearn.datasets.make_regression(
        n_samples=60,
        n_features=20,
        n_informative=10,
        effective_rank=5,
        random_state=seed,
    )
    return X, y, np.random.default_rng(seed).uniform(0.01, 10, len(y))


@pytest.mark.parametrize("alpha", [1e-6, 0.1, 1.0, 1e6])
def test_without_l1_it_is_ridge(alpha):
    X, y, weights = low_rank_data()
    model = sklearn.linear_model.Ridge(alpha, solver="svd").fit(
        X, y, sample_weight=weights
    )
    w, b = solve(X, y, alpha / weights.sum(), 0.0, weights)
    np.testing.assert_allclose(w, model.coef_, rtol=5e-7, atol=3e-11)
    np.testing.assert_allclose(b, model.intercept_, rtol=1e-9, atol=3e-11)


def test_with_hardly_any_l1_it_is_nearly_ridge():
    X, y, weights = low_rank_data()
    none, hardly = (solve(X, y, 0.1, r, weights) for r in (0.0, 1e-9))
    np.testing.assert_allclose(hardly[0], none[0], rtol=1e-6)
    assert not np.array_equal(hardly[0], none[0])


def test_without_any_strength_it_is_least_squares():
    X, y, weights = low_rank_data()
    model = sklearn.linear_model.LinearRegression().fit(X, y, sample_weight=weights)
    w, b = solve(X, y, 0.0, 0.5, weights)
    scale = np.abs(model.coef_).max()
    np.testing.assert_allclose(w, model.coef_, rtol=0, atol=1e-8 * scale)
    np.testing.assert_allclose(X @ w + b, model.predict(X), rtol=1e-7, atol=1e-8)


# Starts.


def test_from_its_own_solution_nothing_is_left_to_do():
    X, y = random_data(10, 30)
    cold = solver()(X, y, np.ones(10), 0.01, 0.9)
    warm = solver()(X, y, np.ones(10), 0.01, 0.9, cold.params)
    assert cold.steps > 1 and warm.steps <= 1
    np.testing.assert_allclose(warm.params["w"], cold.params["w"], rtol=0, atol=1e-12)


def test_from_the_solution_of_another_strength_it_is_that_of_scikit_learn():
    X, y = random_data(10, 30)
    ones = np.ones(10)
    for first, then in [(0.1, 0.01), (0.01, 0.1)]:
        before = solver()(X, y, ones, first, 0.9).params
        found = solver()(X, y, ones, then, 0.9, before)
        assert found.converged
        ours = np.asarray(found.params["w"]), found.params["b"]
        assert_same(ours, by_sklearn(X, y, then, 0.9))


# Data of other kinds.


def test_data_may_be_read_only_or_a_file(tmp_path):
    X, y = random_data()
    weights = np.linspace(1, 2, len(y))
    expected = solve(X, y, 0.05, weights=weights)
    files = []
    for name, array in [("X", X), ("y", y), ("weights", weights)]:
        np.save(tmp_path / f"{name}.npy", array)
        files.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
        array.flags.writeable = False
    for a, b, c in [(X, y, weights), files]:
        found = solve(a, b, 0.05, weights=c)
        np.testing.assert_array_equal(found[0], expected[0])
        assert found[1] == expected[1]


def test_data_of_whole_numbers_is_that_of_floats():
    X, y = np.arange(60).reshape(20, 3) % 7, np.arange(20) ** 2 % 11
    assert_same(solve(X, y, 0.1), by_sklearn(X.astype(float), y.astype(float), 0.1))


@pytest.mark.parametrize("intercept", [True, False])
def test_mostly_zeros_is_that_of_a_sparse_matrix(intercept):
    X, y = random_data(20, 5)
    X = X * (np.random.default_rng(2).uniform(size=X.shape) < 0.3)
    X[:, 3] = 0
    theirs = by_sklearn(scipy.sparse.csc_array(X), y, 0.02, fit_intercept=intercept)
    ours = solve(X, y, 0.02, intercept=intercept)
    assert_same(ours, theirs)
    assert ours[0][3] == 0 and np.any(ours[0] != 0)


def test_a_matrix_of_jax_sparse_is_that_of_a_dense_one():
    sparse = pytest.importorskip("jax.experimental.sparse")
    X, y = random_data(20, 5)
    X = X * (np.random.default_rng(2).uniform(size=X.shape) < 0.3)
    held = sparse.BCOO.fromdense(X)

    @jax.jit
    def found(y):
        loss = weighted(held, y, jnp.ones(20))
        return minimize(loss, start(5), enet(0.02), tol=1e-13)

    solution = found(y)
    assert solution.converged
    ours = np.asarray(solution.params["w"]), solution.params["b"]
    assert_same(ours, by_sklearn(X, y, 0.02))


def test_numbers_beyond_all_measure_are_not_taken_for_solved():
    rng = np.random.default_rng(0)
    X = np.finfo(float).max * rng.uniform(size=(3, 1))
    found = solver()(X, np.arange(3.0), np.ones(3), 0.1, 1.0)
    assert not found.converged
    assert np.all(np.isfinite(found.params["w"]))


# Many targets.


def many(X, Y):
    n = len(Y)
    return lambda p: 0.5 * jnp.sum((Y - X @ p["w"] - p["b"]) ** 2) / n


def many_start(X, Y):
    return {"w": jnp.zeros((X.shape[1], Y.shape[1])), "b": jnp.zeros(Y.shape[1])}


@functools.cache
def tasks():
    """Rows of coefficients are zero together: `MultiTaskElasticNet` and lasso."""

    @jax.jit
    def solve(X, Y, alpha, l1_ratio):
        l2 = alpha * (1 - l1_ratio) / 2
        rows = GroupLasso(alpha * l1_ratio, axis=1, size_scaled=False)

        def loss(p):
            return many(X, Y)(p) + l2 * jnp.sum(p["w"] ** 2)

        start = many_start(X, Y)
        return minimize(loss, start, masked(rows, by_path("w")), tol=1e-13)

    return solve


@pytest.mark.parametrize("l1_ratio", [1.0, 0.5])
def test_equal_targets_have_equal_coefficients(l1_ratio):
    X, y = random_data()
    Y = np.stack([y, y], axis=1)
    found = tasks()(X, Y, 0.05, l1_ratio)
    assert found.converged
    w = np.asarray(found.params["w"])
    np.testing.assert_allclose(w[:, 0], w[:, 1], rtol=1e-12, atol=0)
    model = MultiTaskElasticNet(alpha=0.05, l1_ratio=l1_ratio, **EXACT).fit(X, Y)
    assert_same((w, found.params["b"][0]), (model.coef_.T, model.intercept_[0]))
    # As of one target, at a strength less by the root of their number.
    assert np.any(w == 0)
    if l1_ratio == 1:
        assert_same((w[:, 0], found.params["b"][0]), solve(X, y, 0.05 / np.sqrt(2)))


def test_powers_of_a_number_are_solved_for_many_targets():
    """Ill-conditioned: coordinate descent takes thousands of sweeps."""
    X = np.vander(np.arange(5.0), 4)
    Y = np.arange(15.0).reshape(5, 3)
    found = tasks()(X, Y, 0.1, 1.0)
    assert found.converged
    model = MultiTaskLasso(alpha=0.1, **EXACT).fit(X, Y)
    w, b = np.asarray(found.params["w"]), found.params["b"]
    # Both are as exact as the objective allows: its curvature is small.
    np.testing.assert_allclose(w, model.coef_.T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(b, model.intercept_, rtol=1e-5)
    np.testing.assert_array_equal(w == 0, model.coef_.T == 0)

    def objective(w, b):
        value = 0.5 * np.sum((Y - X @ w - b) ** 2) / 5
        return value + 0.1 * np.linalg.norm(w, axis=1).sum()

    theirs = objective(model.coef_.T, model.intercept_)
    assert objective(w, b) <= theirs * (1 + 1e-12)
    np.testing.assert_allclose(objective(w, b), theirs, rtol=1e-9)


def test_many_targets_with_l1_are_each_alone():
    rng = np.random.default_rng(3)
    X, y = random_data()
    Y = np.stack([y, -y, y**2], axis=1) + rng.normal(size=(len(y), 3))
    found = jax.jit(
        lambda: minimize(many(X, Y), many_start(X, Y), enet(0.05, 0.5), tol=1e-13)
    )()
    assert found.converged
    for k in range(3):
        ours = np.asarray(found.params["w"][:, k]), found.params["b"][k]
        assert_same(ours, by_sklearn(X, Y[:, k], 0.05, 0.5))


# Paths.


@pytest.mark.parametrize("positive", [False, True])
def test_a_path_may_be_positive_and_rise_or_fall(positive):
    X, y = random_data(10, 30)
    X, y = X - X.mean(axis=0), y - y.mean()
    alphas = np.geomspace(0.1, 1e-3, 7)
    _, theirs, _ = sklearn.linear_model.enet_path(
        X, y, alphas=alphas, l1_ratio=0.5, positive=positive, **EXACT
    )
    loss = weighted(X, y, np.ones(10))
    run = jax.jit(
        lambda alphas: path(
            loss, start(30, False), enet(alphas, 0.5, positive), tol=1e-13
        )
    )
    for order in (slice(None), slice(None, None, -1)):
        found = run(alphas[order])
        assert found.converged.all()
        for w, expected in zip(found.params["w"], theirs.T[order], strict=True):
            assert_same((np.asarray(w), 0.0), (expected, 0.0))
    assert not positive or np.any(theirs > 0)


def test_a_path_of_many_targets_is_that_of_scikit_learn():
    X, y = random_data()
    Y = np.stack([y, -(y**2), np.sin(5 * y)], axis=1)
    X, Y = X - X.mean(axis=0), Y - Y.mean(axis=0)
    alphas = np.geomspace(0.3, 1e-3, 6)
    _, theirs, _ = MultiTaskLasso(fit_intercept=False).path(
        X, Y, l1_ratio=1.0, alphas=alphas, **EXACT
    )

    def loss(w):
        return 0.5 * jnp.sum((Y - X @ w) ** 2) / len(Y)

    rows = GroupLasso(alphas, axis=1, size_scaled=False)
    found = jax.jit(lambda: path(loss, jnp.zeros((5, 3)), rows, tol=1e-13))()
    assert found.converged.all()
    for w, expected in zip(found.params, np.moveaxis(theirs, 2, 0), strict=True):
        assert_same((np.asarray(w), 0.0), (expected.T, 0.0))
    zero_rows = np.all(np.asarray(found.params) == 0, axis=2).sum(axis=1)
    assert zero_rows[0] > zero_rows[-1]


def test_over_folds_with_weights_and_ratios_it_is_elastic_net_cv():
    X, y = random_data()
    weights = np.random.default_rng(1).integers(1, 4, len(y)).astype(float)
    folds = list(KFold(4, shuffle=True, random_state=0).split(X))
    kept = np.ones((4, len(y)))
    for row, (_, left_out) in zip(kept, folds, strict=True):
        row[left_out] = 0
    alphas, ratios = np.geomspace(0.3, 1e-3, 6), np.array([0.5, 0.9])

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def errors(kept, ratio):
        loss = weighted(X, y, weights * kept)
        params = path(loss, start(5), enet(alphas, ratio), tol=1e-13).params
        squares = (params["w"] @ X.T + params["b"][:, None] - y) ** 2
        left_out = weights * (1 - kept)
        return squares @ left_out / jnp.sum(left_out)

    model = sklearn.linear_model.ElasticNetCV(
        alphas=alphas, l1_ratio=ratios, cv=folds, **EXACT
    )
    model.fit(X, y, sample_weight=weights)
    ours = np.asarray(errors(kept, ratios))
    np.testing.assert_allclose(np.moveaxis(ours, 0, 2), model.mse_path_, rtol=1e-7)
    sizes = [np.sum(weights[left_out]) for _, left_out in folds]
    ratio, alpha = np.unravel_index(
        np.argmin(np.average(ours, axis=0, weights=sizes)), (2, 6)
    )
    assert (ratios[ratio], alphas[alpha]) == (model.l1_ratio_, model.alpha_)


def test_l1_alone_is_the_elastic_net_with_a_ratio_of_one():
    X, y = random_data()
    loss = weighted(X, y, np.ones(len(y)))
    penalty = masked(L1.from_sklearn(0.05), by_path("w"))
    found = jax.jit(lambda: minimize(loss, start(5), penalty, tol=1e-13))()
    w, b = solve(X, y, 0.05)
    np.testing.assert_allclose(found.params["w"], w, rtol=1e-11, atol=0)
    np.testing.assert_allclose(found.params["b"], b, rtol=1e-11)
