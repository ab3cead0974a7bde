"""Minibatches: the threshold that `proximal` finds beside four fixed ones.

    pip install -e ".[demo]" && python benchmarks/minibatches.py

1. Softmax regression on scikit-learn's digits, with L1 and with a group lasso over the
   weights of a pixel: F1 of the support of the last weights against that of `minimize`
   on all images.
2. Three networks on digits (two hidden layers; two convolutions; one transformer block,
   for which a row of pixels is a token) with L1 on every weight: the objective, loss +
   penalty, on all training images, and the accuracy on the test images, which other
   people wrote.

All start from the same weights and see the same minibatches. Means over seeds. Prints
Markdown; progress goes to stderr.
"""

import argparse
import concurrent.futures
import functools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from digits import (
    Images,
    accuracy,
    dense,
    layers,
    load,
    loss,
    normal,
    steps_of,
    train,
)
from report import print_table, spread

from optareg import L1, GroupLasso, Penalty, minimize, proximal

PyTree = Any

THRESHOLDS = (0.001, 0.01, 0.1, 1.0)


class Way(NamedTuple):
    """An optimizer and its first rate.

    Attributes:
      make: from a schedule.
      rate: the first rate.
      cosine: whether it decays.
    """

    make: Callable[[Any], optax.GradientTransformation]
    rate: float
    cosine: bool


def momentum(rate: Any) -> optax.GradientTransformation:
    return optax.sgd(rate, 0.9)


WAYS = {
    "Adam, cosine": Way(optax.adam, 0.02, True),
    "momentum, cosine": Way(momentum, 0.1, True),
    "Lion, cosine": Way(optax.lion, 0.003, True),
    "Muon, cosine": Way(optax.contrib.muon, 0.02, True),
    "Adam, constant": Way(optax.adam, 0.005, False),
    "SGD, constant": Way(optax.sgd, 0.1, False),
}
NETWORK_WAYS = {
    "Adam, cosine": Way(optax.adam, 0.003, True),
    "Adam, constant": Way(optax.adam, 0.001, False),
    "momentum, cosine": Way(momentum, 0.05, True),
}


# The models: parameters from a key, and scores (n, 10) from parameters and pixels.


def linear_start(key: jax.Array) -> PyTree:
    return 0.01 * jax.random.normal(key, (64, 10))


def linear(w: PyTree, x: jax.Array) -> jax.Array:
    return x @ w


def layers_start(key: jax.Array) -> PyTree:
    return dense(key, (64, 128, 64, 10))


def convolutions_start(key: jax.Array) -> PyTree:
    a, b, c = jax.random.split(key, 3)
    kernels = [normal(a, 9, 8), normal(b, 72, 16), normal(c, 64, 10)]
    return [(w, jnp.zeros(w.shape[1])) for w in kernels]


def convolutions(p: PyTree, x: jax.Array) -> jax.Array:
    x = x.reshape(-1, 8, 8, 1)
    for w, b in p[:-1]:
        x = jax.nn.relu(patches(x) @ w + b)
        n, height, width, filters = x.shape
        x = x.reshape(n, height // 2, 2, width // 2, 2, filters).max((2, 4))
    return x.reshape(len(x), -1) @ p[-1][0] + p[-1][1]


def patches(x: jax.Array) -> jax.Array:
    """Each pixel with its eight neighbours: 10 times faster than XLA's on a CPU."""
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifted, -1)


def transformer_start(key: jax.Array) -> PyTree:
    keys = jax.random.split(key, 8)
    shapes = {
        "embed": (8, 32),
        "query": (32, 32),
        "key": (32, 32),
        "value": (32, 32),
        "out": (32, 32),
        "up": (32, 64),
        "down": (64, 32),
        "head": (32, 10),
    }
    pairs = zip(keys, shapes.items(), strict=True)
    p = {name: 0.7 * normal(k, *shape) for k, (name, shape) in pairs}
    return p | {"place": 0.1 * jax.random.normal(key, (8, 32))}


def transformer(p: PyTree, x: jax.Array) -> jax.Array:
    def level(x: jax.Array) -> jax.Array:
        return jax.nn.standardize(x, axis=-1)

    def heads(name: str, x: jax.Array) -> jax.Array:
        return (x @ p[name]).reshape(*x.shape[:2], 4, 8)

    x = x.reshape(-1, 8, 8) @ p["embed"] + p["place"]
    y = level(x)
    y = jax.nn.dot_product_attention(
        heads("query", y), heads("key", y), heads("value", y)
    )
    x = x + y.reshape(x.shape) @ p["out"]
    x = x + jax.nn.relu(level(x) @ p["up"]) @ p["down"]
    return level(x).mean(1) @ p["head"]


MODELS = {
    "linear": (linear_start, linear),
    "MLP": (layers_start, layers),
    "CNN": (convolutions_start, convolutions),
    "transformer": (transformer_start, transformer),
}


# Training: one program for each model, optimizer and kind of penalty, with a found
# threshold, and one with a given one. All else is traced.


def l1(strength: Any) -> Penalty:
    return L1(strength)


def groups(strength: Any) -> Penalty:
    """The weights of a pixel are a group."""
    return GroupLasso(strength, axis=1, size_scaled=False)


@functools.cache
def program(
    name: str,
    make: Callable[[Any], optax.GradientTransformation],
    penalty: Callable[[Any], Penalty],
    epochs: int,
    automatic: bool,
) -> Any:
    """From data, seed, strength, rate, whether it decays and, if given, a threshold."""
    start, model = MODELS[name]

    def run(
        data: Images, key: Any, strength: Any, rate: Any, cosine: Any, *given: Any
    ) -> PyTree:
        steps = steps_of(data, epochs)

        def schedule(count: Any) -> Any:
            decayed = 0.5 * (1 + jnp.cos(jnp.pi * count / steps))
            return rate * jnp.where(cosine, decayed, 1)

        threshold = None if automatic else given[0]
        optimizer = proximal(make(schedule), penalty(strength), threshold=threshold)
        p, _ = train(model, optimizer, start(key), data, key, epochs)
        return p

    return jax.jit(run)


