"""`path`, `max_strength` and `strength_grid` against scikit-learn and definitions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.datasets
import sklearn.linear_model
from sklearn.model_selection import KFold

from optareg import (
    L1,
    L2,
    ElasticNet,
    GroupLasso,
    by_path,
    masked,
    max_strength,
    minimize,
    partition,
    path,
    stationarity,
    strength_grid,
)
from optareg.solve._composite import Composite
from optareg.solve._heads import Heads
from optareg.solve._quadratic import by_hessian
from optareg.solve._smooth import Point
from optareg.solve._trail import Trail
from optareg.solve._working_set import solve
from problems import classification_data, regression_data, standardize

pytestmark = pytest.mark.usefixtures("x64")


@functools.cache
def data(name):
    """X (n, p) and y (n,), float64."""
    rng = np.random.default_rng(1)
    if name == "tall":
        X = standardize(rng.normal(size=(300, 30)) @ rng.normal(size=(30, 30)))
    elif name == "wide":
        X = standardize(rng.normal(size=(40, 100)))
    elif name == "raw columns":  # Scales differ by more than a thousand.
        X, y = sklearn.datasets.load_wine(return_X_y=True)
        return X - X.mean(axis=0), y - y.mean()
    else:
        return regression_data(name)
    y = X[:, :5] @ rng.normal(size=5) + rng.normal(size=len(X))
    return X, y - y.mean()


def squared(X, y):
    return lambda w: 0.5 * jnp.mean((y - X @ w) ** 2)


@jax.jit
def lasso_path(X, y, strengths):
    return path(squared(X, y), jnp.zeros(X.shape[1]), L1(strengths))


@jax.jit
def enet_path(X, y, l1, l2):
    return path(squared(X, y), jnp.zeros(X.shape[1]), ElasticNet(l1, l2))


@pytest.mark.parametrize(
    ("name", "l1_ratio"),
    [
        ("diabetes", 1.0),
        ("diabetes", 0.5),
        ("tall", 1.0),
        ("wide", 1.0),
        ("raw columns", 1.0),
    ],
)
def test_a_path_is_that_of_scikit_learn(name, l1_ratio):
    X, y = data(name)
    most = np.abs(X.T @ y).max() / len(y) / l1_ratio
    alphas = np.geomspace(most, 1e-3 * most, 30)
    _, expected, _ = sklearn.linear_model.enet_path(
        X, y, alphas=alphas, l1_ratio=l1_ratio, tol=1e-13, max_iter=1_000_000
    )
    if l1_ratio == 1:
        found = lasso_path(X, y, alphas)
    else:
        penalty = ElasticNet.from_sklearn(alphas, l1_ratio)
        found = enet_path(X, y, penalty.l1, penalty.l2)
    assert found.converged.all()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found.params.T, expected, rtol=0, atol=1e-7 * scale)
    same = (np.asarray(found.params.T) == 0) == (expected == 0)
    assert same.mean() > 0.99  # At the strengths where a coefficient enters, it may.
    # The certificate is that of the loss as given.
    for w, alpha, certificate in zip(
        found.params, alphas, found.stationarity, strict=True
    ):
        g = -X.T @ (y - X @ w) / len(y) + alpha * (1 - l1_ratio) * w
        lam = alpha * l1_ratio
        gaps = np.where(w == 0, np.maximum(np.abs(g) - lam, 0), g + lam * np.sign(w))
        np.testing.assert_allclose(
            certificate, np.abs(gaps).max(), rtol=1e-6, atol=1e-12 * most
        )


def test_results_are_in_the_order_given():
    X, y = data("diabetes")
    strengths = np.geomspace(0.5, 0.005, 8)
    order = np.random.default_rng(0).permutation(8)
    by_rank = lasso_path(X, y, strengths)
    mixed = lasso_path(X, y, strengths[order])
    np.testing.assert_array_equal(mixed.params, by_rank.params[order])
    np.testing.assert_array_equal(mixed.steps, by_rank.steps[order])


def test_each_is_what_minimize_finds():
    X, y = data("wide")
    strengths = np.geomspace(0.5, 0.01, 5)
    found = lasso_path(X, y, strengths)
    alone = jax.jit(lambda s: minimize(squared(X, y), jnp.zeros(100), L1(s)).params)
    for w, strength in zip(found.params, strengths, strict=True):
        np.testing.assert_allclose(w, alone(strength), rtol=0, atol=1e-7)


def test_one_trace_however_many_strengths():
    X, y = data("diabetes")
    calls = []

    def loss(w):
        calls.append(1)
        return squared(X, y)(w)

    for n in (3, 30):
        strengths = L1(jnp.geomspace(0.5, 0.01, n))
        jax.make_jaxpr(lambda s: path(loss, jnp.zeros(10), s))(strengths)
        calls.append(None)
    few, many = calls.index(None), len(calls) - calls.index(None) - 2
    assert few == many == 1


def logistic(X, y):
    return lambda params: jnp.mean(
        jax.nn.softplus(-y * (X @ params["w"] + params["b"]))
    )


def intercept_start(p):
    return {"w": jnp.zeros(p), "b": jnp.zeros(())}


def lasso(strength):
    return masked(L1(strength), by_path("w"))


def test_a_logistic_path_with_an_intercept_meets_its_conditions():
    X, y = classification_data("breast cancer")
    loss, start = logistic(X, y), intercept_start(30)

    @jax.jit
    def run():
        grid = strength_grid(max_strength(loss, start, lasso(1.0)), n=12)
        return grid, path(loss, start, lasso(grid))

    grid, found = run()
    assert found.converged.all()
    for i, lam in enumerate(np.asarray(grid)):
        w, b = np.asarray(found.params["w"][i]), float(found.params["b"][i])
        slopes = -y / (1 + np.exp(y * (X @ w + b))) / len(y)
        g = X.T @ slopes
        gaps = np.where(w == 0, np.maximum(np.abs(g) - lam, 0), g + lam * np.sign(w))
        assert np.abs(gaps).max() < 1e-9 and abs(slopes.sum()) < 1e-9


def test_other_penalties_have_paths_too():
    X, y = data("diabetes")
    loss, start = squared(X, y), jnp.zeros(10)
    grid = np.geomspace(0.4, 0.04, 4)
    weights = np.linspace(0.5, 2, 10)
    labels = np.arange(10) // 2
    for penalties, one in [
        (L1(grid[:, None] * weights), lambda s: L1(s * weights)),
        (GroupLasso(grid, groups=labels), lambda s: GroupLasso(s, groups=labels)),
    ]:
        found = path(loss, start, penalties)
        assert found.converged.all()
        for w, strength in zip(found.params, grid, strict=True):
            residual = stationarity(one(strength), w, jax.grad(loss)(w))
            assert residual < 1e-9


def test_a_partition_has_a_path():
    X, y = data("diabetes")
    start = {"first": jnp.zeros(5), "second": jnp.zeros(5)}

    def loss(params):
        residual = y - X[:, :5] @ params["first"] - X[:, 5:] @ params["second"]
        return 0.5 * jnp.mean(residual**2)

    grid = np.geomspace(0.4, 0.04, 4)
    labels = {"first": "a", "second": "b"}
    found = path(loss, start, partition({"a": L1(grid), "b": L2(0.1)}, labels))
    for i, strength in enumerate(grid):
        w = jax.tree.map(lambda x, i=i: x[i], found.params)
        one = partition({"a": L1(strength), "b": L2(0.1)}, labels)
        assert stationarity(one, w, jax.grad(loss)(w)) < 1e-9


def weighted(X, y):
    def loss(params, weights):
        residual = y - X @ params["w"] - params["b"]
        return 0.5 * jnp.sum(weights * residual**2) / jnp.sum(weights)

    return loss


def test_vmapped_over_folds_it_is_lasso_cv():
    X, y = data("diabetes")
    folds = list(KFold(4, shuffle=True, random_state=0).split(X))
    kept = np.ones((4, len(y)))
    for row, (_, left_out) in zip(kept, folds, strict=True):
        row[left_out] = 0
    alphas = np.geomspace(0.5, 5e-4, 20)

    @jax.jit
    @jax.vmap
    def errors(kept):
        loss = functools.partial(weighted(X, y), weights=kept)
        params = path(loss, intercept_start(10), lasso(alphas)).params
        squares = (params["w"] @ X.T + params["b"][:, None] - y) ** 2
        return squares @ (1 - kept) / jnp.sum(1 - kept)

    model = sklearn.linear_model.LassoCV(
        alphas=alphas, cv=folds, tol=1e-12, max_iter=1_000_000
    ).fit(X, y)
    ours = errors(kept)
    np.testing.assert_allclose(ours.T, model.mse_path_, rtol=1e-8)
    assert alphas[np.argmin(ours.mean(axis=0))] == model.alpha_


def test_its_derivative_is_the_slope():
    """Though eigenvectors, by which it has fewer rows, have no derivative."""
    X, y = data("diabetes")
    strengths = np.array([0.3, 0.1, 0.03])

    @jax.jit
    def total(factor, shift):
        params = path(
            lambda params: weighted(X, y + shift * X[:, 0] ** 2)(params, 1.0 + y**2),
            intercept_start(X.shape[1]),
            lasso(factor * strengths),
            tol=1e-12,
        ).params
        return jnp.sum(params["w"] ** 2) + jnp.sum(jnp.sin(params["b"]))

    slopes = jax.jit(jax.grad(total, argnums=(0, 1)))(1.0, 0.5)
    h = 1e-5
    expected = (
        (total(1 + h, 0.5) - total(1 - h, 0.5)) / (2 * h),
        (total(1.0, 0.5 + h) - total(1.0, 0.5 - h)) / (2 * h),
    )
    np.testing.assert_allclose(slopes, expected, rtol=1e-5)


def test_too_few_steps_are_reported():
    X, y = data("diabetes")
    found = path(squared(X, y), jnp.zeros(10), L1(jnp.array([10.0, 0.01])), max_steps=1)
    np.testing.assert_array_equal(found.converged, [True, False])
    assert found.stationarity[1] > 1e-6


def test_a_callback_hears_of_every_strength():
    X, y = data("diabetes")
    heard = []
    path(
        squared(X, y),
        jnp.zeros(10),
        L1(jnp.array([0.3, 0.1])),
        callback=lambda *report: heard.append(list(map(float, report))),
    )
    jax.effects_barrier()
    starts = [steps for steps, _, _ in heard].count(1.0)
    assert starts == 2


def test_to_a_small_tolerance_a_path_has_the_digits_of_scikit_learn():
    X, y = data("wide")
    most = np.abs(X.T @ y).max() / len(y)
    alphas = np.geomspace(most, 1e-3 * most, 30)
    _, expected, _ = sklearn.linear_model.lasso_path(
        X, y, alphas=alphas, tol=1e-13, max_iter=1_000_000
    )
    found = jax.jit(
        lambda: path(squared(X, y), jnp.zeros(100), L1(alphas), tol=1e-12 * most)
    )()
    assert found.converged.all()
    atol = 1e-8 * np.abs(expected).max()
    np.testing.assert_allclose(found.params.T, expected, rtol=0, atol=atol)
    assert np.mean((np.asarray(found.params.T) == 0) == (expected == 0)) > 0.99


def test_a_scalar_strength_is_the_same_for_all():
    X, y = data("diabetes")
    l1 = np.geomspace(0.4, 0.04, 4)
    found = path(squared(X, y), jnp.zeros(10), ElasticNet(l1, 0.1))
    for w, strength in zip(found.params, l1, strict=True):
        model = sklearn.linear_model.ElasticNet(
            alpha=strength + 0.2,
            l1_ratio=strength / (strength + 0.2),
            fit_intercept=False,
            tol=1e-13,
            max_iter=1_000_000,
        )
        np.testing.assert_allclose(w, model.fit(X, y).coef_, rtol=0, atol=1e-8)


def test_its_derivative_is_the_slope_where_no_rows_can_be_saved():
    rng = np.random.default_rng(2)
    X, noise = rng.normal(size=(12, 20)), rng.normal(size=12)
    y = X[:, :3] @ np.array([2.0, -1.0, 1.0]) + 0.1 * noise

    @jax.jit
    def total(factor, y):
        strengths = factor * jnp.array([0.1, 0.8, 0.3])
        found = path(squared(X, y), jnp.zeros(20), L1(strengths), tol=1e-13)
        return jnp.sum(jnp.sin(found.params) @ jnp.arange(20.0))

    in_factor, in_y = jax.jit(jax.grad(total, argnums=(0, 1)))(1.0, y)
    h = 1e-6
    slope = (total(1 + h, y) - total(1 - h, y)) / (2 * h)
    np.testing.assert_allclose(in_factor, slope, rtol=1e-6)
    slope = (total(1.0, y + h * noise) - total(1.0, y - h * noise)) / (2 * h)
    np.testing.assert_allclose(in_y @ noise, slope, rtol=1e-6)


# Where each strength starts.


def test_a_lasso_goes_straight_on_where_its_support_stays():
    X, y = data("diabetes")
    strengths = np.geomspace(1, 1e-2, 100) * np.abs(X.T @ y).max() / len(y)
    found = lasso_path(X, y, strengths)
    # Where it stays, nothing is left to do, or to correct an error carried on.
    same = np.all(np.diff(np.asarray(found.params) != 0, axis=0) == 0, axis=1)
    steps = found.steps[2:][same[1:] & same[:-1]]
    assert len(steps) > 50
    assert np.max(steps) <= 1
    assert np.mean(steps) < 0.5
    assert found.converged.all()


def trail_of(w_before, w):
    """Two solutions, at strengths whose sums are 4 and 3."""
    one, nothing = jnp.array(1.0), jnp.zeros_like(w)
    first, second = (Point((x,), (), one, (nothing,)) for x in (w_before, w))
    return Trail.at(first, 4 * one).add(second, 3 * one)


def test_a_hint_is_on_the_line_through_two_solutions():
    """What changes its sign on the way is zero, as what is zero already."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        w_before, w = rng.normal(size=(2, 4))
        w[rng.integers(4)] = 0
        size = rng.uniform(2, 3)
        line = w + (3 - size) * (w - w_before)
        line = np.where(line * w > 0, line, 0)
        (found,) = trail_of(jnp.array(w_before), jnp.array(w)).further(size)
        np.testing.assert_allclose(found, line, rtol=1e-12)


