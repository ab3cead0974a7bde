"""The threshold that `proximal` finds: the optimum at every scale, nothing tuned.

`python benchmarks/threshold` has the whole table; this is a subset that covers it.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
import sklearn.linear_model

from marks import some_long
from optareg import (
    L1,
    L2,
    MCP,
    ElasticNet,
    GroupLasso,
    Penalty,
    SparseGroupLasso,
    centered,
    constraint,
    proximal,
    stationarity,
)
from optareg.penalties import register_penalty
from optareg.transforms._statistics import Statistics, rms, sample
from problems import regression_data

SCALES = {"1e-4": 1e-4, "1": 1.0, "100": 100.0}
STEPS = 6000


def falling(rate: float) -> Any:
    return optax.cosine_decay_schedule(rate, STEPS)


# An optimizer for targets of standard deviation `scale`, and how near it comes. Rates
# of Adam and Lion are in units of the weights; Lion's steps all have one size.
OPTIMIZERS = {
    "sgd": (lambda scale: optax.sgd(0.1), 1e-9),
    "momentum": (lambda scale: optax.sgd(0.05, momentum=0.9), 1e-9),
    "adam": (lambda scale: optax.adam(falling(0.02 * scale)), 1e-9),
    "lion": (lambda scale: optax.lion(falling(0.01 * scale)), 1e-5),
}
PENALTIES = {
    "lasso": L1,
    "elastic net": lambda strength: ElasticNet(strength, 0.02),
    "weighted lasso": lambda strength: L1(strength * jnp.linspace(0.2, 2, 10)),
    "group": lambda s: GroupLasso(2 * s, groups=np.repeat(np.arange(5), 2)),
    "sparse group": lambda s: SparseGroupLasso(
        s / 2, s / 4, groups=np.repeat(np.arange(5), 2)
    ),
    "MCP": MCP,
    "positive": lambda strength: L1(strength, positive=True),
}


def train(optimizer: Any, loss: Any, w: Any, steps: int = STEPS) -> tuple[Any, Any]:
    @jax.jit
    def run(w: Any) -> Any:
        def step(carry: Any, _: None) -> tuple[Any, None]:
            w, state = carry
            updates, state = optimizer.update(jax.grad(loss)(w), state, w)
            return (optax.apply_updates(w, updates), state), None

        return jax.lax.scan(step, (w, optimizer.init(w)), length=steps)[0]

    return run(w)


def least_squares(scale: float) -> tuple[np.ndarray, np.ndarray, Any]:
    X, y = regression_data("diabetes")
    y = y * scale
    A, b = jnp.asarray(X), jnp.asarray(y)
    return X, y, lambda w: 0.5 * jnp.mean((b - A @ w) ** 2)


@pytest.mark.parametrize("optimizer", some_long(OPTIMIZERS, "sgd", "adam", "lion"))
@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_optimum_is_found_at_every_scale(x64, penalty, optimizer):
    """The optimality conditions hold, from zero and from a random start alike."""
    X, y = map(jnp.asarray, regression_data("diabetes"))
    make, near = OPTIMIZERS[optimizer]
    start = 0.3 * np.random.default_rng(0).normal(size=10)
    if penalty == "positive":
        start = np.abs(start)

    # All scales in one program.
    @jax.vmap
    def run(scale: Any, start: Any) -> tuple[Any, Any]:
        def loss(w: Any) -> Any:
            return 0.5 * jnp.mean((scale * y - X @ w) ** 2)

        R = PENALTIES[penalty](0.05 * scale)
        w, _ = train(proximal(make(scale), R), loss, scale * start)
        return w / scale, stationarity(R, w, jax.grad(loss)(w)) / scale

    scales = jnp.repeat(jnp.asarray(list(SCALES.values())), 2)
    ends, residuals = run(scales, jnp.stack([jnp.zeros(10), start] * len(SCALES)))
    assert np.max(residuals) <= 10 * near
    if penalty != "MCP":  # It has several.
        np.testing.assert_array_equal(ends == 0, np.broadcast_to(ends[0] == 0, (6, 10)))
        assert np.abs(ends - ends[0]).max() <= 10 * near * np.abs(ends).max()
    assert np.all((np.sum(ends == 0, axis=1) > 0) & (np.sum(ends == 0, axis=1) < 10))


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES.keys())
def test_it_is_the_lasso_of_scikit_learn(x64, scale):
    X, y, loss = least_squares(scale)
    model = sklearn.linear_model.Lasso(
        alpha=0.05 * scale, fit_intercept=False, tol=1e-14, max_iter=100_000
    )
    expected = model.fit(X, y).coef_
    w, _ = train(proximal(optax.sgd(0.1), L1(0.05 * scale)), loss, jnp.zeros(10))
    np.testing.assert_array_equal(w == 0, expected == 0)
    np.testing.assert_allclose(w, expected, rtol=1e-9, atol=1e-10 * scale)


def test_schedule_free_has_the_zeros_in_the_parameters_that_are_trained(x64):
    """Those of `schedule_free_eval_params` are as near, and none is zero."""
    X, y, loss = least_squares(1.0)
    lasso = sklearn.linear_model.Lasso(alpha=0.05, fit_intercept=False, tol=1e-12)
    expected = lasso.fit(X, y).coef_
    optimizer = proximal(optax.contrib.schedule_free_sgd(0.1), L1(0.05))
    w, state = train(optimizer, loss, jnp.zeros(10))
    averaged = optax.contrib.schedule_free_eval_params(state.inner_state, w)
    np.testing.assert_array_equal(w == 0, expected == 0)
    assert not np.any(averaged == 0)
    for found in (w, averaged):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES.keys())
def test_nonnegative_least_squares(x64, scale):
    """A strength of 0 leaves the constraint; also from a start outside of it."""
    X, y, loss = least_squares(scale)
    expected, _ = scipy.optimize.nnls(X, y)
    optimizer = proximal(optax.sgd(0.1), L1(0.0, positive=True))
    for start in (jnp.zeros(10), jnp.linspace(-scale, scale, 10)):
        w, _ = train(optimizer, loss, start)
        np.testing.assert_allclose(w, expected, rtol=1e-9, atol=1e-10 * scale)
        np.testing.assert_array_equal(w == 0, expected == 0)


def test_the_threshold_scales_with_the_weights(x64):
    """Targets 1e4 times as large: the same path, 1e4 times as large."""
    ends = []
    for scale in (1.0, 1e4):
        _, _, loss = least_squares(scale)
        optimizer = proximal(optax.sgd(0.1), L1(0.05 * scale))
        ends.append(train(optimizer, loss, jnp.zeros(10), 300)[0] / scale)
    # At first, before anything is known of the scale, t is 1.
    np.testing.assert_allclose(*ends, rtol=0, atol=1e-6)


# What is not finite, too large, or not there.


def test_sizes_leave_out_what_is_not_finite():
    x = jnp.array([3.0, jnp.nan, 4.0, jnp.inf, -jnp.inf])
    np.testing.assert_allclose(rms(x), np.sqrt(12.5), rtol=1e-6)
    assert rms(jnp.full(3, jnp.nan)) == 0
    assert rms(jnp.zeros(0)) == 0


@pytest.mark.parametrize("size", [1e-35, 1e-25, 1e25, 1e35])
def test_sizes_whose_squares_overflow_are_known_still(size):
    found = rms(jnp.full(7, size))
    assert 0.99 * size <= found <= 1.01 * size


@pytest.mark.parametrize("shape", [(7,), (4096,), (5000,), (300, 500), (3, 3, 64, 64)])
def test_a_sample_has_at_most_some_thousand_entries(shape):
    x = jnp.arange(np.prod(shape, dtype=int)).reshape(shape)
    taken = sample(x)
    assert 0.2 * min(x.size, 4096) <= taken.size <= 8192
    assert len(np.unique(taken)) == taken.size


def test_one_bad_gradient_spoils_no_other_entry():
    optimizer = proximal(optax.sgd(0.1), L1(0.1))
    w = jnp.array([1.0, -1.0, 0.0, 0.0])
    state = optimizer.init(w)
    for i in range(20):
        bad = jnp.nan if i == 5 else 0.0
        g = w - jnp.array([0.5, -0.5, 0.3, 0.05]) + jnp.array([bad, 0, 0, 0])
        updates, state = optimizer.update(g, state, w)
        w = optax.apply_updates(w, updates)
    assert np.isnan(w[0])
    assert np.all(np.isfinite(w[1:]))
    assert all(np.all(np.isfinite(x)) for x in state.statistics)


HALVES = {
    "L1": L1(0.1),
    "positive": L1(0.1, positive=True),
    "MCP": MCP(0.1, 3.0),
    "SparseGroupLasso": SparseGroupLasso(0.05, 0.05, groups=np.repeat(np.arange(5), 2)),
    "centered": centered(GroupLasso(0.05), jnp.linspace(-1, 1, 10)),
}


def test_the_threshold_in_half_precision_is_that_in_float32():
    """Its state holds an unrounded weight where s follows from it, which is no s."""
    optimizers = {k: proximal(optax.sgd(0.1), p) for k, p in HALVES.items()}
    X, y = map(jnp.asarray, regression_data("diabetes"))

    def gradient(w):
        return (X.T @ (X @ w.astype(X.dtype) - y) / len(y)).astype(w.dtype)

    def run(dtype):
        def step(carry, _):
            new = {}
            for key, optimizer in optimizers.items():
                w, state = carry[key]
                updates, state = optimizer.update(gradient(w), state, w)
                new[key] = optax.apply_updates(w, updates), state
            return new, {key: state.statistics for key, (_, state) in new.items()}

        w = jnp.linspace(-1, 1, 10).astype(dtype)
        first = {key: (w, opt.init(w)) for key, opt in optimizers.items()}
        return jax.jit(lambda x: jax.lax.scan(step, x, length=20)[1])(first)

    half, wide = run(jnp.bfloat16), run(jnp.float32)
    for key in HALVES:
        for a, b in zip(half[key], wide[key], strict=True):
            np.testing.assert_allclose(a, b, rtol=0.1, err_msg=key)


def test_a_warm_up_from_a_rate_of_zero_does_no_harm(x64):
    _, _, loss = least_squares(1.0)
    rate = optax.warmup_cosine_decay_schedule(0.0, 0.02, 500, STEPS)
    R = L1(0.05)
    w, _ = train(proximal(optax.adam(rate), R), loss, jnp.linspace(-1, 1, 10))
    assert stationarity(R, w, jax.grad(loss)(w)) <= 1e-9


def test_statistics_are_a_few_numbers_for_each_leaf():
    params = {"a": jnp.ones((300, 400)), "b": jnp.ones(3)}
    state = proximal(optax.sgd(0.1), L1(0.1)).init(params)
    assert isinstance(state.statistics, Statistics)
    assert all(x.shape == (2,) for x in state.statistics)
    # None where nothing is tracked.
    state = proximal(optax.sgd(0.1), L2(0.1)).init(params)
    assert all(x.size == 0 for x in state.statistics)


# Digits: in float32 weights do not pass through a large threshold.


@pytest.mark.parametrize("threshold", [None, 1.0, 30.0])
def test_float32_keeps_its_digits_at_large_thresholds(threshold):
    _, _, loss = least_squares(1.0)
    R = L1(0.05)
    optimizer = proximal(optax.sgd(0.1), R, threshold=threshold)
    w, _ = train(optimizer, loss, jnp.linspace(-1, 1, 10), 30_000)
    assert stationarity(R, w, jax.grad(loss)(w)) <= 1e-6


# A penalty that is a value and a prox, and nothing else.


@register_penalty
class Box(Penalty):
    """0 within ±limit, else ∞."""

    limit: float

    def leaf_value(self, w):
        return jnp.where(jnp.all(jnp.abs(w) <= self.limit), 0.0, jnp.inf)

    def leaf_prox(self, w, step):
        return jnp.clip(w, -self.limit, self.limit)


@register_penalty
class Lasso(Penalty):
    """L1, by two methods."""

    strength: float

    def leaf_value(self, w):
        return self.strength * jnp.sum(jnp.abs(w))

    def leaf_prox(self, w, step):
        return w - jnp.clip(w, -step * self.strength, step * self.strength)


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES.keys())
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_value_and_a_prox_are_enough(x64, optimizer, scale):
    X, y, loss = least_squares(scale)
    make, _ = OPTIMIZERS[optimizer]
    start = jnp.linspace(-0.1, 0.1, 10) * scale
    lasso = functools.partial(train, loss=loss, w=start)
    w, _ = lasso(proximal(make(scale), Lasso(0.05 * scale)))
    same, _ = lasso(proximal(make(scale), L1(0.05 * scale)))
    np.testing.assert_allclose(w, same, rtol=1e-8, atol=1e-9 * scale)
    np.testing.assert_array_equal(w == 0, same == 0)
    w, _ = train(proximal(make(scale), Box(0.1 * scale)), loss, start)
    bounds = (-0.1 * scale, 0.1 * scale)
    expected = scipy.optimize.lsq_linear(X, y, bounds, method="bvls", tol=1e-15).x
    np.testing.assert_allclose(w, expected, rtol=0, atol=1e-9 * scale)


def test_a_constraint_is_a_box_too(x64):
    X, y, loss = least_squares(1.0)
    project = functools.partial(optax.projections.projection_box, lower=-0.1, upper=0.1)
    w, _ = train(proximal(optax.sgd(0.1), constraint(project)), loss, jnp.zeros(10))
    expected = scipy.optimize.lsq_linear(X, y, (-0.1, 0.1), method="bvls", tol=1e-15).x
    np.testing.assert_allclose(w, expected, rtol=0, atol=1e-9)


def test_a_nonconvex_prox_must_say_how_nonconvex_it_is():
    @register_penalty
    class Concave(Lasso):
        convex = False

    with pytest.raises(NotImplementedError, match="weak_convexity"):
        proximal(optax.sgd(0.1), Concave(0.1)).init(jnp.ones(2))


def test_what_lacks_a_method_or_the_decorator_is_told_so():
    with pytest.raises(TypeError, match=r"lacks `leaf_prox`.*CONTRIBUTING"):

        @register_penalty
        class Half(Penalty):
            def leaf_value(self, w):
                return jnp.sum(w)

    class Undecorated(Penalty):
        def leaf_value(self, w):
            return jnp.sum(w)

    with pytest.raises(TypeError, match=r"`@register_penalty`.*CONTRIBUTING"):
        Undecorated(0.1)
