"""`converged=True` is a promise: at all scales, from far starts, for odd losses.

`python benchmarks/converged.py` tries thousands of random problems; these are few.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
import sklearn.linear_model
from jax.tree_util import Partial

from optareg import (
    L1,
    L2,
    ElasticNet,
    GroupLasso,
    NuclearNorm,
    SparseGroupLasso,
    by_path,
    centered,
    constraint,
    masked,
    max_strength,
    minimize,
    path,
)
from problems import regression_data

RNG = np.random.default_rng(0)


def squares(X, y):
    return lambda w: 0.5 * jnp.mean((y - X @ w) ** 2)


def with_other_units(scale, dtype=float):
    """A regression with one column in other units; its solution in units of one."""
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.uniform(-1, 1, 300), rng.normal(size=(300, 4))])
    X -= X.mean(axis=0)
    y = X @ np.array([2, 1, -0.5, 0, 0]) + 0.1 * rng.normal(size=300)
    y -= y.mean()
    units = np.array([scale, 1, 1, 1, 1])
    scaled = (X * units).astype(dtype)
    return scaled, y.astype(dtype), scaled.astype(float) / units, units


@jax.jit
def lasso(X, y, strengths):
    return minimize(squares(X, y), jnp.zeros(5, X.dtype), L1(strengths))


def weighted_lasso(X, y, strengths):
    """By scikit-learn, whose strength is one number: columns over their strengths."""
    model = sklearn.linear_model.Lasso(
        alpha=1.0, fit_intercept=False, tol=1e-14, max_iter=100_000
    )
    return model.fit(X / strengths, y).coef_ / strengths


@pytest.mark.parametrize("all_alike", [True, False], ids=["one number", "in units"])
@pytest.mark.parametrize("scale", [1e-16, 1e-6, 1e-3, 1.0, 1e4, 1e9, 1e16])
def test_a_column_in_any_units(scale, all_alike, x64):
    X, y, plain, units = with_other_units(scale)
    strengths = np.full(5, 0.05) if all_alike else 0.05 * units
    found = lasso(X, y, jnp.asarray(strengths))
    assert found.converged
    of_plain = strengths / units  # Of columns in units of one.
    w = np.asarray(found.params) * units

    def objective(w):
        return 0.5 * np.mean((y - plain @ w) ** 2) + np.sum(of_plain * np.abs(w))

    expected = weighted_lasso(plain, y, np.maximum(of_plain, 1e-9))
    assert objective(w) <= objective(expected) * (1 + 1e-7)
    np.testing.assert_allclose(w, expected, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e4, 3e7, 1e8])
def test_a_column_in_any_units_in_single_precision(scale):
    X, y, plain, units = with_other_units(scale, np.float32)
    found = lasso(X, y, jnp.full(5, 0.05))
    assert found.converged
    w = np.asarray(found.params, float) * units
    of_plain = 0.05 / units

    def objective(w):
        r = y.astype(float) - plain @ w
        return 0.5 * np.mean(r**2) + np.sum(of_plain * np.abs(w))

    expected = weighted_lasso(plain, y.astype(float), np.maximum(of_plain, 1e-9))
    assert objective(w) <= objective(expected) * (1 + 1e-4)
    assert set(np.flatnonzero(w)) <= set(np.flatnonzero(np.abs(expected) > 1e-9))


@pytest.mark.parametrize(
    ("penalty", "center"),
    [
        (lambda s: L1(s), 0),
        (lambda s: L1(s), 7),
        (lambda s: L1(s * jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])), 0),
        (lambda s: L1(s, positive=True), 0),
        (lambda s: GroupLasso(s, axis=0), 0),
        (lambda s: SparseGroupLasso(s, s, axis=0), 0),
        (lambda s: NuclearNorm(s), 0),
    ],
    ids=["L1", "centered", "many", "positive", "groups", "sparse", "nuclear"],
)
@pytest.mark.parametrize("strength", [1e-5, 1e-3])
def test_what_the_loss_does_not_read_ends_at_the_center(penalty, center, strength):
    """There is no curvature, and the strength is far below that of the largest."""
    X = 100 * RNG.normal(size=(60, 5)).astype(np.float32)
    loss = squares(X, X[:, 0] / 100)
    start = {"used": jnp.zeros(5), "not": jnp.full((2, 3), 20.0)}
    at = {"used": jnp.zeros(5), "not": jnp.full((2, 3), center)}
    on = centered(masked(penalty(strength), by_path("not")), at)
    found = minimize(lambda params: loss(params["used"]), start, on)
    assert found.converged
    np.testing.assert_array_equal(found.params["not"], center)


@pytest.mark.parametrize(
    ("dtype", "scale", "strength", "start"),
    [
        (np.float32, 1e2, 1e-4, 100.0),
        (np.float32, 1e5, 0.05, 10.0),
        (np.float64, 1e12, 0.005, 10.0),
        (np.float64, 1e13, 0.05, -1e3),
    ],
)
def test_a_column_of_zeros_has_no_weight(dtype, scale, strength, start, x64):
    """In strengths per column, as the adaptive lasso has; a warm start is not zero."""
    X = (RNG.normal(size=(50, 4)) * [scale, 1, 1, 0]).astype(dtype)
    y = (X @ np.array([1 / scale, 1, 0, 0]) + 0.1 * RNG.normal(size=50)).astype(dtype)
    strengths = jnp.asarray([0.1 * scale, 0.1, 0.1, strength], dtype)
    first = jnp.asarray([0, 0, 0, start], dtype)
    found = minimize(squares(X, y), first, L1(strengths))
    assert found.converged and found.params[3] == 0
    along = path(squares(X, y), first, L1(jnp.array([[1.0], [0.5]], dtype) * strengths))
    assert along.converged.all() and not along.params[:, 3].any()


FLAT_OR_STEEP = {
    "logistic": lambda z, y: jnp.mean(jnp.logaddexp(0, -jnp.sign(y) * z)),
    "Huber": lambda z, y: jnp.mean(optax.losses.huber_loss(z, y)),
    "counts": lambda z, y: jnp.mean(jnp.exp(z) - jnp.floor(jnp.exp(y)) * z),
}


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("name", FLAT_OR_STEEP)
def test_a_far_start_ends_where_a_near_one_does(name, precision, x64):
    """Far out losses have no curvature, or overflow."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 60)).astype(precision)
    y = X[:, 0] - 0.5 * X[:, 1] + rng.normal(size=40).astype(precision)

    @jax.jit
    @jax.vmap
    def solutions(start):
        def loss(w):
            return FLAT_OR_STEEP[name](X @ w, y)

        found = minimize(loss, start, L1(0.05))
        return found, loss(found.params) + 0.05 * jnp.sum(jnp.abs(found.params))

    sizes = np.array([0, 1, 100, 100, 100, 1e3, 1e3])[:, None]
    found, objective = solutions((sizes * rng.normal(size=(7, 60))).astype(precision))
    assert found.converged.all()
    limit = 1e-6 if precision == "float32" else 1e-12
    np.testing.assert_allclose(objective, objective[0], rtol=limit)


