"""What JAXopt's tests ask of its proxes, projections and solvers, asked of ours.

Its own proxes, projections and `ProximalGradient` give the answers, and central
differences the derivatives. JAXopt's faults are in `test_penalties.py`.
"""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sklearn.datasets
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import LabelBinarizer
from sklearn.svm import LinearSVC

from marks import some_long
from optareg import (
    L1,
    L2,
    ElasticNet,
    GroupLasso,
    constraint,
    max_strength,
    minimize,
)

with warnings.catch_warnings():  # That nobody maintains it.
    warnings.simplefilter("ignore", DeprecationWarning)
    from jaxopt import (
        BlockCoordinateDescent,
        ProximalGradient,
        objective,
        projection,
        prox,
    )

pytestmark = pytest.mark.usefixtures("x64")

EACH = np.linspace(0.1, 0.9, 20)


def numbers(seed=0, n=20):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, n))


# Proxes, and their Jacobians.

PROXES = {
    "lasso": (L1(0.5), lambda w, t: prox.prox_lasso(w, 0.5, t)),
    "lasso of each": (L1(EACH), lambda w, t: prox.prox_lasso(w, jnp.asarray(EACH), t)),
    "positive lasso": (
        L1(0.3, positive=True),
        lambda w, t: prox.prox_non_negative_lasso(w, 0.3, t),
    ),
    "elastic net": (
        ElasticNet.from_jaxopt(0.5, 0.7),
        lambda w, t: prox.prox_elastic_net(w, (0.5, 0.7), t),
    ),
    "elastic net of each": (
        ElasticNet.from_jaxopt(EACH, EACH[::-1]),
        lambda w, t: prox.prox_elastic_net(
            w, (jnp.asarray(EACH), jnp.asarray(EACH[::-1])), t
        ),
    ),
    # JAXopt's ridge is that of half of its l2reg, whatever its docstring says.
    "ridge": (L2(0.4), lambda w, t: prox.prox_ridge(w, 0.8, t)),
    "group lasso": (
        GroupLasso(0.7, size_scaled=False),
        lambda w, t: prox.prox_group_lasso(w, 0.7, t),
    ),
    "all zero": (
        GroupLasso(9.0, size_scaled=False),
        lambda w, t: prox.prox_group_lasso(w, 9.0, t),
    ),
    "positive ridge": (
        ElasticNet(0.0, 0.4, positive=True),
        lambda w, t: prox.prox_non_negative_ridge(w, 0.8, t),
    ),
}


@pytest.mark.parametrize("name", PROXES)
def test_a_prox_and_its_derivatives_are_those_of_jaxopt(name):
    penalty, theirs = PROXES[name]
    both = [
        jax.jit(lambda w, t, f=f: (f(w, t), *jax.jacobian(f, argnums=(0, 1))(w, t)))
        for f in (penalty.prox, theirs)
    ]
    for seed in range(3):
        found, expected = (f(numbers(seed), 0.8) for f in both)
        for ours, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, other, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", PROXES)
def test_a_prox_of_a_tree_is_that_of_its_leaves(name):
    penalty, theirs = PROXES[name]
    tree = {"a": numbers(1), "b": [numbers(2)]}
    found = penalty.prox(tree, 0.8)
    expected = jax.tree.map(lambda w: theirs(w, 0.8), tree)
    for ours, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(ours, other, rtol=1e-13, atol=1e-15)


P = optax.projections
PROJECTIONS = {
    "non-negative": (P.projection_non_negative, projection.projection_non_negative),
    "box": (
        functools.partial(P.projection_box, lower=-0.5, upper=0.2),
        lambda x: projection.projection_box(x, (-0.5, 0.2)),
    ),
    "hypercube": (P.projection_hypercube, projection.projection_hypercube),
    "simplex": (P.projection_simplex, projection.projection_simplex),
    "larger simplex": (
        functools.partial(P.projection_simplex, scale=3.0),
        functools.partial(projection.projection_simplex, value=3.0),
    ),
    "l1 ball": (
        functools.partial(P.projection_l1_ball, scale=1.5),
        functools.partial(projection.projection_l1_ball, max_value=1.5),
    ),
    "l2 ball": (P.projection_l2_ball, projection.projection_l2_ball),
    "linf ball": (
        functools.partial(P.projection_linf_ball, scale=0.4),
        functools.partial(projection.projection_linf_ball, max_value=0.4),
    ),
}