def test_one_solution_makes_no_line():
    w, one = jnp.array([1.0, -2.0]), jnp.array(1.0)
    trail = Trail.at(Point((w,), (), one, (w,)), one)
    np.testing.assert_array_equal(trail.further(0.5 * one)[0], w)


def test_a_hint_is_taken_if_the_objective_is_less_there():
    """From a hint at the solution one step suffices; one far off changes nothing."""
    X, y = map(jnp.asarray, regression_data("diabetes"))
    program, leaves = traced(lambda w: 0.5 * jnp.mean((X @ w - y) ** 2), jnp.zeros(10))
    problem = Composite(Heads.of(program, leaves), (L1(jnp.array(0.05)),))
    zero = problem.point((jnp.zeros(10),))

    def after(steps, hint):
        outcome, _ = solve(problem, zero, 1.0, jnp.array(1e-13), steps, hint=hint)
        return outcome.w[0], outcome.distance

    solution, distance = after(100, None)
    assert distance <= 1e-13
    plain, far = after(1, None)
    assert far > 1e-6
    near, left = after(1, (solution,))
    assert left <= 1e-13
    np.testing.assert_allclose(near, solution, rtol=1e-12)
    same, _ = after(1, (-100 * jnp.ones(10),))
    np.testing.assert_array_equal(same, plain)


