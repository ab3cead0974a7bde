"""`stationarity`: the distance to the optimality conditions, by their definition."""

import hypothesis
import hypothesis.extra.numpy
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

from optareg import (
    L1,
    L2,
    MCP,
    ElasticNet,
    GroupLasso,
    SparseGroupLasso,
    masked,
    partition,
    stationarity,
)
from problems import Problem, kkt_residual, logistic, squared_error

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
    for no_penalty in (L1, 1.0, lambda step: L1(step)):
        with pytest.raises(TypeError, match="`stationarity` needs a penalty, got"):
            stationarity(no_penalty, w, w)


# Strengths, trees and dtypes of all kinds.

strengths = st.just(0.0) | st.floats(1e-3, 5)

# Penalties are trees: one program for all strengths.
compiled = jax.jit(stationarity)


def interval_gap(w: np.ndarray, g: np.ndarray, l1: float, l2: float = 0.0) -> float:
    """The distance of −g from the interval ∂(l1 |w| + l2 w²), the largest of all."""
    low = np.where(w > 0, l1, -l1) + 2 * l2 * w
    high = np.where(w < 0, -l1, l1) + 2 * l2 * w
    return np.max(np.maximum(np.maximum(low + g, -g - high), 0))


@law
@hypothesis.given(w=vectors, g=vectors, l1=strengths, l2=strengths)
def test_for_the_elastic_net_it_is_the_distance_from_an_interval(w, g, l1, l2, x64):
    found = compiled(ElasticNet(l1, l2), w, g)
    expected = interval_gap(w, g, l1, l2)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


@law
@hypothesis.given(w=vectors, g=vectors, l1=strengths)
def test_what_is_masked_counts_with_its_whole_gradient(w, g, l1, x64):
    penalty = masked(L1(l1), {"coef": True, "intercept": False})
    found = compiled(
        penalty,
        {"coef": w[:4], "intercept": w[4:]},
        {"coef": g[:4], "intercept": g[4:]},
    )
    expected = max(interval_gap(w[:4], g[:4], l1), np.abs(g[4:]).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


def ball_gap(w: np.ndarray, g: np.ndarray, radius: float) -> float:
    """The distance of −g from ∂(radius · ‖w‖), at zero by a search within the ball."""
    if np.any(w != 0):
        return np.linalg.norm(g + radius * w / np.linalg.norm(w))
    inside = {
        "type": "ineq",
        "fun": lambda u: radius**2 - u @ u,
        "jac": lambda u: -2 * u,
    }
    nearest = scipy.optimize.minimize(
        lambda u: 0.5 * np.sum((g + u) ** 2),
        np.zeros_like(g),
        jac=lambda u: g + u,
        constraints=inside,
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 1000},
    ).x
    return np.linalg.norm(g + nearest)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("strength", [0.0, 0.4, 3.0])
@pytest.mark.parametrize("size_scaled", [True, False])
def test_for_groups_it_is_the_distance_from_a_ball(seed, strength, size_scaled, x64):
    rng = np.random.default_rng(seed)
    labels = np.array([0, 1, 2, 2, 1, 2, 0, 3])
    w, g = rng.normal(size=(2, 8))
    w[np.isin(labels, rng.permutation(4)[:2])] = 0
    penalty = GroupLasso(strength, groups=labels, size_scaled=size_scaled)
    gaps = []
    for label in range(4):
        at = labels == label
        radius = strength * (np.sqrt(at.sum()) if size_scaled else 1)
        gaps.append(ball_gap(w[at], g[at], radius))
    found = stationarity(penalty, jnp.asarray(w), jnp.asarray(g))
    np.testing.assert_allclose(found, max(gaps), rtol=0, atol=1e-6)


def at(problem: Problem, w: np.ndarray) -> float:
    w = jnp.asarray(w)
    return float(stationarity(problem.penalty, w, jax.grad(problem.loss)(w)))


