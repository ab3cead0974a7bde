"""The textbook updates, and the three ways against formulas written out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optareg import (
    L1,
    L2,
    ElasticNet,
    add_penalty_gradient,
    proximal,
    proximal_step,
    sparsity,
)
from problems import squared_error

RATE = 0.1
rng = np.random.default_rng(0)
W = np.append(rng.normal(size=50), np.zeros(5)).astype(np.float32)
G = rng.normal(size=55).astype(np.float32)

TEXTBOOK = {
    "L2": (L2(0.3), lambda w: 2 * np.float32(0.3) * w),
    "L1": (L1(0.3), lambda w: np.float32(0.3) * np.sign(w)),
    "ElasticNet": (
        ElasticNet(0.3, 0.2),
        lambda w: np.float32(0.3) * np.sign(w) + 2 * np.float32(0.2) * w,
    ),
}


def one_step(optimizer, w=W, g=G):
    w = jnp.asarray(w)
    updates, _ = optimizer.update(jnp.asarray(g), optimizer.init(w), w)
    return np.asarray(optax.apply_updates(w, updates))


@pytest.mark.parametrize("name", TEXTBOOK)
def test_the_textbook_update_holds_to_the_last_bits(name):
    penalty, gradient = TEXTBOOK[name]
    optimizer = optax.chain(add_penalty_gradient(penalty), optax.sgd(RATE))
    expected = W - np.float32(RATE) * (G + gradient(W))
    # One rounding of the product, one of the sum.
    np.testing.assert_array_max_ulp(one_step(optimizer), expected, maxulp=2)


def test_sgd_with_proximal_step_is_ista():
    optimizer = optax.chain(optax.sgd(RATE), proximal_step(L1(3.0), RATE))
    z = W - np.float32(RATE) * G
    expected = np.sign(z) * np.maximum(np.abs(z) - RATE * 3.0, 0)
    w = one_step(optimizer)
    np.testing.assert_allclose(w, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(w == 0, expected == 0)
    assert 0 < np.sum(w == 0) < w.size


def test_proximal_follows_its_formulas(x64):
    """Twenty steps of NumPy, in the letters of the docstring."""
    lam, b, t, rate = 0.2, 0.05, 0.03, 0.1
    target = rng.normal(size=30)
    w = rng.normal(size=30) * (rng.random(30) < 0.7)
    optimizer = proximal(optax.sgd(rate), ElasticNet(lam, b), threshold=t)
    params = jnp.asarray(w)
    state = optimizer.init(params)
    s = np.sign(w)
    for _ in range(20):
        updates, state = optimizer.update(params - target, state, params)
        params = optax.apply_updates(params, updates)
        h = (w - target) + 2 * b * w + lam * s
        z = w + t * s - rate * h
        s = np.clip(z, -t, t) / t
        w = z - np.clip(z, -t, t)
        np.testing.assert_allclose(params, w, rtol=0, atol=1e-14)
        np.testing.assert_allclose(state.subgradient, s, rtol=0, atol=1e-12)
    assert 0 < np.sum(w == 0) < w.size


def test_proximal_with_sgd_is_ista_when_the_threshold_is_rate_times_strength(x64):
    target = rng.normal(size=30)
    ways = (
        optax.chain(optax.sgd(RATE), proximal_step(L1(0.5), RATE)),
        proximal(optax.sgd(RATE), L1(0.5), threshold=RATE * 0.5),
    )
    ends = []
    for optimizer in ways:
        w = jnp.zeros(30)
        state = optimizer.init(w)
        for _ in range(10):
            updates, state = optimizer.update(w - target, state, w)
            w = optax.apply_updates(w, updates)
        ends.append(w)
    np.testing.assert_allclose(*ends, rtol=0, atol=1e-15)
    assert 0 < np.sum(ends[0] == 0) < 30


def test_a_nonzero_weight_moves_by_the_textbook_update(x64):
    w = jnp.array([3.0, -2.0])
    g = jnp.array([0.5, 0.25])
    textbook = optax.chain(add_penalty_gradient(L1(0.3)), optax.sgd(RATE))
    np.testing.assert_allclose(
        one_step(proximal(optax.sgd(RATE), L1(0.3)), w, g),
        one_step(textbook, w, g),
        rtol=1e-15,
    )


def test_for_l2_proximal_is_the_gradient():
    penalty = L2(0.3)
    chain = optax.chain(add_penalty_gradient(penalty), optax.adam(RATE))
    # The one is compiled, the other not: a rounding apart.
    np.testing.assert_array_max_ulp(
        one_step(proximal(optax.adam(RATE), penalty)), one_step(chain), maxulp=2
    )


def test_only_the_textbook_l1_gives_no_zeros():
    """What the docstrings of the three ways say of them, on diabetes."""
    problem = squared_error("diabetes", 0.05)
    l1, rate = problem.penalty, 1 / problem.lipschitz

    def run(optimizer):
        def step(carry, _):
            w, state = carry
            updates, state = optimizer.update(jax.grad(problem.loss)(w), state, w)
            return (optax.apply_updates(w, updates), state), None

        w = jnp.ones(len(problem.solution))
        start = w, optimizer.init(w)
        return jax.jit(lambda c: jax.lax.scan(step, c, length=2000)[0][0])(start)

    expected = np.mean(problem.solution == 0)
    textbook = run(optax.chain(add_penalty_gradient(l1), optax.sgd(rate)))
    assert sparsity(textbook) == 0
    near = np.abs(textbook)[problem.solution == 0]
    # A step is at most rate (|g| + λ), and |g| ≤ λ there.
    assert np.all(near <= 2 * rate * l1.strength)
    ista = run(optax.chain(optax.sgd(rate), proximal_step(l1, rate)))
    assert np.isclose(sparsity(ista), expected)
    assert np.isclose(sparsity(run(proximal(optax.sgd(rate), l1))), expected)
    # Behind Adam the decoupled penalty has another optimum; `proximal` has this one.
    adam = optax.adam(optax.cosine_decay_schedule(0.02, 2000))
    decoupled = run(optax.chain(adam, proximal_step(l1, 0.02)))
    coupled = run(proximal(adam, l1))
    assert np.abs(coupled - problem.solution).max() < 1e-6
    assert np.abs(decoupled - problem.solution).max() > 1e-3