# Quadratic losses of many rows, by their Hessian.


def traced(loss, *leaves):
    return jax.make_jaxpr(loss)(*leaves), leaves


def test_a_loss_by_its_hessian_is_the_same_function():
    rng = np.random.default_rng(0)
    X, y = data("raw columns")
    X = np.column_stack([X, X[:, 0], np.zeros(len(y)), np.ones(len(y))])
    y, slopes = y + 3.0, rng.normal(size=X.shape[1])

    def loss(w, b):
        return 0.5 * jnp.mean((y - X @ w - b) ** 2) + slopes @ w - 0.1 * b

    program, leaves = traced(loss, jnp.zeros(X.shape[1]), jnp.zeros(()))
    gram = by_hessian(program, leaves)
    assert gram.entries == (X.shape[1] + 1) ** 2
    for _ in range(3):
        w, b = rng.normal(size=X.shape[1]), rng.normal()
        np.testing.assert_allclose(gram((w, b)), loss(w, b), rtol=1e-11)
        ours = gram.value_and_gradient(gram.products((w, b)), (w, b))[1]
        expected = jax.grad(loss, argnums=(0, 1))(w, b)
        scale = np.abs(expected[0]).max()
        for a, b in zip(ours, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-11 * scale)


@pytest.mark.parametrize(
    "loss",
    [
        lambda X, y, w: jnp.mean(jax.nn.softplus(-y * (X @ w))),
        lambda X, y, w: jnp.mean((y - X @ w) ** 4),
        lambda X, y, w: jnp.mean((y - X @ w) ** 2) + jnp.sum(w**3),
        lambda X, y, w: jnp.mean((y - jnp.sum(X * w, axis=1)) ** 2),  # No product.
        lambda X, y, w: jnp.mean((y[:15] - X[:15] @ w) ** 2),  # Few rows.
    ],
)
def test_other_losses_are_left_as_they_are(loss):
    X, y = data("diabetes")
    program, leaves = traced(functools.partial(loss, X, y), jnp.zeros(10))
    assert by_hessian(program, leaves) is None


