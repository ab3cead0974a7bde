"""`optareg.plot` draws what it is given; `choose_strength` keeps to its rule."""

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from optareg import (
    L1,
    L2,
    ElasticNet,
    choose_strength,
    constraint,
    max_strength,
    path,
    plot,
    strength_grid,
    summarize,
)
from problems import regression_data


@pytest.fixture
def ax():
    matplotlib.use("Agg")
    yield plt.figure().gca()
    plt.close("all")


@pytest.fixture(scope="module")
def diabetes():
    """A path: strengths (20,), coefficients (20, 10)."""
    X, y = (jnp.asarray(x, jnp.float32) for x in regression_data("diabetes"))

    def loss(w):
        return 0.5 * jnp.mean((X @ w - y) ** 2)

    start = jnp.zeros(10)
    grid = strength_grid(max_strength(loss, start, L1(1.0)), n=20)
    return grid, path(loss, start, L1(grid)).params


def test_a_path_has_a_line_for_each_coefficient(ax, diabetes):
    grid, w = diabetes
    names = [f"column {j}" for j in range(10)]
    assert plot.coefficients(grid, w, names=names, ax=ax) is ax
    lines = {line.get_label(): line for line in ax.lines}
    found = [j for j in range(10) if np.any(w[:, j])]
    assert len(found) >= 8
    for j in found:
        np.testing.assert_array_equal(lines[names[j]].get_ydata(), w[:, j])
        np.testing.assert_array_equal(lines[names[j]].get_xdata(), grid)
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    order = np.argsort(-np.abs(w[-1]), kind="stable")
    assert texts == [names[j] for j in order if j in found]
    assert ax.get_xlim()[0] > ax.get_xlim()[1]


def test_lines_differ_without_colours_too(ax):
    w = np.arange(1.0, 21.0) * np.ones((3, 1))
    plot.coefficients(np.array([1.0, 0.5, 0.1]), w, names=list(map(str, w[0])), ax=ax)
    looks = {
        (line.get_linestyle(), line.get_marker())
        for line in ax.lines
        if line.get_label() != "_zero"
    }
    assert len(looks) == 20


def test_what_is_zero_everywhere_has_no_line(ax):
    w = np.array([[0.0, 1.0, 0.0], [0.0, 2.0, 0.0]])
    plot.coefficients(np.array([1.0, 0.1]), w, names=["a", "b", "c"], ax=ax)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["b"]


def test_shapes_that_do_not_fit_are_refused(ax):
    with pytest.raises(ValueError, match=r"shape \(n, p\), got \(3,\) and \(2, 4\)"):
        plot.coefficients(np.ones(3), np.ones((2, 4)), ax=ax)
    with pytest.raises(ValueError, match="2 names for 4 coefficients"):
        plot.coefficients(np.ones(2), np.ones((2, 4)), names=["a", "b"], ax=ax)
    with pytest.raises(ValueError, match="no entries"):
        plot.weights({}, ax=ax)


def by_hand(grid, errors):
    """Both places of a cross-validation, by the definition."""
    mean = errors.mean(axis=0)
    error = errors.std(axis=0, ddof=1) / np.sqrt(len(errors))
    best = int(np.argmin(mean))
    near = [i for i in range(len(grid)) if mean[i] <= mean[best] + error[best]]
    return best, max(near, key=lambda i: grid[i])


@pytest.mark.parametrize("seed", range(5))
def test_the_rule_of_one_standard_error(seed):
    rng = np.random.default_rng(seed)
    grid = rng.permutation(np.geomspace(1, 1e-3, 15)).astype(np.float32)
    curve = 1 + (np.log10(grid) + 1.5) ** 2
    errors = (curve + rng.normal(size=(6, 1)) + 0.5 * rng.normal(size=(6, 15))).astype(
        np.float32
    )
    choice = jax.jit(choose_strength)(grid, errors)
    assert (int(choice.best), int(choice.one_se)) == by_hand(grid, errors)
    np.testing.assert_allclose(choice.mean, errors.mean(axis=0), rtol=1e-5)
    assert grid[choice.one_se] >= grid[choice.best]