def test_a_start_without_a_gradient_is_not_converged(x64):
    A, c = jnp.array([[1.0, 2.0], [3.0, 1.0], [2.0, 2.0]]), jnp.array([3.0, 1.0, 2.0])

    def loss(w):
        return jnp.mean(A @ w - c * jnp.log(A @ w))

    at_zero = minimize(loss, jnp.zeros(2), L1(0.01, positive=True))
    assert not at_zero.converged
    np.testing.assert_array_equal(at_zero.params, 0)
    found = minimize(loss, jnp.ones(2), L1(0.01, positive=True))
    best = scipy.optimize.minimize(
        lambda w: float(loss(w)) + 0.01 * w.sum(), np.ones(2), bounds=[(0, None)] * 2
    )
    assert found.converged
    np.testing.assert_allclose(found.params, best.x, atol=1e-4)


def poisson(mean):
    rng = np.random.default_rng(1)
    Z = rng.normal(size=(400, 6))
    y = rng.poisson(mean * np.exp(0.3 * Z[:, 0] - 0.2 * Z[:, 1])).astype(float)

    def loss(params):
        z = params["b"] + Z @ params["w"]
        return jnp.mean(jnp.exp(z) - y * z)

    return Z, y, loss, {"b": jnp.array(0.0), "w": jnp.zeros(6)}