def check_same(loss, leaves, scales=1.0):
    """Value and gradient by the Hessian are those of the loss."""
    program, leaves = traced(loss, *leaves)
    gram = by_hessian(program, leaves)
    rng = np.random.default_rng(0)
    every = tuple(range(len(leaves)))
    for _ in range(3):
        # Each coefficient of the size that its column asks for.
        at = [rng.normal(size=leaf.shape) for leaf in leaves]
        at[0] = at[0] / scales
        np.testing.assert_allclose(gram(at), loss(*at), rtol=1e-11)
        ours = gram.value_and_gradient(gram.products(at), at)[1]
        expected = jax.grad(loss, every)(*at)
        ours, expected = ([g[0] / scales, *g[1:]] for g in (ours, expected))
        for a, b in zip(ours, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-11 * np.abs(b).max())


@pytest.mark.parametrize("distance", [1e-4, 1e-7, 1e-10, 0])
def test_by_its_hessian_it_is_the_same_for_columns_nearly_alike(distance):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 10))
    X = np.column_stack([X, X[:, 0] + distance * rng.normal(size=200)])
    y, slopes = rng.normal(size=200), rng.normal(size=11)
    slopes[10] = slopes[0]
    check_same(lambda w: squared(X, y)(w) + slopes @ w, (jnp.zeros(11),))