def test_a_best_strength_at_an_end_is_told(ax):
    grid = np.array([1.0, 0.1, 0.01])
    falling = np.array([[3.0, 2.0, 1.0], [3.1, 2.0, 1.1]])
    with pytest.warns(UserWarning, match="at an end of the grid: take a wider"):
        plot.cross_validation(grid, falling, ax=ax)
    assert not choose_strength(grid, falling[:, [0, 2, 1]]).at_edge


def test_nan_is_worst():
    errors = np.array([[1.0, np.nan, 3.0], [1.1, 0.0, 3.0]])
    assert choose_strength(np.array([3.0, 2.0, 1.0]), errors).best == 0


def test_too_few_folds_are_refused():
    with pytest.raises(ValueError, match="at least two folds"):
        choose_strength(np.ones(3), np.ones((1, 3)))
    with pytest.raises(ValueError, match=r"got \(3,\) and \(2, 4\)"):
        choose_strength(np.ones(3), np.ones((2, 4)))


def test_cross_validation_draws_means_errors_and_both_strengths(ax):
    grid = np.geomspace(1, 1e-3, 7)
    errors = np.array([[5, 3, 2, 1.0, 2, 3, 4]]) + np.array([[0.0], [1.0], [2.0]])
    plot.cross_validation(grid, errors, ax=ax)
    mean, best, one_se = ax.lines
    np.testing.assert_allclose(mean.get_ydata(), errors.mean(axis=0))
    assert best.get_xdata()[0] == grid[3] and one_se.get_xdata()[0] <= grid[2]
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    spread = 1 / np.sqrt(3)
    np.testing.assert_allclose(band.min(), errors.mean(axis=0).min() - spread)


def test_training_draws_share_target_and_factor(ax):
    share, factor = [0.0, 0.5, 0.75], [1.0, 10.0, 5.0]
    plot.training(share, factor=factor, target=0.75, steps=[0, 100, 200], ax=ax)
    np.testing.assert_array_equal(
        ax.lines[0].get_xydata(), [[0, 0], [100, 0.5], [200, 0.75]]
    )
    assert ax.lines[1].get_ydata()[0] == 0.75
    (right,) = (a for a in ax.figure.axes if a is not ax)
    np.testing.assert_array_equal(right.lines[0].get_ydata(), factor)


def test_weights_have_a_bar_of_zeros(ax):
    params = {"a": jnp.array([0.0, 0.0, 0.5]), "b": jnp.array([[1.0], [-1.0]])}
    plot.weights(params, bins=4, ax=ax)
    assert ax.get_title() == "40.0% exactly zero"
    assert ax.patches[0].get_data().values.sum() == 3
    assert ax.lines[0].get_ydata()[0] == 2


def test_zeros_by_layer_are_those_of_the_summary(ax):
    summary = summarize({"a": jnp.array([0.0, 0.0, 1.0, 1.0]), "b": jnp.ones(3)})
    plot.zeros_by_layer(summary, ax=ax)
    assert [bar.get_width() for bar in ax.patches] == [0.5, 0.0]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["['a']", "['b']"]


@pytest.mark.parametrize(
    ("penalty", "value"),
    [
        (L1(1.0), lambda w: np.abs(w).sum(1)),
        (L2(1.0), lambda w: (w**2).sum(1)),
        (ElasticNet(0.5, 0.5), lambda w: 0.5 * np.abs(w).sum(1) + 0.5 * (w**2).sum(1)),
    ],
    ids=["diamond", "circle", "both"],
)
def test_a_contour_is_where_the_penalty_has_its_value(ax, penalty, value):
    plot.geometry(penalty, levels=[1.0], ax=ax)
    (contour,) = ax.collections
    points = np.concatenate([p.vertices for p in contour.get_paths()])
    np.testing.assert_allclose(value(points), 1.0, atol=5e-3)


def test_what_is_infinite_has_no_contour(ax):
    plot.geometry(constraint(lambda w: jnp.clip(w, -1, 1)), levels=[1.0], ax=ax)


def test_the_current_axes_are_the_default(ax):
    assert plot.weights({"w": jnp.ones(3)}) is ax
