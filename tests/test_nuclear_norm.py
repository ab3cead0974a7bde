"""The nuclear norm: its prox, derivatives at any singular values, optimality, ranks."""

import cvxpy
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optareg import NuclearNorm, low_rank, proximal, stationarity

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


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_prox_are_the_definition(shape, is_complex):
    w = matrix(shape, is_complex=is_complex)
    penalty = NuclearNorm(0.7)
    value = 0.7 * np.linalg.svd(w, compute_uv=False).sum()
    np.testing.assert_allclose(penalty.value(w), value, rtol=1e-14)
    np.testing.assert_allclose(penalty.prox(w, 2.0), in_numpy(w, 1.4), atol=1e-13)


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


@pytest.mark.parametrize("is_complex", [False, True])
def test_gradient_is_that_of_the_value_and_zero_at_zero(is_complex):
    penalty = NuclearNorm(0.7)
    for values in (None, [2.0, 2.0, 0.0, 0.0], [0.0] * 4):
        w = jnp.asarray(matrix((4, 6), is_complex=is_complex, values=values))
        slope = jnp.conj(jax.jit(jax.grad(penalty.value))(w))
        np.testing.assert_allclose(penalty.gradient(w), slope, atol=1e-13)
        assert jnp.all(jnp.isfinite(slope))
    assert not jnp.any(slope)
    u, _, vh = np.linalg.svd(matrix((4, 6)), full_matrices=False)
    found = penalty.gradient(matrix((4, 6)))
    np.testing.assert_allclose(found, 0.7 * u @ vh, atol=1e-13)


def test_strength_zero_is_no_penalty():
    w = jnp.asarray(matrix((3, 4)))
    np.testing.assert_array_equal(NuclearNorm(0.0).prox(w, 1.0), w)
    jacobian = jax.jit(jax.jacfwd(lambda w: NuclearNorm(0.0).prox(w, 1.0)))(w)
    np.testing.assert_array_equal(jacobian.reshape(12, 12), np.eye(12))


def test_three_points_and_the_envelope():
    penalty, step = NuclearNorm(0.4), 0.7
    v, w = (jnp.asarray(matrix((4, 6), seed=seed)) for seed in (1, 2))

    def total(x):
        return 0.5 * jnp.sum((x - w) ** 2) + step * penalty.value(x)

    x = penalty.prox(w, step)
    assert total(v) - total(x) >= 0.5 * jnp.sum((v - x) ** 2) - 1e-12

    def envelope(w):
        x = penalty.prox(w, step)
        return jnp.sum((x - w) ** 2) / (2 * step) + penalty.value(x)

    np.testing.assert_allclose(
        jax.jit(jax.grad(envelope))(w), (w - x) / step, atol=1e-12
    )


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


def test_all_zero_has_no_negative_zeros():
    x = NuclearNorm(10.0).prox(jnp.asarray(matrix((4, 6))), 1.0)
    assert not np.any(x) and not np.any(np.signbit(x))


def test_what_does_not_fit_raises_and_names_the_leaf():
    with pytest.raises(ValueError, match=r"\['bias'\] has shape \(3,\), but Nuclear"):
        NuclearNorm(1.0).prox({"bias": jnp.ones(3)}, 1.0)
    with pytest.raises(ValueError, match=r"differs within a matrix of .*\['a'\]"):
        NuclearNorm(jnp.ones((2, 2)).at[0, 0].set(2.0)).value({"a": jnp.ones((2, 2))})
    with pytest.raises(ValueError, match="at least 0"):
        NuclearNorm(-1.0)


OPTIMIZERS = {
    "sgd": (lambda scale, steps: optax.sgd(0.3), 1e-9),
    "adam": (
        lambda scale, steps: optax.adam(
            optax.cosine_decay_schedule(0.05 * scale, steps)
        ),
        1e-9,
    ),
    "lion": (
        lambda scale, steps: optax.lion(
            optax.cosine_decay_schedule(0.02 * scale, steps), weight_decay=0.0
        ),
        1e-5,
    ),
}


@pytest.mark.parametrize("scale", [1e-4, 1.0, 100.0])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_proximal_finds_the_optimum(name, scale):
    """With XᵀX/n = I, the optimum is the prox of Xᵀy/n, here by NumPy."""
    rng = np.random.default_rng(1)
    X = np.sqrt(80) * np.linalg.qr(rng.normal(size=(80, 5)))[0]
    truth = rng.normal(size=(5, 2)) @ rng.normal(size=(2, 4))
    y = scale * (X @ truth + 0.5 * rng.normal(size=(80, 4)))
    strength, steps = 0.5 * scale, 6000
    best = in_numpy(X.T @ y / 80, strength)
    assert np.linalg.matrix_rank(best) == 2

    make, tolerance = OPTIMIZERS[name]
    optimizer = proximal(make(scale, steps), NuclearNorm(strength))

    @jax.jit
    def train(params):
        def step(carry, _):
            params, state = carry
            g = X.T @ (X @ params - y) / 80
            updates, state = optimizer.update(g, state, params)
            return (optax.apply_updates(params, updates), state), None

        carry = params, optimizer.init(params)
        return jax.lax.scan(step, carry, length=steps)[0][0]

    start = 0.05 * scale * jnp.asarray(rng.normal(size=(5, 4)))
    found = np.asarray(train(start))
    assert np.linalg.norm(found - best) <= tolerance * np.linalg.norm(best)
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