@pytest.mark.parametrize("spread", [1.0, 1e4])
def test_by_its_hessian_it_is_the_same_for_columns_of_all_scales(spread):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 12)) * np.geomspace(1, spread, 12)
    X = np.column_stack([X, X[:, 3], np.zeros(200), np.ones(200), X[:, 0] - X[:, 1]])
    y, slopes = rng.normal(size=200), rng.normal(size=16) * X.std(axis=0)

    def loss(w, b):
        return 0.5 * jnp.mean((y - X @ w - b) ** 2) + slopes @ w + 0.3 * b + 2.0

    scales = np.maximum(X.std(axis=0), 1)
    check_same(loss, (jnp.zeros(16), jnp.zeros(())), scales=scales)


def test_by_its_hessian_it_keeps_a_slope_where_no_row_is():
    X = np.column_stack([np.random.default_rng(0).normal(size=(50, 3)), np.zeros(50)])
    y = np.ones(50)

    def loss(w):
        return 0.5 * jnp.mean((y - X @ w) ** 2) + jnp.array([0, 0, 0, 0.5]) @ w

    check_same(loss, (jnp.zeros(4),))


def test_by_its_hessian_it_is_the_same_under_vmap():
    X, y = data("tall")
    kept = np.random.default_rng(0).integers(0, 2, size=(3, len(y))).astype(float)
    point = np.linspace(-1, 1, 30)

    def value_and_gradient(kept):
        def loss(w):
            return 0.5 * jnp.mean(kept * (y - X @ w) ** 2) + 0.1 * jnp.ones(30) @ w

        gram = by_hessian(*traced(loss, jnp.zeros(30)))
        assert gram is not None
        both = [lambda w: gram((w,)), loss]
        return [jax.value_and_grad(f)(jnp.asarray(point)) for f in both]

    ours, expected = jax.jit(jax.vmap(value_and_gradient))(kept)
    np.testing.assert_allclose(ours[0], expected[0], rtol=1e-11)
    scale = np.abs(expected[1]).max()
    np.testing.assert_allclose(ours[1], expected[1], rtol=0, atol=1e-11 * scale)


def test_a_huber_loss_is_left_as_it_is():
    X, y = data("diabetes")

    def huber(w):
        r = jnp.abs(y - X @ w)
        return jnp.mean(jnp.where(r < 1, 0.5 * r**2, r - 0.5))

    assert by_hessian(*traced(huber, jnp.zeros(10))) is None


def test_matrices_and_wide_data_are_left_as_they_are():
    X, y = data("wide")
    assert by_hessian(*traced(squared(X, y), jnp.zeros(100))) is None
    X, y = data("diabetes")
    several = np.stack([y, -y, y**2], axis=1)

    def loss(w):
        return jnp.mean((several - X @ w) ** 2)

    assert by_hessian(*traced(loss, jnp.zeros((10, 3)))) is None


