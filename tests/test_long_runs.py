"""100,000 steps: no weight that flips for ever, no digits lost to a growing threshold.

`python benchmarks/long_runs.py` has more optimizers, penalties and thresholds.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sklearn.linear_model

from optareg import L1, GroupLasso, minimize, proximal
from problems import regression_data

STEPS, LAST, BATCH, RATE = 100_000, 10_000, 32, 3e-3
PAIRS = np.repeat(np.arange(5), 2)


@functools.cache
def two_regressions():
    """Features, two targets with other true features, and the lasso's supports."""
    rng = np.random.default_rng(0)
    X, true = rng.normal(size=(2000, 60)), np.zeros(60)
    true[:8] = [1, -1, 0.5, -0.5, 0.3, -0.3, 2, -2]
    y = np.stack([X @ true, X @ np.roll(true, 10)]) + rng.normal(size=(2, 2000))
    lasso = sklearn.linear_model.Lasso(alpha=0.1, fit_intercept=False, tol=1e-12)
    return X, y, [lasso.fit(X, target).coef_ != 0 for target in y]


@jax.jit
def train(X, y, first):
    """Whether weights are zero after each of the last steps.

    `first` steps with the target y[0], and the rest of 100,000 with y[1].
    """
    tx = proximal(optax.adam(RATE), L1(0.1))

    def step(k, carry):
        w, state = carry
        rows = jax.random.randint(jax.random.key(k), (BATCH,), 0, len(X))
        target = y[jnp.where(k < first, 0, 1), rows]
        g = jax.grad(lambda w: 0.5 * jnp.mean((target - X[rows] @ w) ** 2))(w)
        updates, state = tx.update(g, state, w)
        return optax.apply_updates(w, updates), state

    w = jnp.zeros(60)
    start = jax.lax.fori_loop(0, STEPS - LAST, step, (w, tx.init(w)))

    def seen(carry, k):
        carry = step(k, carry)
        return carry, carry[0] != 0

    return jax.lax.scan(seen, start, jnp.arange(STEPS - LAST, STEPS))[1]


def on_at(first):
    X, y, _ = two_regressions()
    return np.asarray(train(jnp.asarray(X, "f4"), jnp.asarray(y, "f4"), first))


def test_minibatches_at_a_constant_rate_end_with_the_support_and_no_flips():
    on = on_at(STEPS)
    np.testing.assert_array_equal(on[-1], two_regressions()[2][0])
    assert not np.any(on[1:] != on[:-1])


def test_a_problem_that_changes_is_found_again():
    """After 90,000 steps, which is as long as the average gets."""
    on = on_at(STEPS - LAST)
    right = np.all(on == two_regressions()[2][1], axis=1)
    assert right.any() and np.argmax(right) < 8000


def solution(penalty):
    """In double precision."""
    X, y = regression_data("diabetes")
    jax.config.update("jax_enable_x64", True)
    try:
        found = minimize(
            lambda w: 0.5 * jnp.mean((y - X @ w) ** 2), jnp.zeros(10), penalty
        )
        return np.asarray(found.params)
    finally:
        jax.config.update("jax_enable_x64", False)


# An optimizer, a threshold, and the largest error, of targets of variance one.
WAYS = {
    "found": (optax.sgd(0.03, momentum=0.9), None, 2e-7),
    "large": (optax.sgd(0.03, momentum=0.9), 30.0, 3e-7),
    # Turns of a group are 31 times shorter, and less than the last digit.
    "large, plain SGD": (optax.sgd(0.1), 30.0, 3e-7),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "penalty", [L1(0.05), GroupLasso(0.05, groups=PAIRS)], ids=["L1", "groups"]
)
def test_single_precision_keeps_its_digits(penalty, way):
    X, y = regression_data("diabetes")
    expected = solution(penalty)
    gram = jnp.asarray(X.T @ X / len(y), "f4")
    pull = jnp.asarray(X.T @ y / len(y), "f4")
    optimizer, threshold, most = WAYS[way]
    tx = proximal(optimizer, penalty, threshold=threshold)

    @jax.jit
    def run(w):
        def step(_, carry):
            w, state = carry
            updates, state = tx.update(gram @ w - pull, state, w)
            return optax.apply_updates(w, updates), state

        return jax.lax.fori_loop(0, STEPS, step, (w, tx.init(w)))[0]

    w = np.asarray(run(jnp.zeros(10, "f4")))
    np.testing.assert_array_equal(w != 0, expected != 0)
    np.testing.assert_allclose(w, expected, rtol=0, atol=most)
