"""Definitions and optima in plain NumPy, for penalties beyond sums of |w| and w²."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optareg import proximal
from problems import regression_data, standardize


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


# Training.


def adam(rate: Any, steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(rate, steps))


# Optimizers for weights of a scale, and how near to the optimum they come.
OPTIMIZERS: dict[str, tuple[Callable, float]] = {
    "sgd": (lambda rate, scale, steps: optax.sgd(rate), 1e-9),
    "adam": (lambda rate, scale, steps: adam(rate / 6 * scale, steps), 1e-9),
    "lion": (
        lambda rate, scale, steps: optax.lion(
            optax.cosine_decay_schedule(rate / 15 * scale, steps), weight_decay=0.0
        ),
        1e-5,
    ),
}
SCALES = np.array([1e-4, 1.0, 100.0])


def train_at_scales(
    name: str,
    penalty: Callable[[jax.Array], Any],
    gradient: Callable[[jax.Array, jax.Array], jax.Array],
    start: Any,
    steps: int = 6000,
    rate: float = 0.3,
) -> list[np.ndarray]:
    """What `proximal` finds at each of the `SCALES`, in one compiled program.

    Args:
      name: of one of the `OPTIMIZERS`.
      penalty: from a scale to the penalty.
      gradient: of the loss, from the weights and a scale.
      start: the first weights, at a scale of 1.
      steps: the number of steps.
      rate: the learning rate of SGD, and in proportion those of the others.
    """
    make, _ = OPTIMIZERS[name]

    def run(scale: jax.Array) -> jax.Array:
        optimizer = proximal(make(rate, scale, steps), penalty(scale))

        def step(carry: Any, _: None) -> Any:
            w, state = carry
            updates, state = optimizer.update(gradient(w, scale), state, w)
            return (optax.apply_updates(w, updates), state), None

        w = scale * jnp.asarray(start)
        return jax.lax.scan(step, (w, optimizer.init(w)), length=steps)[0][0]

    return list(map(np.asarray, jax.jit(jax.vmap(run))(jnp.asarray(SCALES))))


def assert_near(name: str, found: np.ndarray, best: np.ndarray) -> None:
    """As near as one of the `OPTIMIZERS` comes."""
    _, tolerance = OPTIMIZERS[name]
    assert np.linalg.norm(found - best) <= tolerance * np.linalg.norm(best)


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