# The strength to begin with.


def test_max_strength_has_its_closed_form():
    X, y = data("diabetes")
    y = y + 150.0
    loss = functools.partial(weighted(X + 3, y), weights=jnp.ones(len(y)))
    found = max_strength(loss, intercept_start(10), lasso(1.0))
    expected = np.abs((X - X.mean(axis=0)).T @ (y - y.mean())).max() / len(y)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_max_strength_of_a_logistic_loss_solves_for_the_intercept():
    X, y = classification_data("breast cancer")
    found = jax.jit(
        lambda: max_strength(logistic(X, y), intercept_start(30), lasso(1.0))
    )()
    rate = np.mean(y == 1)
    expected = np.abs(X.T @ ((y == 1) - rate)).max() / len(y)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


WEIGHTS = np.linspace(0.0, 2, 10)  # The first is not penalised.
SCALED = {
    "L1": lambda c: L1(0.7 * c),
    "adaptive": lambda c: L1(c * WEIGHTS),
    "ElasticNet": lambda c: ElasticNet(0.5 * c, 0.3 * c),
    "GroupLasso": lambda c: GroupLasso(c, groups=np.arange(10) // 3),
}


@pytest.mark.parametrize("name", SCALED)
def test_all_is_zero_above_the_max_strength_and_not_below(name):
    X, y = data("diabetes")
    loss, penalty = squared(X, y), SCALED[name]
    most = max_strength(loss, jnp.zeros(10), penalty(1.0))
    solve = jax.jit(lambda c: minimize(loss, jnp.zeros(10), penalty(c)).params)
    penalised = slice(1, None) if name == "adaptive" else slice(None)
    assert not np.any(solve(1.01 * most)[penalised])
    assert np.any(solve(0.99 * most)[penalised])


def test_max_strength_is_vmapped():
    X, y = data("diabetes")
    shifts = np.array([0.0, 1.0])

    @jax.vmap
    def most(shift):
        loss = squared(X, y + shift * X[:, 3])
        return max_strength(loss, jnp.zeros(10), L1(1.0))

    expected = [np.abs(X.T @ (y + s * X[:, 3])).max() / len(y) for s in shifts]
    np.testing.assert_allclose(most(shifts), expected, rtol=1e-12)


def test_max_strength_needs_something_that_can_be_zero():
    X, y = data("diabetes")
    params = {"w": jnp.zeros(10)}

    def loss(params):
        return squared(X, y)(params["w"])

    with pytest.raises(ValueError, match=r"\['w'\] has L2, which gives no zeros"):
        max_strength(loss, params, L2(1.0))
    with pytest.raises(ValueError, match="needs a penalised leaf with a strength"):
        max_strength(loss, params, masked(L1(1.0), False))
    with pytest.raises(TypeError, match="`max_strength` needs a penalty"):
        max_strength(loss, params, 1.0)


def test_a_grid_is_even_in_the_logarithm():
    np.testing.assert_allclose(
        strength_grid(3.0, n=7, ratio=1e-3), np.geomspace(3, 3e-3, 7), rtol=1e-13
    )
    assert strength_grid(3.0)[0] == 3 and strength_grid(3.0).shape == (100,)
    np.testing.assert_array_equal(strength_grid(2.0, n=1), [2.0])


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"max": 0.0}, ValueError),
        ({"max": "1"}, TypeError),
        ({"n": 0}, ValueError),
        ({"n": 2.5}, TypeError),
        ({"ratio": 0.0}, ValueError),
        ({"ratio": 1.5}, ValueError),
    ],
)
def test_a_bad_grid_is_refused(bad, error):
    with pytest.raises(error, match=f"`{next(iter(bad))}`"):
        strength_grid(**{"max": 1.0, **bad})


@pytest.mark.parametrize(
    ("penalties", "match"),
    [
        (L1(0.1), "leading axis of one length"),
        (ElasticNet(np.ones(3), np.ones(2)), "leading axis of one length"),
        (L1(np.ones(0)), "at least one strength"),
    ],
)
def test_strengths_that_are_no_path_are_refused(penalties, match):
    X, y = data("diabetes")
    with pytest.raises(ValueError, match=match):
        path(squared(X, y), jnp.zeros(10), penalties)
    with pytest.raises(ValueError, match="too few digits"):
        path(squared(X, y), jnp.zeros(10, "bfloat16"), L1(np.ones(2)))


