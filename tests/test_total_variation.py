"""Total variation: the prox is exact, also its ties; derivatives, and odd input."""

import cvxpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optareg import TotalVariation, stationarity
from references import OPTIMIZERS, SCALES, assert_near, train_at_scales

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(0)


@jax.jit
def prox(penalty, w):
    return penalty.prox(w, 1.0)


def by_messages(y: np.ndarray, t: float) -> np.ndarray:
    """The prox by dynamic programming over knots (Johnson 2013), in NumPy.

    The derivative of the best cost to the left, as a function of the level b, is
    piecewise linear and increasing: m_i(b) = clip(m_{i−1}(b), −t, t) + b − y_i.
    """

    def cross(knots: list, level: float) -> float:
        """Where the piecewise linear function is `level`."""
        above = [i for i, (_, m) in enumerate(knots) if m >= level]
        i = min(max(above[0] if above else len(knots), 1), len(knots) - 1)
        (b0, m0), (b1, m1) = knots[i - 1 : i + 1]
        return b0 + (level - m0) * (b1 - b0) / (m1 - m0)

    low, high = y.min() - 1.0, y.max() + 1.0
    knots = [(low, low - y[0]), (high, high - y[0])]
    cuts = []
    for value in y[1:]:
        ends = [cross(knots, level) if t > 0 else 0.0 for level in (-t, t)]
        ends = np.clip(ends, low, high)
        cuts.append(ends)
        inner = [(b, m) for b, m in knots if ends[0] < b < ends[1]]
        at = [interpolate(knots, b) for b in ends]
        clipped = [(low, max(interpolate(knots, low), -t)), (ends[0], at[0])]
        clipped += [*inner, (ends[1], at[1]), (high, min(interpolate(knots, high), t))]
        knots = sorted({b: m + b - value for b, m in clipped}.items())
    x = [cross(knots, 0.0)]
    for least, most in reversed(cuts):
        x.append(min(max(x[-1], least), most))
    return np.array(x[::-1])


def interpolate(knots: list, b: float) -> float:
    return float(np.interp(b, *zip(*knots, strict=True)))


def by_cvxpy(y: np.ndarray, t: float) -> np.ndarray:
    x = cvxpy.Variable(len(y))
    objective = 0.5 * cvxpy.sum_squares(x - y) + t * cvxpy.tv(x)
    cvxpy.Problem(cvxpy.Minimize(objective)).solve(
        cvxpy.CLARABEL, tol_gap_abs=1e-13, tol_gap_rel=1e-13, tol_feas=1e-13
    )
    return x.value


def lines() -> dict[str, np.ndarray]:
    return {
        "noise": RNG.normal(size=60),
        "walk": np.cumsum(RNG.normal(size=60)),
        "steps": np.repeat(RNG.normal(size=6), 10) + 0.1 * RNG.normal(size=60),
        "far from zero": 1e4 + RNG.normal(size=60),
        "with ties": np.round(2 * RNG.normal(size=60)),
        "growing": 1.5 ** np.arange(20),
        "two": np.array([1.0, 3.0]),
    }


def lacks(y: np.ndarray, x: np.ndarray, t: float) -> float:
    """How far y − x is from t Dᵀv with v in ∂|Dx|: v are the sums, and v_n = 0."""
    v = -np.cumsum(y - x)
    rise = np.diff(x)
    of_rises = np.where(rise == 0, np.maximum(np.abs(v[:-1]) - t, 0), 0)
    of_rises += np.where(rise != 0, np.abs(v[:-1] - t * np.sign(rise)), 0)
    return max(of_rises.max(initial=0), abs(v[-1]))


@pytest.mark.parametrize("name", lines())
@pytest.mark.parametrize("t", [0.05, 1.0, 7.0])
def test_prox_is_that_of_other_methods(name, t):
    y = lines()[name]
    x = np.asarray(prox(TotalVariation(t), jnp.asarray(y)))
    scale = np.abs(y).max()
    assert lacks(y, x, t) <= 1e-14 * len(y) * scale
    np.testing.assert_allclose(x, by_messages(y, t), rtol=0, atol=1e-11 * scale)
    np.testing.assert_allclose(x, by_cvxpy(y, t), rtol=0, atol=1e-6 * scale)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_prox_of_a_long_line_meets_the_optimality_condition(dtype):
    y = jnp.asarray(np.cumsum(RNG.normal(size=20_000)), dtype)
    x = prox(TotalVariation(3.0), y)
    rounding = float(jnp.finfo(dtype).eps * jnp.max(jnp.abs(y)))
    wide = np.asarray(y, np.float64), np.asarray(x, np.float64)
    assert lacks(*wide, 3.0) <= 200 * rounding  # Runs have some hundred entries.
    assert np.mean(np.diff(x) == 0) > 0.5


