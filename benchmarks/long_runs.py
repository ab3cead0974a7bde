"""Does a found threshold hold for 100,000 steps, and after the problem has changed?

    pip install -e ".[test]" && python benchmarks/long_runs.py

**noise**: a regression of 2,000 samples with 60 features, 8 of them true, in batches of
32 at a constant rate: what moves in the last tenth of 100,000 steps.
**change**: the same, but after so many steps the true features are others.
**digits**: full batches of diabetes in float32, 100,000 steps: how far from the optimum
that float64 has, with the found threshold and with given ones.

Prints Markdown.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import sklearn.datasets
from report import print_table

from optareg import L1, GroupLasso, Penalty, SparseGroupLasso, minimize, proximal

STEPS = 100_000
BATCH, FEATURES, TRUE, SAMPLES = 32, 60, (1, -1, 0.5, -0.5, 0.3, -0.3, 2, -2), 2000
OPTIMIZERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "Adam, 0.003": lambda: optax.adam(3e-3),
    "SGD, 0.02": lambda: optax.sgd(0.02),
    "momentum, 0.002": lambda: optax.sgd(2e-3, 0.9),
    "Lion, 0.001": lambda: optax.lion(1e-3),
}
PAIRS = np.repeat(np.arange(FEATURES // 2), 2)
NOISY: dict[str, Penalty] = {
    "L1": L1(0.1),
    "groups of 2": GroupLasso(0.1, groups=PAIRS),
}
GIVEN = (0.1, 1.0, 30.0, 300.0)
FIVE = np.repeat(np.arange(5), 2)
EXACT: dict[str, Penalty] = {
    "L1": L1(0.05),
    "groups of 2": GroupLasso(0.05, groups=FIVE),
    "sparse groups": SparseGroupLasso(0.02, 0.03, groups=FIVE),
}


class Regression:
    """Two regressions on the same features, the true ones of the second 10 further."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.X = rng.normal(size=(SAMPLES, FEATURES))
        true = np.zeros(FEATURES)
        true[: len(TRUE)] = TRUE
        noise = rng.normal(size=(2, SAMPLES))
        self.y = np.stack([self.X @ true, self.X @ np.roll(true, 10)]) + noise

    def solution(self, penalty: Penalty, which: int) -> np.ndarray:
        """The optimum, in float64."""
        with jax.enable_x64(True):
            X, y = jnp.asarray(self.X), jnp.asarray(self.y[which])
            w = jnp.zeros(FEATURES)
            end = minimize(lambda w: 0.5 * jnp.mean((y - X @ w) ** 2), w, penalty)
            return np.asarray(end.params)

    def train(
        self,
        tx: optax.GradientTransformation,
        steps: int,
        after: int,
        seed: int,
        last: int = 0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The weights after each of `after` last steps, and those before them.

        The last steps are on the regression `last`, those before on the first.
        """
        X = jnp.asarray(self.X, jnp.float32)
        y = jnp.asarray(self.y, jnp.float32)

        def step(which: int, carry: Any, key: jax.Array) -> Any:
            w, state = carry
            rows = jax.random.randint(key, (BATCH,), 0, SAMPLES)

            def loss(w: jax.Array) -> jax.Array:
                return 0.5 * jnp.mean((y[which, rows] - X[rows] @ w) ** 2)

            updates, state = tx.update(jax.grad(loss)(w), state, w)
            return optax.apply_updates(w, updates), state

        @jax.jit
        def run(key: jax.Array) -> tuple[jax.Array, jax.Array]:
            first, then = jax.random.split(key)
            w = jnp.zeros(FEATURES)
            carry, _ = jax.lax.scan(
                lambda c, k: (step(0, c, k), None),
                (w, tx.init(w)),
                jax.random.split(first, steps),
            )

            def next_one(c: Any, k: jax.Array) -> Any:
                c = step(last, c, k)
                return c, c[0]

            _, ws = jax.lax.scan(next_one, carry, jax.random.split(then, after))
            return carry[0], ws

        before, ws = run(jax.random.key(seed))
        return np.asarray(ws), np.asarray(before)


def noise(seeds: int) -> Iterator[list[str]]:
    """Rows of optimizer, penalty, zeros and errors at a constant rate."""
    data = Regression()
    half = STEPS // 2
    for name, penalty in NOISY.items():
        truth = data.solution(penalty, 0)
        for optimizer, make in OPTIMIZERS.items():
            right, flips, errors = 0, 0, []
            for seed in range(seeds):
                tx = proximal(make(), penalty)
                ws, before = data.train(tx, half, half, seed)
                on = ws != 0
                right += int(np.array_equal(on[-1], truth != 0))
                flips += int(np.sum(on[-STEPS // 10 :] != on[-STEPS // 10 - 1 : -1]))
                errors.append([np.max(np.abs(w - truth)) for w in (before, ws[-1])])
            at_half, at_end = np.mean(errors, 0)
            yield [
                name,
                optimizer,
                f"{right} of {seeds}",
                str(flips),
                f"{at_half:.3f}",
                f"{at_end:.3f}",
            ]


def change(seeds: int) -> Iterator[list[str]]:
    """Rows of the steps until the support of the second regression is found."""
    data = Regression()
    for before in (2_000, 20_000, 60_000):
        for name, penalty in NOISY.items():
            truth = data.solution(penalty, 1)
            found = []
            for seed in range(seeds):
                tx = proximal(optax.adam(3e-3), penalty)
                ws, _ = data.train(tx, before, 10_000, seed, last=1)
                exact = np.all((ws != 0) == (truth != 0), 1)
                found.append(f"{np.argmax(exact):,}" if exact.any() else "not found")
            yield [f"{before:,}", name, ", ".join(found)]


def digits() -> Iterator[list[str]]:
    """Rows of max |w − optimum| in float32 for each threshold."""
    X, y = sklearn.datasets.load_diabetes(return_X_y=True)
    X, y = (X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std()

    def loss_of(dtype: Any) -> Callable[[jax.Array], jax.Array]:
        Xs, ys = jnp.asarray(X, dtype), jnp.asarray(y, dtype)
        return lambda w: 0.5 * jnp.mean((ys - Xs @ w) ** 2)

    loss = loss_of(jnp.float32)
    optimizers = {
        "Adam from 0.2, cosine": optax.adam(optax.cosine_decay_schedule(0.2, STEPS)),
        "SGD, 0.1": optax.sgd(0.1),
        "momentum, 0.03": optax.sgd(0.03, 0.9),
    }
    for name, penalty in EXACT.items():
        with jax.enable_x64(True):
            solution = minimize(loss_of(jnp.float64), jnp.zeros(10), penalty)
            truth = np.asarray(solution.params)
        for optimizer, inner in optimizers.items():
            errors = []
            for threshold in (None, *GIVEN):
                tx = proximal(inner, penalty, threshold=threshold)

                @jax.jit
                def run(w: jax.Array, tx: Any = tx) -> jax.Array:
                    def step(carry: Any, _: None) -> Any:
                        w, state = carry
                        updates, state = tx.update(jax.grad(loss)(w), state, w)
                        return (optax.apply_updates(w, updates), state), None

                    carry, _ = jax.lax.scan(step, (w, tx.init(w)), length=STEPS)
                    return carry[0]

                w = np.asarray(run(jnp.zeros(10, jnp.float32)))
                mark = "" if np.array_equal(w != 0, truth != 0) else " (support)"
                errors.append(f"{np.max(np.abs(w - truth)):.0e}{mark}")
            yield [name, optimizer, *errors]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    head = ["penalty", "optimizer", "right support", "flips", "error at half", "at end"]
    print_table("noise", head, noise(chosen.seeds))
    head = ["steps before", "penalty", "steps until the support is exact"]
    print_table("change", head, change(chosen.seeds))
    head = ["penalty", "optimizer", "found", *(f"t = {t:g}" for t in GIVEN)]
    print_table("digits", head, digits())


if __name__ == "__main__":
    main()