def test_max_strength_with_rare_positives():
    rng = np.random.default_rng(0)
    # Not centred, or the intercept would not matter.
    X = 1 + standardize(rng.normal(size=(500, 6)))
    y = np.where(np.arange(500) < 9, 1.0, -1.0)
    found = max_strength(logistic(X, y), intercept_start(6), lasso(1.0))
    rate = 9 / 500
    expected = np.abs(X.T @ ((y == 1) - rate)).max() / 500
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_max_strength_solves_for_unpenalised_covariates():
    X, y = data("diabetes")
    Z, X = np.column_stack([X[:, :2], np.ones(len(y))]), X[:, 2:]

    def loss(params):
        return 0.5 * jnp.mean((y - Z @ params["free"] - X @ params["w"]) ** 2)

    start = {"free": jnp.ones(3), "w": jnp.ones(8)}
    found = jax.jit(lambda: max_strength(loss, start, masked(L1(1.0), by_path("w"))))()
    rest = y - Z @ np.linalg.lstsq(Z, y)[0]
    np.testing.assert_allclose(found, np.abs(X.T @ rest).max() / len(y), rtol=1e-9)


def test_max_strength_of_adaptive_strengths_frees_those_of_zero():
    X, y = data("diabetes")
    strengths = np.array([0, 1, 2, 0, 0.5, 3, 1, 1, 0.1, 2])
    free = strengths == 0
    rest = y - X[:, free] @ np.linalg.lstsq(X[:, free], y)[0]
    most = np.abs(X.T @ rest)[~free] / strengths[~free] / len(y)
    found = max_strength(squared(X, y), jnp.ones(10), L1(strengths))
    np.testing.assert_allclose(found, most.max(), rtol=1e-9)


def test_max_strength_of_the_elastic_net_is_that_of_its_l1_part():
    X, y = data("diabetes")
    expected = np.abs(X.T @ y).max() / len(y) / 0.5
    for l2 in (0.0, 0.3, 50.0):
        found = max_strength(squared(X, y), jnp.ones(10), ElasticNet(0.5, l2))
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_max_strength_of_groups_is_their_largest_dual_norm():
    X, y = data("diabetes")
    labels = np.arange(10) // 4
    g = X.T @ y / len(y)
    for scaled in (True, False):
        penalty = GroupLasso(2.0, groups=labels, size_scaled=scaled)
        found = max_strength(squared(X, y), jnp.ones(10), penalty)
        sizes = [np.sqrt(np.sum(labels == k)) if scaled else 1 for k in range(3)]
        norms = [np.linalg.norm(g[labels == k]) / 2 for k in range(3)]
        np.testing.assert_allclose(found, np.max(np.divide(norms, sizes)), rtol=1e-12)


@pytest.mark.parametrize("heavy", ["first", "second"])
def test_max_strength_of_several_leaves_is_the_largest(heavy):
    X, y = data("diabetes")

    def loss(params):
        fit = X[:, :5] @ params["first"] + X[:, 5:] @ params["second"]
        return 0.5 * jnp.mean((y - fit) ** 2)

    start = {"first": jnp.ones(5), "second": jnp.ones(5)}
    g = np.abs(X.T @ y).reshape(2, 5).max(axis=1) / len(y)
    found = max_strength(loss, start, L1(2.0))
    np.testing.assert_allclose(found, g.max() / 2, rtol=1e-12)

    strengths = {"first": 0.5, "second": 0.5, heavy: 5.0}
    expected = max(g[0] / strengths["first"], g[1] / strengths["second"])
    for penalty in (
        L1(strengths),
        partition(
            {"a": L1(strengths["first"]), "b": L1(strengths["second"])},
            {"first": "a", "second": "b"},
        ),
    ):
        found = max_strength(loss, start, penalty)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_max_strength_does_not_depend_on_the_start_and_compiles():
    X, y = data("diabetes")
    X, y = X + 3, y + 150

    @jax.jit
    @jax.vmap
    def most(w, b):
        loss = functools.partial(weighted(X, y), weights=jnp.ones(len(y)))
        return max_strength(loss, {"w": w, "b": b}, lasso(1.0))

    starts = np.random.default_rng(0).normal(size=(3, 11))
    expected = np.abs((X - X.mean(axis=0)).T @ (y - y.mean())).max() / len(y)
    found = most(starts[:, :10], 100 * starts[:, 10])
    np.testing.assert_allclose(found, np.full(3, expected), rtol=1e-9)