def test_neighbours_are_equal_to_the_last_bit_and_no_zero_is_negative():
    y = jnp.array([0.1, 0.3, -0.2, 5.1, 5.3])
    x = prox(TotalVariation(1.0), y)
    assert x[0] == x[1] == x[2] and x[3] == x[4] != x[2]
    zeros = prox(TotalVariation(1.0), jnp.array([-0.0, -0.0, 0.0]))
    assert not np.any(np.signbit(zeros))


def test_neighbours_that_are_only_just_equal_are_so_whatever_the_rounding():
    scale = np.linspace(0.1, 1, 1000)[:, None]
    x = prox(TotalVariation(scale), jnp.asarray(scale * [3.0, 1.0]))
    np.testing.assert_array_equal(x[:, 0], x[:, 1])


def test_ties_and_digits_are_kept_far_from_zero():
    """The prox is rounded once: no digit of the differences is lost."""
    w = np.round(np.random.default_rng(2).normal(size=1000) * 2**12) / 2**12
    near, far = (prox(TotalVariation(7.0), jnp.asarray(w + x)) for x in (0, 2.0**40))
    np.testing.assert_array_equal(jnp.diff(far) == 0, jnp.diff(near) == 0)
    np.testing.assert_allclose(far - 2.0**40, near, rtol=0, atol=1.001 * 2.0**-13)


def test_lines_are_apart_along_any_axis_each_with_its_strength():
    w = RNG.normal(size=(3, 9, 4))
    strength = np.array([0.1, 0.2, 0.3, 0.0])
    x = prox(TotalVariation(2 * strength, axis=1), jnp.asarray(w))
    for i, j in np.ndindex(3, 4):
        alone = prox(TotalVariation(2 * strength[j]), jnp.asarray(w[i, :, j]))
        np.testing.assert_allclose(x[i, :, j], alone, rtol=1e-14, atol=1e-15)
    value = np.sum(strength * np.abs(np.diff(w, axis=1)))
    penalty = TotalVariation(strength, axis=1)
    np.testing.assert_allclose(penalty.value(w), value, rtol=1e-14)
    np.testing.assert_array_equal(
        jax.grad(penalty.value)(jnp.asarray(w)), penalty.gradient(jnp.asarray(w))
    )


@pytest.mark.parametrize("size", [0, 1])
def test_short_lines_stay(size):
    w = jnp.full((2, size), 3.0)
    penalty = TotalVariation(1.0)
    np.testing.assert_array_equal(penalty.prox(w, 1.0), w)
    np.testing.assert_array_equal(penalty.gradient(w), jnp.zeros_like(w))
    assert penalty.value(w) == 0
    assert stationarity(penalty, w, jnp.ones_like(w)) == size
    # Nothing holds a line of one entry, which has no total variation.
    least = penalty.leaf_dual_norm(jnp.ones_like(w))
    assert least == (jnp.inf if size else 0)


def test_nan_stays_within_its_line_and_infinity_is_far_away():
    w = jnp.array([[0.0, jnp.nan, 1.0], [0.0, 1.0, 5.0]])
    x = prox(TotalVariation(0.5), w)
    assert jnp.all(jnp.isnan(x[0]))
    np.testing.assert_allclose(x[1], [0.5, 1.0, 4.5], rtol=1e-15)
    x = prox(TotalVariation(1.0), jnp.array([0.0, jnp.inf, 0.0, -1.0]))
    np.testing.assert_array_equal(x, [1.0, jnp.inf, 0.0, 0.0])
    w = jnp.array([50.0, jnp.inf, 40.0, -jnp.inf, -60.0])
    x = prox(TotalVariation(1.0), w)
    np.testing.assert_array_equal(x, [51.0, jnp.inf, 40.0, -jnp.inf, -61.0])


