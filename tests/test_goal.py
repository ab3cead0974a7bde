"""The default tolerance: near enough whatever the scales, with parameters left free."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sklearn.linear_model

from optareg import L1, L2, by_path, masked, max_strength, minimize, path, strength_grid

EXACT = {"fit_intercept": False, "tol": 1e-14, "max_iter": 1_000_000}


def data(scale, mean, dtype):
    """Targets around 300, and columns as small as `scale`; the noise is about 1."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 20)) + mean
    y = X[:, :5] @ np.array([3.0, -2, 2, 1, 1]) + 300 + rng.normal(size=200)
    return (scale * X).astype(dtype), y.astype(dtype)


def centred(X, y):
    X, y = X.astype(np.float64), y.astype(np.float64)
    return X - X.mean(axis=0), y - y.mean()


def with_intercept(X, y):
    def loss(params):
        return 0.5 * jnp.mean((y - X @ params["w"] - params["b"]) ** 2)

    return loss, {"w": jnp.zeros(X.shape[1]), "b": jnp.zeros(())}


@jax.jit
def solve_all(X, y):
    """A path to λmax/100, its strengths, and the solution at .03 λmax."""
    loss, start = with_intercept(X, y)
    on_w = by_path("w")
    most = max_strength(loss, start, masked(L1(1.0), on_w))
    grid = strength_grid(most, n=20)
    solutions = path(loss, start, masked(L1(grid), on_w))
    return grid, solutions, minimize(loss, start, masked(L1(0.03 * most), on_w))


@pytest.mark.parametrize("mean", [0.0, 5.0])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize("bits", [32, 64])
def test_a_large_intercept_does_not_hide_the_rest(bits, scale, mean, request):
    if bits == 64:
        request.getfixturevalue("x64")
    X, y = data(scale, mean, f"float{bits}")
    grid, solutions, one = jax.tree.map(np.asarray, solve_all(X, y))
    assert solutions.converged.all() and one.converged
    X, y = centred(X, y)
    expected = sklearn.linear_model.lasso_path(
        X, y, alphas=grid.astype(np.float64), tol=1e-14
    )[1].T
    error = np.abs(solutions.params["w"] - expected).max() / np.abs(expected).max()
    # Targets of 300 and columns with a mean of 5 take digits of both precisions.
    assert error < (1e-10 if bits == 64 else 1e-4 if mean == 0 else 1e-3)
    most = np.abs(X.T @ y).max() / len(y)
    assert abs(grid[0] / most - 1) < (1e-10 if bits == 64 else 1e-4)
    exact = sklearn.linear_model.Lasso(0.03 * most, **EXACT).fit(X, y).coef_
    np.testing.assert_array_equal(one.params["w"] == 0, exact == 0)


@pytest.mark.usefixtures("x64")
def test_free_parameters_of_all_scales_are_as_good_as_projected_out():
    """Year, income and something small are not penalised, nor is the intercept."""
    rng = np.random.default_rng(0)
    n = 500
    year, income = 1950 + 70 * rng.random(n), 100 + 10 * rng.normal(size=n)
    U = np.column_stack([year, income, 0.01 * rng.normal(size=n)])
    X = rng.normal(size=(n, 8)) + 0.05 * year[:, None]
    y = 0.1 * year + 0.1 * income + 0.5 * X[:, 0] + rng.normal(size=n)

    def loss(params):
        fitted = X @ params["w"] + U @ params["u"] + params["b"]
        return 0.5 * jnp.mean((y - fitted) ** 2)

    start = {"w": jnp.zeros(8), "u": jnp.zeros(3), "b": jnp.zeros(())}
    on_w = by_path("w")
    most = jax.jit(lambda: max_strength(loss, start, masked(L1(1.0), on_w)))()
    Q, _ = np.linalg.qr(np.column_stack([np.ones(n), (U - U.mean(0)) / U.std(0)]))
    X_rest, y_rest = (a - Q @ (Q.T @ a) for a in (X, y))
    np.testing.assert_allclose(most, np.abs(X_rest.T @ y_rest).max() / n, rtol=1e-8)

    strength = 0.03 * float(most)
    found = jax.jit(lambda: minimize(loss, start, masked(L1(strength), on_w)))()
    assert found.converged
    exact = sklearn.linear_model.Lasso(strength, **EXACT).fit(X_rest, y_rest).coef_
    np.testing.assert_array_equal(found.params["w"] == 0, exact == 0)
    np.testing.assert_allclose(found.params["w"], exact, rtol=0, atol=1e-7)


