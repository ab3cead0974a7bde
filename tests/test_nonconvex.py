"""MCP and SCAD against their definitions, by grids, and against skglm."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from laws import of_mcp, of_scad
from optareg import (
    L1,
    MCP,
    SCAD,
    by_path,
    masked,
    max_strength,
    minimize,
    partition,
    path,
    proximal,
    stationarity,
)
from references import (
    Regression,
    adam,
    coordinate_descent,
    diabetes,
    soft,
    synthetic,
    train,
)


class Kind(NamedTuple):
    """A class of penalties and its definitions, entry by entry, in NumPy.

    Attributes:
      make: the class under test.
      value: R(x), from |x|, the strength and γ.
      slope: the derivative of R, likewise.
      bend: γ in units of the step at which the prox turns from convex to not.
      prox: the formula of the literature for steps below that.
    """

    make: Callable
    value: Callable
    slope: Callable
    bend: Callable
    prox: Callable


def mcp_slope(r, c, gamma):
    return np.maximum(c - r / gamma, 0)


def firm(w, c, gamma, t):
    """The prox of MCP for t < γ, the firm threshold of Gao & Bruce (1997)."""
    return np.where(np.abs(w) <= gamma * c, soft(w, t * c) / (1 - t / gamma), w)


def scad_slope(r, c, gamma):
    return np.where(r <= c, c, np.maximum(gamma * c - r, 0) / (gamma - 1))


def scad_prox(w, c, gamma, t):
    """For t < γ − 1: Fan & Li (2001), equation 2.8, with a step."""
    r = np.abs(w)
    middle = ((gamma - 1) * w - np.sign(w) * gamma * c * t) / (gamma - 1 - t)
    return np.where(
        r <= (1 + t) * c, soft(w, t * c), np.where(r <= gamma * c, middle, w)
    )


KINDS = {
    "MCP": Kind(MCP, of_mcp, mcp_slope, lambda gamma: gamma, firm),
    "SCAD": Kind(SCAD, of_scad, scad_slope, lambda gamma: gamma - 1, scad_prox),
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
# Strength and γ; the last is near the bound below.
SETTINGS = [(0.7, 3.7), (0.05, 30.0), (0.7, 2.05)]
every_setting = pytest.mark.parametrize(("c", "gamma"), SETTINGS, ids=str)
# Steps in units of the one where the prox is no more convex.


def values(kind: Kind, c: float, gamma: float) -> Callable:
    return lambda x: np.sum(kind.value(np.abs(x), c, gamma), axis=-1)


@pytest.mark.usefixtures("x64")
@every_kind
@every_setting
class TestDefinitions:
    """The prox, from the definition in NumPy."""

    @pytest.mark.parametrize("share", [0.0, 0.3, 0.999, 1.0, 1.1, 3.0, 50.0])
    def test_prox_is_the_best_of_a_dense_grid(self, kind: Kind, c, gamma, share):
        step = share * kind.bend(gamma)
        w = np.concatenate(
            [
                np.linspace(-2, 2, 401) * (gamma * c + step * c),
                np.array([c, gamma * c, step * c, (1 + step) * c]),
                [c * np.sqrt(step * gamma), c * np.sqrt(step * (gamma + 1))],
            ]
        )
        x = np.asarray(kind.make(c, gamma).prox(w, step))
        grid = np.concatenate([np.linspace(-1, 1, 8001) * np.max(np.abs(w)), [0.0]])

        def each(x, w):
            return 0.5 * (x - w) ** 2 + step * kind.value(np.abs(x), c, gamma)

        on_grid = each(grid[:, None], w)
        rounding = 1e-14 * (1 + w**2)
        assert np.all(each(x, w) <= on_grid.min(axis=0) + rounding)
        # Zero where zero is best, by more than the spacing of the grid may hide.
        other = on_grid[np.abs(grid) > 1e-9].min(axis=0)
        spacing = grid[1] - grid[0]
        assert np.all(x[each(0 * w, w) < other - spacing * (1 + c)] == 0)
        assert np.all(x[other < each(0 * w, w) - rounding] != 0)


@every_kind
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9])
def test_prox_is_accurate_in_single_precision(kind: Kind, share):
    """Near the end of the bend two formulas are equally good, but to a square root."""
    c, gamma = 1.0, 4.0
    step = share * kind.bend(gamma)
    near = 1 + np.array([-1e-2, -1e-3, -1e-4, 1e-4, 1e-3, 1e-2])
    w = np.concatenate([gamma * c * near, (1 + step) * c * near, [10.0, 100.0]])
    x = kind.make(c, gamma).prox(jnp.asarray(w, jnp.float32), step)
    expected = kind.prox(w, c, gamma, step)
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-5)


@every_kind
@pytest.mark.parametrize("size", [1.0, 10.0, 1e4])
def test_value_is_accurate_where_it_is_constant(kind: Kind, size):
    c = float(np.float32(1e-3))
    expected = values(kind, c, 3.0)(np.array([size]))
    found = kind.make(c, 3.0).value(jnp.array([size], jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.usefixtures("x64")
@every_kind
def test_jax_grad_of_the_value_is_the_gradient_where_pieces_meet(kind: Kind):
    """The slope is continuous there, whatever the rounding of γλ."""
    derivative = jax.jit(jax.grad(lambda penalty, w: penalty.value(w), argnums=1))
    for gamma in (2.1, 3.0, 3.7, 30.0):
        for c in (0.05, 0.1, 0.3, 0.7, 1.0):
            w = jnp.array([0.0, c, -c, gamma * c, -gamma * c])
            expected = np.sign(w) * kind.slope(np.abs(w), c, gamma)
            penalty = kind.make(c, gamma)
            np.testing.assert_allclose(penalty.gradient(w), expected, atol=1e-14)
            by_jax = derivative(penalty, w)
            np.testing.assert_allclose(by_jax, expected, atol=1e-14, err_msg=f"{c}")


@pytest.mark.usefixtures("x64")
@every_kind
def test_a_large_gamma_is_the_lasso(kind: Kind):
    w = jnp.linspace(-3, 3, 41)
    p = kind.make(0.7, 1e9)
    np.testing.assert_allclose(p.value(w), L1(0.7).value(w), rtol=1e-7)
    np.testing.assert_allclose(p.gradient(w), L1(0.7).gradient(w), atol=1e-7)
    np.testing.assert_allclose(p.prox(w, 0.5), L1(0.7).prox(w, 0.5), atol=1e-7)


@pytest.mark.usefixtures("x64")
def test_the_least_gamma_of_mcp_is_the_hard_threshold():
    w = np.linspace(-3, 3, 40)
    x = MCP(0.7, 1 + 1e-9).prox(w, 1.0)
    np.testing.assert_allclose(x, np.where(np.abs(w) > 0.7, w, 0), atol=1e-6)


@every_kind
def test_it_is_a_pytree_of_its_strength(kind: Kind):
    traces = 0

    @jax.jit
    def value(penalty, w):
        nonlocal traces
        traces += 1
        return penalty.value(w)

    w = jnp.ones(3)
    assert jax.tree.leaves(kind.make(0.5, 3.0)) == [0.5]
    value(kind.make(0.5, 3.0), w), value(kind.make(0.7, np.float32(3)), w)
    assert traces == 1
    value(kind.make(0.5, 4.0), w)
    assert traces == 2
    swept = jax.vmap(lambda p: p.prox(2 * w, 0.5))(kind.make(jnp.array([0.0, 0.5, 5])))
    np.testing.assert_allclose(swept[:, 0], [2.0, kind.prox(2, 0.5, 3.0, 0.5), 0.0])


@every_kind
def test_strengths_masks_and_parts(kind: Kind):
    params = {"kernel": jnp.array([[0.3, 5.0]]), "bias": jnp.array([0.3, -5.0])}
    whole = values(kind, 1.0, 3.0)
    kernel = whole(np.array([0.3, 5.0]))
    for penalty in (
        masked(kind.make(1.0, 3.0), by_path("kernel")),
        partition({"a": kind.make(1.0, 3.0), "b": None}, {"kernel": "a", "bias": "b"}),
        kind.make({"kernel": 1.0, "bias": 0.0}, 3.0),
        kind.make({"kernel": np.ones((1, 2)), "bias": 0.0}, 3.0),
    ):
        np.testing.assert_allclose(penalty.value(params), kernel, rtol=1e-6)
        x = penalty.prox(params, 1.0)
        np.testing.assert_array_equal(x["kernel"], [[0.0, 5.0]])
        np.testing.assert_array_equal(x["bias"], params["bias"])


# Solving: with more rows than columns the objective has one minimum.

PROBLEMS = {"diabetes": diabetes, "synthetic": synthetic}
GAMMA = {"MCP": 3.0, "SCAD": 3.7}
# Of the strength at which everything is zero.
SHARES = np.array([0.1, 1.01, 0.4, 0.99])
pairs = pytest.mark.parametrize(
    ("name", "data"), [("MCP", "diabetes"), ("MCP", "synthetic"), ("SCAD", "synthetic")]
)


def make(name: str, c):
    return KINDS[name].make(c, GAMMA[name])


@functools.cache
def solutions(name: str, data: str):
    """The largest strength, and the coefficients for each of the `SHARES` of it."""
    problem: Regression = PROBLEMS[data]()
    start = jnp.ones(problem.X.shape[1])
    largest = float(max_strength(problem.loss, start, make(name, 1.0)))
    found = path(problem.loss, 0 * start, make(name, SHARES * largest))
    assert np.all(found.converged)
    return problem, largest, dict(zip(SHARES, np.asarray(found.params), strict=True))


@pytest.mark.usefixtures("x64")
@pairs
class TestOptimum:
    """Least squares, against coordinate descent."""

    @pytest.mark.parametrize("share", [0.1, 0.4])
    def test_it_is_that_of_skglm(self, name, data, share):
        skglm = pytest.importorskip("skglm")
        from skglm.datafits import Quadratic
        from skglm.solvers import AndersonCD

        problem, largest, found = solutions(name, data)
        settings = {"tol": 1e-12, "fit_intercept": False}
        model = (
            skglm.MCPRegression(share * largest, GAMMA[name], **settings)
            if name == "MCP"
            else skglm.GeneralizedLinearEstimator(
                Quadratic(),
                skglm.penalties.SCAD(share * largest, GAMMA[name]),
                AndersonCD(**settings),
            )
        )
        theirs = model.fit(*problem).coef_
        np.testing.assert_allclose(found[share], theirs, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(found[share] == 0, theirs == 0)

    @pytest.mark.parametrize("share", [0.1, 0.4])
    def test_it_is_that_of_coordinate_descent(self, name, data, share):
        problem, largest, found = solutions(name, data)
        c, w = share * largest, found[share]

        def prox(x: float, step: float) -> float:
            return float(KINDS[name].prox(np.float64(x), c, GAMMA[name], step))

        expected = coordinate_descent(problem, prox)
        np.testing.assert_allclose(w, expected, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(w == 0, expected == 0)
        assert 0 < np.sum(w == 0) < len(w)
        assert stationarity(make(name, c), w, problem.gradient(w)) < 1e-9

    def test_training_with_adam_ends_there(self, name, data):
        problem, largest, found = solutions(name, data)
        optimizer = proximal(adam(0.1, 4000), make(name, 0.4 * largest))
        w = train(optimizer, problem.loss, 0 * jnp.asarray(found[0.4]), 4000)
        np.testing.assert_allclose(w, found[0.4], rtol=0, atol=1e-6)
        np.testing.assert_array_equal(w == 0, found[0.4] == 0)

    def test_everything_is_zero_just_above_the_largest_strength(self, name, data):
        problem, largest, found = solutions(name, data)
        g = problem.gradient(0 * found[1.01])
        np.testing.assert_allclose(largest, np.max(np.abs(g)), rtol=1e-14)
        assert np.all(found[1.01] == 0)
        assert np.any(found[0.99] != 0)


@pytest.mark.usefixtures("x64")
def test_large_coefficients_are_not_shrunk():
    """With orthonormal columns those above γλ are the least-squares ones."""
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.normal(size=(50, 6)))[0]
    truth = np.array([4.0, -3.0, 0.2, 0.0, -0.1, 5.0])
    y = jnp.asarray(Q @ truth)
    solution = minimize(
        lambda w: 0.5 * jnp.sum((y - jnp.asarray(Q) @ w) ** 2),
        jnp.zeros(6),
        MCP(0.5, 3.0),
    )
    expected = np.where(np.abs(truth) > 1, truth, 0)
    np.testing.assert_allclose(solution.params, expected, rtol=0, atol=1e-9)


# Bad input.


def raises(error, *words):
    """Expects `error` whose message has all of the regular expressions `words`."""
    return pytest.raises(error, match="".join(f"(?=(?s:.*){word})" for word in words))


@pytest.mark.parametrize(("make", "least"), [(MCP, 1), (SCAD, 2)], ids=["MCP", "SCAD"])
class TestBadInput:
    """γ is a number above a bound, a strength is as any other."""

    @pytest.mark.parametrize("below", [0, 1e-6, 0.5, 5])
    def test_gamma_at_or_below_its_bound_is_refused(self, make, least, below):
        name = f"`gamma` of {make.__name__}"
        with raises(ValueError, name, f"above {least}", str(least - below)):
            make(0.1, least - below)
        with raises(ValueError, name):
            make(0.1, gamma=np.float32(least - below))
        make(0.1, least + 1e-6)

    @pytest.mark.parametrize("gamma", [np.nan, np.inf, -np.inf])
    def test_gamma_is_finite(self, make, least, gamma):
        with raises(ValueError, f"`gamma` of {make.__name__}", str(gamma)):
            make(0.1, gamma)

    @pytest.mark.parametrize(
        "gamma",
        [np.full(3, 4.0), jnp.full(3, 4.0), "3", None, True, [4.0], {"a": 4.0}, 4j],
        ids=str,
    )
    def test_gamma_is_one_number(self, make, least, gamma):
        with raises(TypeError, f"`gamma` of {make.__name__}", "number"):
            make(0.1, gamma)

    def test_gamma_is_not_traced(self, make, least):
        with raises(TypeError, f"`gamma` of {make.__name__}", "traced"):
            jax.jit(lambda gamma: make(0.1, gamma).value(jnp.ones(3)))(4.0)

    @pytest.mark.parametrize("strength", [-0.1, np.nan, np.inf])
    def test_a_bad_strength_is_refused_by_name(self, make, least, strength):
        with raises(ValueError, f"`strength` of {make.__name__}", "at least 0"):
            make(strength)

    def test_integer_leaves_are_refused_with_their_path(self, make, least):
        with raises(TypeError, r"\['a'\]", "int32", make.__name__):
            make(0.1).value({"a": jnp.arange(3, dtype=jnp.int32)})
