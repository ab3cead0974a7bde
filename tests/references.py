"""Definitions and optima in plain NumPy, for penalties beyond sums of |w| and w²."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optareg import add_penalty_gradient, proximal, proximal_step
from problems import regression_data, standardize

# R(x), summed over the last axis; the axes before it count points.
Value = Callable[[np.ndarray], np.ndarray]

SCALES = 10.0 ** np.arange(-8, 2)


def objective(value: Value, x: np.ndarray, w: np.ndarray, step: float) -> np.ndarray:
    """½‖x − w‖² + step · R(x), the one that the prox minimises."""
    return 0.5 * np.sum(np.abs(x - w) ** 2, axis=-1) + step * value(x)


def neighbours(x: np.ndarray, seed: int = 0) -> np.ndarray:
    """Points near to x and far, along axes and not, with some entries zero or not."""
    rng = np.random.default_rng(seed)
    n = len(x)
    around = x + SCALES[:, None, None] * rng.normal(size=(len(SCALES), 20, n))
    along = x + (SCALES[:, None, None] * np.concatenate([np.eye(n), -np.eye(n)]))
    shrunk = x * (1 - SCALES[:9, None]) * (rng.random((50, 9, n)) < 0.8)
    return np.concatenate([p.reshape(-1, n) for p in (around, along, shrunk)])


def assert_least(value: Value, x: np.ndarray, w: np.ndarray, step: float) -> None:
    """No neighbour of x has a lower objective, but for rounding."""
    x, w = x.ravel(), w.ravel()
    least = objective(value, x, w, step)
    others = objective(value, neighbours(x), w, step)
    assert least <= others.min() + 1e-14 * (1 + abs(least) + np.sum(w**2))


def soft(w: np.ndarray, threshold: Any) -> np.ndarray:
    """The soft threshold, the prox of |w|."""
    return np.sign(w) * np.maximum(np.abs(w) - threshold, 0)


def members(labels: np.ndarray) -> list[np.ndarray]:
    """The indices of each group that has entries."""
    return [np.flatnonzero(labels == g) for g in np.unique(labels)]


# Problems and optima.


class Regression(NamedTuple):
    """Least squares, ‖y − Xw‖² / (2n)."""

    X: np.ndarray
    y: np.ndarray

    def loss(self, w: jax.Array) -> jax.Array:
        return 0.5 * jnp.mean((jnp.asarray(self.y) - jnp.asarray(self.X) @ w) ** 2)

    def gradient(self, w: np.ndarray) -> np.ndarray:
        return self.X.T @ (self.X @ w - self.y) / len(self.y)

    @property
    def lipschitz(self) -> float:
        return np.linalg.norm(self.X, 2) ** 2 / len(self.y)


def diabetes() -> Regression:
    return Regression(*regression_data("diabetes"))


def synthetic() -> Regression:
    """24 correlated features, of which the first nine matter."""
    rng = np.random.default_rng(3)
    X = rng.normal(size=(120, 24)) + 0.3 * rng.normal(size=(120, 1))
    truth = np.where(np.arange(24) < 9, rng.normal(size=24), 0)
    return Regression(
        standardize(X), standardize(X @ truth + 0.5 * rng.normal(size=120))
    )


def accelerated_descent(
    problem: Regression, prox: Callable[[np.ndarray, float], np.ndarray]
) -> np.ndarray:
    """FISTA with restarts, from zero until nothing moves."""
    step = 1 / problem.lipschitz
    w = ahead = np.zeros(problem.X.shape[1])
    momentum = 1.0
    for _ in range(20_000):
        new = prox(ahead - step * problem.gradient(ahead), step)
        if np.sum((ahead - new) * (new - w)) > 0:  # Uphill.
            momentum = 1.0
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new + (momentum - 1) / following * (new - w)
        done = np.max(np.abs(new - w)) <= 1e-15 and np.all(ahead == new)
        w, momentum = new, following
        if done:
            break
    return w


def coordinate_descent(
    problem: Regression, prox: Callable[[float, float], float]
) -> np.ndarray:
    """Each coordinate at its minimum in turn, from zero until nothing moves."""
    X, y = problem
    curvature = np.mean(X**2, axis=0)
    w = np.zeros(X.shape[1])
    residual = np.array(y)
    for _ in range(5_000):
        before = w.copy()
        for j, c in enumerate(curvature):
            new = prox(w[j] + X[:, j] @ residual / len(y) / c, 1 / c)
            residual += X[:, j] * (w[j] - new)
            w[j] = new
        if np.max(np.abs(w - before)) <= 1e-15:
            break
    return w


# Every way to apply a penalty, to ½‖w − c‖², whose optimum is prox_R(c).

RATE, STEPS = 0.2, 1000


def adam(rate: float, steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(rate, steps))


WAYS: dict[str, Callable] = {
    "gradient-sgd": lambda p: optax.chain(add_penalty_gradient(p), optax.sgd(RATE)),
    "step-sgd": lambda p: optax.chain(optax.sgd(RATE), proximal_step(p, RATE)),
    "proximal-sgd": lambda p: proximal(optax.sgd(RATE), p, threshold=RATE),
    "proximal-adam": lambda p: proximal(adam(RATE, STEPS), p),
}


def train(
    optimizer: Any,
    loss: Callable[[Any], jax.Array],
    params: Any,
    steps: int,
    apply: Callable[[Any, Any], Any] = optax.apply_updates,
) -> Any:
    """Parameters after `steps` steps with the whole loss."""

    def step(carry: Any, _: None) -> Any:
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return (apply(params, updates), state), None

    @jax.jit
    def run(params: Any) -> Any:
        start = params, optimizer.init(params)
        return jax.lax.scan(step, start, length=steps)[0][0]

    return run(params)


def nearest_to(target: Any) -> Callable[[Any], jax.Array]:
    """½‖w − c‖² over a tree."""

    def loss(params: Any) -> jax.Array:
        gaps = jax.tree.map(lambda w, c: jnp.sum((w - c) ** 2), params, target)
        return 0.5 * sum(jax.tree.leaves(gaps))

    return loss
