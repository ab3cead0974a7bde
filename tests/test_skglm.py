"""What skglm's tests ask of its penalties, losses and solvers, asked of ours.

skglm is the judge: its penalties measure how far our solutions are from optimal, with
the gradients of its losses, and give the values. `pytest -m long` lets its solvers find
the solutions too. Of its penalties ℓ½, ℓ⅔, the logarithmic, SLOPE, the concave ones of
blocks and positive groups have no counterpart here. Least squares with GroupLasso, MCP
and SCAD is in `test_groups.py` and `test_nonconvex.py`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sklearn.svm

from optareg import (
    L1,
    L2,
    MCP,
    SCAD,
    ElasticNet,
    GroupLasso,
    constraint,
    masked,
    max_strength,
    minimize,
    partition,
)

skglm = pytest.importorskip("skglm")
from skglm import datafits, penalties, solvers  # noqa: E402

pytestmark = pytest.mark.usefixtures("x64")

ROWS, COLUMNS = 40, 12
# Unequal and scattered, by label; the second is not penalised.
LABELS = np.array([2, 0, 1, 2, 0, 3, 0, 2, 1, 0, 3, 0])
GROUP_WEIGHTS = np.array([1.0, 0.0, 0.3, 4.0])
WEIGHTS = np.linspace(0.2, 2, COLUMNS)


def grouped() -> dict[str, np.ndarray]:
    """The groups as skglm has them."""
    parts = [np.flatnonzero(k == LABELS) for k in range(4)]
    ends = np.cumsum([0, *map(len, parts)])
    return {
        "grp_ptr": ends.astype(np.int32),
        "grp_indices": np.concatenate(parts).astype(np.int32),
    }


def matrix() -> np.ndarray:
    """Correlated columns."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(ROWS, COLUMNS)) + 0.5 * rng.normal(size=(ROWS, 1))


def fit() -> np.ndarray:
    """What the targets are made of."""
    return 0.5 * matrix()[:, :4] @ [1.0, -1.0, 0.5, 0.8]


def noisy() -> np.ndarray:
    return fit() + 0.5 * np.random.default_rng(1).standard_t(2, size=ROWS)


def signs() -> np.ndarray:
    return np.where(noisy() > 0, 1.0, -1.0)


def counts() -> np.ndarray:
    return np.random.default_rng(2).poisson(np.exp(fit())).astype(float)


def amounts() -> np.ndarray:
    return np.random.default_rng(3).gamma(2.0, np.exp(fit()))


def lives() -> np.ndarray:
    """Times with ties, and whether they ended with an event."""
    rng = np.random.default_rng(4)
    times = np.ceil(4 * rng.exponential(np.exp(-fit())))
    return np.column_stack([times, rng.uniform(size=ROWS) < 0.7]).astype(float)


# Losses, of z = Xw, as their formulas are.


def huber(y: Any, z: Any) -> Any:
    size = jnp.abs(y - z)
    return jnp.mean(jnp.where(size < 0.7, 0.5 * size**2, 0.7 * size - 0.245))


def cox(y: np.ndarray, z: Any, efron: bool) -> Any:
    """Of Breslow, or of Efron for ties: the k-th of d events leaves k/d of them out."""
    times, events = y.T
    at_risk = (times >= times[:, None]).astype(float)
    if efron:
        tied = (times == times[:, None]) * events * events[:, None]
        earlier = np.tril(tied, -1).sum(axis=1)
        at_risk = at_risk - tied * (earlier / np.maximum(tied.sum(axis=1), 1))[:, None]
    return events @ (jnp.log(at_risk @ jnp.exp(z)) - z) / len(y)


class Loss(NamedTuple):
    """A loss of z = Xw, its targets, and skglm's class of it."""

    of: Callable[[Any, Any], Any]
    targets: Callable[[], np.ndarray]
    theirs: Callable[[], Any]
    solver: str = "AndersonCD"


