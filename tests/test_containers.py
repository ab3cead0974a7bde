"""Parameters in the containers that people keep them in, and arrays of other kinds.

All of them hold the same two leaves, so that all must end with the same numbers: those
of scikit-learn's lasso with an intercept that is not penalised.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optareg import (
    L1,
    by_path,
    masked,
    minimize,
    proximal,
    sparsity,
    stationarity,
)
from problems import regression_data

ALPHA, STEPS = 0.2, 60
PENALTY = masked(L1(ALPHA), by_path("kernel"))


class Pair(NamedTuple):
    kernel: Any
    bias: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    kernel: Any
    bias: Any


def in_flax_struct(kernel: Any, bias: Any) -> Any:
    struct = pytest.importorskip("flax.struct")

    @struct.dataclass
    class Struct:
        kernel: Any
        bias: Any

    return Struct(kernel, bias)


def in_frozen_dict(kernel: Any, bias: Any) -> Any:
    return pytest.importorskip("flax.core").freeze(
        {"layer": {"kernel": kernel, "bias": bias}}
    )


def in_nnx(kernel: Any, bias: Any) -> Any:
    nnx = pytest.importorskip("flax.nnx")

    model = nnx.Linear(5, 1, rngs=nnx.Rngs(0))
    state = nnx.state(model, nnx.Param)
    leaves = {x.shape: x for x in (kernel, bias)}
    return jax.tree.map(lambda x: leaves[x.shape], state)


def in_haiku(kernel: Any, bias: Any) -> Any:
    hk = pytest.importorskip("haiku")

    class Kernel(hk.Module):
        def __call__(self, x: Any) -> Any:
            w = hk.get_parameter("kernel", kernel.shape, init=lambda *_: kernel)
            return x @ w + hk.get_parameter("bias", bias.shape, init=lambda *_: bias)

    model = hk.transform(lambda x: Kernel(name="linear")(x))
    return model.init(jax.random.key(0), jnp.ones((1, len(kernel))))


def in_equinox(kernel: Any, bias: Any) -> Any:
    eqx = pytest.importorskip("equinox")

    class Module(eqx.Module):
        kernel: Any
        bias: Any
        name: str = eqx.field(static=True, default="layer")

    return Module(kernel, bias)


CONTAINERS: dict[str, Callable[[Any, Any], Any]] = {
    "dict": lambda kernel, bias: {"kernel": kernel, "bias": bias},
    "nested": lambda kernel, bias: [({"kernel": kernel},), {"bias": bias}, None],
    "NamedTuple": Pair,
    "dataclass": Layer,
    "flax.struct": in_flax_struct,
    "FrozenDict": in_frozen_dict,
    "nnx.State": in_nnx,
    "haiku": in_haiku,
    "equinox": in_equinox,
}


def data() -> tuple[np.ndarray, np.ndarray]:
    X, y = regression_data("diabetes")
    return X[:, 2:7].astype(np.float32), (y + 1).astype(np.float32)


@functools.cache
def solution() -> tuple[np.ndarray, float]:
    """By scikit-learn."""
    import sklearn.linear_model

    model = sklearn.linear_model.Lasso(alpha=ALPHA, tol=1e-12, max_iter=100_000)
    model.fit(*data())
    return model.coef_, float(model.intercept_)


def leaf(params: Any, ndim: int) -> Any:
    (found,) = [x for x in jax.tree.leaves(params) if np.ndim(x) == ndim]
    return found


def loss(params: Any) -> jax.Array:
    X, y = data()
    kernel, bias = (leaf(params, n).astype(jnp.float32) for n in (2, 1))
    return 0.5 * jnp.mean((X @ kernel + bias - y[:, None]) ** 2)


def check(params: Any, atol: float) -> None:
    coef, intercept = solution()
    kernel, bias = (np.asarray(leaf(params, n), np.float32) for n in (2, 1))
    np.testing.assert_allclose(kernel[:, 0], coef, rtol=0, atol=atol)
    np.testing.assert_array_equal(kernel[:, 0] == 0, coef == 0)
    np.testing.assert_allclose(bias, intercept, rtol=0, atol=atol)
    assert 0 < np.sum(coef == 0) < 5


def start(dtype: Any = np.float32) -> tuple[np.ndarray, np.ndarray]:
    return np.full((5, 1), 0.1, dtype), np.zeros(1, dtype)


def train(params: Any, steps: int = STEPS) -> tuple[Any, Any]:
    optimizer = proximal(optax.sgd(0.3), PENALTY)
    state = optimizer.init(params)

    @jax.jit
    def run(carry: Any) -> Any:
        def step(carry: Any, _: None) -> Any:
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, carry, length=steps)[0]

    return run((jax.tree.map(jnp.asarray, params), state))


@pytest.mark.parametrize("name", CONTAINERS)
def test_the_lasso_of_scikit_learn_in_every_container(name):
    first = CONTAINERS[name](*map(jnp.asarray, start()))
    trained, _ = train(first)
    solved = minimize(loss, first, PENALTY)
    for params, atol in ((trained, 1e-4), (solved.params, 1e-4)):
        assert jax.tree.structure(params) == jax.tree.structure(first)
        assert type(params) is type(first)
        check(params, atol)
    zeros = int(np.sum(solution()[0] == 0))
    np.testing.assert_allclose(sparsity(trained), zeros / 6, rtol=1e-6)
    assert stationarity(PENALTY, trained, jax.grad(loss)(trained)) < 1e-4


# Arrays of other kinds.


def test_numpy_arrays_train_and_solve():
    first = {"kernel": start()[0], "bias": start()[1]}
    check(train(first)[0], 1e-4)
    solved = minimize(loss, first, PENALTY)
    check(solved.params, 1e-4)
    assert sparsity(first) == 1 / 6
    gradient = jax.tree.map(np.asarray, jax.grad(loss)(solved.params))
    assert (
        stationarity(PENALTY, jax.tree.map(np.asarray, solved.params), gradient) < 1e-4
    )
    optimizer = proximal(optax.sgd(0.3), PENALTY)
    gradient = jax.tree.map(np.ones_like, first)
    updates, _ = optimizer.update(gradient, optimizer.init(first), first)
    assert jax.tree.map(lambda x: (x.shape, str(x.dtype)), updates) == {
        "kernel": ((5, 1), "float32"),
        "bias": ((1,), "float32"),
    }


def test_weak_types_stay_or_become_strong_once():
    """A weak scalar is what `jnp.asarray(0.5)` gives."""
    params = {"kernel": jnp.asarray(0.5), "bias": jnp.asarray(0.0)}
    assert params["kernel"].weak_type

    def loss(params):
        return (params["kernel"] - 2) ** 2 / 2 + (params["bias"] - 1) ** 2

    optimizer = proximal(optax.sgd(0.3), PENALTY)
    state = optimizer.init(params)
    for _ in range(3):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    solved = minimize(loss, {"kernel": jnp.asarray(0.5), "bias": 0.0}, PENALTY)
    np.testing.assert_allclose(solved.params["kernel"], 2 - ALPHA, rtol=1e-4)
    np.testing.assert_allclose(solved.params["bias"], 1, rtol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_ends_with_the_same_zeros(dtype):
    params, _ = train(
        {"kernel": jnp.asarray(start()[0], dtype), "bias": jnp.zeros(1, dtype)}
    )
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
    check(params, 0.02)
    np.testing.assert_allclose(
        sparsity(params), np.mean([*(solution()[0] == 0), False]), rtol=1e-6
    )


FLOAT8 = [
    getattr(jnp, name)
    for name in ("float8_e4m3fn", "float8_e5m2")
    if hasattr(jnp, name)
]


@pytest.mark.parametrize("dtype", FLOAT8)
def test_float8_is_refused_with_its_path(dtype):
    """Its arithmetic has no promotions in JAX."""
    params = {"kernel": jnp.zeros((5, 1), dtype), "bias": jnp.zeros(1)}
    for call in (
        lambda: L1(0.1).value(params),
        lambda: L1(0.1).prox(params, 0.1),
        lambda: proximal(optax.sgd(0.1), L1(0.1)).init(params),
        lambda: minimize(loss, params, PENALTY),
        lambda: stationarity(PENALTY, params, params),
    ):
        with pytest.raises(TypeError, match=r"(?s)\['kernel'\].*float8"):
            call()
    # Left out by a mask it is no one's business.
    only_bias = masked(L1(0.1), by_path("bias"))
    assert only_bias.value(params) == 0
    assert sparsity(params) == 1


def test_complex_numbers_train_and_solve():
    """The optimum of ½ |w − c|² + λ |w| is c (1 − λ / |c|), or 0."""
    c = jnp.array([3 + 4j, 0.1 - 0.1j, -1j], jnp.complex64)
    expected = np.array([3 + 4j, 0, -1j]) * (1 - 0.5 / np.array([5, 1, 1]))

    def loss(params):
        return 0.5 * jnp.sum(jnp.abs(params["w"] - c) ** 2)

    first = {"w": jnp.ones(3, jnp.complex64)}
    solved = minimize(loss, first, L1(0.5)).params
    optimizer = proximal(optax.sgd(0.3), L1(0.5))

    @jax.jit
    def train(carry):
        def step(carry, _):
            params, state = carry
            gradient = jax.tree.map(jnp.conj, jax.grad(loss)(params))
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, carry, length=400)[0]

    params, _ = train((first, optimizer.init(first)))
    for found in (solved, params):
        assert found["w"].dtype == jnp.complex64
        np.testing.assert_allclose(found["w"], expected, rtol=0, atol=1e-5)
        assert found["w"][1] == 0
    np.testing.assert_allclose(sparsity(params), 1 / 3, rtol=1e-6)
    assert stationarity(L1(0.5), params, jax.grad(loss)(params)) < 1e-5
