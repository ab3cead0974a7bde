"""Data sets, their losses, and their solutions by scikit-learn."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import sklearn.datasets
import sklearn.linear_model

from optareg import L1, ElasticNet, Penalty


class Problem(NamedTuple):
    """A convex problem: loss, penalty, starting point, and where it must end.

    Attributes:
      loss: from coefficients (p,) to a scalar, without the penalty.
      penalty: what is added to it.
      lipschitz: the largest eigenvalue of the Hessian of the loss.
      solution: the coefficients by scikit-learn, float64, shape (p,).
    """

    loss: Callable[[jax.Array], jax.Array]
    penalty: Penalty
    lipschitz: float
    solution: np.ndarray


def standardize(x: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and variance 1; constant columns become 0."""
    scale = x.std(axis=0)
    return (x - x.mean(axis=0)) / np.where(scale == 0, 1, scale)


# Not cached: JAX 0.10.2 remembers by identity the dtype of a NumPy array that a live
# compiled function holds, so that what is shared stays float64 beyond a test in x64.
def regression_data(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Standardised X (n, p) and y (n,)."""
    if name == "diabetes":
        X, y = sklearn.datasets.load_diabetes(return_X_y=True)
    elif name == "wide":  # More coefficients than observations.
        rng = np.random.default_rng(0)
        X = rng.normal(size=(60, 150))
        truth = np.zeros(150)
        truth[:8] = 2 * rng.normal(size=8)
        y = X @ truth + 0.3 * rng.normal(size=60)
    else:
        raise ValueError(name)
    return standardize(X), standardize(y)


def classification_data(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Standardised X (n, p) and y (n,) in {-1, 1}."""
    load = {
        "breast cancer": sklearn.datasets.load_breast_cancer,
        "wine": sklearn.datasets.load_wine,
    }
    X, y = load[name](return_X_y=True)
    return standardize(X), np.where(y == y[0], 1.0, -1.0)


def squared_error(name: str, alpha: float, l1_ratio: float = 1.0) -> Problem:
    """‖y − Xw‖² / (2n) + penalty: scikit-learn's Lasso and ElasticNet."""
    X, y = regression_data(name)
    if l1_ratio == 1:
        model = sklearn.linear_model.Lasso(alpha=alpha)
        penalty: Penalty = L1.from_sklearn(alpha)
    else:
        model = sklearn.linear_model.ElasticNet(alpha=alpha, l1_ratio=l1_ratio)
        penalty = ElasticNet.from_sklearn(alpha, l1_ratio)
    model.set_params(fit_intercept=False, tol=1e-13, max_iter=1_000_000)
    solution = model.fit(X, y).coef_
    X, y = jnp.asarray(X), jnp.asarray(y)
    return Problem(
        loss=lambda w: 0.5 * jnp.mean((y - X @ w) ** 2),
        penalty=penalty,
        lipschitz=np.linalg.norm(X, 2) ** 2 / len(y),
        solution=solution,
    )


def logistic(name: str, strength: float) -> Problem:
    """Mean logistic loss + L1: scikit-learn's LogisticRegression, C = 1 / (n λ)."""
    X, y = classification_data(name)
    model = sklearn.linear_model.LogisticRegression(
        C=1 / (len(y) * strength),
        l1_ratio=1,
        solver="saga",
        fit_intercept=False,
        tol=1e-13,
        max_iter=1_000_000,
    )
    solution = model.fit(X, y).coef_[0]
    X, y = jnp.asarray(X), jnp.asarray(y)
    return Problem(
        loss=lambda w: jnp.mean(jax.nn.softplus(-y * (X @ w))),
        penalty=L1(strength),
        lipschitz=np.linalg.norm(X, 2) ** 2 / (4 * len(y)),
        solution=solution,
    )


def kkt_residual(problem: Problem, l1: float, l2: float, w: np.ndarray) -> float:
    """max_j dist(−∂_j(loss + l2 w²), l1 ∂|w_j|), by the definition."""
    g = np.asarray(jax.grad(problem.loss)(jnp.asarray(w))) + 2 * l2 * w
    at_zero = np.maximum(np.abs(g) - l1, 0)
    return float(np.where(w == 0, at_zero, np.abs(g + l1 * np.sign(w))).max())