SHARES = np.linspace(0.1, 2, ROWS)
LOSSES = {
    "least squares": Loss(
        lambda y, z: 0.5 * jnp.mean((y - z) ** 2), noisy, datafits.Quadratic
    ),
    "weighted rows": Loss(
        lambda y, z: 0.5 * SHARES @ (y - z) ** 2 / SHARES.sum(),
        noisy,
        lambda: datafits.WeightedQuadratic(SHARES),
    ),
    "Huber": Loss(huber, noisy, lambda: datafits.Huber(0.7)),
    "logistic": Loss(
        lambda y, z: jnp.mean(jax.nn.softplus(-y * z)), signs, datafits.Logistic
    ),
    "logistic of groups": Loss(
        lambda y, z: jnp.mean(jax.nn.softplus(-y * z)),
        signs,
        lambda: datafits.LogisticGroup(**grouped()),
        "GroupProxNewton",
    ),
    "Poisson": Loss(
        lambda y, z: jnp.mean(jnp.exp(z) - y * z),
        counts,
        datafits.Poisson,
        "ProxNewton",
    ),
    "Poisson of groups": Loss(
        lambda y, z: jnp.mean(jnp.exp(z) - y * z),
        counts,
        lambda: datafits.PoissonGroup(**grouped()),
        "GroupProxNewton",
    ),
    "gamma": Loss(
        lambda y, z: jnp.mean(z + y * jnp.exp(-z)),
        amounts,
        datafits.Gamma,
        "ProxNewton",
    ),
    "Cox, Breslow": Loss(
        functools.partial(cox, efron=False), lives, datafits.Cox, "ProxNewton"
    ),
    "Cox, Efron": Loss(
        functools.partial(cox, efron=True),
        lives,
        lambda: datafits.Cox(use_efron=True),
        "ProxNewton",
    ),
}

# Penalties, of a strength: ours and theirs.
BOX = functools.partial(optax.projections.projection_box, lower=0.0, upper=0.2)
PENALTIES: dict[str, tuple[Callable, Callable]] = {
    "L1": (L1, penalties.L1),
    "positive L1": (
        lambda c: L1(c, positive=True),
        lambda c: penalties.L1(c, positive=True),
    ),
    "weighted L1": (
        lambda c: L1(c * WEIGHTS),
        lambda c: penalties.WeightedL1(c, WEIGHTS),
    ),
    "elastic net": (
        lambda c: ElasticNet.from_sklearn(c, 0.6),
        lambda c: penalties.L1_plus_L2(c, 0.6),
    ),
    "positive elastic net": (
        lambda c: ElasticNet.from_sklearn(c, 0.6, positive=True),
        lambda c: penalties.L1_plus_L2(c, 0.6, positive=True),
    ),
    "MCP": (lambda c: MCP(c, 5.0), lambda c: penalties.MCPenalty(c, 5.0)),
    "SCAD": (lambda c: SCAD(c, 5.0), lambda c: penalties.SCAD(c, 5.0)),
    "groups": (
        lambda c: GroupLasso(
            c * GROUP_WEIGHTS[LABELS], groups=LABELS, size_scaled=False
        ),
        lambda c: penalties.WeightedGroupL2(c, GROUP_WEIGHTS, **grouped()),
    ),
    "box": (lambda c: constraint(BOX), lambda c: penalties.IndicatorBox(0.2)),
    "positive": (
        lambda c: L1(0.0, positive=True),
        lambda c: penalties.PositiveConstraint(),
    ),
}
# Each loss, and each penalty that no other file asks about.
PAIRS = [
    ("weighted rows", "weighted L1"),
    ("Huber", "elastic net"),
    ("logistic", "weighted L1"),
    ("logistic of groups", "groups"),
    ("Poisson", "L1"),
    ("Poisson of groups", "groups"),
    ("gamma", "positive elastic net"),
    ("Cox, Breslow", "L1"),
    ("Cox, Efron", "elastic net"),
    ("least squares", "box"),
]
MORE = [
    ("Huber", "MCP"),
    ("Huber", "SCAD"),
    ("Huber", "positive L1"),
    ("Huber", "positive"),
    ("weighted rows", "MCP"),
]
STRENGTH = 0.05


@functools.cache
def solution(loss: str, penalty: str) -> np.ndarray:
    X, y = matrix(), LOSSES[loss].targets()
    found = jax.jit(
        lambda: minimize(
            lambda w: LOSSES[loss].of(y, X @ w),
            jnp.zeros(COLUMNS),
            PENALTIES[penalty][0](STRENGTH),
            tol=1e-12,
        )
    )()
    assert found.converged
    return np.asarray(found.params)


def judged(theirs: Any, datafit: Any, y: np.ndarray, w: np.ndarray) -> float:
    """The largest distance from optimal, as skglm has it."""
    X = matrix()
    if hasattr(theirs, "grp_ptr"):
        groups = range(len(theirs.grp_ptr) - 1)
        slopes = [datafit.gradient_g(X, y, w, X @ w, g) for g in groups]
        gradient = np.concatenate(slopes)
    elif hasattr(datafit, "gradient_scalar"):
        groups = range(COLUMNS)
        slopes = [datafit.gradient_scalar(X, y, w, X @ w, j) for j in groups]
        gradient = np.array(slopes)
    else:
        groups, gradient = range(COLUMNS), X.T @ datafit.raw_grad(y, X @ w)
    return float(np.max(theirs.subdiff_distance(w, gradient, np.array(groups))))


