"""Each penalty against its definition: value, gradient, prox, and their laws."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from laws import (
    Case,
    compiled_prox,
    coupled,
    every_penalty,
    flat,
    inner,
    law,
    neighbours,
    nothing,
    objective,
    points,
    positive_steps,
    prox,
    rounded,
    slopes,
    steps,
    strictly,
    times,
)
from optareg import L1, L2, ElasticNet
from optareg._tree import Tree

pytestmark = pytest.mark.usefixtures("x64")


@strictly
def look(penalty, w):
    """Value, gradient, and the gradient by JAX."""
    return penalty.value(w), penalty.gradient(w), jax.grad(penalty.value)(w)


@strictly
def of_parts(penalty, w):
    """The value of the smooth part of each leaf and of the rest, added."""
    tree = Tree(w)
    parts = [
        part.leaf_value(group.join(tree.leaves))
        for group in penalty.resolve(tree)
        for part in group.penalty.split()
        if part is not None
    ]
    return sum(parts, start=jnp.zeros(()))


@strictly
def move(penalty, w, dw, factor, step):
    """The prox, and how it moves with w and with all strengths, times `factor`."""

    def prox(w, factor):
        return times(penalty, factor).prox(w, step)

    return jax.jvp(prox, (w, factor), (dw, jnp.ones_like(factor)))


def size(*arrays: np.ndarray) -> float:
    """The scale of squares of what is computed with."""
    return 1 + sum(np.sum(np.abs(x) ** 2) for x in arrays)


@every_penalty
@law
@hypothesis.given(w=points)
def test_value_is_the_definition(case: Case, w):
    w = case.point(w)
    for x in (w, case.within.bring(w)):
        expected = case.value(x) if case.within.has(x) else np.inf
        found = look(case.penalty, case.tree(x))[0]
        scale = np.max(np.abs(x))
        np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-14 * scale)
        # Terms of the parts cancel, where one is concave.
        parts, atol = of_parts(case.penalty, case.tree(x)), 1e-13 * size(x)
        np.testing.assert_allclose(parts, expected, rtol=1e-12, atol=atol)


@every_penalty
@law
@hypothesis.given(w=points)
def test_gradient_is_the_slope_of_the_value(case: Case, w):
    """Also where R is infinite, of which a gradient cannot know."""
    w = case.center + case.point(rounded(w))
    _, gradient, by_jax = look(case.penalty, case.tree(w))
    np.testing.assert_allclose(flat(gradient), slopes(case.value, w), atol=1e-5)
    by_jax, gradient = np.conj(flat(by_jax)), flat(gradient)
    known = np.isfinite(by_jax) | case.exact  # A user's value may have none at a kink.
    np.testing.assert_allclose(by_jax[known], gradient[known], rtol=1e-12, atol=1e-12)


@every_penalty
@law
@hypothesis.given(w=points)
def test_jax_grad_of_the_value_is_the_gradient(case: Case, w):
    _, gradient, by_jax = look(case.penalty, case.tree(case.point(w)))
    by_jax, gradient = np.conj(flat(by_jax)), flat(gradient)
    known = np.isfinite(by_jax) | case.exact
    np.testing.assert_allclose(by_jax[known], gradient[known], rtol=1e-7, atol=1e-7)


@every_penalty
@law
@hypothesis.given(v=points, w=points, step=steps)
def test_prox_is_the_argmin(case: Case, v, w, step):
    """By the three-point inequality, with points that are near and far."""
    v, w = (case.point(x, 100) for x in (v, w))
    x = prox(case, w, step)
    assert case.within.has(x)
    others = case.within.bring(np.concatenate([neighbours(x), v[None], w[None]]))
    gaps = objective(case.value, others, w, step) - objective(case.value, x, w, step)
    least = 0.5 * np.sum(np.abs(others - x) ** 2, axis=-1) if case.convex else 0
    scale = size(v, w) + np.sum(np.abs(others) ** 2, axis=-1)
    assert np.all(gaps >= least - 1e-13 * scale)


@every_penalty
@law
@hypothesis.given(v=points, w=points, step=steps)
def test_prox_is_firmly_nonexpansive(case: Case, v, w, step):
    v, w = (case.point(x, 100) for x in (v, w))
    d = prox(case, v, step) - prox(case, w, step)
    if case.convex:
        assert np.sum(np.abs(d) ** 2) <= inner(d, v - w) + 1e-13 * size(v, w)


@every_penalty
@law
@hypothesis.given(w=points, step=positive_steps)
def test_envelope_has_the_gradient_of_moreau(case: Case, w, step):
    """By differences of the envelope, all of them computed at once."""
    if not case.convex:  # Where there are two argmins the envelope has a kink.
        step = min(step, 0.9)
    w = case.point(w, 10)
    x = prox(case, w, step)

    def envelope(points):
        at = np.stack([prox(case, p, step) for p in points])
        return objective(case.value, at, points, step)

    np.testing.assert_allclose(slopes(envelope, w, 1e-4), w - x, atol=1e-3)


@every_penalty
@law
@hypothesis.given(w=points, dw=points, step=positive_steps)
def test_prox_has_its_derivatives(case: Case, w, dw, step):
    """By w and by the strengths, against differences where those agree."""
    w, dw = case.center + case.point(w, 10), case.point(dw)
    dw = dw / max(np.max(np.abs(dw)), 1)

    def at(h):
        args = case.tree(w + h * dw), case.tree(dw), jnp.asarray(1 + h), step
        x, tangent = move(case.penalty, *args)
        return flat(x), flat(tangent)

    x, tangent = at(0.0)
    assert np.all(np.isfinite(tangent))
    before, after = ((at(h)[0] - x) / h for h in (-1e-6, 1e-6))
    if np.allclose(before, after, rtol=1e-4, atol=1e-4):
        # A folded concave penalty of strength 0 has none at zero.
        some = np.broadcast_to(case.penalised, 6) | (x != 0) | case.convex
        middle = (before + after) / 2
        np.testing.assert_allclose(tangent[some], middle[some], rtol=1e-5, atol=1e-5)


@every_penalty
def test_prox_has_its_derivative_at_a_strength_of_0(case: Case):
    """Where a path of solutions begins: the slope to the right, as of all others."""
    rng = np.random.default_rng(0)
    w = case.within.bring(case.center + case.point(rng.normal(size=12)))
    args = case.tree(w), case.tree(0 * w)
    x, tangent = move(case.penalty, *args, jnp.asarray(0.0), 1.0)
    np.testing.assert_allclose(flat(x), w, rtol=0, atol=1e-15)
    y, _ = move(case.penalty, *args, jnp.asarray(1e-7), 1.0)
    np.testing.assert_allclose(flat(tangent), (flat(y) - w) / 1e-7, atol=1e-5)


@every_penalty
def test_nothing_moves_at_step_0(case: Case):
    w = np.array([1e-3, -1e-3, 0.0, -4.0, -0.1, 0.1])
    w = case.within.bring(case.point(np.tile(w, 2)))
    np.testing.assert_allclose(prox(case, w, 0.0), w, rtol=0, atol=1e-15)


@every_penalty
def test_zeros_are_exact_and_positive(case: Case):
    small = np.array([1e-3, -1e-3, 0.0, -0.0, -0.1, 0.1, 0.3, -0.3])
    for numbers in (small, np.array([-0.0])):
        w = case.center + case.point(np.resize(numbers, 12))
        x = prox(case, w, 30.0)
        if case.zeros is not None:
            some = np.broadcast_to(case.penalised, 6)
            assert np.all(case.zeros(np.where(some, x, case.center)))
            if not case.is_complex:
                assert not np.any(np.signbit(x) & (x == 0) & case.penalised)


@every_penalty
@pytest.mark.parametrize("at", range(6))
def test_nan_spreads_no_further_than_what_is_coupled(case: Case, at):
    w = case.within.bring(case.point(np.linspace(0.1, 1.2, 12)))
    w[at] = np.nan
    value, gradient, _ = look(case.penalty, case.tree(w))
    x, apart = prox(case, w, 0.1), ~coupled(case)[at]
    assert np.isnan(x[at])
    if np.broadcast_to(case.penalised, 6)[at]:
        assert np.isnan(value) and np.isnan(flat(gradient)).any()
        if case.finite_everywhere or case.entrywise:
            assert not np.any(np.isnan([x, flat(gradient)])[:, apart])


@every_penalty
def test_infinity_stays_and_is_far_away(case: Case):
    if not case.finite_everywhere:
        return
    w, far = (case.point(np.linspace(-0.5, 0.6, 12)) for _ in range(2))
    w[2], far[2] = np.inf, 1e9
    x, y = prox(case, w, 10.0), prox(case, far, 10.0)
    assert not np.isfinite(x[2])
    known = np.isfinite(x)
    np.testing.assert_allclose(x[known], y[known], rtol=0, atol=1e-6)


@pytest.mark.to_the_bit
@every_penalty
def test_a_vmapped_penalty_is_a_sweep_and_a_strength_of_0_is_none(case: Case):
    """Which leaves constraints, and all that is within them as it is."""

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    def swept(factor, w):
        penalty = times(case.penalty, factor)
        return penalty.value(w), penalty.gradient(w), penalty.prox(w, 0.7)

    for numbers in (np.linspace(-2, 3, 12), np.linspace(1e-30, 1e-20, 12)):
        w = case.within.bring(case.center + case.point(numbers))
        tree = case.tree(w)
        value, gradient, x = swept(jnp.array([0.0, 1.0, 0.5]), tree)
        gradients, proxes = (
            [flat(jax.tree.map(lambda x, i=i: x[i], t)) for i in range(3)]
            for t in (gradient, x)
        )
        assert value[0] == 0 and not np.any(gradients[0])
        if case.exact or case.finite_everywhere:
            np.testing.assert_array_equal(proxes[0], w)
        same = look(case.penalty, tree)
        np.testing.assert_allclose(value[1], same[0], rtol=1e-13, atol=1e-14)
        np.testing.assert_allclose(gradients[1], flat(same[1]), rtol=0, atol=1e-13)
        np.testing.assert_allclose(proxes[1], prox(case, w, 0.7), rtol=0, atol=1e-13)
        if case.scaled and case.smooth is nothing:
            half = prox(case, w, 0.35)
            np.testing.assert_allclose(value[2], same[0] / 2, rtol=1e-13, atol=1e-14)
            np.testing.assert_allclose(proxes[2], half, rtol=0, atol=1e-13)


@every_penalty
def test_half_precision_is_computed_wide(case: Case):
    """Of complex numbers there is no half; a user's formulas are the user's."""
    if case.is_complex or not case.exact:
        return
    numbers = jnp.linspace(-3, 3, 12).astype(jnp.bfloat16)
    w = case.point(np.asarray(numbers, float))
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), case.tree(w))
    value, gradient, x = in_half(case.penalty, half)
    expected = case.value(w) if case.within.has(w) else np.inf
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for narrow, wide in (
        (gradient, look(case.penalty, case.tree(w))[1]),
        (x, case.tree(prox(case, w, 0.5))),
    ):
        for a, b in zip(*map(jax.tree.leaves, (narrow, wide)), strict=True):
            assert a.dtype == jnp.bfloat16
            rounded_once = b.astype(jnp.float32).astype(jnp.bfloat16)
            np.testing.assert_array_equal(a, rounded_once)


@jax.jit
def in_half(penalty, w):
    return penalty.value(w), penalty.gradient(w), penalty.prox(w, 0.5)


@every_penalty
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64])
def test_dtypes_are_kept_and_sums_are_wide(case: Case, dtype):
    if case.is_complex:
        dtype = jnp.promote_types(dtype, jnp.complex64)
    w = jax.tree.map(lambda x: jnp.asarray(x, dtype), case.like)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), w)
    value, *trees = jax.eval_shape(look, case.penalty, w)
    trees.append(jax.eval_shape(compiled_prox, case.penalty, w, 0.1))
    assert value.dtype == jnp.finfo(jnp.promote_types(dtype, jnp.float32)).dtype
    for tree in trees:
        assert jax.tree.map(lambda x: (x.shape, x.dtype), tree) == shapes


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
        x = L2(0.4).prox(jnp.array([1.0, -3.0]), 2.0)
        np.testing.assert_allclose(x, np.array([1.0, -3.0]) / 2.6, rtol=1e-15)

    def test_lasso_returns_no_negative_zero(self):
        x = L1(1.0).prox(jnp.array([-0.5, -1.0, -0.0]), 1.0)
        assert not np.any(np.signbit(x))
