"""A short real training, and the three ways to penalise it, for tests to share."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import sklearn.datasets

from optareg import (
    L1,
    L2,
    ElasticNet,
    add_penalty_gradient,
    by_path,
    masked,
    proximal,
    proximal_step,
)
from problems import standardize

PyTree = Any

RATE = 0.02
WAYS: dict[str, Callable] = {
    "add_penalty_gradient": lambda penalty, rate=RATE: optax.chain(
        add_penalty_gradient(penalty), optax.adam(rate)
    ),
    "proximal_step": lambda penalty, rate=RATE: optax.chain(
        optax.adam(rate), proximal_step(penalty, rate)
    ),
    "proximal": lambda penalty, rate=RATE: proximal(optax.adam(rate), penalty),
}
# The same, each by itself.
BARE_WAYS: dict[str, Callable] = {
    "add_penalty_gradient": add_penalty_gradient,
    "proximal_step": lambda penalty: proximal_step(penalty, 0.1),
    "proximal": lambda penalty: proximal(optax.sgd(0.1), penalty),
}
# Strong enough for zeros within fifty steps, with the decoupled penalty too.
PENALTIES = {
    "L1": L1(0.3),
    "L2": L2(0.3),
    "ElasticNet": ElasticNet(0.3, 0.1),
    "masked": masked(ElasticNet(0.3, 0.1), by_path("kernel")),
}
# Each way with a penalty that has everything; the flagship with the others too.
PAIRS = [
    ("add_penalty_gradient", "masked"),
    ("proximal_step", "masked"),
    ("proximal", "masked"),
    ("proximal", "L1"),
    ("proximal", "L2"),
]


def makes_zeros(way: str, penalty: str) -> bool:
    """Whether training ends with exact zeros; without a penalty it ends with none."""
    return way != "add_penalty_gradient" and penalty != "L2"


@functools.cache
def wine() -> tuple[np.ndarray, np.ndarray]:
    """Standardised X (178, 13), and y (178, 3) as zeros and ones."""
    X, y = sklearn.datasets.load_wine(return_X_y=True)
    return standardize(X).astype(np.float32), np.eye(3, dtype=np.float32)[y]


def start(dtype: Any = jnp.float32) -> PyTree:
    """The first parameters of a softmax regression on wine; some are zero."""
    rng = np.random.default_rng(0)
    kernel = 0.1 * rng.normal(size=(13, 3)) * (rng.random((13, 3)) < 0.9)
    bias = 0.1 * rng.normal(size=3)
    return {"kernel": jnp.asarray(kernel, dtype), "bias": jnp.asarray(bias, dtype)}


def batches(steps: int, size: int = 32) -> jax.Array:
    """The rows of each minibatch, shape (steps, size)."""
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.integers(len(wine()[0]), size=(steps, size)))


def loss(params: PyTree, rows: jax.Array) -> jax.Array:
    """Mean cross-entropy on some rows of wine, computed in float32."""
    X, y = map(jnp.asarray, wine())
    logits = X[rows] @ params["kernel"].astype(jnp.float32) + params["bias"]
    return -jnp.mean(jnp.sum(y[rows] * jax.nn.log_softmax(logits), axis=-1))


def step(
    optimizer: Any, params: PyTree, state: PyTree, rows: jax.Array
) -> tuple[PyTree, PyTree]:
    """One step of training."""
    gradient = jax.grad(loss)(params, rows)
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state


def train(
    optimizer: Any,
    steps: int = 50,
    params: PyTree = None,
    *,
    state: PyTree = None,
    rows: jax.Array | None = None,
    step: Callable = step,
) -> tuple[PyTree, PyTree]:
    """Parameters and state after `steps` minibatches, by `lax.scan` under `jit`."""
    params = start() if params is None else params
    state = optimizer.init(params) if state is None else state
    rows = batches(steps) if rows is None else rows

    @jax.jit
    def run(carry: PyTree, rows: PyTree) -> PyTree:
        return jax.lax.scan(
            lambda carry, x: (step(optimizer, *carry, x), None), carry, rows
        )[0]

    return run((params, state), rows)


@functools.cache
def plain(way: str, penalty: str, steps: int = 50) -> tuple[PyTree, PyTree]:
    """Parameters and state after training one of `PAIRS`, for tests to compare with."""
    return train(WAYS[way](PENALTIES[penalty]), steps)


@functools.cache
def bare() -> PyTree:
    """Parameters after training without a penalty."""
    return train(optax.adam(RATE))[0]


def assert_same(a: PyTree, b: PyTree) -> None:
    """The same structure, dtypes and bits."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        assert jnp.asarray(x).dtype == jnp.asarray(y).dtype, path
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


def assert_close(
    a: PyTree, b: PyTree, atol: float, rtol: float = 0, zeros: bool = True
) -> None:
    """The same structure and numbers nearby; the same zeros too, if `zeros`."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        name = jax.tree_util.keystr(path)
        x, y = (np.asarray(z, np.promote_types(z.dtype, np.float32)) for z in (x, y))
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol, err_msg=name)
        if zeros:
            np.testing.assert_array_equal(x == 0, y == 0, err_msg=name)


def number_of_zeros(params: PyTree) -> int:
    return sum(int(jnp.sum(x == 0)) for x in jax.tree.leaves(params))


def assert_no_negative_zeros(params: PyTree) -> None:
    for x in jax.tree.leaves(params):
        for part in (np.real(x), np.imag(x)) if np.iscomplexobj(x) else (x,):
            part = np.asarray(part, np.promote_types(part.dtype, np.float32))
            assert not np.any(np.signbit(part) & (part == 0))