@pytest.mark.parametrize("strength", [0.5, [0.0, *[0.5] * 20]], ids=["leaf", "column"])
def test_a_column_of_ones_without_strength_is_an_intercept(strength):
    X, y = data(1.0, 0.0, "float32")
    if np.ndim(strength):
        ones = np.column_stack([np.ones(len(y), "float32"), X])
        found = minimize(
            lambda w: 0.5 * jnp.mean((y - ones @ w) ** 2),
            jnp.zeros(21),
            L1(np.array(strength)),
        )
        w, b = found.params[1:], found.params[0]
    else:
        loss, start = with_intercept(X, y)
        found = minimize(loss, start, masked(L1(strength), by_path("w")))
        w, b = found.params["w"], found.params["b"]
    assert found.converged
    expected = sklearn.linear_model.Lasso(0.5, tol=1e-14).fit(*map(np.float64, (X, y)))
    np.testing.assert_array_equal(w == 0, expected.coef_ == 0)
    np.testing.assert_allclose(w, expected.coef_, rtol=0, atol=1e-4)
    np.testing.assert_allclose(b, expected.intercept_, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_an_optimizer_stops_at_the_same_goal():
    X, y = data(0.1, 0.0, "float64")
    loss, start = with_intercept(X, y)
    penalty = masked(L1(0.05), by_path("w"))
    schedule = optax.exponential_decay(1.0, 1000, 0.5)

    @jax.jit
    def solve():
        by_adam = minimize(
            loss, start, penalty, optimizer=optax.adam(schedule), max_steps=30_000
        )
        return by_adam, minimize(loss, start, penalty)

    by_adam, exact = solve()
    assert by_adam.converged and 1000 < by_adam.steps < 30_000
    for a, b in zip(
        *(jax.tree.leaves(x.params) for x in (by_adam, exact)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_ridge_alone_is_solved_in_columns_of_all_scales():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 6)) * np.logspace(-3, 3, 6)
    y = X @ (1 / np.logspace(-3, 3, 6)) + rng.normal(size=100)
    found = minimize(lambda w: 0.5 * jnp.mean((y - X @ w) ** 2), jnp.zeros(6), L2(1e-9))
    expected = np.linalg.solve(X.T @ X / 100 + 2e-9 * np.eye(6), X.T @ y / 100)
    assert found.converged
    np.testing.assert_allclose(found.params, expected, rtol=1e-7)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("start", [25.0, 40.0, 300.0])
def test_curvature_at_a_far_start_is_forgotten(start):
    found = minimize(
        lambda w: jnp.sum(jnp.exp(w)) - 3 * jnp.sum(w), jnp.full(3, start), L1(0.1)
    )
    assert found.converged
    np.testing.assert_allclose(found.params, np.log(2.9), rtol=1e-9)


def flat_far_out():
    """A multinomial loss, and ten starts from which searches get stuck."""
    rng = np.random.default_rng(0)
    X, classes = rng.normal(size=(40, 30)), np.eye(3)[rng.integers(0, 3, 40)]

    def loss(w):
        z = X @ w
        return jnp.mean(jax.nn.logsumexp(z, axis=1) - jnp.sum(classes * z, axis=1))

    return loss, 1e6 * rng.normal(size=(10, 30, 3))


@pytest.mark.usefixtures("x64")
def test_where_nothing_leads_on_it_starts_at_the_null_model():
    """From starts where the loss is so flat that a search ends above the null model."""
    loss, starts = flat_far_out()
    solve = jax.jit(jax.vmap(lambda w: minimize(loss, w, L1(0.02))))
    expected = minimize(loss, jnp.zeros((30, 3)), L1(0.02))
    found = solve(starts)
    assert expected.converged and found.converged.all()
    values = jax.vmap(lambda w: loss(w) + L1(0.02).value(w))
    np.testing.assert_allclose(
        values(found.params), values(expected.params[None])[0], rtol=1e-12
    )
    many = jax.jit(jax.vmap(lambda w: path(loss, w, L1(jnp.array([0.1, 0.02])))))
    found = many(starts)
    assert found.converged.all()
    np.testing.assert_allclose(
        values(found.params[:, 1]), values(expected.params[None])[0], rtol=1e-12
    )


@pytest.mark.usefixtures("x64")
def test_where_the_steps_run_out_it_ends_where_it_is():
    """Not at the null model, which is a saddle of this network."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(50, 4)), rng.normal(size=50)
    start = {"a": jnp.asarray(3 * rng.normal(size=(4, 5))), "b": jnp.full(5, 3.0)}

    def loss(params):
        return 0.5 * jnp.mean((y - jnp.tanh(X @ params["a"]) @ params["b"]) ** 2)

    def objective(params):
        return loss(params) + L1(1e-3).value(params)

    few = minimize(loss, start, L1(1e-3), max_steps=2)
    more = minimize(loss, few.params, L1(1e-3))
    assert objective(few.params) > objective(jax.tree.map(jnp.zeros_like, start))
    assert few.steps == 2 and not few.converged
    assert jax.tree.all(jax.tree.map(lambda x: bool(jnp.all(x != 0)), few.params))
    assert objective(more.params) < objective(few.params)


@pytest.mark.usefixtures("x64")
def test_a_callback_counts_on_where_a_search_begins_once_more():
    loss, starts = flat_far_out()
    steps = []
    found = minimize(
        loss,
        jnp.asarray(starts[0]),
        L1(0.02),
        callback=lambda step, *_: steps.append(int(step)),
    )
    jax.effects_barrier()
    assert found.converged
    assert steps == list(range(1, int(found.steps) + 1))


@pytest.mark.usefixtures("x64")
def test_a_path_may_begin_without_a_strength():
    X, y = data(1e-3, 0.0, "float64")
    loss, start = with_intercept(X, y)
    strengths = np.array([0.0, 2e-3, 1e-4])
    found = path(loss, start, masked(L1(strengths), by_path("w")))
    assert found.converged.all()
    X, y = centred(X, y)
    expected = [np.linalg.lstsq(X, y)[0]]
    for strength in strengths[1:]:
        expected.append(sklearn.linear_model.Lasso(strength, **EXACT).fit(X, y).coef_)
    size = np.abs(expected).max()
    np.testing.assert_allclose(found.params["w"], expected, rtol=0, atol=1e-9 * size)


@jax.jit
def solve_counts(X, y, start):
    """Strengths down from the largest, a path over them, and one solution."""

    def loss(params):
        z = X @ params["w"] + params["b"]
        return jnp.mean(jnp.exp(z) - y * z)

    on_w = by_path("w")
    most = max_strength(loss, start, masked(L1(1.0), on_w))
    grid = strength_grid(most, n=6)
    solutions = path(loss, start, masked(L1(grid), on_w))
    return grid, solutions, minimize(loss, start, masked(L1(0.1 * most), on_w))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("mean", [2.0, 30.0, 80.0])
@pytest.mark.parametrize("at_null", [False, True])
def test_a_null_model_that_newton_overshoots_is_not_the_unit(mean, at_null):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 10))
    y = rng.poisson(mean * np.exp(X[:, :3] @ [0.3, -0.3, 0.2])).astype(float)
    start = {"w": jnp.zeros(10), "b": jnp.asarray(np.log(y.mean()) * at_null)}
    grid, solutions, one = solve_counts(X, y, start)
    assert solutions.converged.all() and one.converged
    assert (solutions.stationarity <= 1e-7 * grid).all()
    assert one.stationarity <= 1e-7 * grid[0]
    assert np.count_nonzero(one.params["w"]) >= 3


def centre(params):
    return 0.5 * jnp.sum(params["w"] ** 2) + 0.5 * params["b"] ** 2


@pytest.mark.parametrize("optimizer", [None, optax.adam(0.1)])
@pytest.mark.parametrize("loss", [centre, lambda params: 0.0 * centre(params)])
def test_where_nothing_pulls_the_start_is_the_solution(loss, optimizer):
    start = {"w": jnp.zeros(3), "b": jnp.zeros(())}
    found = minimize(loss, start, masked(L1(0.1), by_path("w")), optimizer=optimizer)
    assert found.converged and found.steps == 0


def test_a_constant_loss_leaves_what_has_no_strength():
    loss = lambda w: 0.0 * jnp.sum(w)  # noqa: E731
    found = minimize(loss, jnp.ones(3), L1(np.array([0.0, 1.0, 1.0])))
    assert found.converged
    np.testing.assert_array_equal(found.params, [1, 0, 0])