@pytest.mark.parametrize(
    "problem",
    [
        lambda: squared_error("diabetes", 0.05),
        lambda: squared_error("wide", 0.05),
        lambda: squared_error("diabetes", 0.05, l1_ratio=0.5),
        lambda: squared_error("wide", 0.05, l1_ratio=0.5),
        lambda: logistic("breast cancer", 0.05),
        lambda: logistic("wine", 0.05),
    ],
    ids=["lasso", "wide", "enet", "wide enet", "breast cancer", "wine"],
)
def test_it_is_nothing_at_solutions_of_scikit_learn_and_only_there(problem, x64):
    problem = problem()
    w = problem.solution
    assert at(problem, w) < 1e-6
    moved = w + 0.01 * np.random.default_rng(0).normal(size=w.size)
    assert at(problem, moved) > 1e-3
    # One zero that is not zero any more, one weight that is zero now.
    off, on = np.flatnonzero(w == 0)[0], np.argmax(np.abs(w))
    assert at(problem, w + 1e-3 * np.eye(w.size)[off]) > 1e-4
    assert at(problem, np.where(np.arange(w.size) == on, 0, w)) > 1e-4


@pytest.mark.parametrize(
    "penalty",
    [L1(0.0), L2(0.0), ElasticNet(0.0, 0.0), GroupLasso(0.0, axis=0)],
    ids=lambda penalty: type(penalty).__name__,
)
def test_of_zero_strength_it_is_the_gradient(penalty):
    w, g = jnp.array([[0.0, 1.0, -2.0]]), jnp.array([[1e-3, -0.25, 0.125]])
    np.testing.assert_allclose(stationarity(penalty, w, g), 0.25, rtol=1e-6)
    one = stationarity(penalty, w[:, :1], g[:, :1])
    np.testing.assert_allclose(one, 1e-3, rtol=1e-6)


@pytest.mark.parametrize("bad", [0, 1, 2])
@pytest.mark.parametrize(
    "penalty",
    [
        L1(1.0),
        L1(0.0),
        L2(1.0),
        ElasticNet(1.0, 1.0),
        GroupLasso(9.0),
        masked(L1(1.0), False),
    ],
    ids=["L1", "zero", "L2", "ElasticNet", "GroupLasso", "masked"],
)
def test_a_nan_in_the_gradient_is_not_lost(penalty, bad):
    w, g = jnp.array([0.0, 1.0, 0.0]), jnp.zeros(3).at[bad].set(jnp.nan)
    rest = {"a": jnp.ones(2), "w": w, "z": jnp.ones(2)}
    grads = {"a": jnp.ones(2), "w": g, "z": jnp.ones(2)}
    assert jnp.isnan(stationarity(penalty, w, g))
    assert jnp.isnan(stationarity(penalty, rest, grads))
    assert jnp.isnan(compiled(L1(1.0), jnp.zeros(3), g))


def test_a_complex_weight_has_a_disc_of_subgradients(x64):
    strength, target = 1.0, np.array([3 + 4j, 0.3 - 0.4j, 0.6 + 0.8j])

    def loss(w):
        return 0.5 * jnp.sum(jnp.abs(w - target) ** 2)

    # The optimum shrinks each modulus by the strength.
    size = np.abs(target)
    optimum = target * np.maximum(size - strength, 0) / size
    # JAX's gradient is the conjugate of the direction of steepest ascent.
    assert stationarity(L1(strength), optimum, jax.grad(loss)(optimum)) < 1e-15
    for w in (np.zeros(3, complex), 2j * np.ones(3), np.conj(optimum)):
        g = w - target
        phase = np.where(w == 0, 0, w / np.where(w == 0, 1, np.abs(w)))
        at_zero = np.maximum(np.abs(g) - strength, 0)
        expected = np.where(w == 0, at_zero, np.abs(g + strength * phase)).max()
        found = stationarity(L1(strength), w, jax.grad(loss)(w))
        np.testing.assert_allclose(found, expected, rtol=1e-13)
        assert not jnp.iscomplexobj(found)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("penalty", [L1(0.1), ElasticNet(0.1, 0.3), GroupLasso(0.1)])
