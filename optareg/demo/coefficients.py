"""Picture: the coefficient paths of lasso, ridge and elastic net on diabetes.

All strengths of a penalty are solved in one vmapped call; scikit-learn solves the same
problems one by one.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import sklearn.datasets
import sklearn.linear_model
from matplotlib.figure import Figure

from optareg import ElasticNet, Penalty, plot, proximal
from optareg.demo.style import GREY, INK, new_figure, styled

__all__ = ["Paths", "coefficient_paths", "draw_coefficients", "solve"]

Array = jax.Array

FORMULAS = {
    "lasso": "Σ|w|",
    "ridge": "½ Σw²",
    "elastic net": "(½ Σ|w| + ¼ Σw²)",
}


class Paths(NamedTuple):
    """The paths of one penalty.

    Attributes:
      alphas: strengths in scikit-learn's convention, falling, shape (strengths,).
      coefficients: by `optareg`, float32, shape (strengths, features).
      reference: by scikit-learn, float64, the same shape.
    """

    alphas: np.ndarray
    coefficients: np.ndarray
    reference: np.ndarray


class Family(NamedTuple):
    """A penalty in two libraries, both for α · (scikit-learn's penalty)."""

    ours: Callable[[Array], Penalty]
    theirs: Callable[[float, int], sklearn.base.BaseEstimator]
    largest: float
    smallest: float


# All as elastic nets, so that one program solves them: it is compiled once.
FAMILIES = {
    "lasso": Family(
        ours=lambda alpha: ElasticNet.from_sklearn(alpha, 1.0),
        theirs=lambda alpha, n: sklearn.linear_model.Lasso(alpha=alpha),
        largest=1.0,
        smallest=1e-3,
    ),
    "ridge": Family(
        ours=lambda alpha: ElasticNet(0 * alpha, alpha / 2),
        # Its loss is not divided by 2n.
        theirs=lambda alpha, n: sklearn.linear_model.Ridge(alpha=n * alpha),
        largest=100.0,
        smallest=1e-3,
    ),
    "elastic net": Family(
        ours=lambda alpha: ElasticNet.from_sklearn(alpha, 0.5),
        theirs=lambda alpha, n: sklearn.linear_model.ElasticNet(
            alpha=alpha, l1_ratio=0.5
        ),
        largest=2.0,
        smallest=1e-3,
    ),
}


@functools.cache
def diabetes() -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """X (442, 10) and y (442,), all columns with mean 0 and variance 1; the names."""
    data = sklearn.datasets.load_diabetes()
    X, y = (x - x.mean(0) for x in (data.data, data.target))
    return X / X.std(0), y / y.std(), tuple(data.feature_names)


@functools.partial(jax.jit, static_argnames="steps")
def solve(penalties: Penalty, X: Array, y: Array, steps: int = 4000) -> Array:
    """argmin_w ‖y − Xw‖² / (2n) + penalty, for many strengths at once.

    Args:
      penalties: a penalty whose strengths have shape (strengths,).
      X: shape (n, features), float32.
      y: shape (n,), float32.
      steps: of Adam; its rate falls from 0.05 to 0 as a cosine.

    Returns:
      Coefficients, shape (strengths, features), float32.
    """
    gram, moment = X.T @ X / len(y), X.T @ y / len(y)

    def descend(penalty: Penalty) -> Array:
        rate = optax.cosine_decay_schedule(0.05, steps)
        optimizer = proximal(optax.adam(rate), penalty)

        def step(
            carry: tuple[Array, optax.OptState], _: None
        ) -> tuple[tuple[Array, optax.OptState], None]:
            w, state = carry
            updates, state = optimizer.update(gram @ w - moment, state, w)
            return (jnp.asarray(optax.apply_updates(w, updates)), state), None

        first = jnp.zeros(X.shape[1])
        (w, _), _ = jax.lax.scan(step, (first, optimizer.init(first)), length=steps)
        return w

    return jax.vmap(descend)(penalties)


def coefficient_paths(name: str, strengths: int = 60) -> Paths:
    """The paths of "lasso", "ridge" or "elastic net" over `strengths` strengths."""
    family = FAMILIES[name]
    X, y, _ = diabetes()
    alphas = np.geomspace(family.largest, family.smallest, strengths)
    ours = solve(
        family.ours(jnp.asarray(alphas, jnp.float32)),
        jnp.asarray(X, jnp.float32),
        jnp.asarray(y, jnp.float32),
    )
    theirs = []
    for alpha in alphas:
        model = family.theirs(alpha, len(y))
        model.set_params(fit_intercept=False, tol=1e-10, max_iter=100_000)
        theirs.append(model.fit(X, y).coef_)
    return Paths(alphas, np.asarray(ours), np.stack(theirs))


@styled
def draw_coefficients() -> Figure:
    """A panel for each penalty: coefficients by strength; scikit-learn's dotted."""
    title = "Diabetes: lasso drops features one by one, ridge only shrinks them"
    figure, panels = new_figure(15, 7, title, columns=3, sharey=True)
    *_, names = diabetes()
    for axes, family in zip(panels, FAMILIES, strict=True):
        paths = coefficient_paths(family)
        is_last = axes is panels[-1]
        plot.coefficients(
            paths.alphas, paths.coefficients, names=names if is_last else None, ax=axes
        )
        axes.plot(paths.alphas, paths.reference, color=INK, lw=1.4, ls=(0, (1, 2.2)))
        axes.set_ylim(-0.56, 0.56)
        axes.set(xlabel="strength α (scikit-learn's), weaker to the right", ylabel="")
        left = np.sum(paths.coefficients != 0, axis=1)
        for alpha in np.geomspace(*axes.get_xlim(), 7)[1:-1]:
            number = left[np.argmin(np.abs(np.log(paths.alphas / alpha)))]
            axes.text(alpha, 0.5, str(number), ha="center", color=GREY)
        axes.text(
            paths.alphas[0], 0.535, " features with a nonzero coefficient:", color=GREY
        )
        apart = np.max(np.abs(paths.coefficients - paths.reference))
        axes.text(
            *(0.03, 0.03),
            f"coloured: optareg\ndotted: scikit-learn, at most {apart:.0e} apart",
            transform=axes.transAxes,
        )
        axes.set_title(f"{family}: α · {FORMULAS[family]}")
    panels[0].set_ylabel("coefficient (feature and target standardised)")
    return figure