@pytest.mark.parametrize("mean", [1e-2, 1e3, 1e9, 1e12])
def test_counts_of_any_size_are_fitted_from_zero(mean, x64):
    Z, y, loss, start = poisson(mean)
    on_w = by_path("w")
    most = max_strength(loss, start, masked(L1(1.0), on_w))
    expected = np.abs(Z.T @ (y - y.mean())).max() / len(y)
    np.testing.assert_allclose(most, expected, rtol=1e-8)
    found = minimize(loss, start, masked(L1(0.1 * expected), on_w))
    assert found.converged
    # The conditions, in NumPy.
    mu = np.exp(found.params["b"] + Z @ found.params["w"])
    w, g = np.asarray(found.params["w"]), Z.T @ (mu - y) / len(y)
    lack = np.where(
        w == 0,
        np.maximum(np.abs(g) - 0.1 * expected, 0),
        g + 0.1 * expected * np.sign(w),
    )
    assert np.abs(lack).max() < 1e-7 * expected
    assert abs(np.mean(mu - y)) < 1e-7 * expected
    assert 0 < np.count_nonzero(w) < 6


def test_the_null_model_is_a_start_only_where_the_start_is_zero(x64):
    *_, loss, start = poisson(5.0)
    penalty = masked(L1(1e-3), by_path("w"))
    found = minimize(loss, start, penalty)
    again = minimize(loss, found.params, penalty)
    assert found.converged and again.converged
    assert again.steps <= 1


@pytest.mark.parametrize(
    "penalty", [ElasticNet.from_sklearn(1.0, 0.0), L1(0.0), L2(1.0)], ids=repr
)
def test_what_is_never_zero_has_no_max_strength(penalty):
    X, y = regression_data("diabetes")
    with pytest.raises(ValueError, match=r"gives no zeros|strength above 0"):
        max_strength(squares(X, y), jnp.zeros(10), penalty)


def test_max_strength_needs_a_gradient():
    def loss(w):
        return jnp.sum(jnp.log(w) * w)

    with pytest.raises(ValueError, match="NaN or ∞ there"):
        max_strength(loss, jnp.ones(2), L1(1.0))
    assert np.isnan(jax.jit(lambda: max_strength(loss, jnp.ones(2), L1(1.0)))())
    X, y = regression_data("diabetes")
    y[3] = np.inf
    with pytest.raises(ValueError, match="Are the data finite"):
        max_strength(squares(X, y), jnp.zeros(10), L1(1.0))


def test_max_strength_needs_a_null_model(x64):
    def falling(params):  # Without a minimum over b.
        return params["b"] + jnp.sum((params["w"] - 1) ** 2)

    start = {"b": jnp.array(0.0), "w": jnp.zeros(3)}
    penalty = masked(L1(1.0), by_path("w"))
    with pytest.raises(ValueError, match="could not solve"):
        max_strength(falling, start, penalty)
    assert np.isnan(jax.jit(lambda: max_strength(falling, start, penalty))())


@pytest.mark.parametrize("quantile", [0.5, 0.9], ids=["absolute", "pinball"])
def test_a_loss_with_kinks_is_not_taken_for_quadratic(quantile, x64):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(60, 5))
    y = X @ np.array([1.0, 2, 0, 0, -1]) + rng.normal(size=60)

    def loss(w):
        r = y - X @ w
        return jnp.mean(jnp.maximum(quantile * r, (quantile - 1) * r))

    found = path(loss, jnp.zeros(5), L1(jnp.array([0.1, 0.01])))
    assert not found.converged.any()
    # Not far from the linear program's optimum, by scikit-learn.
    for strength, w in zip((0.1, 0.01), found.params, strict=True):
        model = sklearn.linear_model.QuantileRegressor(
            quantile=quantile, alpha=strength, fit_intercept=False
        )
        best = model.fit(X, y).coef_

        def whole(w, strength=strength):
            return float(loss(w)) + strength * np.abs(w).sum()

        assert whole(w) < 1.05 * whole(best)