def test_half_precision_is_computed_in_float32(dtype, penalty):
    w = jnp.array([1.0, -0.5, 0.0], dtype)
    g = jnp.array([0.3, 0.7, 0.2], dtype)
    found = stationarity(penalty, w, g)
    wide = stationarity(penalty, w.astype(jnp.float32), g.astype(jnp.float32))
    assert found.dtype == jnp.float32
    assert found == wide


def test_the_result_is_as_wide_as_the_widest_leaf(x64):
    params = {"a": jnp.ones(2, jnp.float32), "b": jnp.ones(2, jnp.bfloat16)}
    assert stationarity(L1(1.0), params, params).dtype == jnp.float32
    params["c"] = jnp.ones(2, jnp.float64)
    assert stationarity(L1(1.0), params, params).dtype == jnp.float64


def test_an_unpenalised_integer_leaf_is_no_parameter():
    params = {"w": jnp.array([1.0, 0.0]), "count": jnp.array([3, 4])}
    g = jnp.array([-1.0, 1.5])
    penalty = masked(L1(1.0), {"w": True, "count": False})
    for count in (jnp.array([5, 6]), np.zeros(2, jax.dtypes.float0), None):
        found = stationarity(penalty, params, {"w": g, "count": count})
        np.testing.assert_allclose(found, 0.5)


@pytest.mark.parametrize(
    ("grads", "match"),
    [
        ({"w": np.ones(2)}, r"\['b'\] of the parameters is not in `grads`"),
        (
            {"w": np.ones(2), "b": np.ones(1), "c": np.ones(1)},
            r"\['c'\] of `grads` is not in the parameters",
        ),
        ({"w": np.ones(3), "b": np.ones(1)}, r"\['w'\] of `grads` has shape \(3,\)"),
        ({"w": [np.ones(2)], "b": np.ones(1)}, r"\['w'\]\[0\] of `grads`"),
        (np.ones(2), "`grads` must have the structure of the parameters"),
    ],
)
def test_gradients_of_another_structure_are_refused(grads, match):
    params = {"w": jnp.ones(2), "b": jnp.ones(1)}
    with pytest.raises(ValueError, match=match):
        stationarity(L1(1.0), params, grads)


def test_a_strength_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"shape \(3,\).* the leaf at \['w'\]"):
        stationarity(L1(np.ones(3)), {"w": jnp.ones(2)}, {"w": jnp.ones(2)})


def test_no_parameters_are_optimal():
    assert stationarity(L1(1.0), {}, {}) == 0
    assert stationarity(L1(1.0), jnp.ones(0), jnp.ones(0)) == 0


def test_it_is_the_largest_over_leaves():
    params = {"a": jnp.zeros(2), "b": jnp.ones(2), "c": jnp.ones(1)}
    grads = {"a": jnp.full(2, 1.25), "b": jnp.full(2, -4.0), "c": jnp.full(1, 0.5)}
    labels = {"a": "sparse", "b": "ridge", "c": "free"}
    penalties = {"sparse": L1(1.0), "ridge": L2(2.0), "free": None}
    found = stationarity(partition(penalties, labels), params, grads)
    np.testing.assert_allclose(found, 0.5)
    grads["a"] = jnp.full(2, -2.0)
    found = stationarity(partition(penalties, labels), params, grads)
    np.testing.assert_allclose(found, 1.0)


def test_compiled_and_vmapped_it_is_the_same():
    w, g = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    w[:, ::2] = 0
    scale = jnp.linspace(0.1, 1, 5)
    many = jax.jit(jax.vmap(lambda *x: stationarity(L1(x[0]), *x[1:])))(scale, w, g)
    for s, a, b, found in zip(scale, w, g, many, strict=True):
        np.testing.assert_allclose(found, stationarity(L1(s), a, b), rtol=1e-6)
        np.testing.assert_allclose(
            found, interval_gap(a, b, float(s)), rtol=1e-5, atol=1e-6
        )
