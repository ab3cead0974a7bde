"""`centered`: any penalty on w − at, and weights that are `at` to the last bit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
import sklearn.linear_model

from optareg import (
    L1,
    L2,
    GroupLasso,
    centered,
    constraint,
    joined,
    masked,
    minimize,
    partition,
    proximal,
)
from optareg.penalties._base import map_strengths
from problems import regression_data
from references import OPTIMIZERS, SCALES, assert_near, train_at_scales

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(0)
AT, W = RNG.normal(size=(4, 6)), RNG.normal(size=(4, 6))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64])
def test_weights_that_stay_are_at_to_the_last_bit_after_the_update(dtype):
    at = {"a": jnp.asarray(AT, dtype), "b": jnp.asarray(W, dtype)}
    optimizer = proximal(optax.sgd(0.1), centered(L1(1.0), at=at))
    state, params, update = optimizer.init(at), at, jax.jit(optimizer.update)
    for seed in range(5):
        g = jax.tree.map(
            lambda x, seed=seed: jax.random.uniform(
                jax.random.key(seed), x.shape, x.dtype, -0.9, 0.9
            ),
            at,
        )
        updates, state = update(g, state, params)
        params = optax.apply_updates(params, updates)
    for name, x in params.items():
        np.testing.assert_array_equal(x, at[name])
    near = jax.tree.map(lambda x: (x * 1.5).astype(dtype), at)
    back = centered(L1(1e3), at=at).prox(near, 1.0)
    update = jax.tree.map(jnp.subtract, back, near)
    for name, x in optax.apply_updates(near, update).items():
        np.testing.assert_array_equal(x, at[name])


def test_at_may_have_another_dtype_and_be_traced():
    w = jnp.asarray(AT, jnp.bfloat16)
    wide = jnp.asarray(AT, jnp.float32)
    penalty = centered(L1(1.0), at=wide)
    assert penalty.value(w) == 0
    np.testing.assert_array_equal(penalty.prox(w, 1.0), w)
    x = jax.jit(lambda at: centered(L1(1.0), at).prox(w, 0.01))(wide + 1)
    np.testing.assert_allclose(x.astype(float), w.astype(float) + 0.01, atol=0.02)
    slope = jax.grad(lambda at: centered(L2(1.0), at).value(jnp.zeros((4, 6))))(AT)
    np.testing.assert_allclose(slope, 2 * AT)


def test_at_is_not_scaled_with_the_strengths():
    doubled = map_strengths(lambda x: 2 * x, centered(L1(0.5), at=AT))
    np.testing.assert_allclose(doubled.value(W), np.abs(W - AT).sum())


def test_it_works_within_and_around_other_combinators():
    at = {"a": jnp.asarray(AT), "b": jnp.asarray(W[0])}
    params = jax.tree.map(lambda x: x + 1.0, at)
    mask = {"a": True, "b": False}
    expected = 0.5 * 24
    for penalty in (
        masked(centered(L1(0.5), at=at), mask),
        centered(masked(L1(0.5), mask), at=at),
        centered(masked(L1(0.5), mask), at={**at, "b": None}),
        partition({True: centered(L1(0.5), at=at), False: None}, mask),
        centered(partition({True: L1(0.5), False: None}, mask), at=at),
    ):
        np.testing.assert_allclose(penalty.value(params), expected)
        x = penalty.prox(params, 3.0)
        np.testing.assert_array_equal(x["a"], at["a"])
        np.testing.assert_array_equal(x["b"], params["b"])
    units = joined(GroupLasso(1.0, axis=1, size_scaled=False), {"a": "u", "b": "u"})
    around = centered(units, at=at)
    np.testing.assert_allclose(around.value(params), 6 * np.sqrt(5))
    x = around.prox({**params, "b": params["b"].at[0].add(90.0)}, 3.0)
    np.testing.assert_array_equal(x["b"][1:], at["b"][1:])
    np.testing.assert_array_equal(x["a"][:, 1:], at["a"][:, 1:])
    rows = jnp.concatenate([at["a"].T, at["b"][:, None]], axis=1)
    inside = centered(GroupLasso(1.0, axis=1, size_scaled=False), at={"u": rows})
    inside = joined(inside, {"a": "u", "b": "u"})
    np.testing.assert_allclose(inside.value(params), around.value(params))
    np.testing.assert_allclose(
        centered(centered(L1(0.5), at=at), at=at).value(params),
        L1(0.5).value(jax.tree.map(lambda w, x: w - 2 * x, params, at)),
    )


def test_positive_keeps_weights_above_at():
    x = centered(L1(0.0, positive=True), at=AT).prox(W, 1.0)
    np.testing.assert_array_equal(x, np.maximum(AT, W))


@pytest.mark.parametrize("distance", [0.05, 30.0, 1e6])
def test_a_box_around_a_far_center(distance):
    """The digits of w − at are those of `at`: rounding does not take w out of it."""
    X, y = regression_data("diabetes")
    at = jnp.full(10, distance)
    box = centered(constraint(lambda w: jnp.clip(w, -0.1, 0.15)), at=at)
    pull = X.T @ y / len(y)
    gram = X.T @ X / len(y)

    def loss(w):
        d = w - at
        return 0.5 * d @ (gram @ d) - pull @ d

    best = scipy.optimize.lsq_linear(X, y, bounds=(-0.1, 0.15), tol=1e-14).x
    found = minimize(loss, at, box)
    # 1e6 leaves too few digits to say so.
    assert found.converged or distance == 1e6
    assert box.value(found.params) == 0
    tolerance = 1e-7 + 1e-12 * distance
    np.testing.assert_allclose(found.params - at, best, atol=tolerance)

    tx = proximal(optax.adam(optax.cosine_decay_schedule(0.02, 3000)), box)

    def step(carry, _):
        w, state = carry
        updates, state = tx.update(jax.grad(loss)(w), state, w)
        return (optax.apply_updates(w, updates), state), None

    (w, _), _ = jax.jit(lambda: jax.lax.scan(step, (at, tx.init(at)), length=3000))()
    assert box.value(w) == 0
    np.testing.assert_allclose(w - at, best, atol=1e-5 + 1e-9 * distance)


def test_the_sign_of_zero_is_that_of_at():
    at = jnp.array([-0.0, 0.0])
    x = centered(L1(1.0), at=at).prox(jnp.array([0.5, -0.5]), 1.0)
    np.testing.assert_array_equal(np.signbit(x), [True, False])


def test_what_does_not_fit_raises_and_names_the_leaf():
    params = {"a": jnp.ones((4, 6)), "b": jnp.ones(6)}
    with pytest.raises(TypeError, match="`centered` needs a penalty"):
        centered(0.1, at=params)
    with pytest.raises(ValueError, match=r"\['a'\] of `at` .* has shape \(2,\)"):
        centered(L1(1.0), at={**params, "a": jnp.ones(2)}).value(params)
    with pytest.raises(ValueError, match=r"`at` of `centered` must have the structure"):
        centered(L1(1.0), at={"a": jnp.ones((4, 6))}).value(params)
    with pytest.raises(ValueError, match=r"\['b'\] is penalised, but masked"):
        centered(L1(1.0), at={**params, "b": None}).value(params)
    with pytest.raises(TypeError, match=r"\['b'\] must be an array"):
        centered(L1(1.0), at={**params, "b": "x"})


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_proximal_finds_the_lasso_of_the_difference(name):
    X, y = regression_data("diabetes")
    at = 0.3 * np.random.default_rng(1).normal(size=10)
    lasso = sklearn.linear_model.Lasso(
        alpha=0.05, fit_intercept=False, tol=1e-14, max_iter=100_000
    )
    change = lasso.fit(X, y - X @ at).coef_

    def gradient(w, scale):
        return X.T @ (X @ w - scale * y) / len(y)

    def penalty(scale):
        return centered(L1(0.05 * scale), at=scale * jnp.asarray(at))

    for start in (at, 0 * at):
        trained = train_at_scales(name, penalty, gradient, start, steps=8000, rate=0.15)
        for scale, found in zip(SCALES, trained, strict=True):
            assert_near(name, found, scale * (at + change))
            np.testing.assert_array_equal(found == scale * at, change == 0)
