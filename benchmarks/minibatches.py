"""Minibatches: the threshold that `proximal` finds beside four fixed ones.

    pip install -e ".[benchmark]" && python benchmarks/minibatches.py

1. Softmax regression on scikit-learn's digits, with L1 and with a group lasso over the
   weights of a pixel. The optimum comes from accelerated proximal gradient steps: F1 is
   that of the support of the last weights, and flips are entries (groups) that became
   zero, or ceased to be, within the last epoch, in percent of all.
2. Three networks on digits (two hidden layers; two convolutions; one transformer block)
   with L1 on every weight: the objective on all training images, accuracy on the test
   images, and the share of zeros.

Means and standard deviations over seeds. Prints Markdown; progress goes to stderr.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import sklearn.datasets

from optareg import L1, GroupLasso, Penalty, proximal

PyTree = Any

THRESHOLDS = (0.001, 0.01, 0.1, 1.0)
BATCH = 64


class Images(NamedTuple):
    """Pixels in [0, 1], shape (n, 64), and labels."""

    x: jax.Array
    y: jax.Array


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

    def optimizer(self, steps: int) -> optax.GradientTransformation:
        """For so many steps."""
        cosine = optax.cosine_decay_schedule(self.rate, steps)
        return self.make(cosine if self.cosine else self.rate)


def momentum(rate: Any) -> optax.GradientTransformation:
    return optax.sgd(rate, 0.9)


WAYS = {
    "adam, cosine": Way(optax.adam, 0.02, True),
    "momentum, cosine": Way(momentum, 0.1, True),
    "lion, cosine": Way(optax.lion, 0.003, True),
    "muon, cosine": Way(optax.contrib.muon, 0.02, True),
    "adam, constant": Way(optax.adam, 0.005, False),
    "sgd, constant": Way(optax.sgd, 0.1, False),
}
NETWORK_WAYS = {
    "adam, cosine": Way(optax.adam, 0.003, True),
    "adam, constant": Way(optax.adam, 0.001, False),
    "momentum, cosine": Way(momentum, 0.05, True),
}


def images() -> tuple[Images, Images]:
    """1,200 for training, 597 for the test."""
    x, y = sklearn.datasets.load_digits(return_X_y=True)
    x = jnp.asarray(x / 16, jnp.float32)
    return Images(x[:1200], jnp.asarray(y[:1200])), Images(
        x[1200:], jnp.asarray(y[1200:])
    )


# The models: parameters from a key, and scores (n, 10) from parameters and pixels.


def normal(key: jax.Array, *shape: int) -> jax.Array:
    return jax.random.normal(key, shape) * np.sqrt(2 / np.prod(shape[:-1]))


def linear_start(key: jax.Array) -> PyTree:
    return 0.01 * jax.random.normal(key, (64, 10))


def linear(w: PyTree, x: jax.Array) -> jax.Array:
    return x @ w


def layers_start(key: jax.Array) -> PyTree:
    keys = jax.random.split(key, 3)
    shapes = [(64, 128), (128, 64), (64, 10)]
    return [(normal(k, *s), jnp.zeros(s[1])) for k, s in zip(keys, shapes, strict=True)]


def layers(p: PyTree, x: jax.Array) -> jax.Array:
    for w, b in p[:-1]:
        x = jax.nn.relu(x @ w + b)
    return x @ p[-1][0] + p[-1][1]


def convolutions_start(key: jax.Array) -> PyTree:
    a, b, c = jax.random.split(key, 3)
    kernels = [normal(a, 9, 8), normal(b, 72, 16), normal(c, 64, 10)]
    return [(w, jnp.zeros(w.shape[1])) for w in kernels]


def convolutions(p: PyTree, x: jax.Array) -> jax.Array:
    x = x.reshape(-1, 1, 8, 8)
    for w, b in p[:-1]:
        x = jax.lax.conv_general_dilated_patches(x, (3, 3), (1, 1), "SAME")
        x = jax.nn.relu(jnp.einsum("nihw,io->nohw", x, w) + b[:, None, None])
        x = x.reshape(*x.shape[:2], x.shape[2] // 2, 2, x.shape[3] // 2, 2).max((3, 5))
    return x.reshape(len(x), -1) @ p[-1][0] + p[-1][1]


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


NETWORKS = {
    "two hidden layers": (layers_start, layers),
    "convolutions": (convolutions_start, convolutions),
    "transformer": (transformer_start, transformer),
}


# Training, of all seeds and thresholds in one program.


def loss(model: Callable[..., jax.Array], p: PyTree, data: Images) -> jax.Array:
    scores = model(p, data.x)
    return optax.softmax_cross_entropy_with_integer_labels(scores, data.y).mean()


def train(
    start: Callable[[jax.Array], PyTree],
    model: Callable[..., jax.Array],
    data: Images,
    way: Way,
    penalty: Penalty,
    steps: int,
    seeds: int,
) -> list[PyTree]:
    """The last parameters and zeros of the last epoch: automatic, then each fixed.

    Leaves have the axes (seeds, ...).
    """
    epoch = len(data.y) // BATCH

    def run(key: jax.Array, threshold: Any) -> tuple[PyTree, PyTree]:
        optimizer = proximal(way.optimizer(steps), penalty, threshold=threshold)

        def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
            p, state = carry
            at = jax.random.randint(key, (BATCH,), 0, len(data.y))
            batch = Images(data.x[at], data.y[at])
            slope = jax.grad(lambda p: loss(model, p, batch))(p)
            updates, state = optimizer.update(slope, state, p)
            return (optax.apply_updates(p, updates), state), None

        def last(carry: Any, key: jax.Array) -> tuple[Any, PyTree]:
            carry, _ = step(carry, key)
            return carry, jax.tree.map(lambda x: x != 0, carry[0])

        p = start(key)
        keys = jax.random.split(key, steps)
        carry, _ = jax.lax.scan(step, (p, optimizer.init(p)), keys[:-epoch])
        (p, _), nonzero = jax.lax.scan(last, carry, keys[-epoch:])
        return p, nonzero

    keys = jax.random.split(jax.random.key(0), seeds)
    found = jax.jit(jax.vmap(lambda key: run(key, None)))(keys)
    fixed = jax.jit(jax.vmap(jax.vmap(run, (0, None)), (None, 0)))(
        keys, jnp.asarray(THRESHOLDS)
    )
    some = [jax.tree.map(lambda x, i=i: x[i], fixed) for i in range(len(THRESHOLDS))]
    return [found, *some]


def optimum(data: Images, penalty: Penalty, steps: int = 10_000) -> jax.Array:
    """Softmax regression, by accelerated proximal gradient steps with restarts."""
    rate = 2 * len(data.y) / jnp.linalg.norm(data.x, 2) ** 2

    def step(carry: Any, _: None) -> tuple[Any, None]:
        w, ahead, speed = carry
        slope = jax.grad(lambda w: loss(linear, w, data))(ahead)
        new = penalty.prox(ahead - rate * slope, rate)
        back = jnp.vdot(ahead - new, new - w) > 0
        faster = jnp.where(back, 1.0, (1 + jnp.sqrt(1 + 4 * speed**2)) / 2)
        push = jnp.where(back, 0.0, (speed - 1) / faster)
        return (new, new + push * (new - w), faster), None

    w = jnp.zeros((64, 10))
    (w, _, _), _ = jax.lax.scan(step, (w, w, jnp.float32(1)), length=steps)
    return w


def spread(values: Sequence[float], digits: int) -> str:
    return f"{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}"


def regression(data: Images, epochs: int, seeds: int) -> None:
    """Prints F1 and flips."""
    steps = epochs * (len(data.y) // BATCH)
    penalties = {
        "L1, .001": L1(0.001),
        "L1, .005": L1(0.005),
        "groups, .01": GroupLasso(0.01, axis=1, size_scaled=False),
        "groups, .03": GroupLasso(0.03, axis=1, size_scaled=False),
    }
    heads = ["automatic", *map(str, THRESHOLDS)]
    print("**Softmax regression: F1 of the support; flips in the last epoch, %**\n")
    print("| penalty | optimizer | " + " | ".join(heads) + " |")
    print("|---" * (2 + len(heads)) + "|")
    for title, penalty in penalties.items():
        best = jax.jit(optimum, static_argnums=2)(data, penalty)
        truth = np.asarray(best != 0)
        for name, way in WAYS.items():
            begin = time.perf_counter()
            runs = train(linear_start, linear, data, way, penalty, steps, seeds)
            cells = []
            for _, nonzero in runs:
                on = np.asarray(nonzero)
                end = on[:, -1]
                f1 = 2 * (end & truth).sum((1, 2)) / (end.sum((1, 2)) + truth.sum())
                flips = 100 * (on[:, 0] != end).mean()
                cells.append(f"{f1.mean():.3f}; {flips:.1f}")
            print(f"| {title} | {name} | " + " | ".join(cells) + " |", flush=True)
            print(f"{time.perf_counter() - begin:.0f} s", file=sys.stderr)


def networks(train_set: Images, test: Images, steps: int, seeds: int) -> None:
    """Prints objective, accuracy and zeros."""
    print("\n**Networks: objective; accuracy, %; zeros, %**\n")
    heads = ["automatic", *map(str, THRESHOLDS)]
    print("| network | λ | optimizer | " + " | ".join(heads) + " |")
    print("|---" * (3 + len(heads)) + "|")
    for title, (start, model) in NETWORKS.items():
        for strength in (1e-4, 1e-3):
            penalty = L1(strength)

            def objective(p: PyTree, model: Any = model, penalty: Any = penalty) -> Any:
                return loss(model, p, train_set) + penalty.value(p)

            def accuracy(p: PyTree, model: Any = model) -> Any:
                return 100 * jnp.mean(model(p, test.x).argmax(1) == test.y)

            for name, way in NETWORK_WAYS.items():
                begin = time.perf_counter()
                cells = []
                for p, _ in train(start, model, train_set, way, penalty, steps, seeds):
                    leaves = [np.asarray(x).ravel() for x in jax.tree.leaves(p)]
                    zeros = 100 * np.mean(np.concatenate(leaves) == 0)
                    values = np.asarray(jax.vmap(objective)(p))
                    right = np.asarray(jax.vmap(accuracy)(p))
                    cells.append(
                        f"{spread(values, 4)}; {spread(right, 1)}; {zeros:.0f}"
                    )
                row = " | ".join(cells)
                print(f"| {title} | {strength:g} | {name} | {row} |", flush=True)
                print(f"{time.perf_counter() - begin:.0f} s", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a fifth of the steps")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=["regression", "networks"])
    chosen = parser.parse_args()
    train_set, test = images()
    parts = 5 if chosen.quick else 1
    if chosen.only != "networks":
        everything = Images(
            *(jnp.concatenate(x) for x in zip(train_set, test, strict=True))
        )
        regression(everything, 120 // parts, chosen.seeds)
    if chosen.only != "regression":
        networks(train_set, test, 3000 // parts, chosen.seeds)


if __name__ == "__main__":
    main()
