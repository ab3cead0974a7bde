"""`Gram`: a quadratic loss by its Hessian is the same loss, and as well solved."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
import sklearn.linear_model

from optareg import L1, L2, MCP, ElasticNet, GroupLasso, masked, minimize, path
from optareg._tree import Tree
from optareg.solve import _gram
from optareg.solve._composite import Composite
from optareg.solve._gram import Gram
from optareg.solve._heads import Heads
from optareg.solve._problem import Problem
from optareg.solve._products import Chosen
from optareg.solve._rows import apart, in_order, sizes_of

pytestmark = pytest.mark.usefixtures("x64")

RNG = np.random.default_rng(0)
X, y = RNG.normal(size=(30, 12)), RNG.normal(size=30)
ROWS, SIZES = np.array([3, 1, 4, 11, 5, 9, 2, 6]), (4, 8)


def loss(w, b):
    return 0.5 * jnp.mean((y - X @ w - b) ** 2)


def composite(loss=loss, leaves=None, penalties=None):
    leaves = leaves or (jnp.zeros(12), jnp.zeros(()))
    program = jax.make_jaxpr(loss)(*leaves)
    penalties = penalties or (ElasticNet(0.1, 0.2), L2(0.3))
    return Composite(Heads.of(program, leaves), penalties)


def chosen(which, rows):
    # The numbers of rows are no constants: JAX before 0.7 folds those wrongly.
    return Chosen(rows, 0, SIZES, which, False), None


def two_points():
    """With zeros past the first four of the chosen rows."""
    rng = np.random.default_rng(1)
    w, v = (jnp.asarray(np.append(rng.normal(size=4), np.zeros(4))) for _ in range(2))
    return (w, jnp.array(0.5)), (v, jnp.array(-0.5))


@pytest.fixture
def small_sets(monkeypatch):
    """A matrix for the smaller size, with the intercept, and none for the larger."""
    monkeypatch.setattr(_gram, "MOST_FACTORED", 5)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.usefixtures("small_sets")
def test_it_is_the_same_function(which):
    center, w = two_points()

    @jax.jit
    def both(which, rows):
        part = composite().take(chosen(which, rows), (jnp.zeros(12), jnp.zeros(())))
        here = part.point(center)
        value = here.value + part.unscaled(center).penalty(center)
        gram, _ = part.kept(here._replace(value=value), quadratic=True)
        assert isinstance(gram.loss, Gram)
        return [known(composite.smooth, w) for composite in (part, gram)]

    def known(smooth, w):
        products = smooth.products(w)
        _, _, value, g = smooth.point(products, w)
        step = jax.tree.map(jnp.sin, w)
        bent = smooth.hessian(products, w)(step)
        assert smooth.value(products, w).shape == ()
        return value, smooth.gradient(products, w), g, bent, smooth.curvature(w)

    expected, found = both(jnp.array(which), jnp.asarray(ROWS))
    places = np.arange(8) < SIZES[which]
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        right = np.where(places, a, 0) if a.ndim else a
        np.testing.assert_allclose(
            np.where(places, b, 0) if a.ndim else b, right, 1e-12
        )


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.usefixtures("small_sets")
def test_its_linear_system_is_solved_as_by_numpy(which):
    center, _ = two_points()
    rng = np.random.default_rng(2)
    keeps, more = np.array([1, 1, 0, 1, 0, 0, 0, 0.0]), rng.random(8)
    more = np.where(keeps == 0, [0, 0, 0, 0, 1, 1, 1, 1], more)
    b = keeps * rng.normal(size=8)
    one = jnp.array(1.0)

    @jax.jit
    def solve(which, rows):
        part = composite().take(chosen(which, rows), (jnp.zeros(12), jnp.zeros(())))
        gram = Gram.of(part.loss, center, part.chosen)
        given = (keeps, one), (more, 0 * one), (b, one)
        return gram.factored, gram.solve(*jax.tree.map(jnp.asarray, given))

    known, (x, x_b) = solve(jnp.array(which), jnp.asarray(ROWS))
    assert known == (which == 0)
    if not known:
        assert np.isnan(x).all()
        return
    A = np.column_stack([X[:, ROWS[:4]], np.ones(30)])
    H = A.T @ A / 30
    d = np.append(keeps[:4], 1)
    matrix = d[:, None] * H * d + np.diag(np.append(more[:4], 0))
    some = np.diag(matrix) > 0
    expected = np.zeros(5)
    right = np.append(b[:4], 1)
    expected[some] = np.linalg.solve(matrix[np.ix_(some, some)], right[some])
    np.testing.assert_allclose(np.append(x[:4], x_b), expected, rtol=1e-12)
    np.testing.assert_array_equal(x[4:], 0)


def test_it_is_for_few_real_numbers_in_a_row():
    def gram_of(leaf, loss):
        part = composite(loss, (leaf,), (L1(0.1),))
        which = Chosen(jnp.arange(4), 0, (2, 4), jnp.array(0), False)
        part = part.take((which,), (leaf,))
        return Gram.of(part.loss, (leaf[:4],), part.chosen)

    def squares(w):
        return jnp.sum(jnp.abs(X @ w) ** 2)

    assert isinstance(gram_of(jnp.zeros(12), squares), Gram)
    assert gram_of(jnp.zeros((12, 2)), squares) is None
    assert gram_of(jnp.zeros(12, complex), squares) is None
    # More columns than rows.
    assert gram_of(jnp.zeros(12), lambda w: jnp.sum((X[:1] @ w) ** 2)) is None


@pytest.mark.parametrize(
    ("name", "quadratic"),
    [("squares", True), ("logistic", False), ("absolute", False)],
)
def test_only_what_is_quadratic_is_taken_for_it(name, quadratic):
    losses = {
        "squares": loss,
        "logistic": lambda w, b: jnp.mean(jax.nn.softplus(-y * (X @ w + b))),
        "absolute": lambda w, b: jnp.mean(jnp.abs(y - X @ w - b)),
    }
    start = jnp.zeros(12), jnp.zeros(())
    assert composite(losses[name]).quadratic(start) == quadratic
    # The smooth part of a penalty need not be.
    assert composite(loss, start, (MCP(0.1), L2(0.3))).quadratic(start)


def test_rows_in_use_are_in_order():
    rows = jnp.array([7, 2, 5, 0, 3], jnp.int32)
    np.testing.assert_array_equal(in_order(rows, jnp.array(3), 9), [2, 5, 7, 0, 3])
    np.testing.assert_array_equal(in_order(rows, jnp.array(5), 9), [0, 2, 3, 5, 7])


@functools.cache
def correlated(n=300, p=200):
    """Neighbouring columns correlate by .95; one is there twice, one in other units."""
    rng = np.random.default_rng(0)
    A = scipy.signal.lfilter([1.0], [1.0, -0.95], rng.normal(size=(n, p)), axis=1)
    A[:, 7] = A[:, 8]
    A[:, 20] *= 1e4
    w = np.zeros(p)
    w[[3, 8, 60, 61, 150]] = [3, -2, 1, 1, -4]
    return A, A @ w + rng.normal(size=n)


def squares_of(A, b, w):
    return 0.5 * jnp.mean((b - A @ w) ** 2)


def relative_gap(A, b, w, l1):
    """The duality gap of a lasso, in parts of its objective."""
    r = b - A @ w
    value = r @ r / 2 / len(b) + l1 * np.abs(w).sum()
    theta = r * min(1, l1 * len(b) / np.abs(A.T @ r).max())
    dual = (b @ b - (b - theta) @ (b - theta)) / 2 / len(b)
    return (value - dual) / value


@pytest.mark.parametrize("units", [1.0, 1e-4, 500.0])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_correlated_columns_are_solved_in_few_steps(dtype, units):
    A, b = (x.astype(dtype).astype(float) for x in correlated())
    b = (units * b).astype(dtype).astype(float)
    l1 = float(np.asarray(0.05 * np.abs(A[:, :20].T @ b).max() / len(b), dtype))

    @jax.jit
    def solve(A, b, l1):
        start = jnp.zeros(A.shape[1], A.dtype)
        return minimize(functools.partial(squares_of, A, b), start, L1(l1))

    found = solve(*(jnp.asarray(x, dtype) for x in (A, b, l1)))
    assert found.converged
    assert found.steps < 50
    w = np.asarray(found.params, float)
    if dtype == "float64":
        assert relative_gap(A, b, w, l1) < 1e-6
    # With a column in other units the gap has few digits in single precision.
    model = sklearn.linear_model.Lasso(l1, fit_intercept=False, tol=1e-12)
    expected = model.set_params(max_iter=10**6).fit(A, b).coef_
    values = [squares_of(A, b, x) + l1 * np.abs(x).sum() for x in (w, expected)]
    assert values[0] <= values[1] * (1 + 1e-8)


def test_a_path_of_correlated_columns_has_no_gap():
    A, b = correlated()
    A = A / A.std(axis=0)
    grid = np.abs(A.T @ b).max() / len(b) * np.array([0.5, 0.1, 0.02])
    found = path(functools.partial(squares_of, A, b), jnp.zeros(200), L1(grid))
    assert np.all(found.converged)
    for l1, w in zip(grid, np.asarray(found.params), strict=True):
        assert relative_gap(A, b, w, l1) < 1e-6


@pytest.mark.parametrize("units", [1.0, 1e-4, 500.0])
def test_a_path_does_not_remember_a_far_start(units):
    A, b = correlated(500)
    A = A * np.where(np.arange(200) == 20, 10, 1)
    b = units * b
    grid = np.abs(A[:, :20].T @ b).max() / len(b) * np.logspace(0, -2, 10)

    @jax.jit
    def solve(start):
        return path(functools.partial(squares_of, A, b), start, L1(grid))

    rng = np.random.default_rng(0)
    start = jnp.asarray(rng.normal(size=200))
    far, near = (solve(start) for start in (start, jnp.zeros(200)))
    assert np.all(far.converged)
    np.testing.assert_allclose(far.params @ A.T, near.params @ A.T, atol=1e-6 * units)
    for l1, w in zip(grid, np.asarray(far.params), strict=True):
        assert relative_gap(A, b, w, l1) < 1e-6


@pytest.mark.parametrize("way", ["by group", "with an intercept", "positive"])
def test_what_couples_or_is_free_converges_too(way):
    A, b = correlated()

    def loss(params):
        return 0.5 * jnp.mean((b - A @ params["w"] - params["b"]) ** 2)

    strength = 0.05 * np.abs(A[:, :20].T @ b).max() / len(b)
    penalty = {
        "by group": GroupLasso(strength, groups=np.repeat(np.arange(50), 4)),
        "with an intercept": L1(strength),
        "positive": L1(strength, positive=True),
    }[way]
    start = {"w": jnp.zeros(200), "b": jnp.zeros(())}
    found = minimize(loss, start, masked(penalty, {"w": True, "b": False}))
    assert found.converged
    assert abs(np.mean(b - A @ found.params["w"]) - found.params["b"]) < 1e-8


def test_a_quadratic_without_a_minimum_is_no_solution():
    A, b = correlated()

    def loss(w):
        return squares_of(A, b, w) - 3 * jnp.mean((A[:50] @ w) ** 2)

    found = minimize(loss, jnp.zeros(200), L1(0.1), max_steps=30)
    assert not found.converged
    assert np.all(np.isfinite(found.params))
    assert loss(found.params) + 0.1 * jnp.sum(jnp.abs(found.params)) < loss(
        jnp.zeros(200)
    )


@pytest.mark.parametrize(
    ("rows", "labels", "programs"),
    [
        (100, None, [((), True)]),
        (500, None, [((72, 144), True)]),
        (1200, None, [((72, 144, 288, 576), False), ((), True)]),
        (5000, None, [((72, 144, 288, 576), False), ((1152, 2304), True)]),
        (500, np.repeat(np.arange(100), 5), [((72, 144), True)]),
        (500, np.tile(np.arange(100), 5), [((72, 144), False), ((), True)]),
        (500, np.arange(500) // 7, [((72, 144), False), ((), True)]),
    ],
)
def test_few_programs_serve_all_sizes(rows, labels, programs):
    A = jnp.ones((10, rows))
    penalty = L1(0.1) if labels is None else GroupLasso(0.1, groups=labels)
    problem = Problem.of(lambda w: jnp.sum((A @ w) ** 2), Tree(jnp.ones(rows)), penalty)
    heads = Heads.of(problem.traced, problem.start)
    assert sizes_of(Composite(heads, problem.penalties), problem.start) == programs


@pytest.mark.parametrize(("n", "p", "number"), [(400, 200, 2), (100, 200, 1)])
def test_where_all_rows_are_likely_in_use_they_have_a_program(n, p, number):
    A = jnp.ones((n, p))
    start = (jnp.zeros(p),)
    problem = composite(lambda w: jnp.sum((A @ w) ** 2), start, (L1(0.1),))
    assert problem.long(start) == (number == 2)
    programs = sizes_of(problem, start)
    assert len(apart(programs) if problem.long(start) else programs) == number
