"""Constraints: every convex set of Optax, the optimum under any optimizer, errors."""

import functools

import cvxpy
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optareg import constraint, joined, masked, stationarity
from optareg.penalties._base import strength_fields
from references import OPTIMIZERS, SCALES, assert_near, train_at_scales

pytestmark = pytest.mark.usefixtures("x64")
P = optax.projections
A = jnp.array([1.0, -2.0, 0.5, 1.0])

# Each with its set for cvxpy.
SETS = {
    "non-negative": (P.projection_non_negative, lambda x: [x >= 0]),
    "box": (
        functools.partial(P.projection_box, lower=-0.5, upper=1.0),
        lambda x: [x >= -0.5, x <= 1],
    ),
    "hypercube": (P.projection_hypercube, lambda x: [x >= 0, x <= 1]),
    "simplex": (P.projection_simplex, lambda x: [x >= 0, cvxpy.sum(x) == 1]),
    "l1 ball": (
        functools.partial(P.projection_l1_ball, scale=1.5),
        lambda x: [cvxpy.norm1(x) <= 1.5],
    ),
    "l2 ball": (P.projection_l2_ball, lambda x: [cvxpy.norm2(x) <= 1]),
    "linf ball": (P.projection_linf_ball, lambda x: [cvxpy.norm_inf(x) <= 1]),
    "of a user": (lambda x: jnp.clip(x, 0.2, 0.4), lambda x: [x >= 0.2, x <= 0.4]),
}
if hasattr(P, "projection_hyperplane"):  # Optax 0.2.5 has neither.
    SETS["hyperplane"] = (
        jax.tree_util.Partial(P.projection_hyperplane, a=A, b=1.0),
        lambda x: [np.asarray(A) @ x == 1],
    )
    SETS["halfspace"] = (
        jax.tree_util.Partial(P.projection_halfspace, a=A, b=1.0),
        lambda x: [np.asarray(A) @ x <= 1],
    )
every_set = pytest.mark.parametrize("name", SETS)


@every_set
def test_prox_is_the_nearest_point_of_the_set(name):
    """It is in the set, and no y of the set has ⟨w − x, y − x⟩ > 0: by cvxpy."""
    projection, within = SETS[name]
    penalty, w = constraint(projection), np.array([1.3, -2.0, 0.3, 0.9])
    x, y = np.asarray(penalty.prox(w, 0.3)), cvxpy.Variable(4)
    limits = within(y)
    furthest = cvxpy.Problem(cvxpy.Maximize((w - x) @ y), [*limits, cvxpy.abs(y) <= 9])
    assert furthest.solve(cvxpy.CLARABEL) - (w - x) @ x <= 1e-7
    y.value = x
    assert max(np.max(limit.violation()) for limit in limits) <= 1e-14
    np.testing.assert_array_equal(x, penalty.prox(w, 1e5))
    assert penalty.value(x) == 0 and penalty.value(w) == np.inf
    assert not jnp.any(penalty.gradient(w)) and not jnp.any(jax.grad(penalty.value)(w))


@every_set
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_a_projected_point_is_within_in_every_dtype(name, dtype):
    jax.config.update("jax_enable_x64", False)  # With which Optax mixes dtypes here.
    penalty = constraint(SETS[name][0])
    w = {"a": jnp.asarray([1.3, -2.0, 0.3, 0.9], dtype)}
    x = jax.jit(lambda p, w: p.prox(w, 1.0))(penalty, w)
    assert x["a"].dtype == dtype and penalty.value(x) == 0
    assert not np.any(np.signbit(x["a"]) & (np.asarray(x["a"]) == 0))
    assert penalty.value(w) == np.inf


def test_arguments_may_be_traced_and_are_no_strengths():
    w = jnp.array([-3.0, 0.5, 2.0])

    def project(bound):
        box = jax.tree_util.Partial(P.projection_box, lower=-bound, upper=bound)
        return constraint(box).prox(w, 1.0)

    np.testing.assert_array_equal(jax.jit(project)(1.0), [-1.0, 0.5, 1.0])
    many = jax.vmap(project)(jnp.array([1.0, 2.0]))
    np.testing.assert_array_equal(many[1], [-2.0, 0.5, 2.0])
    np.testing.assert_array_equal(jax.jacfwd(project)(1.0), [-1.0, 0.0, 1.0])
    box = jax.tree_util.Partial(P.projection_box, lower=-1.0, upper=1.0)
    assert len(jax.tree.leaves(constraint(box))) == 2
    assert not strength_fields(type(constraint(box)))