def test_single_precision_reaches_its_tolerance():
    X = jnp.asarray(data("diabetes")[0], jnp.float32)
    rng = np.random.default_rng(0)

    @jax.jit
    def all_converged(y):
        loss, start = squared(X, y), jnp.zeros(X.shape[1], jnp.float32)
        grid = strength_grid(max_strength(loss, start, L1(1.0)), ratio=1e-3)
        return path(loss, start, L1(grid)).converged

    for _ in range(10):
        y = np.asarray(X) @ rng.normal(size=X.shape[1]) + rng.normal(size=len(X))
        assert np.all(all_converged(jnp.asarray(y - y.mean(), jnp.float32)))


@pytest.mark.parametrize("solver", [minimize, path])
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("name", ["squares", "logistic"])
def test_the_second_derivative_is_that_of_the_first(name, intercept, solver):
    """By `jax.hessian`, forward over reverse, too; of some leaves or all."""
    X, y = data("wide")
    X, y = X[:, :6], y + 0.3

    def loss(params):
        z = X @ params["w"] + params["b"] * intercept
        if name == "squares":
            return 0.5 * jnp.mean((y - z) ** 2)
        return jnp.mean(jnp.logaddexp(0, -np.sign(y) * z))

    start = {"w": jnp.zeros(6), "b": jnp.zeros(())}

    def of_strength(s):
        strengths = jnp.stack([2 * s, s]) if solver is path else s
        found = solver(loss, start, masked(L1(strengths), by_path("w")))
        return jnp.sum(jnp.sin(found.params["w"]))

    slope, h = jax.jit(jax.grad(of_strength)), 1e-5
    expected = (slope(0.03 + h) - slope(0.03 - h)) / (2 * h)
    assert abs(expected) > 1e-2
    for second in (jax.hessian, lambda f: jax.jacfwd(jax.jacfwd(f))):
        found = jax.jit(second(of_strength))(0.03)
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_loss_may_have_fewer_digits_than_its_parameters():
    X, y = (jnp.asarray(x, jnp.float32) for x in data("tall"))

    def loss(w):
        return squared(X, y)(w.astype(jnp.float32))

    strengths = jnp.array([0.3, 0.1])
    found = path(loss, jnp.zeros(30), L1(strengths))
    for strength, params in zip(strengths, found.params, strict=True):
        one = minimize(loss, jnp.zeros(30), L1(strength)).params
        here, there = (loss(w) + L1(strength).value(w) for w in (params, one))
        np.testing.assert_allclose(here, there, rtol=1e-6)


def test_without_jit_few_programs_are_compiled(caplog):
    X, y = data("tall")
    start = jnp.zeros(X.shape[1])
    jax.clear_caches()
    with jax.log_compiles(), caplog.at_level("WARNING"):
        path(squared(X, y), start, L1(jnp.array([0.2, 0.1])))
    programs = [r for r in caplog.records if "XLA compilation" in r.getMessage()]
    assert 1 <= len(programs) <= 10  # Each operation alone would be a hundred.


def test_a_grid_ends_exactly_at_its_ratio():
    for most, ratio, n in [(3.0, 1e-3, 30), (0.7, 0.05, 7), (1e-6, 1.0, 4)]:
        grid = np.asarray(strength_grid(most, n, ratio))
        assert grid[0] == most and grid[-1] == most * ratio
        np.testing.assert_allclose(
            grid, np.geomspace(most, most * ratio, n), rtol=1e-13
        )


def test_a_grid_compiles_and_is_vmapped():
    most = jnp.array([1.0, 20.0])
    grids = jax.jit(jax.vmap(lambda m: strength_grid(m, 5, 0.1)))(most)
    expected = np.geomspace(most, 0.1 * most, 5).T
    np.testing.assert_allclose(grids, expected, rtol=1e-13)


@pytest.mark.parametrize(
    "bad", [{"max": -1.0}, {"max": np.inf}, {"max": np.nan}, {"ratio": -0.1}]
)
def test_a_grid_out_of_range_is_refused(bad):
    with pytest.raises(ValueError, match=f"`{next(iter(bad))}`"):
        strength_grid(**{"max": 1.0, **bad})
