"""`stationarity`: the distance to the optimality conditions, by their definition."""

import hypothesis
import hypothesis.extra.numpy
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optareg import (
    L1,
    L2,
    MCP,
    ElasticNet,
    GroupLasso,
    SparseGroupLasso,
    masked,
    stationarity,
)
from problems import kkt_residual, logistic, squared_error

law = hypothesis.settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
entries = st.one_of(st.just(0.0), st.floats(-5, 5, allow_subnormal=False))
vectors = hypothesis.extra.numpy.arrays(np.float64, (6,), elements=entries)


def of_l1(w, g, lam):
    return np.where(
        w == 0, np.maximum(np.abs(g) - lam, 0), np.abs(g + lam * np.sign(w))
    )


def of_groups(w, g, lam):
    result = []
    for a, b in zip(w.reshape(2, 3).T, g.reshape(2, 3).T, strict=True):
        radius, length = lam * np.sqrt(2), np.linalg.norm(a)
        if length > 0:
            result.append(np.linalg.norm(b + radius * a / length))
        else:
            result.append(max(np.linalg.norm(b) - radius, 0))
    return np.array(result)


def of_mcp(w, g, lam):
    bend = -np.sign(w) * np.minimum(np.abs(w) / 3, lam)
    return of_l1(w, g + bend, lam)


DEFINITIONS = {
    "L1": (L1(0.7), lambda w, g: of_l1(w, g, 0.7)),
    "L1 of 0": (L1(0.0), lambda w, g: np.abs(g)),
    "adaptive L1": (
        L1(np.linspace(0, 2, 6)),
        lambda w, g: of_l1(w, g, np.linspace(0, 2, 6)),
    ),
    "L2": (L2(0.4), lambda w, g: np.abs(g + 0.8 * w)),
    "ElasticNet": (ElasticNet(0.5, 0.3), lambda w, g: of_l1(w, g + 0.6 * w, 0.5)),
    "MCP": (MCP(0.7), lambda w, g: of_mcp(w, g, 0.7)),
    "masked": (masked(L1(0.7), False), lambda w, g: np.abs(g)),
    "positive": (
        L1(0.7, positive=True),
        lambda w, g: np.where(
            w < 0, np.inf, np.where(w > 0, np.abs(g + 0.7), np.maximum(-g - 0.7, 0))
        ),
    ),
}


@pytest.mark.parametrize("name", DEFINITIONS)
@law
@hypothesis.given(w=vectors, g=vectors)
def test_it_is_the_largest_distance(name, w, g, x64):
    penalty, definition = DEFINITIONS[name]
    found = stationarity(penalty, jnp.asarray(w), jnp.asarray(g))
    np.testing.assert_allclose(found, definition(w, g).max(), rtol=1e-12, atol=1e-12)