def test_the_pinball_loss_made_smooth(x64):
    """As the README has it."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(60, 5))
    y = X @ np.array([1.0, 2, 0, 0, -1]) + rng.normal(size=60)
    q, h = 0.9, 1e-3

    def loss(w):
        r = y - X @ w
        return jnp.mean(q * r + h * jnp.logaddexp(0, -r / h))

    found = minimize(loss, jnp.zeros(5), L1(0.05))
    model = sklearn.linear_model.QuantileRegressor(
        quantile=q, alpha=0.05, fit_intercept=False
    )
    expected = model.fit(X, y).coef_
    assert found.converged
    np.testing.assert_allclose(found.params, expected, atol=0.02)
    np.testing.assert_array_equal(found.params == 0, expected == 0)


def test_no_tracer_leaks():
    X, y = regression_data("diabetes")
    with jax.checking_leaks():
        minimize(squares(X, y), jnp.zeros(10), L1(0.1))
        path(squares(X, y), jnp.zeros(10), L1(jnp.array([0.1, 0.2])))


def test_memory_beside_the_data_is_less_than_half_of_it():
    """Of many columns: no copy of all, none of all squares, and few of the largest."""
    X = jax.ShapeDtypeStruct((128, 100_000), jnp.float32)
    y = jax.ShapeDtypeStruct((128,), jnp.float32)

    def solve(X, y):
        return minimize(squares(X, y), jnp.zeros(100_000), L1(0.1))

    compiled = jax.jit(solve).lower(X, y).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 0.5 * 4 * 128 * 100_000


class TestDerivative:
    """Of the solution, against central differences."""

    data = regression_data("diabetes")

    def loss(self, w):
        X, y = self.data
        return 0.5 * jnp.mean((y - X @ w) ** 2)

    @pytest.mark.parametrize(
        "penalty",
        [
            lambda a: centered(L1(0.05), at=jnp.full(10, 0.05) * a),
            lambda a: centered(GroupLasso(0.05, axis=0), at=jnp.full(10, 0.05) * a),
            lambda a: constraint(
                Partial(optax.projections.projection_l1_ball, scale=0.5 * a)
            ),
            lambda a: constraint(
                Partial(optax.projections.projection_l2_ball, scale=0.2 * a)
            ),
            lambda a: constraint(
                Partial(lambda w, most: w.clip(-most, most), most=0.1 * a)
            ),
        ],
        ids=["center", "center of groups", "L1 ball", "L2 ball", "box"],
    )
    def test_by_what_else_a_penalty_depends_on(self, penalty, x64):
        @jax.jit
        def fit(a):
            return self.loss(minimize(self.loss, jnp.zeros(10), penalty(a)).params)

        slope = jax.jit(jax.grad(fit))(1.0)
        expected = (fit(1 + 1e-5) - fit(1 - 1e-5)) / 2e-5
        np.testing.assert_allclose(slope, expected, rtol=1e-6)

    def test_it_is_nan_where_the_solution_is_not_reached(self, x64):
        def first(strength, max_steps):
            found = minimize(
                self.loss, jnp.zeros(10), L1(strength), max_steps=max_steps
            )
            return found.params[2]

        assert np.isnan(jax.grad(lambda s: first(s, 1))(0.01))
        assert np.isfinite(jax.grad(lambda s: first(s, 1000))(0.01))

    @pytest.mark.parametrize("penalty", [L2, L1, lambda s: GroupLasso(s, axis=0)])
    def test_by_complex_parameters_in_reverse_and_forward_mode(self, penalty, x64):
        rng = np.random.default_rng(0)
        shapes = (40, 4), 40, 40
        X, y, more = (rng.normal(size=(2, *np.atleast_1d(n))) for n in shapes)
        X, y, more = (x[0] + 1j * x[1] for x in (X, y, more))

        @jax.jit
        def fit(shift, strength):
            target = y + shift * more
            start = {"w": jnp.zeros(4, complex), "b": jnp.array(0.0)}

            def loss(params):
                rest = target - X @ params["w"] - params["b"]
                return 0.5 * jnp.mean(jnp.abs(rest) ** 2)

            on_w = masked(penalty(strength), by_path("w"))
            found = minimize(loss, start, on_w).params
            return jnp.sum(jnp.abs(found["w"]) ** 2) + found["b"]

        at = 0.3, 0.1
        expected = [
            (fit(*np.add(at, h)) - fit(*np.subtract(at, h))) / 2e-5
            for h in 1e-5 * np.eye(2)
        ]
        for derivative in (jax.grad, jax.jacfwd):
            slope = jax.jit(derivative(fit, (0, 1)))(*at)
            np.testing.assert_allclose(slope, expected, rtol=1e-6)