@pytest.mark.parametrize("name", PROJECTIONS)
def test_a_constraint_is_the_projection_of_jaxopt(name):
    ours, theirs = PROJECTIONS[name]
    penalty = constraint(ours)
    for seed in range(3):
        w = 2 * numbers(seed)
        np.testing.assert_allclose(penalty.prox(w, 0.3), theirs(w), rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["simplex", "l2 ball", "box"])
def test_a_constraint_has_the_derivative_of_the_projection(name):
    ours, theirs = PROJECTIONS[name]
    penalty, w, v = constraint(ours), 2 * numbers(0), numbers(1)
    _, found = jax.jvp(lambda w: penalty.prox(w, 1.0), (w,), (v,))
    _, expected = jax.jvp(theirs, (w,), (v,))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


# Least squares.


@functools.cache
def regression():
    return sklearn.datasets.make_regression(n_samples=10, n_features=3, random_state=0)


def squares(w):
    return objective.least_squares(w, regression())


REGRESSIONS = {
    "lasso": (lambda c: L1(c), prox.prox_lasso, 10.0),
    "elastic net": (
        lambda c: ElasticNet.from_jaxopt(*c),
        prox.prox_elastic_net,
        (2.0, 0.8),
    ),
    "positive lasso": (
        lambda c: L1(c, positive=True),
        prox.prox_non_negative_lasso,
        10.0,
    ),
    "ridge": (lambda c: L2(c / 2), prox.prox_ridge, 3.0),
}


@pytest.mark.parametrize("name", some_long(REGRESSIONS, "lasso", "positive lasso"))
def test_a_solution_and_its_jacobian_are_those_of_proximal_gradient(name):
    make, theirs, strength = REGRESSIONS[name]
    solver = ProximalGradient(objective.least_squares, theirs, tol=1e-12, maxiter=5000)

    def ours(c):
        return minimize(squares, jnp.zeros(3), make(c), tol=1e-12).params

    def other(c):
        return solver.run(jnp.zeros(3), c, regression()).params

    found, expected = (jax.jit(f)(strength) for f in (ours, other))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(found == 0, expected == 0)
    slopes, theirs_ = (jax.jit(jax.jacrev(f))(strength) for f in (ours, other))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-7),
        slopes,
        theirs_,
    )


# Several classes or targets.


@functools.cache
def classes():
    return sklearn.datasets.make_classification(
        n_samples=20, n_features=5, n_informative=3, n_classes=3, random_state=0
    )


def of_classes(W):
    return objective.multiclass_logreg(W, classes())


def derivative_of(f, c, h=1e-5):
    return (f(c + h) - f(c - h)) / (2 * h)


MULTICLASS = {
    "lasso": (L1, prox.prox_lasso),
    "elastic net": (
        lambda c: ElasticNet.from_jaxopt(c, 0.5),
        lambda w, c, t: prox.prox_elastic_net(w, (c, jnp.asarray(0.5)), t),
    ),
    "ridge": (lambda c: L2(c / 2), prox.prox_ridge),
}


@pytest.mark.parametrize("name", some_long(MULTICLASS, "lasso"))
def test_multiclass_logistic_regression_and_its_derivative(name):
    make, theirs = MULTICLASS[name]
    start, strength = jnp.zeros((5, 3)), jnp.asarray(0.03)

    @jax.jit
    def ours(c):
        return minimize(of_classes, start, make(c), tol=1e-13).params

    solver = ProximalGradient(
        objective.multiclass_logreg, theirs, tol=1e-11, maxiter=5000
    )

    @jax.jit
    def other(c):
        return solver.run(start, c, classes()).params

    found, expected = ours(strength), other(strength)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)
    np.testing.assert_array_equal(found == 0, expected == 0)
    assert np.any(found == 0) == (name != "ridge")
    slope = jax.jit(jax.jacfwd(ours))(strength)
    numeric = derivative_of(ours, strength)
    scale = np.abs(numeric).max()
    np.testing.assert_allclose(slope, numeric, rtol=0, atol=1e-7 * scale)
    implicit = jax.jit(jax.jacrev(other))(strength)
    # JAXopt's linear solver stops at fewer digits.
    np.testing.assert_allclose(slope, implicit, rtol=0, atol=1e-3 * scale)
    if name == "ridge":
        # Without an intercept, and of a mean: C = 1 / (n λ).
        model = LogisticRegression(C=1 / (20 * 0.03), fit_intercept=False, tol=1e-12)
        model.fit(*classes())
        np.testing.assert_allclose(found, model.coef_.T, rtol=0, atol=1e-6)