@law
@hypothesis.given(w=vectors, g=vectors)
def test_of_groups_it_is_that_of_a_group(w, g, x64):
    w = np.where(np.abs(w) < 1e-100, 0, w)  # Squares that are zero make no direction.
    found = stationarity(
        GroupLasso(0.7, axis=0),
        jnp.asarray(w.reshape(2, 3)),
        jnp.asarray(g.reshape(2, 3)),
    )
    expected = of_groups(w, g, 0.7).max()
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@law
@hypothesis.given(g=vectors, w=vectors)
def test_of_a_sparse_group_it_is_the_distance_to_the_subgradients(g, w, x64):
    """No subgradient, of many drawn, is nearer to −g than the nearest."""
    w = np.where(np.abs(w) < 1e-3, 0, w)
    penalty = SparseGroupLasso(0.5, 0.4, size_scaled=False)
    found = float(stationarity(penalty, jnp.asarray(w), jnp.asarray(g)))
    rng = np.random.default_rng(0)
    signs = np.where(w == 0, np.clip(rng.normal(size=(300, 6)), -1, 1), np.sign(w))
    signs[0] = np.where(w == 0, np.clip(-g / 0.5, -1, 1), np.sign(w))
    length = np.linalg.norm(w)
    if length > 0:
        group = np.broadcast_to(w / length, signs.shape)
    else:
        rest = -g - 0.5 * signs
        lengths = np.linalg.norm(rest, axis=1, keepdims=True)
        group = rest / np.maximum(lengths, 0.4)
        group = np.where(lengths > 0.4, group, rest / 0.4)
    distances = np.linalg.norm(g + 0.5 * signs + 0.4 * group, axis=1)
    assert found <= distances.min() + 1e-9
    np.testing.assert_allclose(found, distances[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "problem",
    [
        lambda: squared_error("diabetes", 0.05),
        lambda: squared_error("wide", 0.1, l1_ratio=0.5),
        lambda: logistic("wine", 0.02),
    ],
)
@pytest.mark.usefixtures("x64")
def test_it_is_zero_at_the_solutions_of_scikit_learn(problem):
    problem = problem()
    w = jnp.asarray(problem.solution)
    g = jax.grad(problem.loss)(w)
    assert stationarity(problem.penalty, w, g) < 1e-6
    # And not elsewhere.
    assert (
        stationarity(problem.penalty, 1.1 * w, jax.grad(problem.loss)(1.1 * w)) > 1e-3
    )
    if isinstance(problem.penalty, L1):
        expected = kkt_residual(problem, problem.penalty.strength, 0.0, np.asarray(w))
        np.testing.assert_allclose(
            stationarity(problem.penalty, w, g), expected, atol=1e-14
        )


def test_a_complex_weight_has_a_phase():
    w, g = jnp.array([3 + 4j, 0]), jnp.array([0.0, 2j])
    np.testing.assert_allclose(stationarity(L1(1.0), w, g), 1.0)
    # JAX's gradient of a complex weight is the conjugate of the ascent.
    loss = lambda w: jnp.sum(jnp.abs(w - jnp.array([6 + 8j, 0.3j])) ** 2) / 2  # noqa: E731
    optimum = jnp.array([5.4 + 7.2j, 0])
    assert stationarity(L1(1.0), optimum, jax.grad(loss)(optimum)) < 1e-5


def test_nan_is_not_hidden():
    w = jnp.array([0.0, 1.0])
    for g in (jnp.array([np.nan, 0.0]), jnp.array([0.0, np.nan])):
        for penalty in (L1(1.0), L2(1.0), GroupLasso(1.0)):
            assert jnp.isnan(stationarity(penalty, w, g))


def test_it_is_over_all_leaves_and_passes_holes():
    params = {
        "a": jnp.array([1.0], jnp.bfloat16),
        "b": jnp.zeros((2, 2)),
        "none": None,
        "masked": optax.MaskedNode(),
    }
    grads = {**params, "a": jnp.array([-0.5], jnp.bfloat16), "b": jnp.full((2, 2), 3.0)}
    found = jax.jit(stationarity)(L1(1.0), params, grads)
    assert found == 2.0 and found.dtype == jnp.float32
    no_gradient = {**grads, "b": optax.MaskedNode()}
    assert stationarity(L1(1.0), params, no_gradient) == 0.5
    counter = {"w": jnp.zeros(1), "n": jnp.array(3)}
    assert stationarity(masked(L1(1.0), {"w": True, "n": False}), counter, counter) == 0


def test_what_does_not_fit_is_refused():
    w = {"w": jnp.ones(2)}
    with pytest.raises(ValueError, match=r"\['v'\] of `grads`"):
        stationarity(L1(1.0), w, {"v": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"`grads` has shape \(3,\)"):
        stationarity(L1(1.0), w, {"w": jnp.ones(3)})
    with pytest.raises(TypeError, match=r"\['n'\] has dtype int32"):
        stationarity(L1(1.0), {"n": jnp.array([1])}, {"n": jnp.array([1])})
