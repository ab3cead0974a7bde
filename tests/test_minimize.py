"""`minimize` against scikit-learn, optimality in NumPy, and central differences."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sklearn.datasets
import sklearn.linear_model

from optareg import (
    L1,
    L2,
    ElasticNet,
    GroupLasso,
    SparseGroupLasso,
    masked,
    minimize,
    partition,
)
from problems import classification_data, regression_data, standardize

# As the docstring says, in parts of the largest gradient; here the columns are alike.
DEFAULT_TOL = 4e-11
EXACT = {"fit_intercept": False, "tol": 1e-13, "max_iter": 1_000_000}


@functools.cache
def data(name):
    """X (n, p) and y (n,), float64."""
    if name == "diabetes":
        return regression_data("diabetes")
    if name == "diabetes in hundreds":
        X, _ = regression_data("diabetes")
        return X, sklearn.datasets.load_diabetes().target
    if name == "raw wine":  # Columns whose scales differ by 1000; alcohol from others.
        X = sklearn.datasets.load_wine().data
        return X[:, 1:], X[:, 0]
    if name == "correlated":  # n < p; neighbours correlate by .9.
        rng = np.random.default_rng(1)
        X = rng.normal(size=(60, 150))
        for j in range(1, 150):
            X[:, j] = 0.9 * X[:, j - 1] + np.sqrt(1 - 0.9**2) * X[:, j]
        truth = np.zeros(150)
        truth[10::20] = rng.normal(size=7)
        return X, X @ truth + 0.3 * rng.normal(size=60)
    if name == "700 columns":
        rng = np.random.default_rng(2)
        X = standardize(rng.normal(size=(300, 700)))
        truth = rng.normal(size=700) * (
            10 * (np.arange(700) < 12) + (np.arange(700) < 120)
        )
        return X, X @ truth + rng.normal(size=300)
    return classification_data(name)


def squares(X, y):
    return lambda w: 0.5 * jnp.mean((y - X @ w) ** 2)


def log_loss(X, y):
    return lambda w: jnp.mean(jax.nn.softplus(-y * (X @ w)))


@functools.cache
def compiled(make_loss):
    """One program a shape, whatever the data and strengths."""

    def solution(X, y, l1, l2, start, max_steps):
        penalty = ElasticNet(l1, l2)
        return minimize(make_loss(X, y), start, penalty, max_steps=max_steps)

    return jax.jit(solution)


def solve(make_loss, X, y, l1, l2=0.0, start=0.0, max_steps=10_000):
    """From any start, with strengths for all coefficients or each of them."""
    l1, l2, start = (np.full(X.shape[1], a, X.dtype) for a in (l1, l2, start))
    return compiled(make_loss)(X, y, l1, l2, start, np.int32(max_steps))


def compiled_once(loss, start, penalty, **options):
    """`minimize`, in less time than without `jit`."""
    return jax.jit(lambda w: minimize(loss, w, penalty, **options))(start)


def largest_strength(X, y):
    """Of L1, for squares: above it all coefficients are zero."""
    return np.abs(X.T @ y).max() / len(y)


def lasso(X, y, l1, **options):
    model = sklearn.linear_model.Lasso(alpha=l1, **{**EXACT, **options})
    return model.fit(X, y)


def close(w, expected, tolerance=1e-8):
    """To the largest entry."""
    return np.abs(w - expected).max() <= tolerance * np.abs(expected).max()


# Optimality in NumPy.


def squares_gap(X, y, w, l1, l2=0.0):
    """Relative duality gap of ‖y − Xw‖² / 2n + l1 ‖w‖₁ + l2 ‖w‖²."""
    n, p = X.shape
    # The squares of w are those of p more observations, of nothing.
    X = np.vstack([X, np.sqrt(2 * n * l2) * np.eye(p)])
    y = np.concatenate([y, np.zeros(p)])
    r = y - X @ w
    primal = r @ r / (2 * n) + l1 * np.abs(w).sum()
    feasible = r * min(1, n * l1 / np.abs(X.T @ r).max())
    dual = (y @ feasible - feasible @ feasible / 2) / n
    return (primal - dual) / primal


def log_loss_gap(X, y, w, l1):
    """Relative duality gap of the mean logistic loss + l1 ‖w‖₁."""
    margin = y * (X @ w)
    primal = np.logaddexp(0, -margin).mean() + l1 * np.abs(w).sum()
    u = 1 / (1 + np.exp(margin))
    u = u * min(1, l1 * len(y) / np.abs(X.T @ (y * u)).max())
    dual = -np.mean(u * np.log(u) + (1 - u) * np.log1p(-u))
    return (primal - dual) / primal


def squares_gradient(X, y, w):
    return X.T @ (X @ w - y) / len(y)


def log_loss_gradient(X, y, w):
    return -X.T @ (y / (1 + np.exp(y * (X @ w)))) / len(y)


def distance(g, w, l1):
    """The largest distance of −g from l1 ∂|w|, by its definition; w may be complex."""
    sign = w / np.where(w == 0, 1, np.abs(w))
    at_zero = np.maximum(np.abs(g) - l1, 0)
    return np.where(w == 0, at_zero, np.abs(g + l1 * sign)).max()


REGRESSIONS = ["diabetes", "diabetes in hundreds", "raw wine", "correlated"]


@pytest.mark.parametrize("share", [0.3, 0.03])
@pytest.mark.parametrize("l1_ratio", [1.0, 0.5])
@pytest.mark.parametrize("name", REGRESSIONS)
def test_regressions_are_those_of_scikit_learn(name, l1_ratio, share, x64):
    X, y = data(name)
    alpha = share * largest_strength(X, y) / l1_ratio
    if l1_ratio == 1:
        model = sklearn.linear_model.Lasso(alpha=alpha, **EXACT)
    else:
        model = sklearn.linear_model.ElasticNet(alpha=alpha, l1_ratio=l1_ratio, **EXACT)
    expected = model.fit(X, y).coef_
    l1, l2 = alpha * l1_ratio, alpha * (1 - l1_ratio) / 2
    solution = solve(squares, X, y, l1, l2)
    w = np.asarray(solution.params)

    assert solution.converged
    assert squares_gap(X, y, w, l1, l2) < 1e-6
    np.testing.assert_array_equal(w != 0, expected != 0)
    assert close(w, expected)
    default = DEFAULT_TOL * largest_strength(X, y)
    assert solution.stationarity <= default
    by_definition = distance(squares_gradient(X, y, w) + 2 * l2 * w, w, l1)
    assert solution.stationarity == pytest.approx(by_definition, abs=1e-3 * default)


@pytest.mark.parametrize("share", [0.3, 0.03])
def test_logistic_regression_is_that_of_scikit_learn(share, x64):
    X, y = data("breast cancer")
    largest = largest_strength(X, y) / 2
    l1 = share * largest
    model = sklearn.linear_model.LogisticRegression(
        C=1 / (len(y) * l1), l1_ratio=1, solver="saga", **EXACT
    )
    expected = model.fit(X, y).coef_[0]
    solution = solve(log_loss, X, y, l1)
    w = np.asarray(solution.params)

    assert solution.converged
    assert log_loss_gap(X, y, w, l1) < 1e-6
    np.testing.assert_array_equal(w != 0, expected != 0)
    assert close(w, expected)
    default = DEFAULT_TOL * largest
    assert solution.stationarity <= default
    by_definition = distance(log_loss_gradient(X, y, w), w, l1)
    assert solution.stationarity == pytest.approx(by_definition, abs=1e-3 * default)


@pytest.mark.parametrize("share", [0.3, 0.03])
@pytest.mark.parametrize("loss", [squares, log_loss])
def test_float32_converges_to_a_small_gap(loss, share):
    X, y = data("diabetes" if loss is squares else "breast cancer")
    l1 = share * largest_strength(X, y) / (1 if loss is squares else 2)
    solution = solve(loss, np.float32(X), np.float32(y), l1)
    assert solution.params.dtype == solution.stationarity.dtype == jnp.float32
    assert solution.converged
    gap = squares_gap if loss is squares else log_loss_gap
    # The gradient in single precision tells no more.
    assert gap(X, y, np.float64(solution.params), l1) < 3e-6


@pytest.mark.parametrize("share", [0.3, 0.05, 0.005])
def test_many_columns_are_worked_on_in_sets_that_grow(share, x64):
    X, y = data("700 columns")
    l1 = share * largest_strength(X, y)
    expected = lasso(X, y, l1).coef_
    count = np.sum(expected != 0)
    assert {0.3: count <= 32, 0.05: 32 < count <= 128, 0.005: count > 128}[share]
    solution = solve(squares, X, y, l1)
    w = np.asarray(solution.params)
    assert solution.converged
    np.testing.assert_array_equal(w != 0, expected != 0)
    assert close(w, expected)


# Penalties.


def test_adaptive_strengths_are_columns_divided_by_them(x64):
    X, y = data("diabetes")
    strengths = 0.05 * np.geomspace(0.1, 10, X.shape[1])
    expected = lasso(X / strengths, y, 1.0).coef_ / strengths
    w = solve(squares, X, y, strengths).params
    np.testing.assert_array_equal(w != 0, expected != 0)
    assert close(w, expected)


def test_strength_zero_is_least_squares(x64):
    X, y = data("diabetes")
    solution = solve(squares, X, y, 0.0)
    assert solution.converged
    assert close(solution.params, np.linalg.lstsq(X, y)[0])


@pytest.mark.parametrize("start", [0.0, 1.0])
def test_above_the_largest_strength_all_is_zero(start, x64):
    X, y = data("diabetes")
    solution = solve(squares, X, y, 1.001 * largest_strength(X, y), start=start)
    assert solution.converged
    assert solution.stationarity < 1e-15
    np.testing.assert_array_equal(solution.params, 0)


@pytest.mark.parametrize("penalty", [L1(0.05), L2(0.05)])
def test_an_unpenalised_intercept_is_that_of_scikit_learn(penalty, x64):
    X, y = data("diabetes")
    X, y = X + 0.5, y + 3.0
    if isinstance(penalty, L1):
        expected = lasso(X, y, penalty.strength, fit_intercept=True)
    else:
        alpha = 2 * len(y) * penalty.strength
        expected = sklearn.linear_model.Ridge(alpha, solver="svd").fit(X, y)
    solution = compiled_once(
        lambda params: 0.5 * jnp.mean((y - X @ params["w"] - params["b"]) ** 2),
        {"w": jnp.zeros(X.shape[1]), "b": jnp.zeros(())},
        masked(penalty, {"w": True, "b": False}),
    )
    assert solution.converged
    assert close(solution.params["w"], expected.coef_)
    assert close(solution.params["b"], expected.intercept_)
    np.testing.assert_array_equal(solution.params["w"] == 0, expected.coef_ == 0)


@pytest.mark.parametrize("grouped", [False, True])
def test_multinomial_regression_is_optimal_by_definition(grouped, x64):
    X, labels = sklearn.datasets.load_wine(return_X_y=True)
    X, targets = standardize(X), np.eye(3)[labels]
    penalty = GroupLasso(0.02, axis=1) if grouped else L1(0.02)
    solution = compiled_once(
        lambda W: jnp.mean(optax.softmax_cross_entropy(X @ W, targets)),
        jnp.zeros((X.shape[1], 3)),
        penalty,
    )
    W = np.asarray(solution.params)
    odds = np.exp(X @ W)
    g = X.T @ (odds / odds.sum(1, keepdims=True) - targets) / len(X)
    if grouped:
        size, force = np.linalg.norm(W, axis=1), 0.02 * np.sqrt(3)
        pull = force * W / np.where(size == 0, 1, size)[:, None]
        at_zero = np.maximum(np.linalg.norm(g, axis=1) - force, 0)
        residual = np.where(size == 0, at_zero, np.linalg.norm(g + pull, axis=1)).max()
        assert 0 < np.sum(size == 0) < len(size)
        np.testing.assert_array_equal(np.any(W != 0, axis=1), np.all(W != 0, axis=1))
    else:
        residual = distance(g, W, 0.02)
        assert 0 < np.sum(W == 0) < W.size
    assert solution.converged
    assert residual < np.finfo(float).eps ** (2 / 3) * np.abs(g).max() * 100
    assert residual < 1e-9


def test_complex_coefficients_are_optimal_by_definition(x64):
    rng = np.random.default_rng(3)
    X = rng.normal(size=(40, 12)) + 1j * rng.normal(size=(40, 12))
    truth = np.where(np.arange(12) < 4, 1 - 2j, 0)
    y = X @ truth + 0.3 * rng.normal(size=40)
    solution = compiled_once(
        lambda w: 0.5 * jnp.mean(jnp.abs(y - X @ w) ** 2),
        jnp.zeros(12, complex),
        L1(0.3),
    )
    w = np.asarray(solution.params)
    assert solution.converged
    assert 0 < np.sum(w == 0) < 12
    assert distance(X.conj().T @ (X @ w - y) / 40, w, 0.3) < 1e-9


def test_parts_of_a_tree_have_penalties_of_their_own(x64):
    X, y = data("diabetes")
    A, B = X[:, :6], X[:, 6:]
    solution = compiled_once(
        lambda w: 0.5 * jnp.mean((y - A @ w["a"] - B @ w["b"]) ** 2),
        {"a": jnp.zeros(6), "b": jnp.zeros(4)},
        partition({"one": L1(0.1), "two": L2(0.1)}, {"a": "one", "b": "two"}),
    )
    a, b = np.asarray(solution.params["a"]), np.asarray(solution.params["b"])
    g = squares_gradient(X, y, np.concatenate([a, b]))
    assert solution.converged
    assert 0 < np.sum(a == 0) < 6
    assert distance(g[:6], a, 0.1) < 1e-10
    assert np.abs(g[6:] + 0.2 * b).max() < 1e-10


# Ways to write and to call it.


def test_a_loss_may_be_written_in_any_way(x64):
    X, y = data("diabetes")
    dense = nn.Dense(1, use_bias=False)
    ways = {
        "left": lambda w: X @ w,
        "right": lambda w: w @ X.T,
        "einsum": lambda w: jnp.einsum("j,ij->i", w, X),
        "sum": lambda w: jnp.sum(X * w, axis=1),
        "jit": jax.jit(lambda w: jnp.dot(X, w)),
        "two": lambda w: X[:, :4] @ w[:4] + X[:, 4:] @ w[4:],
        "flax": lambda w: dense.apply(w, X)[:, 0],
    }
    # A sum of losses, each of parameters of its own, is least where each of them is.
    start = dict.fromkeys(ways, jnp.zeros(X.shape[1]))
    init = dense.init(jax.random.key(0), X)
    start["flax"] = jax.tree.map(lambda w: jnp.zeros(w.shape), init)

    def loss(params):
        outputs = [way(params[name]) for name, way in ways.items()]
        return sum(0.5 * jnp.mean((y - output) ** 2) for output in outputs)

    solution = compiled_once(loss, start, L1(0.1))
    expected = lasso(X, y, 0.1).coef_
    assert solution.converged
    assert jax.tree.structure(solution.params) == jax.tree.structure(start)
    for w in jax.tree.leaves(solution.params):
        assert close(np.ravel(w), expected)
        np.testing.assert_array_equal(np.ravel(w) == 0, expected == 0)


MANY = 4


def batches():
    """Data, strengths and starts: many of each."""
    X, y = data("diabetes")
    rng = np.random.default_rng(4)
    Xs = X + 0.3 * rng.normal(size=(MANY, *X.shape))
    ys = y + 0.3 * rng.normal(size=(MANY, *y.shape))
    strengths = np.geomspace(0.3, 0.01, MANY)[:, None] * np.ones(X.shape[1])
    starts = rng.normal(size=(MANY, X.shape[1]))
    return Xs, ys, strengths, np.zeros_like(strengths), starts, np.full(MANY, 10_000)


@pytest.mark.parametrize(
    "axes",
    [(0, 0) + (None,) * 4, (None, None, 0) + (None,) * 3, (None,) * 4 + (0, None)],
    ids=["data", "strengths", "starts"],
)
def test_vmap_is_a_loop(axes, x64):
    arguments = [
        a if axis == 0 else a[-1] for a, axis in zip(batches(), axes, strict=True)
    ]
    together = jax.jit(jax.vmap(compiled(squares), axes))(*arguments)
    assert together.converged.shape == together.steps.shape == (MANY,)
    for i in range(MANY):
        one = [
            a[i] if axis == 0 else a for a, axis in zip(arguments, axes, strict=True)
        ]
        alone = compiled(squares)(*one)
        assert together.converged[i]
        assert alone.converged
        assert close(together.params[i], alone.params)
        np.testing.assert_array_equal(together.params[i] == 0, alone.params == 0)


def test_a_callback_sees_each_step():
    X, y = data("diabetes")
    X, y = np.float32(X), np.float32(y)
    seen = []
    solution = compiled_once(
        squares(X, y),
        jnp.zeros(X.shape[1]),
        L1(0.1),
        tol=1e-4,
        callback=lambda *args: seen.append([np.asarray(a).item() for a in args]),
    )
    jax.effects_barrier()
    steps, objectives, stationarities = zip(*seen, strict=True)
    assert list(steps) == list(range(1, int(solution.steps) + 1))
    w = np.float64(solution.params)
    objective = 0.5 * np.mean((y - X @ w) ** 2) + 0.1 * np.abs(w).sum()
    assert objectives[-1] == pytest.approx(objective, rel=1e-5)
    assert stationarities[-1] <= 1e-4


@pytest.mark.parametrize("optimizer", [None, optax.sgd(0.1)])
def test_no_callback_costs_nothing(optimizer):
    def solve(w, callback):
        return minimize(
            lambda w: jnp.sum((w - 1) ** 2),
            w,
            L1(0.1),
            optimizer=optimizer,
            callback=callback,
        )

    w = jnp.zeros(2)
    assert "callback" not in str(jax.make_jaxpr(lambda w: solve(w, None))(w))
    assert "callback" in str(jax.make_jaxpr(lambda w: solve(w, print))(w))


# With an optimizer, and where there is nothing to be found.


def test_an_optimizer_reaches_the_same_solution(x64):
    X, y = data("diabetes")
    optimizer = optax.adam(optax.cosine_decay_schedule(0.02, 4000))
    solution = compiled_once(
        squares(X, y), jnp.zeros(10), L1(0.1), optimizer=optimizer, tol=1e-9
    )
    expected = lasso(X, y, 0.1).coef_
    assert solution.converged
    assert solution.stationarity <= 1e-9
    assert 0 < solution.steps <= 4000
    assert close(solution.params, expected, 1e-6)
    np.testing.assert_array_equal(solution.params == 0, expected == 0)


@pytest.mark.parametrize("optimizer", [None, optax.sgd(0.1)])
def test_max_steps_is_the_most_steps_and_is_told(optimizer):
    X, y = data("diabetes")
    X, y = np.float32(X), np.float32(y)
    if optimizer is None:
        solution = solve(squares, X, y, 0.01, max_steps=2)
    else:
        start, options = jnp.zeros(10), {"optimizer": optimizer, "max_steps": 2}
        solution = compiled_once(squares(X, y), start, L1(0.01), **options)
    assert not solution.converged
    assert solution.steps == 2
    w = np.asarray(solution.params)
    assert np.all(np.isfinite(w))
    by_definition = distance(squares_gradient(X, y, w), w, 0.01)
    assert solution.stationarity == pytest.approx(by_definition, rel=1e-4)


def test_a_diverging_optimizer_leaves_finite_parameters():
    X, y = data("diabetes")
    X, y = np.float32(X), np.float32(y)
    solution = compiled_once(
        squares(X, y), jnp.zeros(10), L1(0.1), optimizer=optax.sgd(10.0)
    )
    assert not solution.converged
    assert np.all(np.isfinite(solution.params))
    assert np.isfinite(solution.stationarity)
    assert 0 < solution.steps < 10_000


@pytest.mark.parametrize("optimizer", [None, optax.sgd(1.0)])
def test_a_loss_without_a_minimum_does_not_converge(optimizer):
    solution = compiled_once(
        lambda w: -jnp.sum(w), jnp.ones(3), L1(0.5), optimizer=optimizer
    )
    assert not solution.converged
    assert np.all(np.isfinite(solution.params))
    assert solution.stationarity == 0.5


@pytest.mark.parametrize("where", ["X", "y", "strength"])
def test_with_nan_in_the_data_the_start_is_returned(where):
    X, y = data("diabetes")
    X, y, strength = np.float32(X), np.float32(y), np.full(10, 0.1, np.float32)
    {"X": X, "y": y, "strength": strength}[where][3] = np.nan
    solution = solve(squares, X, y, strength, start=1.0)
    assert not solution.converged
    np.testing.assert_array_equal(solution.params, 1)


def test_an_optimizer_does_nothing_from_nan():
    start = jnp.array([1.0, -1.0])
    solution = compiled_once(
        lambda w: jnp.sum(jnp.sqrt(w)), start, L1(0.5), optimizer=optax.sgd(1.0)
    )
    assert not solution.converged
    assert solution.steps == 0
    np.testing.assert_array_equal(solution.params, start)


def test_a_loss_of_nan_beyond_a_barrier_is_minimised_within(x64):
    centre = np.array([0.05, 0.5, 3.0, 300.0])

    @jax.jit
    def solution_from(start):
        def loss(w):
            return jnp.sum(0.5 * (w - centre) ** 2 - 0.1 * jnp.log(1 - w))

        return minimize(loss, start, L1(0.2))

    # (w − c)(1 − w) + 0.1 + 0.2 (1 − w) = 0 where w > 0.
    b, c = centre + 0.8, 0.3 - centre
    root = (b - np.sqrt(b**2 + 4 * c)) / 2
    for start in (0.0, 0.999, -100.0):
        solution = solution_from(jnp.full(4, start))
        w = np.asarray(solution.params)
        assert solution.converged
        assert np.all(w < 1)
        assert w[0] == 0
        np.testing.assert_allclose(w, np.maximum(root, 0), rtol=1e-8, atol=0)
    beyond = solution_from(jnp.full(4, 2.0))
    assert not beyond.converged
    np.testing.assert_array_equal(beyond.params, 2)


# Derivatives.


@functools.cache
def validation():
    """Loss on held-out rows by strength, its factors, targets and data; their slopes.

    The factors are of strengths of each coefficient; the intercept is not penalised.
    """
    X, y = data("wine")
    X_valid, y_valid = X[1::2], y[1::2]

    def solution(strength, factors, y, X):
        return minimize(
            lambda params: jnp.mean(
                jax.nn.softplus(-y * (X @ params["w"] + params["b"]))
            ),
            {"w": jnp.zeros(X.shape[1]), "b": jnp.zeros(())},
            masked(L1({"w": strength * factors, "b": 0.0}), {"w": True, "b": False}),
            tol=1e-13,
        )

    def loss(strength, factors, y, X):
        params = solution(strength, factors, y, X).params
        value = log_loss(X_valid, y_valid)(params["w"]) + 0.1 * params["b"] ** 3
        return value, params

    return loss, solution


def place():
    X, y = data("wine")
    return np.float64(0.02), np.linspace(0.5, 2, X.shape[1]), y[::2], X[::2]


DIFFERENTIABLE = ["strength", "factors", "targets", "data"]


@functools.cache
def with_slopes():
    loss, _ = validation()
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True))


@functools.cache
def directions(i):
    """Along which to differentiate: each entry of few, at random of many."""
    like = place()[i]
    if like.size < 20:
        return [d.reshape(like.shape) for d in np.eye(like.size)]
    return list(np.random.default_rng(5).normal(size=(5, *like.shape)))


def along(i, direction, h):
    arguments = list(place())
    arguments[i] = arguments[i] + h * direction
    return arguments


@pytest.mark.parametrize("i", range(4), ids=DIFFERENTIABLE)
def test_grad_is_a_central_difference(i, x64):
    _, slopes = with_slopes()(*place())
    got, expected, h = [], [], 1e-5
    for direction in directions(i):
        (above, _), (below, _) = (
            with_slopes()(*along(i, direction, sign * h))[0] for sign in (1, -1)
        )
        expected.append((above - below) / (2 * h))
        got.append(np.vdot(slopes[i], direction))
    got, expected = np.array(got), np.array(expected)
    assert np.abs(expected).max() > 1e-3
    assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()


FROM_NOTHING = {
    "L1": lambda s: L1(s),
    "one of the entries": lambda s: L1(jnp.full(10, 0.01).at[1].set(s)),
    "ElasticNet": lambda s: ElasticNet(s, 0.1),
    "GroupLasso": lambda s: GroupLasso(s, groups=np.arange(10) // 3),
    "the L1 of a sparse group": lambda s: SparseGroupLasso(s, 0.02, axis=0),
    "the group of a sparse one": lambda s: SparseGroupLasso(0.02, s, axis=0),
    "positive": lambda s: L1(s, positive=True),
}


@pytest.mark.parametrize("name", FROM_NOTHING)
def test_the_derivative_at_strength_zero_is_that_of_strengths_above(name, x64):
    X, y = data("diabetes")
    bend = np.linspace(1, 2, 10)

    @jax.jit
    @jax.vmap
    def slope(strength):
        def of(strength):
            penalty = FROM_NOTHING[name](strength)
            w = minimize(squares(X, y), jnp.zeros(10), penalty).params
            return jnp.sum(bend * w**2)

        return jax.grad(of)(strength)

    at_zero, near, further = slope(jnp.array([0.0, 1e-7, 2e-7]))
    assert abs(at_zero) > 0.1
    np.testing.assert_allclose(at_zero, 2 * near - further, rtol=1e-5)


def test_the_derivative_at_strength_zero_of_a_weight_at_zero_is_none(x64):
    center = jnp.array([0.0, 1.0, -2.0])

    @jax.jit
    @jax.jacobian
    def slope(strength):
        loss = lambda w: 0.5 * jnp.sum((w - center) ** 2)  # noqa: E731
        return minimize(loss, jnp.zeros(3), L1(strength)).params

    np.testing.assert_array_equal(slope(0.0), [0, -1, 1])


def test_jvp_is_a_central_difference_of_the_solution(x64):
    _, solve = validation()
    rng = np.random.default_rng(6)
    scales = 0.01, 1.0, 1.0, 1.0
    tangents = [
        c * rng.normal(size=a.shape) for c, a in zip(scales, place(), strict=True)
    ]
    primal, tangent = jax.jit(lambda p, t: jax.jvp(lambda *a: solve(*a).params, p, t))(
        place(), tuple(tangents)
    )

    def params(h):
        there = (a + h * t for a, t in zip(place(), tangents, strict=True))
        return with_slopes()(*there)[0][1]

    h = 1e-5
    for name, above in params(h).items():
        expected = (above - params(-h)[name]) / (2 * h)
        assert close(tangent[name], expected, 1e-5)
        np.testing.assert_array_equal(primal[name] == 0, tangent[name] == 0)


def test_grad_under_vmap_is_a_central_difference(x64):
    X, y = data("diabetes")
    strengths, h = np.array([0.2, 0.05, 0.01]), 1e-5
    tilt = np.linspace(-1, 1, 10)

    @jax.jit
    @jax.vmap
    def values_and_slopes(strength, y):
        def value(strength, y):
            w = minimize(squares(X, y), jnp.zeros(10), L1(strength), tol=1e-13).params
            return jnp.sum(jnp.sin(3 * w + tilt))

        return jax.value_and_grad(value, argnums=(0, 1))(strength, y)

    v = np.random.default_rng(7).normal(size=y.shape)
    # All in one batch: each strength as it is, moved, and with targets moved.
    moves = np.repeat([(0, 0), (h, 0), (-h, 0), (0, h), (0, -h)], 3, axis=0)
    values, slopes = values_and_slopes(
        np.tile(strengths, 5) + moves[:, 0], y + moves[:, 1:] * v
    )
    _, *moved = values.reshape(5, 3)
    by_strength, by_targets = slopes[0][:3], slopes[1][:3] @ v
    assert close(by_strength, (moved[0] - moved[1]) / (2 * h), 1e-5)
    assert close(by_targets, (moved[2] - moved[3]) / (2 * h), 1e-5)


# Bad input.


def test_bad_arguments_are_told_by_name():
    w = jnp.zeros(3)

    def good(w):
        return jnp.sum(w**2)

    cases = {
        "loss": [
            (TypeError, lambda: minimize(w, good, L1(0.1))),
            (TypeError, lambda: minimize(lambda w: w, w, L1(0.1))),
            (TypeError, lambda: minimize(lambda w: (good(w), 1.0), w, L1(0.1))),
            (TypeError, lambda: minimize(lambda w: 1, w, L1(0.1))),
            (TypeError, lambda: minimize(lambda w: jnp.sum(w) + 1j, w, L1(0.1))),
        ],
        "optimizer": [
            (TypeError, lambda: minimize(good, w, L1(0.1), optimizer=optax.lbfgs())),
            (TypeError, lambda: minimize(good, w, L1(0.1), optimizer=optax.adam)),
            (TypeError, lambda: minimize(good, w, L1(0.1), optimizer=0.1)),
        ],
        "tol": [
            (ValueError, lambda: minimize(good, w, L1(0.1), tol=-1.0)),
            (ValueError, lambda: minimize(good, w, L1(0.1), tol=np.nan)),
            (ValueError, lambda: minimize(good, w, L1(0.1), tol=np.ones(3))),
            (TypeError, lambda: minimize(good, w, L1(0.1), tol="1e-6")),
        ],
        "max_steps": [
            (ValueError, lambda: minimize(good, w, L1(0.1), max_steps=0)),
            (ValueError, lambda: minimize(good, w, L1(0.1), max_steps=10**10)),
            (TypeError, lambda: minimize(good, w, L1(0.1), max_steps=None)),
            (TypeError, lambda: minimize(good, w, L1(0.1), max_steps=50.5)),
            (TypeError, lambda: minimize(good, w, L1(0.1), max_steps=np.float32(50.5))),
            (TypeError, lambda: minimize(good, w, L1(0.1), max_steps=jnp.ones(()))),
            (TypeError, lambda: minimize(good, w, L1(0.1), max_steps=True)),
        ],
        "callback": [(TypeError, lambda: minimize(good, w, L1(0.1), callback=3))],
        "penalty": [(TypeError, lambda: minimize(good, w, 0.1))],
    }
    for name, calls in cases.items():
        for error, call in calls:
            with pytest.raises(error, match=name):
                call()


@pytest.mark.parametrize(
    ("dtype", "error"),
    [("int32", TypeError), ("bool", TypeError), ("bfloat16", ValueError)],
)
def test_leaves_of_other_dtypes_are_named(dtype, error):
    params = {"layer": {"kernel": jnp.zeros(3, dtype)}, "bias": jnp.zeros(3)}
    with pytest.raises(error, match=rf"layer.*kernel.*{dtype}"):
        minimize(lambda p: jnp.sum(p["bias"] ** 2), params, L1(0.1))


def test_an_optimizer_takes_half_precision():
    solution = compiled_once(
        lambda w: 0.5 * jnp.sum((w.astype(jnp.float32) - 1) ** 2),
        jnp.zeros(2, jnp.bfloat16),
        L1(jnp.array([0.25, 2.0])),
        optimizer=optax.sgd(optax.cosine_decay_schedule(0.5, 100)),
        tol=1e-2,
    )
    assert solution.params.dtype == jnp.bfloat16
    assert solution.converged
    np.testing.assert_allclose(np.float32(solution.params), [0.75, 0.0], atol=1e-2)


@pytest.mark.parametrize("dtypes", [("float32", "float64"), ("float32", "float32")])
def test_leaves_may_be_less_precise_than_the_loss(dtypes, x64):
    centre = np.array([0.5, 2.0])
    solution = minimize(
        lambda w: 0.5 * jnp.sum((w["a"] - centre) ** 2 + (w["b"] - centre) ** 2),
        {name: jnp.zeros(2, dtype) for name, dtype in zip("ab", dtypes, strict=True)},
        L1(1.0),
    )
    assert solution.converged
    assert tuple(w.dtype for w in solution.params.values()) == dtypes
    for w in solution.params.values():
        np.testing.assert_allclose(w, [0, 1], atol=1e-6)


def test_strengths_must_fit_the_parameters():
    with pytest.raises(ValueError, match="strength"):
        minimize(lambda w: jnp.sum(w**2), jnp.zeros(3), L1(jnp.ones(4)))


@pytest.mark.parametrize("start", [1e-30, -1e-100])
@pytest.mark.parametrize(
    "penalty",
    [L1, lambda l1: GroupLasso(l1[0], groups=np.arange(3), size_scaled=False)],
    ids=["lasso", "groups"],
)
@pytest.mark.parametrize("kind", ["squares", "huber"])
def test_a_start_all_but_at_zero_is_as_good_as_zero(kind, penalty, start, x64):
    """Its way to zero is too short to tell a flat loss from another."""
    rng = np.random.default_rng(0)
    scales = np.array([1.0, 1e10, 1.0])
    X = scales * rng.normal(size=(50, 3))
    y = X @ np.array([1.0, 1e-10, 0.0]) + 0.1 * rng.normal(size=50)

    def loss(w):
        r = y - X @ w
        return (
            0.5 * jnp.mean(r**2) if kind == "squares" else jnp.mean(optax.huber_loss(r))
        )

    near, zero = (
        minimize(loss, jnp.array([x, 0.0, 0.0]), penalty(0.05 * scales))
        for x in (start, 0.0)
    )
    assert near.converged and zero.converged
    assert near.steps <= 2 * zero.steps
    np.testing.assert_allclose(near.params * scales, zero.params * scales, atol=1e-9)
