"""The nuclear norm: its prox, derivatives at any singular values, optimality, ranks."""

import cvxpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optareg import NuclearNorm, low_rank, stationarity
from references import OPTIMIZERS, SCALES, assert_near, train_at_scales

pytestmark = pytest.mark.usefixtures("x64")
SHAPES = [(4, 6), (6, 4), (5, 5), (2, 3, 4)]


def matrix(shape, *, is_complex=False, values=None, seed=0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    w = rng.normal(size=shape) + (1j * rng.normal(size=shape) if is_complex else 0)
    if values is None:
        return w
    u, _, vh = np.linalg.svd(w, full_matrices=False)
    return (u * np.asarray(values)) @ vh


def in_numpy(w: np.ndarray, t: float) -> np.ndarray:
    u, s, vh = np.linalg.svd(w, full_matrices=False)
    return (u * np.maximum(s - t, 0)[..., None, :]) @ vh


def test_prox_is_the_argmin_of_cvxpy():
    w, x = matrix((4, 6)), cvxpy.Variable((4, 6))
    objective = 0.5 * cvxpy.sum_squares(x - w) + 0.8 * cvxpy.normNuc(x)
    cvxpy.Problem(cvxpy.Minimize(objective)).solve(cvxpy.CLARABEL)
    np.testing.assert_allclose(NuclearNorm(0.4).prox(w, 2.0), x.value, atol=1e-5)


VALUES = {
    "different": None,
    "equal": [3.0, 3.0, 2.0, 2.0],
    "zero": [3.0, 1.5, 0.0, 0.0],
    "equal below": [3.0, 3.0, 0.5, 0.5],
}


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (4, 4)])
@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_derivative_of_the_prox_is_a_finite_difference(values, shape, is_complex):
    w = jnp.asarray(matrix(shape, is_complex=is_complex, values=values))
    dw = jnp.asarray(matrix(shape, is_complex=is_complex, seed=1))
    h = 1e-6
    ends = [thresholded(w + k * h * dw, 1 + k * h * 0.7) for k in (1, -1)]
    tangent = moved((w, 1.0), (dw, 0.7))
    np.testing.assert_allclose(tangent, (ends[0] - ends[1]) / (2 * h), atol=1e-7)
    slope = jnp.sum((slope_of_length(w) * dw).real)
    ends = [length(w + k * h * dw) for k in (1, -1)]
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * h), atol=1e-6)


@jax.jit
def thresholded(w, strength):
    return NuclearNorm(strength).prox(w, 1.0)


@jax.jit
def moved(primals, tangents):
    return jax.jvp(thresholded, primals, tangents)[1]


@jax.jit
def length(w):
    x = thresholded(w, 1.0)
    return jnp.sum((x * jnp.conj(x)).real)


@jax.jit
def slope_of_length(w):
    return jax.grad(length)(w)


def test_stationarity_is_the_distance_from_the_subdifferential():
    """Against the nearest U Vᵀ + M with ‖M‖ ≤ 1 by cvxpy."""
    w, g, strength = matrix((4, 5), values=[2.0, 1.0, 0, 0]), matrix((4, 5)), 0.3
    u, _, vh = np.linalg.svd(w)
    M = cvxpy.Variable((2, 3))
    lack = -g - strength * (u[:, :2] @ vh[:2] + u[:, 2:] @ M @ vh[2:])
    distance = cvxpy.norm(lack, "fro")
    cvxpy.Problem(cvxpy.Minimize(distance), [cvxpy.sigma_max(M) <= 1]).solve(
        cvxpy.CLARABEL
    )
    found = stationarity(NuclearNorm(strength), w, g)
    np.testing.assert_allclose(found, distance.value, rtol=1e-6)
    x = NuclearNorm(strength).prox(w + g, 1.0)
    assert stationarity(NuclearNorm(strength), x, x - w - g) < 1e-13