@pytest.mark.parametrize(
    ("loss", "penalty"),
    [*PAIRS, *(pytest.param(*pair, marks=pytest.mark.long) for pair in MORE)],
)
def test_a_solution_is_optimal_for_skglm(loss, penalty):
    X, y, w = matrix(), LOSSES[loss].targets(), solution(loss, penalty)
    datafit, theirs = LOSSES[loss].theirs(), PENALTIES[penalty][1](STRENGTH)
    if hasattr(datafit, "initialize"):
        datafit.initialize(X, y)
    assert judged(theirs, datafit, y, w) < 1e-10
    away = w + np.where(w == 0, 0, 1e-3)
    assert judged(theirs, datafit, y, away) > 1e-5
    assert 0 < np.sum(w == 0) < COLUMNS
    ours = PENALTIES[penalty][0](STRENGTH).value(jnp.asarray(w))
    np.testing.assert_allclose(ours, theirs.value(w), rtol=1e-12)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*faster on contiguous arrays")  # Its own.
@pytest.mark.parametrize(("loss", "penalty"), [*PAIRS, *MORE])
def test_a_solution_is_that_of_skglm(loss, penalty):
    X, y, w = matrix(), LOSSES[loss].targets(), solution(loss, penalty)
    solver = getattr(solvers, LOSSES[loss].solver)
    theirs, *_ = solver(tol=1e-10, fit_intercept=False, max_iter=500).solve(
        np.asfortranarray(X), y, LOSSES[loss].theirs(), PENALTIES[penalty][1](STRENGTH)
    )
    np.testing.assert_allclose(w, theirs, rtol=0, atol=1e-7)
    np.testing.assert_array_equal(w == 0, theirs == 0)


@pytest.mark.parametrize("name", [n for n in PENALTIES if n != "groups"])
@pytest.mark.parametrize("step", [0.3, 1.0])
def test_a_prox_of_entries_is_that_of_skglm(name, step):
    ours, theirs = (make(0.4) for make in PENALTIES[name])
    for w in np.linspace(-4, 4, 10 * COLUMNS).reshape(10, COLUMNS):
        expected = [theirs.prox_1d(w[j], step, j) for j in range(COLUMNS)]
        found = ours.prox(jnp.asarray(w), step)
        np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-15)


def test_a_prox_of_groups_is_that_of_skglm():
    ours, theirs = (make(1.4) for make in PENALTIES["groups"])
    for seed in range(5):
        w = np.random.default_rng(seed).normal(size=COLUMNS)
        expected = np.zeros(COLUMNS)
        for g in range(4):
            at = g == LABELS
            expected[at] = theirs.prox_1group(w[at], 0.8, g)
        found = ours.prox(jnp.asarray(w), 0.8)
        np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-15)
        groups = [np.any(found[k == LABELS] != 0) for k in range(4)]
        assert not all(groups) and any(groups)


# Not of the others: skglm's elastic net leaves its ratio out, its positive L1 the sign.
@pytest.mark.parametrize("loss", ["weighted rows", "logistic", "Poisson", "Cox, Efron"])
@pytest.mark.parametrize("name", ["L1", "weighted L1"])
def test_the_max_strength_is_that_of_skglm(name, loss):
    X, y, datafit = matrix(), LOSSES[loss].targets(), LOSSES[loss].theirs()
    if hasattr(datafit, "initialize"):
        datafit.initialize(X, y)
    ours, theirs = (make(1.0) for make in PENALTIES[name])
    of = LOSSES[loss].of
    found = max_strength(lambda w: of(y, X @ w), jnp.zeros(COLUMNS), ours)
    expected = theirs.alpha_max(X.T @ datafit.raw_grad(y, np.zeros(ROWS)))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_an_infinite_gamma_is_l1():
    w = jnp.asarray(solution("logistic", "weighted L1"))
    ours = MCP(WEIGHTS, 1e12).prox(w, 0.3)
    np.testing.assert_allclose(ours, L1(WEIGHTS).prox(w, 0.3), rtol=1e-10, atol=0)


