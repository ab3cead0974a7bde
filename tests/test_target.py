"""`target_sparsity`: the share of zeros settles at the target, and the factor shows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sklearn.datasets

from optareg import (
    L1,
    L2,
    ElasticNet,
    GroupLasso,
    by_path,
    joined,
    masked,
    minimize,
    partition,
    proximal,
    sparsity,
    target_sparsity,
)
from problems import regression_data, standardize

TARGETS = (0.5, 0.9, 0.98)


def run(optimizer, loss, params, batches):
    """The parameters, the final state, and share and factor at each step."""

    def step(carry, batch):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, batch), state, params)
        return (optax.apply_updates(params, updates), state), (
            state.share,
            state.factor,
        )

    (params, state), log = jax.lax.scan(step, (params, optimizer.init(params)), batches)
    return params, state, log


# A network on digits, in batches.


@functools.cache
def digits():
    X, y = sklearn.datasets.load_digits(return_X_y=True)
    return (X / 16).astype(np.float32), y


def batches(epochs, size=100, seed=0):
    rng = np.random.default_rng(seed)
    n = len(digits()[1]) // size
    return jnp.asarray(
        np.concatenate(
            [rng.permutation(n * size).reshape(n, size) for _ in range(epochs)]
        )
    )


def network(seed=0, widths=(64, 96, 48, 10)):
    keys = jax.random.split(jax.random.key(seed), 3)
    return {
        f"Dense_{i}": {
            "kernel": jax.random.normal(key, (a, b)) * np.sqrt(2 / a),
            "bias": jnp.zeros(b),
        }
        for i, (key, a, b) in enumerate(zip(keys, widths[:-1], widths[1:], strict=True))
    }


def logits(params, x):
    for i in range(2):
        layer = params[f"Dense_{i}"]
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ params["Dense_2"]["kernel"] + params["Dense_2"]["bias"]


def digits_loss(params, rows):
    X, y = map(jnp.asarray, digits())
    losses = optax.softmax_cross_entropy_with_integer_labels(
        logits(params, X[rows]), y[rows]
    )
    return jnp.mean(losses)


def accuracy(params):
    X, y = digits()
    return float(jnp.mean(jnp.argmax(logits(params, X), axis=1) == y))


def kernel_share(params):
    kernels = [params[f"Dense_{i}"]["kernel"] for i in range(3)]
    return float(np.mean(np.concatenate([np.ravel(k) for k in kernels]) == 0))


@pytest.fixture(scope="module")
def trained():
    """For each strength and target the parameters, and the shares and factors."""

    @jax.jit
    def train(strength, target):
        penalty = masked(L1(strength), by_path("kernel"))
        optimizer = target_sparsity(optax.adam(2e-3), penalty, target)
        params, _, log = run(optimizer, digits_loss, network(), batches(60))
        return params, log

    return {
        (strength, target): train(strength, target)
        for strength in (1e-4, 1e3)
        for target in TARGETS
    }


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("strength", [1e-4, 1e3])
def test_a_network_settles_at_the_target(trained, strength, target):
    params, (share, factor) = trained[strength, target]
    assert abs(kernel_share(params) - target) <= 0.02
    # Settled, in spite of the noise of the batches.
    assert np.abs(share[-100:] - target).max() <= 0.02
    assert np.isfinite(factor).all() and (factor > 0).all()
    assert accuracy(params) > 0.8


def test_the_scale_of_the_strength_does_not_matter(trained):
    weak, strong = (float(trained[s, 0.9][1][1][-1]) * s for s in (1e-4, 1e3))
    assert 0.7 < weak / strong < 1.4  # What multiplies Σ|w|, in spite of rounding.


def test_the_first_factor_is_in_proportion_to_the_gradient():
    w, g = jnp.ones(6), jnp.array([0.1, -0.4, 0.2, 0.0, 0.3, -0.2])
    for penalty, strongest in (
        (L1(0.5), 0.4 / 0.5),
        (L1(0.5, positive=True), 0.4 / 0.5),
        (ElasticNet(0.5, 7.0), 0.4 / 0.5),
        (GroupLasso(2.0, groups=[0, 0, 1, 1, 1, 1], size_scaled=False), 0.17**0.5 / 2),
        (partition({0: L1(0.5), 1: L2(9.0)}, 0), 0.4 / 0.5),
    ):
        factors = []
        optimizer = target_sparsity(optax.sgd(0.1), penalty, 0.5, rate=1e-9)
        update = jax.jit(optimizer.update)
        for size in (1.0, 1e4):
            state = optimizer.init(w)
            assert state.factor == 0
            # Nothing to begin with: it waits.
            _, state = update(0 * g, state, w)
            assert state.factor == 0
            _, state = update(size * g, state, w)
            _, other = update(-size * g, optimizer.init(w), w)
            np.testing.assert_allclose(other.factor, state.factor, rtol=1e-5)
            factors.append(float(state.factor))
        np.testing.assert_allclose(factors, 1e-4 * strongest * np.array([1, 1e4]), 1e-5)


def test_the_state_says_share_and_factor(trained):
    params, (share, _) = trained[1e3, 0.5]
    optimizer = target_sparsity(optax.sgd(0.1), masked(L1(0.1), by_path("kernel")), 0.5)
    state = optimizer.init(params)
    assert optax.tree_utils.tree_get(state, "factor") == 0
    expected = kernel_share(params)
    np.testing.assert_allclose(state.share, expected, rtol=1e-6)
    np.testing.assert_allclose(share[-1], expected, atol=0.01)


def test_units_settle_at_the_target():
    """Groups of several leaves: a unit with its bias is one."""

    @jax.jit
    def train(target):
        units = joined(GroupLasso(1e-3, axis=1), r"Dense_([01])")
        optimizer = target_sparsity(optax.adam(2e-3), units, target, lead=300)
        return run(optimizer, digits_loss, network(), batches(40, size=20))

    params, _, (share, _) = train(0.5)
    dead = [
        np.asarray((layer["kernel"] == 0).all(axis=0) & (layer["bias"] == 0))
        for layer in (params["Dense_0"], params["Dense_1"])
    ]
    assert abs(np.concatenate(dead).mean() - 0.5) <= 0.02
    assert np.abs(share[-100:] - 0.5).max() <= 0.02
    assert accuracy(params) > 0.95


def test_a_schedule_ramps_the_target():
    ramp = optax.linear_schedule(0.3, 0.9, 500)

    @jax.jit
    def train():
        penalty = masked(L1(1e-3), by_path("kernel"))
        optimizer = target_sparsity(optax.adam(2e-3), penalty, ramp)
        return run(optimizer, digits_loss, network(), batches(60))

    params, _, (share, _) = train()
    assert share[250] < 0.8  # On the way.
    assert abs(kernel_share(params) - 0.9) <= 0.02


# Regressions, with all data in each step.


@functools.cache
def regression(name):
    X, y = regression_data("diabetes")
    if name == "squares":  # 65 columns, some much alike.
        i, j = np.triu_indices(10)
        X = standardize(np.column_stack([X, X[:, i] * X[:, j]]))
    return X, y


def regression_loss(name):
    X, y = map(jnp.asarray, regression(name))
    return lambda w, _=None: 0.5 * jnp.mean((y - X @ w) ** 2)


@pytest.mark.parametrize("name", ["diabetes", "squares"])
@pytest.mark.usefixtures("x64")
def test_a_regression_settles_and_is_the_optimum_at_its_factor(name):
    """At rest the factor does not change, so `minimize` finds the same parameters."""
    loss = regression_loss(name)
    start = jnp.zeros(regression(name)[0].shape[1])

    @jax.jit
    @jax.vmap
    def train(target):
        rate = optax.cosine_decay_schedule(0.05, 4000)
        optimizer = target_sparsity(optax.adam(rate), L1(0.05), target, threshold=0.1)
        return run(optimizer, loss, start, jnp.arange(4000))

    w, state, (share, factor) = train(jnp.array(TARGETS))
    exact = jax.jit(jax.vmap(lambda f: minimize(loss, start, L1(0.05 * f)).params))(
        state.factor
    )
    for i, target in enumerate(TARGETS):
        assert abs(float(sparsity(w[i])) - target) <= 0.05
        assert np.abs(share[i, -500:] - target).max() <= 0.05
        if factor[i, -1] == factor[i, -1500]:
            np.testing.assert_allclose(w[i], exact[i], rtol=0, atol=1e-6)
            np.testing.assert_array_equal(w[i] == 0, exact[i] == 0)
        else:  # No strength gives just as many zeros, or it is not found in time.
            assert name == "squares"


def test_targets_are_vmapped():
    loss = regression_loss("diabetes")

    @jax.jit
    @jax.vmap
    def train(target):
        optimizer = target_sparsity(optax.adam(0.05), L1(1.0), target, threshold=0.1)
        return sparsity(run(optimizer, loss, jnp.zeros(10), jnp.arange(2000))[0])

    np.testing.assert_allclose(train(jnp.array([0.2, 0.5, 0.8])), [0.2, 0.5, 0.8])


def test_a_target_of_zero_needs_no_zeros():
    loss = regression_loss("diabetes")
    optimizer = target_sparsity(optax.adam(0.05), L1(1.0), 0.0, threshold=0.1)
    w, state, _ = run(optimizer, loss, jnp.zeros(10), jnp.arange(2000))
    assert sparsity(w) == 0
    assert 0 < state.factor < 0.01


# As `proximal`, and errors.


@pytest.mark.usefixtures("strict")
def test_a_step_is_that_of_proximal_with_the_factor():
    w, g = jnp.array([1.0, -2.0, 0.0]), jnp.array([0.5, 0.25, -1.0])
    penalty = ElasticNet(2.0, jnp.array([1.0, 2.0, 3.0]))
    ours = target_sparsity(optax.sgd(0.1), penalty, 0.5, threshold=0.2)
    updates, state = ours.update(g, ours.init(w), w)
    scaled = ElasticNet(state.factor * 2, state.factor * penalty.l2)
    theirs = proximal(optax.sgd(0.1), scaled, threshold=0.2)
    expected, inner = theirs.update(g, theirs.init(w), w)
    np.testing.assert_allclose(updates, expected, rtol=1e-6)
    np.testing.assert_allclose(state.proximal.subgradient, inner.subgradient, rtol=1e-6)


def test_the_factor_rises_with_too_few_zeros_and_falls_with_too_many():
    optimizer = target_sparsity(optax.sgd(0.1), L1(1.0), 0.5)
    for w, way in ((jnp.ones(10), 1), (jnp.zeros(10), -1)):
        state = optimizer.init(w)._replace(factor=jnp.float32(0.1))
        _, new = optimizer.update(jnp.zeros(10), state, w)
        assert np.sign(new.factor - state.factor) == way
    half = jnp.repeat(jnp.array([0.0, 1.0]), 5)
    state = optimizer.init(half)._replace(factor=jnp.float32(0.1))
    _, new = optimizer.update(jnp.zeros(10), state, half)
    np.testing.assert_allclose(new.factor, state.factor, rtol=1e-6)


@pytest.mark.parametrize(
    ("bad", "error", "match"),
    [
        ({"target": 1.0}, ValueError, "`target` must be below 1"),
        ({"target": -0.1}, ValueError, "`target` must be finite and at least 0"),
        ({"target": 1.5}, ValueError, "`target`"),
        ({"target": "0.5"}, TypeError, "`target` must be a real number"),
        ({"rate": 0}, ValueError, "`rate`"),
        ({"threshold": 0}, ValueError, "`threshold`"),
        ({"penalty": 0.1}, TypeError, "`target_sparsity` needs a penalty"),
        ({"optimizer": 0.1}, TypeError, "`target_sparsity` needs an optimizer"),
    ],
)
def test_bad_arguments_are_refused(bad, error, match):
    good = {"optimizer": optax.sgd(0.1), "penalty": L1(0.1), "target": 0.5}
    with pytest.raises(error, match=match):
        target_sparsity(**{**good, **bad})


@pytest.mark.parametrize("bad", [1.0, 1.5, -0.1, np.nan])
def test_a_schedule_of_bad_targets_is_refused(bad):
    optimizer = target_sparsity(optax.sgd(0.1), L1(0.1), lambda step: bad)
    with pytest.raises(ValueError, match="`target`"):
        optimizer.update(jnp.ones(3), optimizer.init(jnp.ones(3)), jnp.ones(3))


def test_a_penalty_without_zeros_is_refused():
    with pytest.raises(ValueError, match="needs a penalty that gives zeros"):
        target_sparsity(optax.sgd(0.1), L2(0.1), 0.5).init(jnp.ones(3))
    with pytest.raises(ValueError, match="`target_sparsity` needs the parameters"):
        optimizer = target_sparsity(optax.sgd(0.1), L1(0.1), 0.5)
        optimizer.update(jnp.ones(3), optimizer.init(jnp.ones(3)))
