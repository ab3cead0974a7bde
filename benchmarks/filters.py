"""Accuracy against the share of filters removed: group lasso, pruning, thresholds.

    pip install -e ".[demo]" && python benchmarks/filters.py

A convolutional network learns scikit-learn's digits. A filter, or hidden unit, with its
bias is one group. Four ways to be rid of some of them, all with Adam and as many steps:

- proximal: `optareg.proximal` with `GroupLasso`: groups are exactly zero. The strength
  rises from 0 in the first half, so that the network learns before it is cut.
- textbook: the gradient of the same penalty, by `optareg.add_penalty_gradient`; then
  groups below a threshold, in root mean square, are set to zero.
- magnitude: without a penalty; then the smallest groups, in root mean square, are set
  to zero, as many as `proximal` has at that strength and seed.
- each of them tuned: trained on with `optareg.freeze_zeros`, without a penalty, for as
  many epochs again.

Prints Markdown, means and standard deviations over seeds; progress goes to stderr.
"""

import argparse
import functools
import os
import platform
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import sklearn.datasets

import optareg
from optareg import GroupLasso, add_penalty_gradient, freeze_zeros, joined, proximal

PyTree = Any

WIDTHS = (16, 32, 64)
UNITS = r"(Conv_\d|Dense_0)"
RATE, BATCH = 5e-3, 64