def test_two_classes_with_l1_are_those_of_jaxopt():
    X, y = classes()
    data = X, (y > 0).astype(int)
    solver = BlockCoordinateDescent(
        objective.binary_logreg, prox.prox_lasso, tol=1e-11, maxiter=3000
    )
    expected = jax.jit(lambda c: solver.run(jnp.zeros(5), c, data).params)(0.03)
    found = jax.jit(
        lambda c: (
            minimize(
                lambda w: objective.binary_logreg(w, data),
                jnp.zeros(5),
                L1(c),
                tol=1e-13,
            ).params
        )
    )(0.03)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)
    np.testing.assert_array_equal(found == 0, expected == 0)
    assert np.any(found == 0)


def test_many_targets_with_rows_as_groups_are_those_of_jaxopt():
    rng = np.random.default_rng(0)
    X, W = rng.normal(size=(50, 10)), rng.normal(size=(10, 3))
    W[4:] = 0
    data = jnp.asarray(X), jnp.asarray(X @ W + rng.normal(size=(50, 3)))
    theirs = jax.vmap(prox.prox_group_lasso, in_axes=(0, None, None))
    solver = ProximalGradient(objective.least_squares, theirs, tol=1e-12, maxiter=5000)
    start = jnp.zeros((10, 3))
    expected = jax.jit(lambda c: solver.run(start, c, data).params)(0.1)
    rows = GroupLasso(0.1, axis=1, size_scaled=False)
    found = jax.jit(
        lambda: (
            minimize(
                lambda W: objective.least_squares(W, data), start, rows, tol=1e-13
            ).params
        )
    )()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)
    np.testing.assert_array_equal(found == 0, expected == 0)
    assert np.any(found == 0)


# Constraints.


def test_the_dual_of_multiclass_support_vectors_on_simplices():
    """As by Crammer and Singer, each row on a simplex: β, and from it the weights."""
    X, y = classes()
    Y, l2reg = jnp.asarray(LabelBinarizer().fit_transform(y)), 10.0
    rows = constraint(jax.vmap(P.projection_simplex))

    def loss(beta):
        return objective.multiclass_linear_svm_dual(beta, l2reg=l2reg, data=(X, Y))

    start = jnp.ones((20, 3)) / 3
    found = jax.jit(lambda: minimize(loss, start, rows, tol=1e-9))()
    assert found.converged
    beta = np.asarray(found.params)
    np.testing.assert_allclose(beta.sum(axis=1), 1, rtol=1e-12)
    assert np.all(beta >= 0) and np.any(beta == 0)
    model = LinearSVC(
        C=1 / l2reg,
        loss="hinge",
        multi_class="crammer_singer",
        fit_intercept=False,
        tol=1e-10,
        max_iter=1_000_000,
    )
    expected = model.fit(X, y).coef_.T
    np.testing.assert_allclose(X.T @ (Y - beta) / l2reg, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("radius", [0.1, pytest.param(0.6, marks=pytest.mark.long)])
def test_a_solution_in_a_ball_has_the_derivative_of_its_radius(radius):
    rng = np.random.default_rng(0)
    X, w = rng.normal(size=(10, 5)), rng.uniform(size=5)
    y = X @ w

    @jax.jit
    def ours(radius):
        ball = jax.tree_util.Partial(P.projection_l2_ball, scale=radius)
        loss = lambda w: 0.5 * jnp.mean((X @ w - y) ** 2)  # noqa: E731
        return minimize(loss, jnp.zeros(5), constraint(ball), tol=1e-12)

    found = ours(radius)
    assert found.converged
    np.testing.assert_allclose(np.linalg.norm(found.params), radius, rtol=1e-12)
    # The multiplier of the ball is that of a ridge with the same norm.
    A, b = X.T @ X / 10, X.T @ y / 10
    w = np.asarray(found.params)
    multiplier = w @ (b - A @ w) / (w @ w)
    assert multiplier > 0
    np.testing.assert_allclose((A + multiplier * np.eye(5)) @ w, b, rtol=1e-8)
    slope = jax.jit(jax.jacfwd(lambda r: ours(r).params))(radius)
    numeric = derivative_of(lambda r: ours(r).params, radius)
    np.testing.assert_allclose(slope, numeric, rtol=0, atol=1e-7)


def test_from_the_max_strength_on_proximal_gradient_stays_at_zero():
    most = float(max_strength(squares, jnp.zeros(3), L1(1.0)))
    solver = ProximalGradient(
        objective.least_squares, prox.prox_lasso, tol=1e-12, maxiter=5000
    )
    run = jax.jit(lambda c: solver.run(jnp.zeros(3), c, regression()).params)
    assert not np.any(run(1.0001 * most)) and np.any(run(0.999 * most))