def trained(
    name: str,
    way: Way,
    penalty: Callable[[Any], Penalty],
    strength: float,
    data: Images,
    epochs: int,
    seeds: int,
) -> list[list[PyTree]]:
    """The last parameters of each seed: with a found threshold, then each given one."""
    begin = time.perf_counter()
    found, given = (
        program(name, way.make, penalty, epochs, automatic)
        for automatic in (True, False)
    )
    numbers = [jnp.float32(strength), jnp.float32(way.rate), jnp.asarray(way.cosine)]
    keys = jax.random.split(jax.random.key(0), seeds)
    calls = [functools.partial(found, data, key, *numbers) for key in keys]
    for threshold in THRESHOLDS:
        t = jnp.float32(threshold)
        calls += [functools.partial(given, data, key, *numbers, t) for key in keys]
    jax.block_until_ready(
        [calls[0](), calls[-1]()]
    )  # Compile once, not in each thread.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        runs = list(pool.map(lambda call: jax.block_until_ready(call()), calls))
    print(f"{name}: {time.perf_counter() - begin:.0f} s", file=sys.stderr)
    return [runs[i : i + seeds] for i in range(0, len(runs), seeds)]


def regression(data: Images, epochs: int, seeds: int) -> Iterator[list[str]]:
    """Rows of F1, and by how much the best given threshold is ahead."""
    for title, penalty, strength in [
        ("L1", l1, 0.001),
        ("L1", l1, 0.005),
        ("groups", groups, 0.01),
        ("groups", groups, 0.03),
    ]:
        solution = minimize(
            lambda w: loss(linear, w, data), jnp.zeros((64, 10)), penalty(strength)
        )
        assert solution.converged
        truth = np.asarray(solution.params != 0)
        for name, way in WAYS.items():
            runs = trained("linear", way, penalty, strength, data, epochs, seeds)
            scores = [np.mean([f1(w, truth) for w in some]) for some in runs]
            yield [
                title,
                f"{strength:g}",
                name,
                *(f"{score:.3f}" for score in scores),
                f"{scores[0] - max(scores[1:]):+.3f}",
            ]


def f1(w: jax.Array, truth: np.ndarray) -> float:
    """F1 of the support."""
    on = np.asarray(w) != 0
    return 2 * (on & truth).sum() / (on.sum() + truth.sum())


def networks(
    data: Images, test: Images, epochs: int, seeds: int
) -> Iterator[tuple[list[str], np.ndarray, np.ndarray, np.ndarray]]:
    """Each setting, with objectives, accuracies and zeros of thresholds × seeds."""
    for title in ("MLP", "CNN", "transformer"):
        model = MODELS[title][1]

        @jax.jit
        def measured(p: PyTree, strength: Any, model: Any = model) -> Any:
            leaves = jax.tree.leaves(p)
            zeros = sum(jnp.sum(x == 0) for x in leaves) / sum(x.size for x in leaves)
            objective = loss(model, p, data) + L1(strength).value(p)
            return objective, accuracy(model, p, test), 100 * zeros

        for strength in (1e-4, 1e-3):
            for name, way in NETWORK_WAYS.items():
                runs = trained(title, way, l1, strength, data, epochs, seeds)
                values = np.array(
                    [
                        [measured(p, jnp.float32(strength)) for p in some]
                        for some in runs
                    ]
                )
                yield [title, f"{strength:g}", name], *np.moveaxis(values, 2, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a fifth of the epochs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=["regression", "networks"])
    chosen = parser.parse_args()
    data, test = load()
    parts = 5 if chosen.quick else 1
    given = [f"{threshold:g}" for threshold in THRESHOLDS]
    setting = ["λ", "optimizer", "found"]
    if chosen.only != "networks":
        both = Images(*(jnp.concatenate(x) for x in zip(data, test, strict=True)))
        print_table(
            "Softmax regression: F1 of the support, with the threshold found and given",
            ["penalty", *setting, *given, "found − best"],
            regression(both, 120 // parts, chosen.seeds),
        )
    if chosen.only != "regression":
        print_networks(list(networks(data, test, 100 // parts, chosen.seeds)), given)


def print_networks(rows: Sequence[Any], given: Sequence[str]) -> None:
    """Objectives in parts of that with the found threshold; accuracies and zeros."""
    first, second, excess = [], [], []
    for setting, objective, right, zeros in rows:
        mean = objective.mean(1)
        excess.append(100 * (mean / mean.min() - 1))
        first.append(
            [
                *setting,
                spread(objective[0], 4),
                *(f"{x:.3f}" for x in mean[1:] / mean[0]),
            ]
        )
        second.append(
            [
                *setting,
                spread(right[0]),
                *(f"{x:.1f}" for x in right[1:].mean(1)),
                " / ".join(f"{x:.0f}" for x in zeros.mean(1)),
            ]
        )
    head = ["network", "λ", "optimizer", "found", *given]
    print_table("Objective, and ratios to it with a given threshold", head, first)
    print_table("Accuracy, %; zeros, %", [*head, "zeros"], second)
    print_table(
        "How far the objective is above that of the best of the five thresholds, %",
        ["", "found", *given],
        [
            [name, *(f"{x:.1f}" for x in f(np.array(excess), axis=0))]
            for name, f in [("mean of the settings", np.mean), ("worst", np.max)]
        ],
    )


if __name__ == "__main__":
    main()
