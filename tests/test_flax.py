"""Flax trains with the penalties: linen's `TrainState` and nnx's `Optimizer`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import training
from optareg import (
    L1,
    ElasticNet,
    by_path,
    masked,
    proximal,
    sparsity,
)
from training import assert_close, assert_no_negative_zeros, assert_same, wine

RATE, STEPS = 0.01, 300
KERNELS = masked(ElasticNet(0.01, 0.001), by_path("kernel"))
WAYS = {name: way(KERNELS, RATE) for name, way in training.WAYS.items()}


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.relu(nn.LayerNorm()(nn.Dense(16)(x))))


class NNX(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(13, 16, rngs=rngs)
        self.norm = nnx.LayerNorm(16, rngs=rngs)
        self.out = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.norm(self.hidden(x))))


def cross_entropy(logits):
    return jnp.mean(optax.softmax_cross_entropy(logits, jnp.asarray(wine()[1])))


def train_linen(tx, steps=STEPS):
    X = jnp.asarray(wine()[0])
    model = Linen()
    params = model.init(jax.random.key(0), X[:1])["params"]
    state = TrainState.create(apply_fn=model.apply, params=params, tx=tx)

    @jax.jit
    def step(state):
        def loss(params):
            return cross_entropy(state.apply_fn({"params": params}, X))

        return state.apply_gradients(grads=jax.grad(loss)(state.params))

    for _ in range(steps):
        state = step(state)
    return state


def accuracy(logits):
    return np.mean(np.argmax(logits, -1) == np.argmax(wine()[1], -1))


@pytest.mark.parametrize("way", WAYS)
def test_a_linen_train_state_trains(way):
    state = train_linen(WAYS[way])
    zeros = sparsity(state.params, per_leaf=True)
    kernels = [zeros["Dense_0"]["kernel"], zeros["Dense_1"]["kernel"]]
    if way == "add_penalty_gradient":
        assert max(kernels) == 0
    else:
        # Decoupled, behind Adam, the same strength is far weaker.
        assert min(kernels) > (0.1 if way == "proximal" else 0)
    assert zeros["LayerNorm_0"] == {"scale": 0, "bias": 0}
    assert_no_negative_zeros(state.params)
    assert accuracy(state.apply_fn({"params": state.params}, wine()[0])) > 0.95


@pytest.mark.parametrize("way", WAYS)
def test_an_nnx_optimizer_penalises_by_path(way):
    model = NNX(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, WAYS[way], wrt=nnx.Param)
    X = jnp.asarray(wine()[0])

    @nnx.jit
    def step(model, optimizer):
        gradient = nnx.grad(lambda model: cross_entropy(model(X)))(model)
        optimizer.update(model, gradient)

    for _ in range(STEPS):
        step(model, optimizer)
    kernels = [sparsity(layer.kernel[...]) for layer in (model.hidden, model.out)]
    if way == "add_penalty_gradient":
        assert max(kernels) == 0
    else:
        # Decoupled, behind Adam, the same strength is far weaker.
        assert min(kernels) > (0.1 if way == "proximal" else 0)
    assert sparsity([model.norm.scale[...], model.norm.bias[...]]) == 0
    assert accuracy(model(X)) > 0.95


@pytest.mark.parametrize("way", WAYS)
def test_biases_and_norms_in_nnx_move_as_without_a_penalty(way):
    """In the first step nothing else differs yet: every leaf but the kernels."""
    after = {}
    for name, tx in {"bare": optax.adam(RATE), "penalised": WAYS[way]}.items():
        model = NNX(nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        gradient = nnx.grad(lambda model: cross_entropy(model(wine()[0])))(model)
        optimizer.update(model, gradient)
        after[name] = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    for layer in ("hidden", "norm", "out"):
        assert_same(after["penalised"][layer]["bias"], after["bare"][layer]["bias"])
    assert_same(after["penalised"]["norm"], after["bare"]["norm"])
    kernels = [after[name]["hidden"]["kernel"] for name in after]
    assert np.any(np.asarray(kernels[0]) != np.asarray(kernels[1]))


def test_a_linen_train_state_with_multi_steps_and_injected_strength():
    """As deep as transformations nest in a real script."""

    def make(strength, learning_rate):
        adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(learning_rate))
        return proximal(adam, masked(L1(strength), by_path("kernel")))

    injected = optax.inject_hyperparams(make)(strength=0.01, learning_rate=RATE)
    nested = train_linen(optax.MultiSteps(injected, 2), 200)
    plain = train_linen(make(0.01, RATE), 100)
    # The same batch twice has the same mean, to rounding, which Adam and the
    # nonlinear model make larger.
    assert_close(nested.params, plain.params, atol=1e-3, zeros=False)
    strength = optax.tree.get(nested.opt_state, "strength")
    np.testing.assert_allclose(strength, 0.01, rtol=1e-6)
    assert sparsity(nested.params["Dense_0"]["kernel"]) > 0.1