def test_a_weighted_mcp_is_a_partition():
    """skglm's weights v stand before MCP: of strength vλ, and of γ / v."""
    heavy = np.where(np.arange(COLUMNS) < 6, 2.0, 0.5)
    theirs = penalties.WeightedMCPenalty(0.3, 4.0, heavy)
    ours = partition(
        {"heavy": MCP(0.6, 2.0), "light": MCP(0.15, 8.0)}, {"a": "heavy", "b": "light"}
    )
    for w in np.linspace(-3, 3, 5 * COLUMNS).reshape(5, COLUMNS):
        leaves = {"a": jnp.asarray(w[:6]), "b": jnp.asarray(w[6:])}
        np.testing.assert_allclose(ours.value(leaves), theirs.value(w), rtol=1e-12)
        found = ours.prox(leaves, 0.7)
        expected = [theirs.prox_1d(w[j], 0.7, j) for j in range(COLUMNS)]
        np.testing.assert_allclose(
            np.concatenate([found["a"], found["b"]]), expected, rtol=1e-12, atol=1e-15
        )


def test_their_l2_is_twice_ours():
    w = np.linspace(-1, 1, COLUMNS)
    theirs, ours = penalties.L2(0.3), L2(0.15)
    np.testing.assert_allclose(ours.value(jnp.asarray(w)), theirs.value(w), rtol=1e-14)
    found = ours.gradient(jnp.asarray(w))
    np.testing.assert_allclose(found, theirs.gradient(w), rtol=1e-14)


def test_a_hessian_in_place_of_data_has_the_same_solution():
    X, y = matrix(), noisy()
    A, b = X.T @ X / ROWS, -X.T @ y / ROWS
    found = jax.jit(
        lambda: minimize(
            lambda w: 0.5 * w @ A @ w + b @ w, jnp.zeros(COLUMNS), L1(0.1), tol=1e-13
        )
    )()
    assert found.converged
    w = np.asarray(found.params)
    datafit = datafits.QuadraticHessian()
    slopes = [datafit.gradient_scalar(A, b, w, A @ w, j) for j in range(COLUMNS)]
    distances = penalties.L1(0.1).subdiff_distance(w, np.array(slopes), range(COLUMNS))
    assert np.max(distances) < 1e-12 and 0 < np.sum(w == 0) < COLUMNS


def test_the_dual_of_a_support_vector_machine_is_solved_in_its_box():
    """½‖Σ yᵢwᵢxᵢ‖² − Σ wᵢ with 0 ≤ w ≤ C, whose corners are exact."""
    X, y, C = matrix(), signs(), 0.2
    yX = y[:, None] * X
    found = jax.jit(
        lambda: minimize(
            lambda w: 0.5 * jnp.sum((w @ yX) ** 2) - jnp.sum(w),
            jnp.zeros(ROWS),
            constraint(BOX),
            tol=1e-11,
        )
    )()
    w = np.asarray(found.params)
    assert found.converged
    assert np.sum(w == 0) > 3 and np.sum(w == C) > 3
    datafit = datafits.QuadraticSVC()
    slopes = [datafit.gradient_scalar(yX.T, y, w, w @ yX, j) for j in range(ROWS)]
    distances = penalties.IndicatorBox(C).subdiff_distance(
        w, np.array(slopes), range(ROWS)
    )
    assert np.max(distances) < 1e-10
    model = sklearn.svm.LinearSVC(
        C=C, loss="hinge", fit_intercept=False, tol=1e-8, max_iter=1_000_000
    ).fit(X, y)
    np.testing.assert_allclose(w @ yX, model.coef_[0], rtol=0, atol=1e-6)


def test_an_unbalanced_intercept_is_found():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(300, 20)), np.where(rng.uniform(size=300) < 0.97, 1.0, -1.0)

    def loss(params):
        return jnp.mean(jax.nn.softplus(-y * (X @ params["w"] + params["b"])))

    start = {"w": jnp.zeros(20), "b": jnp.zeros(())}
    penalty = masked(L1(0.012), {"w": True, "b": False})
    found = jax.jit(lambda: minimize(loss, start, penalty, tol=1e-12))()
    assert found.converged
    w, b = np.asarray(found.params["w"]), float(found.params["b"])
    slopes = datafits.Logistic().raw_grad(y, X @ w + b)
    distances = penalties.L1(0.012).subdiff_distance(w, X.T @ slopes, range(20))
    assert max(np.max(distances), abs(slopes.sum())) < 1e-11
    assert 0 < np.sum(w == 0) < 20
    alone = max_strength(loss, start, masked(L1(1.0), {"w": True, "b": False}))
    rate = np.mean(y == 1)
    null = datafits.Logistic().raw_grad(y, np.full(300, np.log(rate / (1 - rate))))
    expected = penalties.L1(1.0).alpha_max(X.T @ null)
    np.testing.assert_allclose(alone, expected, rtol=1e-9)