class Net(nn.Module):
    """Two convolutions with pooling, two Dense layers."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in WIDTHS[:2]:
            x = nn.relu(nn.Conv(width, (3, 3))(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(nn.Dense(WIDTHS[2])(x.reshape(len(x), -1)))
        return nn.Dense(10)(x)


class Digits(NamedTuple):
    """Images, float32 of shape (n, 8, 8, 1), and labels; the rest is for the test."""

    images: jax.Array
    labels: jax.Array
    test_images: jax.Array
    test_labels: jax.Array


def load(seed: int, test: int = 600) -> Digits:
    """The digits in a random order, split in two."""
    data = sklearn.datasets.load_digits()
    order = np.random.default_rng(seed).permutation(len(data.target))
    images = jnp.asarray(data.images[order, ..., None] / 16, jnp.float32)
    labels = jnp.asarray(data.target[order])
    return Digits(images[test:], labels[test:], images[:test], labels[:test])


def penalty(strength: Any) -> optareg.Penalty:
    """One group for each filter or hidden unit, with its bias."""
    return joined(GroupLasso(strength, axis=1), UNITS)


def optimizer(way: str, strength: Any, steps: int) -> optax.GradientTransformation:
    """Adam, as each way has it."""
    adam = optax.adam(optax.cosine_decay_schedule(RATE, steps))

    def rising(count: jax.Array) -> optareg.Penalty:
        return penalty(strength * jnp.minimum(2 * count / steps, 1))

    return {
        "proximal": lambda: proximal(adam, rising, threshold=10 * RATE),
        "textbook": lambda: optax.chain(add_penalty_gradient(rising), adam),
        "none": lambda: adam,
        "tuned": lambda: freeze_zeros(adam),
    }[way]()


@functools.partial(jax.jit, static_argnames=("way", "steps"))
def step(
    way: str, steps: int, strength: Any, carry: PyTree, images: Any, labels: Any
) -> PyTree:
    params, state = carry

    def loss(params: PyTree) -> jax.Array:
        logits = Net().apply(params, images)
        errors = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return errors.mean()

    tx = optimizer(way, strength, steps)
    updates, state = tx.update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, updates), state


def train(
    way: str, strength: float, digits: Digits, params: PyTree, epochs: int, seed: int
) -> PyTree:
    """The parameters after so many epochs."""
    n = len(digits.labels)
    steps = epochs * (n // BATCH)
    strength = jnp.float32(strength)
    carry = params, optimizer(way, strength, steps).init(params)
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        for rows in rng.permutation(n)[: n - n % BATCH].reshape(-1, BATCH):
            batch = digits.images[rows], digits.labels[rows]
            carry = step(way, steps, strength, carry, *batch)
    return carry[0]


@jax.jit
def accuracy(params: PyTree, digits: Digits) -> jax.Array:
    """In percent, on the test set."""
    logits = Net().apply(params, digits.test_images)
    return 100 * jnp.mean(jnp.argmax(logits, -1) == digits.test_labels)


def sizes(params: PyTree) -> dict[str, np.ndarray]:
    """The root mean square of each group, by layer."""
    result = {}
    for name, layer in params["params"].items():
        if name != "Dense_1":
            kernel = np.asarray(layer["kernel"])
            rows = kernel.reshape(-1, kernel.shape[-1])
            rows = np.vstack([rows, np.asarray(layer["bias"])])
            result[name] = np.sqrt(np.mean(rows**2, axis=0))
    return result


def cut(params: PyTree, below: float) -> PyTree:
    """The parameters with the groups up to a size set to zero."""
    new = dict(params["params"])
    for name, size in sizes(params).items():
        keep = jnp.asarray(size > below)
        new[name] = jax.tree.map(lambda x, keep=keep: jnp.where(keep, x, 0), new[name])
    return {"params": new}


def removed(params: PyTree) -> int:
    """The number of groups that are zero."""
    return sum(int(np.sum(size == 0)) for size in sizes(params).values())


def smallest(params: PyTree, count: int) -> float:
    """The size of the last of the `count` smallest groups."""
    everything = np.sort(np.concatenate(list(sizes(params).values())))
    return float(everything[count - 1]) if count else -1.0


def measure(
    strengths: Sequence[float], thresholds: Sequence[float], epochs: int, seed: int
) -> dict[tuple[float, str], tuple[float, float, float]]:
    """For each strength and way: share removed, accuracy, and accuracy when tuned."""
    digits = load(seed)
    start = Net().init(jax.random.key(seed), digits.images[:1])
    plain = train("none", 0.0, digits, start, epochs, seed)
    total = sum(WIDTHS)
    result = {}
    for strength in strengths:
        print(f"seed {seed}, strength {strength:g}", file=sys.stderr)
        found = {"proximal": train("proximal", strength, digits, start, epochs, seed)}
        textbook = train("textbook", strength, digits, start, epochs, seed)
        for threshold in thresholds:
            found[f"textbook, cut at {threshold:g}"] = cut(textbook, threshold)
        count = removed(found["proximal"])
        found["magnitude"] = cut(plain, smallest(plain, count))
        for name, params in found.items():
            tuned = train("tuned", 0.0, digits, params, epochs, seed + 1000)
            result[strength, name] = (
                100 * removed(params) / total,
                float(accuracy(params, digits)),
                float(accuracy(tuned, digits)),
            )
    result[0.0, "no penalty"] = (0.0, float(accuracy(plain, digits)), np.nan)
    return result


def cell(values: Sequence[float]) -> str:
    """Mean ± standard deviation."""
    if np.isnan(values).any():
        return ""
    return f"{np.mean(values):.1f} ± {np.std(values):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--strengths", type=float, nargs="+", default=[1e-3, 4e-3, 1e-2, 2e-2, 4e-2]
    )
    parser.add_argument("--thresholds", type=float, nargs="+", default=[1e-3, 1e-2])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one seed, few epochs")
    options = parser.parse_args()
    if options.quick:
        options.strengths, options.seeds, options.epochs = [6e-3], 1, 10

    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    print(
        f"optareg {optareg.__version__}, jax {jax.__version__}, flax "
        f"{flax.__version__}; Python {platform.python_version()}. "
        f"{jax.default_backend().upper()}, {cores} cores. {options.epochs} epochs, "
        f"{options.seeds} seeds; {' + '.join(map(str, WIDTHS))} filters and units.\n"
    )
    runs = [
        measure(options.strengths, options.thresholds, options.epochs, seed)
        for seed in range(options.seeds)
    ]
    print("| strength | way | removed, % | test accuracy, % | tuned, % |")
    print("|---|---|---|---|---|")
    for strength, name in sorted(runs[0], key=lambda key: key[0]):
        rows = [run[strength, name] for run in runs]
        cells = [cell(column) for column in zip(*rows, strict=True)]
        print(f"| {strength:g} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