def test_derivatives_backward_are_those_forward():
    y, dy = (jnp.asarray(RNG.normal(size=12)) for _ in range(2))

    @jax.jit
    def derivatives(y, strength):
        def f(y, strength):
            return TotalVariation(strength).prox(y, 1.0)

        x, linear = jax.linearize(f, y, strength)
        _, tangent = jax.jvp(f, (y, strength), (dy, 0.7))
        return x, linear(dy, 0.7), tangent, jax.jacrev(f)(y, strength) @ dy

    x, linear, tangent, backward = derivatives(y, 0.3)
    assert jnp.any(jnp.diff(x) == 0)
    np.testing.assert_allclose(linear, tangent, rtol=1e-14, atol=1e-15)
    at_end = np.sign(np.diff(x, prepend=x[0], append=x[-1]))
    by_strength = prox_slope(np.asarray(x), at_end)
    np.testing.assert_allclose(backward, tangent - 0.7 * by_strength, atol=1e-14)


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9])
def test_the_derivative_of_a_line_of_one_run_is_that_of_its_mean(n):
    y = jnp.asarray(RNG.normal(size=n))
    derivative = jax.jacrev(lambda y: TotalVariation(100.0).prox(y, 1.0))(y)
    np.testing.assert_allclose(derivative, np.full((n, n), 1 / n), atol=1e-7)


def prox_slope(x: np.ndarray, rises: np.ndarray) -> np.ndarray:
    """The derivative by the strength: rises at the ends of a run, over its length."""
    runs = np.cumsum(rises[:-1] != 0)
    each = [
        (rises[1:][runs == run][-1] - rises[:-1][runs == run][0]) / np.sum(runs == run)
        for run in runs
    ]
    return np.array(each)


def test_stationarity_is_the_distance_from_the_subdifferential():
    """Against a least-squares problem over the subgradients of the ties."""
    w = jnp.repeat(jnp.asarray(RNG.normal(size=4)), 5)
    g, strength = jnp.asarray(RNG.normal(size=20)), 0.3
    rises = np.sign(np.diff(w))
    v = cvxpy.Variable(19)
    D = np.diff(np.eye(20), axis=0)
    within = [v[i] == rises[i] if rises[i] else cvxpy.abs(v[i]) <= 1 for i in range(19)]
    lack = -np.asarray(g) - strength * D.T @ v
    cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(lack)), within).solve(
        cvxpy.CLARABEL, tol_gap_abs=1e-14, tol_gap_rel=1e-14, tol_feas=1e-14
    )
    found = stationarity(TotalVariation(strength), w, g)
    np.testing.assert_allclose(found, np.abs(lack.value).max(), rtol=1e-5)
    x = TotalVariation(strength).prox(w + g, 1.0)
    assert stationarity(TotalVariation(strength), x, x - w - g) < 1e-14


def test_what_does_not_fit_raises_and_names_the_leaf():
    with pytest.raises(TypeError, match=r"\['a'\] has dtype complex"):
        TotalVariation(1.0).prox({"a": jnp.ones(3, complex)}, 1.0)
    with pytest.raises(ValueError, match=r"\['a'\] has shape \(3,\), and no axis 1"):
        TotalVariation(1.0, axis=1).value({"a": jnp.ones(3)})
    with pytest.raises(ValueError, match="differs along axis -1"):
        TotalVariation(jnp.array([1.0, 2.0])).value(jnp.ones((3, 2)))
    with pytest.raises(TypeError, match="must be an integer"):
        TotalVariation(1.0, axis=0.5)
    with pytest.raises(ValueError, match="at least 0"):
        TotalVariation(-1.0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_proximal_finds_the_optimum(name):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(80, 12))
    truth = np.repeat([0.0, 2.0, -1.0], 4)
    y = X @ truth + 0.5 * rng.normal(size=80)
    w = cvxpy.Variable(12)
    loss = cvxpy.sum_squares(X @ w - y) / 160
    cvxpy.Problem(cvxpy.Minimize(loss + 0.2 * cvxpy.tv(w))).solve(cvxpy.CLARABEL)
    # Its runs and signs, and the exact solution for them by linear algebra.
    rises = np.where(np.abs(np.diff(w.value)) < 1e-5, 0, np.sign(np.diff(w.value)))
    runs = np.concatenate([[0], np.cumsum(rises != 0)])
    pool = np.eye(runs.max() + 1)[runs]
    slope = -np.diff(np.concatenate([[0], rises, [0]]))
    right = pool.T @ (X.T @ y / 80 - 0.2 * slope)
    best = pool @ np.linalg.solve(pool.T @ X.T @ X @ pool / 80, right)

    def gradient(w, scale):
        return X.T @ (X @ w - scale * y) / 80

    trained = train_at_scales(
        name, lambda scale: TotalVariation(0.2 * scale), gradient, np.zeros(12)
    )
    for scale, found in zip(SCALES, trained, strict=True):
        assert_near(name, found, scale * best)
        np.testing.assert_array_equal(np.sign(np.diff(found)), rises)
