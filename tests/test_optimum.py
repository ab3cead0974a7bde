"""The flagship's promise: every optimizer reaches scikit-learn's solution and zeros."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optareg import L1, masked, proximal, proximal_step
from problems import (
    Problem,
    kkt_residual,
    logistic,
    regression_data,
    squared_error,
)

STEPS = 4000

PROBLEMS: dict[str, Callable[[], Problem]] = {
    "lasso-diabetes": lambda: squared_error("diabetes", 0.05),
    "elastic-net-diabetes": lambda: squared_error("diabetes", 0.05, l1_ratio=0.5),
    "lasso-wide": lambda: squared_error("wide", 0.05),
    "elastic-net-wide": lambda: squared_error("wide", 0.05, l1_ratio=0.5),
    "logistic-breast-cancer": lambda: logistic("breast cancer", 0.05),
    "logistic-wine": lambda: logistic("wine", 0.05),
}

# Each with its learning rate for squared errors and for logistic losses, whose
# coefficients are ten times as large. That of sgd is in units of 1 / lipschitz.
OPTIMIZERS: dict[str, tuple[float, float, Callable]] = {
    "sgd": (0.5, 2.0, functools.partial(optax.sgd, momentum=0.9, nesterov=True)),
    "adam": (0.02, 0.2, optax.adam),
    "adamw": (0.02, 0.2, functools.partial(optax.adamw, weight_decay=0.0)),
    "nadam": (0.02, 0.2, optax.nadam),
    "rmsprop": (0.02, 0.2, optax.rmsprop),
    "adagrad": (0.3, 2.0, optax.adagrad),
    "amsgrad": (0.02, 2.0, optax.amsgrad),
    "adabelief": (0.02, 0.2, optax.adabelief),
    "yogi": (0.02, 0.2, optax.yogi),
    "radam": (0.02, 0.2, optax.radam),
    "lion": (0.01, 0.02, optax.lion),
    "muon": (0.02, 0.2, optax.contrib.muon),
    "clip-adam": (
        0.02,
        0.2,
        lambda rate: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
    ),
}


@functools.cache
def problem_in_float64(name: str) -> Problem:
    return PROBLEMS[name]()


def optimizer_for(
    name: str, problem: Problem, logistic: bool = False
) -> optax.GradientTransformation:
    *rates, make = OPTIMIZERS[name]
    rate = rates[logistic] / (problem.lipschitz if name == "sgd" else 1)
    return make(optax.cosine_decay_schedule(rate, STEPS))


def run(optimizer, loss, params, steps=STEPS):
    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    start = params, optimizer.init(params)
    return jax.jit(lambda c: jax.lax.scan(step, c, length=steps)[0])(start)[0]


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize("problem_name", PROBLEMS)
def test_every_optimizer_reaches_the_optimum(problem_name, optimizer_name, x64):
    problem = problem_in_float64(problem_name)
    logistic = problem_name.startswith("logistic")
    optimizer = proximal(
        optimizer_for(optimizer_name, problem, logistic),
        problem.penalty,
        threshold=0.3 if logistic else 0.01,
    )
    w = np.asarray(run(optimizer, problem.loss, jnp.zeros(len(problem.solution))))
    assert 0 < np.sum(problem.solution == 0) < w.size
    np.testing.assert_array_equal(w == 0, problem.solution == 0)
    tolerance = 1e-4 if optimizer_name == "lion" else 1e-6
    assert np.abs(w - problem.solution).max() < tolerance


@pytest.mark.parametrize("threshold", [0.001, 0.1, 1.0])
def test_the_threshold_does_not_change_the_optimum(threshold, x64):
    problem = problem_in_float64("lasso-diabetes")
    optimizer = proximal(
        optimizer_for("adam", problem), problem.penalty, threshold=threshold
    )
    w = np.asarray(run(optimizer, problem.loss, jnp.zeros(len(problem.solution))))
    np.testing.assert_allclose(w, problem.solution, rtol=0, atol=1e-6)
    assert kkt_residual(problem, problem.penalty.strength, 0, w) < 1e-6


def test_a_threshold_that_decays_to_zero_with_the_learning_rate_is_fine(x64):
    problem = problem_in_float64("lasso-diabetes")
    optimizer = proximal(
        optimizer_for("adam", problem),
        problem.penalty,
        threshold=optax.cosine_decay_schedule(0.2, STEPS // 2),
    )
    w = np.asarray(run(optimizer, problem.loss, jnp.zeros(len(problem.solution))))
    np.testing.assert_allclose(w, problem.solution, rtol=0, atol=1e-3)


def test_any_start_reaches_the_optimum(x64):
    problem = problem_in_float64("lasso-diabetes")
    optimizer = proximal(optimizer_for("adam", problem), problem.penalty)
    start = jax.random.normal(jax.random.key(0), (5, len(problem.solution)))
    ends = jax.vmap(lambda w: run(optimizer, problem.loss, w))(start)
    for w in np.asarray(ends):
        np.testing.assert_array_equal(w == 0, problem.solution == 0)
        np.testing.assert_allclose(w, problem.solution, rtol=0, atol=1e-6)


def test_float32_reaches_the_optimum_to_its_rounding():
    problem = squared_error("diabetes", 0.05)
    optimizer = proximal(optimizer_for("adam", problem), problem.penalty)
    w = np.asarray(run(optimizer, problem.loss, jnp.zeros(len(problem.solution))))
    assert w.dtype == np.float32
    np.testing.assert_array_equal(w == 0, problem.solution == 0)
    # The gradient, a mean over 442 rows, is itself good to a few float32 roundings.
    assert np.abs(w - problem.solution).max() < 1e-6


def test_an_unpenalised_intercept_is_that_of_scikit_learn(x64):
    from sklearn.linear_model import Lasso

    X, y = regression_data("diabetes")
    X, y = X + 0.5, y + 3.0
    expected = Lasso(alpha=0.05, tol=1e-13, max_iter=1_000_000).fit(X, y)

    def loss(params):
        return 0.5 * jnp.mean((y - X @ params["coef"] - params["intercept"]) ** 2)

    penalty = masked(L1.from_sklearn(0.05), {"coef": True, "intercept": False})
    optimizer = proximal(optax.adam(optax.cosine_decay_schedule(0.1, STEPS)), penalty)
    params = {"coef": jnp.zeros(X.shape[1]), "intercept": jnp.zeros(())}
    params = run(optimizer, loss, params)
    np.testing.assert_array_equal(params["coef"] == 0, expected.coef_ == 0)
    np.testing.assert_allclose(params["coef"], expected.coef_, rtol=0, atol=1e-6)
    np.testing.assert_allclose(params["intercept"], expected.intercept_, atol=1e-6)


def test_sgd_with_a_proximal_step_reaches_the_optimum(x64):
    problem = problem_in_float64("lasso-diabetes")
    rate = 1 / problem.lipschitz
    optimizer = optax.chain(optax.sgd(rate), proximal_step(problem.penalty, rate))
    w = np.asarray(run(optimizer, problem.loss, jnp.zeros(len(problem.solution))))
    np.testing.assert_array_equal(w == 0, problem.solution == 0)
    np.testing.assert_allclose(w, problem.solution, rtol=0, atol=1e-6)
