"""Each penalty against its definition: value, gradient, prox, and their laws."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from laws import CASES, Case, numerical_prox, prox, steps, total_objective, vectors
from optareg import L1, L2, ElasticNet

pytestmark = pytest.mark.usefixtures("x64")
every_penalty = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
law = hypothesis.settings(
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)


def relative(x: float) -> float:
    """A float64 rounding at the scale of x."""
    return 1e-14 * (1 + abs(x))


@every_penalty
@law
@hypothesis.given(w=vectors)
def test_value_is_the_definition(case: Case, w, strict):
    expected = np.sum(case.value(w))
    assert abs(case.penalty.value(jnp.asarray(w)) - expected) <= relative(expected)


@every_penalty
@law
@hypothesis.given(w=vectors)
def test_gradient_is_the_slope_of_the_value(case: Case, w, strict):
    w = np.where(np.abs(w) < 1e-3, 0, w)  # Zero, or far enough for the difference.
    w = np.where(np.abs(w) > 100, 100, w)
    h = 1e-5
    # The central difference at 0 is the subgradient 0, by symmetry.
    slope = (case.value(w + h) - case.value(w - h)) / (2 * h)
    gradient = case.penalty.gradient(jnp.asarray(w))
    np.testing.assert_allclose(gradient, slope, rtol=1e-8, atol=1e-8)


@every_penalty
@law
@hypothesis.given(w=vectors)
def test_jax_grad_of_the_value_is_the_gradient(case: Case, w):
    w = jnp.asarray(w)
    np.testing.assert_array_equal(
        jax.grad(case.penalty.value)(w), case.penalty.gradient(w)
    )


@every_penalty
@law
@hypothesis.given(w=vectors, step=steps)
def test_prox_is_the_argmin(case: Case, w, step, strict):
    w = np.clip(w, -100, 100)
    x = prox(case, w, step)
    best = numerical_prox(case, w, step)
    # Golden section finds a minimiser to the square root of the precision.
    np.testing.assert_allclose(x, best, rtol=1e-6, atol=1e-6)
    least = total_objective(case, best, w, step)
    assert total_objective(case, x, w, step) <= least + relative(least)


@every_penalty
@law
@hypothesis.given(w=vectors, step=steps)
def test_prox_meets_the_optimality_condition(case: Case, w, step):
    x = prox(case, w, step)
    # w − x ∈ step ∂R(x); at zero the subdifferential is [−R'(0+), R'(0+)].
    at_zero = step * (case.value(np.array(1e-8)) / 1e-8)
    inside = np.maximum(np.abs(w) - at_zero, 0)
    outside = np.abs(w - x - step * np.asarray(case.penalty.gradient(jnp.asarray(x))))
    residual = np.where(x == 0, inside, outside)
    assert np.all(residual <= 1e-7 * (1 + np.abs(w)))


@every_penalty
@law
@hypothesis.given(v=vectors, w=vectors, step=steps)
def test_prox_is_firmly_nonexpansive(case: Case, v, w, step):
    v, w = np.clip(v, -100, 100), np.clip(w, -100, 100)
    d = prox(case, v, step) - prox(case, w, step)
    assert np.sum(d * d) <= np.sum(d * (v - w)) + relative(np.sum(np.abs(v - w)) ** 2)


@every_penalty
@law
@hypothesis.given(v=vectors, w=vectors, step=steps)
def test_three_point_inequality(case: Case, v, w, step):
    v, w = np.clip(v, -100, 100), np.clip(w, -100, 100)
    x = prox(case, w, step)
    gap = total_objective(case, v, w, step) - total_objective(case, x, w, step)
    assert gap >= 0.5 * np.sum((v - x) ** 2) - relative(np.sum(v**2 + w**2) * 10)


@every_penalty
@law
@hypothesis.given(w=vectors, step=st.floats(0.01, 5))
def test_envelope_has_the_gradient_of_moreau(case: Case, w, step):
    # Where the prox just reaches zero it has two derivatives, and JAX takes either.
    kink = step * case.value(np.array(1e-8)) / 1e-8
    hypothesis.assume(case.is_smooth or not np.any(np.isclose(np.abs(w), kink)))
    w = jnp.asarray(np.clip(w, -100, 100))

    def envelope(w):
        x = case.penalty.prox(w, step)
        return jnp.sum((x - w) ** 2) / (2 * step) + case.penalty.value(x)

    expected = (w - case.penalty.prox(w, step)) / step
    np.testing.assert_allclose(jax.grad(envelope)(w), expected, rtol=1e-9, atol=1e-9)


@law
@hypothesis.given(w=vectors, step=st.floats(0.01, 5), strength=st.floats(0.01, 5))
def test_moreau_identity_for_l1(w, step, strength):
    """W = prox(w) + projection of w on the box of radius step · strength."""
    projection = np.clip(w, -step * strength, step * strength)
    total = np.asarray(L1(strength).prox(jnp.asarray(w), step)) + projection
    np.testing.assert_allclose(total, w, rtol=1e-15, atol=0)


@every_penalty
def test_prox_gives_exact_zeros_and_no_negative_ones(case: Case):
    w = jnp.array([-0.0, 0.0, 1e-3, -1e-3, 0.35, -0.35, 3.0, -3.0])
    x = np.asarray(case.penalty.prox(w, 1.0))
    assert np.sum(x == 0) == (2 if case.is_smooth else 6)
    if not case.is_smooth:
        assert not np.any(np.signbit(x) & (x == 0))


@every_penalty
def test_nan_and_infinity_stay(case: Case):
    w = jnp.array([jnp.nan, jnp.inf, -jnp.inf])
    x = case.penalty.prox(w, 1.0)
    np.testing.assert_array_equal(x, w)
    assert jnp.isnan(case.penalty.value(w))
    assert jnp.isnan(case.penalty.gradient(w)[0])


@every_penalty
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.complex64])
def test_derivatives_are_finite_everywhere(case: Case, dtype):
    w = jnp.array([0.0, -0.0, 1e-15, 0.7, -2.0], dtype)

    def through_prox(w):
        x = case.penalty.prox(w, 0.5)
        return jnp.sum(jnp.real(x * jnp.conj(x)))

    for f in (case.penalty.value, through_prox):
        assert jnp.all(jnp.isfinite(jax.grad(f)(w)))


@every_penalty
def test_complex_leaves_use_the_modulus(case: Case):
    rng = np.random.default_rng(0)
    w = np.append(rng.normal(size=5) + 1j * rng.normal(size=5), 0)
    modulus = np.abs(w)
    phase = np.where(modulus == 0, 0, w / np.where(modulus == 0, 1, modulus))
    p = case.penalty
    np.testing.assert_allclose(p.value(w), np.sum(case.value(modulus)), rtol=1e-12)
    np.testing.assert_allclose(p.gradient(w), phase * p.gradient(modulus), atol=1e-12)
    np.testing.assert_allclose(p.prox(w, 0.5), phase * p.prox(modulus, 0.5), atol=1e-12)
    np.testing.assert_array_equal(p.prox(w, 0.5) == 0, p.prox(modulus, 0.5) == 0)
    # The steepest ascent is the conjugate of what `jax.grad` gives.
    np.testing.assert_allclose(
        p.gradient(w), jnp.conj(jax.grad(p.value)(jnp.asarray(w))), atol=1e-12
    )


@every_penalty
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64])
def test_dtypes_are_kept_and_sums_are_wide(case: Case, dtype):
    w = {"a": jnp.linspace(-1, 1, 7).astype(dtype), "b": jnp.ones((2, 3), dtype)}
    assert case.penalty.value(w).dtype == jnp.promote_types(dtype, jnp.float32)
    for tree in (case.penalty.gradient(w), case.penalty.prox(w, 0.1)):
        assert jax.tree.map(lambda x: (x.shape, x.dtype), tree) == jax.tree.map(
            lambda x: (x.shape, x.dtype), w
        )


def test_elastic_net_without_a_part_is_the_other():
    w = jnp.linspace(-3, 3, 41)
    for p, q in ((ElasticNet(0.7, 0), L1(0.7)), (ElasticNet(0, 0.7), L2(0.7))):
        np.testing.assert_array_equal(p.prox(w, 0.5), q.prox(w, 0.5))
        np.testing.assert_array_equal(p.gradient(w), q.gradient(w))
        np.testing.assert_allclose(p.value(w), q.value(w), rtol=1e-15)


def test_strengths_may_be_prefix_trees_of_scalars_and_arrays():
    params = {
        "dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
        "out": [jnp.full(2, -2.0), jnp.ones(())],
    }
    weights = np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    strength = {"dense": {"kernel": weights, "bias": 0.5}, "out": 10.0}
    gradient = L1(strength).gradient(params)
    np.testing.assert_array_equal(gradient["dense"]["kernel"], weights)
    np.testing.assert_array_equal(gradient["dense"]["bias"], np.full(3, 0.5))
    np.testing.assert_array_equal(gradient["out"][0], np.full(2, -10.0))
    np.testing.assert_array_equal(gradient["out"][1], 10.0)
    assert L1(strength).value(params) == weights.sum() + 1.5 + 40 + 10
    row = L1({"dense": {"kernel": np.array([1.0, 2.0, 3.0]), "bias": 0}, "out": 0})
    np.testing.assert_array_equal(row.gradient(params)["dense"]["kernel"][1], [1, 2, 3])


def test_adaptive_lasso_penalises_each_coordinate_on_its_own():
    w = jnp.array([1.0, -2.0, 3.0])
    strength = jnp.array([0.5, 0.0, 5.0])
    np.testing.assert_array_equal(L1(strength).prox(w, 1.0), [0.5, -2.0, 0.0])


def test_a_penalty_is_a_pytree_of_its_strengths():
    penalty = ElasticNet({"a": 1.0, "b": 2.0}, 3.0)
    assert jax.tree.leaves(penalty) == [1.0, 2.0, 3.0]
    doubled = jax.tree.map(lambda x: 2 * x, penalty)
    assert doubled == ElasticNet({"a": 2.0, "b": 4.0}, 6.0)
    paths = [
        jax.tree_util.keystr(path)
        for path, _ in jax.tree_util.tree_leaves_with_path(penalty)
    ]
    assert paths == [".l1['a']", ".l1['b']", ".l2"]


def test_a_vmapped_penalty_is_a_sweep():
    strengths = jnp.geomspace(1e-3, 1, 32)
    w = jnp.linspace(-1, 1, 9)
    swept = jax.vmap(lambda p: p.prox(w, 1.0))(L1(strengths))
    for strength, x in zip(strengths, swept, strict=True):
        np.testing.assert_array_equal(x, L1(strength).prox(w, 1.0))


def test_strengths_have_derivatives():
    w = jnp.array([-2.0, 0.5])
    assert jax.grad(lambda s: L1(s).value(w))(0.1) == 2.5
    assert jax.grad(lambda s: jnp.sum(L1(s).prox(w, 1.0)))(1.0) == 1.0


class TestConventions:
    """Each constructor, through the objective of the library that it names."""

    rng = np.random.default_rng(0)
    w = rng.normal(size=5)

    def test_lasso_of_sklearn(self):
        alpha = 0.3
        assert np.isclose(
            L1.from_sklearn(alpha).value(self.w), alpha * np.linalg.norm(self.w, 1)
        )
        self.check_sklearn("Lasso", L1.from_sklearn(alpha), alpha=alpha)

    @pytest.mark.parametrize("l1_ratio", [0.1, 0.5, 1.0])
    def test_elastic_net_of_sklearn(self, l1_ratio):
        penalty = ElasticNet.from_sklearn(0.3, l1_ratio)
        self.check_sklearn("ElasticNet", penalty, alpha=0.3, l1_ratio=l1_ratio)
        same = ElasticNet.from_glmnet(lambda_=0.3, alpha=l1_ratio)
        assert same == penalty

    def check_sklearn(self, model, penalty, **settings):
        """The model's solution satisfies the optimality condition of ours."""
        import sklearn.linear_model

        X, y = self.rng.normal(size=(20, 5)), self.rng.normal(size=20)
        model = getattr(sklearn.linear_model, model)(
            **settings, fit_intercept=False, tol=1e-14, max_iter=100_000
        )
        w = model.fit(X, y).coef_
        gradient = X.T @ (X @ w - y) / len(y)
        # The optimum is a fixed point of the proximal gradient step.
        moved = penalty.prox(jnp.asarray(w - 0.1 * gradient), 0.1)
        np.testing.assert_allclose(moved, w, rtol=0, atol=1e-12)

    def test_elastic_net_of_glmnet(self):
        """λ [(1 − α)/2 ‖w‖² + α ‖w‖₁], equation 3 of its vignette."""
        lambda_, alpha = 0.7, 0.2
        expected = lambda_ * (
            (1 - alpha) / 2 * np.sum(self.w**2) + alpha * np.abs(self.w).sum()
        )
        penalty = ElasticNet.from_glmnet(lambda_, alpha)
        assert np.isclose(penalty.value(self.w), expected, rtol=1e-14)

    @pytest.mark.filterwarnings("ignore:JAXopt is no longer maintained")
    def test_elastic_net_of_jaxopt(self):
        from jaxopt.prox import prox_elastic_net

        lam, gamma = 0.4, 1.5
        theirs = prox_elastic_net(jnp.asarray(self.w), (lam, gamma), 0.8)
        ours = ElasticNet.from_jaxopt(lam, gamma).prox(self.w, 0.8)
        np.testing.assert_allclose(ours, theirs, rtol=1e-14)

    def test_weight_decay_of_optax(self):
        import optax

        w, zero = jnp.asarray(self.w), jnp.zeros(5)
        decay = optax.add_decayed_weights(0.3)
        theirs, _ = decay.update(zero, decay.init(w), w)
        np.testing.assert_allclose(
            L2.from_weight_decay(0.3).gradient(w), theirs, rtol=1e-15
        )


class TestFaultsOfJaxopt:
    """What goes wrong in jaxopt 0.8.5, and must not here."""

    def test_elastic_net_takes_trees(self):
        x = ElasticNet(0.5, 0.5).prox({"a": jnp.ones(2), "b": jnp.zeros(3)}, 1.0)
        np.testing.assert_array_equal(x["a"], [0.25, 0.25])

    def test_ridge_minimises_what_it_documents(self):
        case = CASES["L2"]
        w = np.array([1.0, -3.0])
        np.testing.assert_allclose(
            prox(case, w, 2.0), numerical_prox(case, w, 2.0), atol=1e-6
        )

    def test_lasso_returns_no_negative_zero(self):
        x = L1(1.0).prox(jnp.array([-0.5, -1.0, -0.0]), 1.0)
        assert not np.any(np.signbit(x))