def test_a_matrix_is_the_last_two_axes_and_nan_stays_in_it():
    w = jnp.asarray(matrix((2, 4, 5))).at[0, 1, 1].set(jnp.nan)
    strength = jnp.array([1.0, 0.5]).reshape(2, 1, 1)
    for result in (NuclearNorm(strength).prox(w, 1.0), NuclearNorm(1.0).gradient(w)):
        assert jnp.all(jnp.isnan(result[0])) and jnp.all(jnp.isfinite(result[1]))
    alone = NuclearNorm(0.5).prox(w[1], 1.0)
    np.testing.assert_allclose(NuclearNorm(strength).prox(w, 1.0)[1], alone, atol=1e-14)


def test_what_does_not_fit_raises_and_names_the_leaf():
    with pytest.raises(ValueError, match=r"\['bias'\] has shape \(3,\), but Nuclear"):
        NuclearNorm(1.0).prox({"bias": jnp.ones(3)}, 1.0)
    with pytest.raises(ValueError, match=r"differs within a matrix of .*\['a'\]"):
        NuclearNorm(jnp.ones((2, 2)).at[0, 0].set(2.0)).value({"a": jnp.ones((2, 2))})
    with pytest.raises(ValueError, match="at least 0"):
        NuclearNorm(-1.0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_proximal_finds_the_optimum(name):
    """With XᵀX/n = I, the optimum is the prox of Xᵀy/n, here by NumPy."""
    rng = np.random.default_rng(1)
    X = np.sqrt(80) * np.linalg.qr(rng.normal(size=(80, 5)))[0]
    truth = rng.normal(size=(5, 2)) @ rng.normal(size=(2, 4))
    y = X @ truth + 0.5 * rng.normal(size=(80, 4))
    best = in_numpy(X.T @ y / 80, 0.5)
    assert np.linalg.matrix_rank(best) == 2

    def gradient(w, scale):
        return X.T @ (X @ w - scale * y) / 80

    start = 0.05 * rng.normal(size=(5, 4))
    trained = train_at_scales(
        name, lambda scale: NuclearNorm(0.5 * scale), gradient, start
    )
    for scale, found in zip(SCALES, trained, strict=True):
        assert_near(name, found, scale * best)
        assert low_rank(found).left.shape == (5, 2)


class TestLowRank:
    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64, jnp.complex64])
    def test_factors_have_the_rank_and_the_product(self, dtype):
        full = matrix((30, 20), is_complex=dtype == jnp.complex64).astype(dtype)
        w = NuclearNorm(1.0).prox(jnp.asarray(full), 7.0)
        rank = int(np.sum(np.linalg.svd(full)[1] > 7.0))
        left, right = low_rank(w)
        assert left.shape == (30, rank) and right.shape == (rank, 20)
        assert left.dtype == right.dtype == dtype and 0 < rank < 20
        rounding = 100 * jnp.finfo(dtype).eps
        np.testing.assert_allclose(left @ right, w, atol=rounding * jnp.abs(w).max())

    def test_half_precision_shows_the_rank_too(self):
        w = jnp.asarray(matrix((30, 20), values=[5.0, 3.0] + [0.0] * 18))
        factors = low_rank(w.astype(jnp.bfloat16))
        assert factors.left.shape == (30, 2) and factors.left.dtype == jnp.bfloat16

    def test_zero_and_empty_matrices_have_rank_zero(self):
        assert low_rank(jnp.zeros((3, 4))).right.shape == (0, 4)
        assert low_rank(jnp.zeros((3, 0))).left.shape == (3, 0)

    def test_tolerance_counts_small_singular_values_as_zero(self):
        w = matrix((4, 4), values=[1.0, 0.5, 1e-3, 1e-4])
        assert low_rank(w).left.shape == (4, 4)
        assert low_rank(w, tolerance=1e-2).left.shape == (4, 2)

    def test_what_does_not_fit_raises(self):
        with pytest.raises(ValueError, match=r"shape \(3,\)"):
            low_rank(jnp.ones(3))
        with pytest.raises(ValueError, match="finite"):
            low_rank(jnp.full((2, 2), jnp.nan))
        with pytest.raises(TypeError, match="dtype int"):
            low_rank(jnp.ones((2, 2), int))
        with pytest.raises(TypeError, match="traced"):
            jax.jit(low_rank)(jnp.ones((2, 2)))