def test_each_leaf_is_apart_and_joined_leaves_are_one():
    params = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([0.0, 4.0])}
    ball = constraint(P.projection_l2_ball)
    apart = ball.prox(params, 1.0)
    np.testing.assert_allclose(apart["a"], [1.0, 0.0])
    whole = joined(ball, {"a": "all", "b": "all"}, axis=0).prox(params, 1.0)
    np.testing.assert_allclose(whole["a"], [0.6, 0.0])
    np.testing.assert_allclose(whole["b"], [0.0, 0.8])
    some = masked(ball, {"a": True, "b": False}).prox(params, 1.0)
    np.testing.assert_array_equal(some["b"], params["b"])


def test_nan_and_infinity_do_not_vanish():
    w = jnp.array([jnp.nan, 0.5, jnp.inf])
    penalty = constraint(SETS["box"][0])
    np.testing.assert_array_equal(penalty.prox(w, 1.0), [jnp.nan, 0.5, 1.0])
    assert jnp.isnan(penalty.value(w)) and penalty.value(w[1:]) == jnp.inf


def test_stationarity_is_the_distance_from_the_normal_cone():
    penalty, w = constraint(SETS["box"][0]), jnp.array([-0.5, 0.0, 1.0])
    np.testing.assert_allclose(stationarity(penalty, w, jnp.array([2.0, 0, -1])), 0)
    g = jnp.array([-0.25, 0.0, -1.0])  # The first one would go in.
    np.testing.assert_allclose(stationarity(penalty, w, g), 0.25, rtol=1e-6)
    assert stationarity(penalty, w - 1, g) == jnp.inf


@pytest.mark.parametrize("scale", SCALES)
def test_stationarity_at_an_optimum_has_all_digits(scale):
    penalty = constraint(lambda x: scale * P.projection_simplex(x / scale))
    c = scale * jnp.array([0.9, 0.35, -1.0, 0.2])
    w = penalty.prox(c, 1.0)  # Which minimises ½‖w − c‖² there.
    assert stationarity(penalty, w, w - c) < 1e-15 * scale
    near = penalty.prox(c.at[0].add(1e-6 * scale), 1.0)
    np.testing.assert_allclose(
        stationarity(penalty, near, near - c), jnp.max(jnp.abs(near - w)), rtol=0.1
    )


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_what_is_outside_is_so_at_every_scale(scale, dtype):
    penalty = constraint(lambda x: scale * jnp.clip(x / scale, -0.5, 1))
    w = scale * jnp.array([0.1, -0.2, 1.0, 0.0], dtype)
    assert penalty.value(w) == 0
    for more in (1e-5, 0.1):
        assert penalty.value(w * (1 + more)) == jnp.inf


def test_what_does_not_fit_raises():
    with pytest.raises(TypeError, match="a function that projects"):
        constraint(3.0)
    for sphere in (P.projection_l1_sphere, P.projection_l2_sphere):
        with pytest.raises(ValueError, match=r"projection_l._sphere` is not convex"):
            constraint(functools.partial(sphere, scale=2.0))
    with pytest.raises(TypeError, match=r"\['a'\] has dtype int"):
        constraint(P.projection_simplex).prox({"a": jnp.arange(3)}, 1.0)
    with pytest.raises(ValueError, match=r"`first` returns shape \(\) .*\['a'\]"):
        constraint(first).value({"a": jnp.ones(3)})
    with pytest.raises(TypeError, match="must return an array"):
        constraint(lambda x: [x]).value(jnp.ones(3))


def first(x):
    return x[0]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["box", "simplex", "l1 ball", "l2 ball"])
def test_proximal_finds_the_optimum(name, optimizer):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(60, 8))
    y = X @ np.array([2.0, -1.0, 0.7, 0.0, 0.0, 0.3, 0.0, 0.0])
    y = y + 0.5 * rng.normal(size=60)

    def gradient(w, scale):
        return X.T @ (X @ w - scale * y) / 60

    # By projected gradients, whose fixed point is the optimum; 0.3 is under 1 / L.
    project = SETS[name][0]
    best = jax.lax.fori_loop(
        0, 1000, lambda _, w: project(w - 0.3 * gradient(w, 1.0)), jnp.zeros(8)
    )

    def penalty(scale):
        return constraint(lambda x: scale * project(x / scale))

    start = 0.05 * rng.normal(size=8)
    trained = train_at_scales(optimizer, penalty, gradient, start)
    for scale, found in zip(SCALES, trained, strict=True):
        assert_near(optimizer, found, scale * np.asarray(best))
