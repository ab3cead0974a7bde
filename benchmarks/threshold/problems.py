"""The problems of the table: loss, penalty, and a solution by an independent source.

Each is ‖Y − XW‖² / (2n) + R(W) on scikit-learn's diabetes. Solutions come from
scikit-learn or SciPy, or from proximal gradient steps in NumPy whose prox is the
definition. At another scale of the target, strengths and sets are multiplied by it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize
import sklearn.datasets
import sklearn.linear_model

import optareg

Array = np.ndarray
PyTree = Any

LABELS = np.array([[0, 1], [1, 2], [2, 2], [0, 3], [3, 3]])
ENTRY_WEIGHTS = np.array([[0.5, 1], [2, 1], [0.1, 1], [1, 3], [1, 1]])
COLUMN_SCALES = np.random.default_rng(1).permutation(np.geomspace(0.3, 3, 10))
TINY = 1e-9  # Relative to the largest weight: less is a tie, or a bound that is met.


class Data(NamedTuple):
    """A regression: standardised X (n, 10) and Y (n, m), of unit variance."""

    X: Array
    Y: Array


class Problem(NamedTuple):
    """A penalty, and what is known of its solution.

    Attributes:
      name: its row of the table.
      penalty: from the scale of the target, which may be traced, to a penalty.
      solve: from the data, at scale 1, to the solution of shape `shape`.
      pattern: from weights, at scale 1, to what must be exactly right, as booleans.
      shape: of the weights; they are reshaped to (10, m).
      targets: m.
      local: of a nonconvex penalty, from the data and weights to the stationary point
        that plain steps in NumPy reach from these: more than one is right.
    """

    name: str
    penalty: Callable[[Any], optareg.Penalty]
    solve: Callable[[Data], Array]
    pattern: Callable[[Array], Array]
    shape: tuple[int, ...] = (5, 2)
    targets: int = 1
    local: Callable[[Data, Array], Array] | None = None


def data(targets: int, columns: bool) -> Data:
    """Diabetes with one target, or with several of rank two and noise."""
    X, y = sklearn.datasets.load_diabetes(return_X_y=True)
    X = (X - X.mean(0)) / X.std(0)
    Y = ((y - y.mean()) / y.std())[:, None]
    if targets > 1:
        rng = np.random.default_rng(3)
        low_rank = rng.normal(size=(10, 2)) @ rng.normal(size=(2, targets))
        Y = X @ low_rank + rng.normal(size=(len(X), targets))
        Y = (Y - Y.mean(0)) / Y.std()
    return Data(X * COLUMN_SCALES if columns else X, Y)


# Definitions in NumPy: argmin ½‖x − w‖² + step R(x).


def soft(w: Array, t: Any) -> Array:
    return np.sign(w) * np.maximum(np.abs(w) - t, 0)


def shrink_groups(w: Array, t: float, labels: Array) -> Array:
    out = np.zeros_like(w)
    for label in np.unique(labels):
        here = labels == label
        size = np.sqrt(here.sum())
        length = np.linalg.norm(w[here])
        out[here] = w[here] * max(0, 1 - t * size / max(length, 1e-300))
    return out


def shrink_singular(w: Array, t: float) -> Array:
    u, values, v = np.linalg.svd(w, full_matrices=False)
    return (u * np.maximum(values - t, 0)) @ v


def shrink_mcp(w: Array, t: float, strength: float, gamma: float = 3.0) -> Array:
    middle = soft(w, t * strength) / (1 - t / gamma)
    return np.where(np.abs(w) <= gamma * strength, middle, w)


def onto_simplex(w: Array, total: float) -> Array:
    ordered = np.sort(w.ravel())[::-1]
    excess = (np.cumsum(ordered) - total) / np.arange(1, w.size + 1)
    return np.maximum(w - excess[np.nonzero(ordered > excess)[0][-1]], 0)


def onto_l1_ball(w: Array, radius: float) -> Array:
    if np.abs(w).sum() <= radius:
        return w
    return np.sign(w) * onto_simplex(np.abs(w), radius)


def proximal_gradient(
    prox: Callable[[Array, float], Array], data: Data, start: Array
) -> Array:
    """Accelerated proximal gradient steps, restarted, until nothing moves."""
    gram, pull = data.X.T @ data.X / len(data.X), data.X.T @ data.Y / len(data.X)
    step = 1 / np.linalg.eigvalsh(gram)[-1]
    w = ahead = start
    speed = 1.0
    for _ in range(200_000):
        slope = (gram @ ahead.reshape(pull.shape) - pull).reshape(start.shape)
        new = prox(ahead - step * slope, step)
        if np.abs(new - ahead).max() < 1e-16:
            return new
        back = np.vdot(ahead - new, new - w) > 0
        faster = 1.0 if back else (1 + np.sqrt(1 + 4 * speed**2)) / 2
        ahead = new + (0 if back else (speed - 1) / faster) * (new - w)
        w, speed = new, faster
    return w


def by_steps(
    prox: Callable[[Array, float], Array], shape: tuple[int, ...] = (5, 2)
) -> Callable[[Data], Array]:
    """By `proximal_gradient` from zero."""
    return lambda data: proximal_gradient(prox, data, np.zeros(shape))


def by_model(model: Any) -> Callable[[Data], Array]:
    """By an estimator of scikit-learn."""
    return lambda data: model.fit(data.X, data.Y[:, 0]).coef_.reshape(5, 2)


def lasso(strength: float, positive: bool = False) -> Any:
    return sklearn.linear_model.Lasso(
        strength, fit_intercept=False, tol=1e-14, max_iter=10**6, positive=positive
    )


def weighted_lasso(strength: float) -> Callable[[Data], Array]:
    weights = ENTRY_WEIGHTS.ravel()
    solve = by_model(lasso(strength))
    return lambda data: solve(Data(data.X / weights, data.Y)) / ENTRY_WEIGHTS


def fused_lasso(strength: float) -> Callable[[Data], Array]:
    """By scikit-learn, in the differences of each row of five weights."""
    sums = np.kron(np.eye(2), np.tril(np.ones((5, 5))))
    first = np.array([0, 5])

    def solve(data: Data) -> Array:
        X, y = data.X @ sums, data.Y[:, 0]
        base, steps = X[:, first], np.delete(X, first, axis=1)
        rest = steps - base @ np.linalg.lstsq(base, steps)[0]
        jumps = lasso(strength).fit(rest, y - base @ np.linalg.lstsq(base, y)[0]).coef_
        start = np.linalg.lstsq(base, y - steps @ jumps)[0]
        return (sums @ np.insert(jumps, [0, 4], start)).reshape(2, 5)

    return solve


def by_scipy(data: Data, low: float, high: float) -> Array:
    bounds = (low, high)
    fit = scipy.optimize.lsq_linear(
        data.X, data.Y[:, 0], bounds, method="bvls", tol=1e-15
    )
    return fit.x.reshape(5, 2)


# What must be exactly right.


def nonzero(w: Array) -> Array:
    return w != 0


def at_bounds(low: float, high: float) -> Callable[[Array], Array]:
    return lambda w: np.stack([w < low + TINY * high, w > high - TINY * high])


def jumps(w: Array) -> Array:
    return np.abs(np.diff(w)) > TINY * np.abs(w).max()


def rank(w: Array) -> Array:
    values = np.linalg.svd(w, compute_uv=False)
    return values > TINY * values.max()


def constraint(projection: Callable[..., PyTree], **arguments: Any) -> Any:
    return optareg.constraint(jax.tree_util.Partial(projection, **arguments))


def problems() -> list[Problem]:
    """All whose penalty is there."""
    rows = np.repeat(np.arange(5)[:, None], 2, axis=1)
    p = optax.projections
    o = optareg

    def mcp(w: Array, t: float) -> Array:
        return shrink_mcp(w, t, 0.1)

    found = [
        Problem("lasso", lambda c: o.L1(0.05 * c), by_model(lasso(0.05)), nonzero),
        Problem(
            "elastic net",
            lambda c: o.ElasticNet(0.05 * c, 0.05),
            by_model(
                sklearn.linear_model.ElasticNet(
                    0.15, l1_ratio=1 / 3, fit_intercept=False, tol=1e-14, max_iter=10**6
                )
            ),
            nonzero,
        ),
        Problem(
            "weighted lasso",
            lambda c: o.L1(0.05 * c * jnp.asarray(ENTRY_WEIGHTS)),
            weighted_lasso(0.05),
            nonzero,
        ),
        Problem(
            "group, axis",
            lambda c: o.GroupLasso(0.05 * c, axis=1),
            by_steps(lambda w, t: shrink_groups(w, 0.05 * t, rows)),
            nonzero,
        ),
        Problem(
            "group, labels",
            lambda c: o.GroupLasso(0.1 * c, groups=LABELS),
            by_steps(lambda w, t: shrink_groups(w, 0.1 * t, LABELS)),
            nonzero,
        ),
        Problem(
            "sparse group",
            lambda c: o.SparseGroupLasso(0.03 * c, 0.05 * c, axis=1),
            by_steps(lambda w, t: shrink_groups(soft(w, 0.03 * t), 0.05 * t, rows)),
            nonzero,
        ),
        Problem(
            "MCP",
            lambda c: o.MCP(0.1 * c),
            by_steps(mcp),
            nonzero,
            local=lambda d, w: proximal_gradient(mcp, d, w),
        ),
        Problem(
            "positive lasso",
            lambda c: o.L1(0.05 * c, positive=True),
            by_model(lasso(0.05, positive=True)),
            nonzero,
        ),
        Problem(
            "nonnegative least squares",
            lambda c: o.L1(0.0, positive=True),
            lambda d: scipy.optimize.nnls(d.X, d.Y[:, 0])[0].reshape(5, 2),
            nonzero,
        ),
    ]
    if hasattr(o, "constraint"):
        found += [
            Problem(
                "box",
                lambda c: constraint(p.projection_box, lower=-0.1 * c, upper=0.15 * c),
                lambda d: by_scipy(d, -0.1, 0.15),
                at_bounds(-0.1, 0.15),
            ),
            Problem(
                "L1 ball",
                lambda c: constraint(p.projection_l1_ball, scale=0.7 * c),
                by_steps(lambda w, t: onto_l1_ball(w, 0.7)),
                nonzero,
            ),
            Problem(
                "simplex",
                lambda c: constraint(p.projection_simplex, scale=0.6 * c),
                by_steps(lambda w, t: onto_simplex(w, 0.6)),
                nonzero,
            ),
        ]
    if hasattr(o, "NuclearNorm"):
        found.append(
            Problem(
                "nuclear norm",
                lambda c: o.NuclearNorm(0.3 * c),
                by_steps(lambda w, t: shrink_singular(w, 0.3 * t), (10, 6)),
                rank,
                shape=(10, 6),
                targets=6,
            )
        )
    if hasattr(o, "TotalVariation"):
        found.append(
            Problem(
                "total variation",
                lambda c: o.TotalVariation(0.02 * c),
                fused_lasso(0.02),
                jumps,
                shape=(2, 5),
            )
        )
    return found
