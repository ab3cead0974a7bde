"""Accuracy against the number of attention heads: group lasso, pruning, fewer heads.

    pip install -e ".[demo]" && python benchmarks/heads.py

A transformer of two layers with eight heads each reads scikit-learn's digits, row by
row. The rows meet in attention only, until their mean is taken. A head is one group:
its query, key and value with their biases, and the rows of the output's kernel that
read it. All trainings are by Adam with a cosine schedule:

- proximal: `optareg.proximal` with a group lasso on heads.
- magnitude: without a penalty; then the heads of least root mean square are set to
  zero, as many as `proximal` has at that strength and seed.
- both tuned: trained on for as many steps with `optareg.freeze_zeros`, no penalty.
- fewer heads: a model with as many heads from the start, for twice the steps.

Then what heads cost: time and buffers of a forward pass with fewer of them. Prints
Markdown, means and standard deviations over seeds; progress goes to stderr.
"""

import argparse
import functools
import statistics
import sys
import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import sklearn.datasets
from report import print_table, spread

from optareg import GroupLasso, Penalty, freeze_zeros, joined, proximal

PyTree = Any

HEADS, LAYERS, DIM, WIDTH = 8, 2, 4, 32
RATE, BATCH, STEPS, TRAIN = 5e-3, 64, 600, 1200
STRENGTHS = (1e-3, 2e-3, 4e-3, 8e-3)
PARTS = ("query", "key", "value")


class Transformer(nn.Module):
    """Of so many heads in each layer; a layer without heads has no attention."""

    heads: tuple[int, ...] = (HEADS,) * LAYERS

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        place = self.param("place", nn.initializers.normal(0.1), (8, WIDTH))
        x = nn.Dense(WIDTH, name="first")(x) + place
        for i, heads in enumerate(self.heads):
            if heads:
                attention = nn.MultiHeadDotProductAttention(
                    heads, qkv_features=DIM * heads, name=f"attention_{i}"
                )
                x = x + attention(nn.LayerNorm()(x))
            hidden = nn.gelu(nn.Dense(2 * WIDTH)(nn.LayerNorm()(x)))
            x = x + nn.Dense(WIDTH)(hidden)
        return nn.Dense(10, name="last")(x.mean(axis=1))


def heads_of(strength: Any) -> Penalty:
    """A group for each head; the output's bias belongs to none."""
    return joined(
        GroupLasso(strength, axis=1),
        r"(attention_\d)'\]\['(?:query|key|value|out'\]\['kernel)",
        axis={"out": 0, "query|key|value": -2},
    )


@functools.cache
def digits() -> tuple[jax.Array, jax.Array]:
    """Images as sequences of eight rows, and labels."""
    x, y = sklearn.datasets.load_digits(return_X_y=True)
    return jnp.asarray(x / 16, jnp.float32).reshape(-1, 8, 8), jnp.asarray(y)


def rows_of(seed: Any) -> jax.Array:
    """The images in an order of their own; the first ones are for training."""
    return jax.random.permutation(jax.random.key(seed), len(digits()[1]))


def optimizer(way: str, strength: Any, steps: int) -> optax.GradientTransformation:
    """Adam, as each way has it."""
    adam = optax.adam(optax.cosine_decay_schedule(RATE, steps))
    ways = {
        "plain": lambda: adam,
        "proximal": lambda: proximal(adam, heads_of(strength)),
        "tuned": lambda: freeze_zeros(adam),
    }
    return ways[way]()


@functools.partial(jax.jit, static_argnames=("way", "model", "steps"))
def trained(
    way: str, model: Transformer, steps: int, strength: Any, params: PyTree, seed: Any
) -> PyTree:
    """The parameters after so many steps, on rows that the seed chooses."""
    x, y = digits()
    order = rows_of(seed)[:TRAIN]
    tx = optimizer(way, strength, steps)

    def loss(params: PyTree, rows: jax.Array) -> jax.Array:
        scores = model.apply(params, x[rows])
        return optax.softmax_cross_entropy_with_integer_labels(scores, y[rows]).mean()

    def step(carry: PyTree, key: jax.Array) -> tuple[PyTree, None]:
        params, state = carry
        rows = order[jax.random.randint(key, (BATCH,), 0, TRAIN)]
        updates, state = tx.update(jax.grad(loss)(params, rows), state, params)
        return (optax.apply_updates(params, updates), state), None

    # Not the minibatches again when a network is tuned.
    keys = jax.random.split(jax.random.key(2 * seed + (way == "tuned")), steps)
    return jax.lax.scan(step, (params, tx.init(params)), keys)[0][0]


@functools.partial(jax.jit, static_argnames="model")
def accuracy(model: Transformer, params: PyTree, seed: Any) -> jax.Array:
    """In percent, on the rows that were not trained on."""
    x, y = digits()
    rows = rows_of(seed)[TRAIN:]
    return 100 * jnp.mean(model.apply(params, x[rows]).argmax(-1) == y[rows])


def start(model: Transformer, seed: int) -> PyTree:
    return jax.jit(model.init)(jax.random.key(seed), digits()[0][:1])


def by_head(attention: PyTree) -> np.ndarray:
    """All that belongs to heads, a row for each."""
    rows = [np.asarray(attention["out"]["kernel"]).reshape(HEADS, -1)]
    for name in PARTS:
        kernel = np.moveaxis(np.asarray(attention[name]["kernel"]), -2, 0)
        rows += [kernel.reshape(HEADS, -1), np.asarray(attention[name]["bias"])]
    return np.concatenate(rows, axis=1)


def sizes(params: PyTree) -> np.ndarray:
    """The root mean square of each head, of shape (layers, heads)."""
    layers = [params["params"][f"attention_{i}"] for i in range(LAYERS)]
    return np.stack([np.sqrt(np.mean(by_head(x) ** 2, axis=1)) for x in layers])


def without_smallest(params: PyTree, count: int) -> PyTree:
    """The parameters with so many of the smallest heads at zero."""
    size = sizes(params)
    keep = size.ravel().argsort().argsort().reshape(size.shape) >= count
    new = dict(params["params"])
    for i in range(LAYERS):
        name, some = f"attention_{i}", jnp.asarray(keep[i])
        layer = {
            part: {
                "kernel": jnp.where(some[:, None], new[name][part]["kernel"], 0),
                "bias": jnp.where(some[:, None], new[name][part]["bias"], 0),
            }
            for part in PARTS
        }
        out = new[name]["out"]
        kernel = jnp.where(some[:, None, None], out["kernel"], 0)
        new[name] = layer | {"out": out | {"kernel": kernel}}
    return {"params": new}


def measure(strengths: tuple[float, ...], seed: int) -> list[list[list[float]]]:
    """For each strength and way: heads left, accuracy, and that when tuned."""
    full = Transformer()
    first = start(full, seed)
    plain = trained("plain", full, STEPS, 0.0, first, seed)
    whole = [float((sizes(plain) > 0).sum()), float(accuracy(full, plain, seed))]
    result = [[[*whole, tuned(full, plain, seed)]]]
    for strength in strengths:
        print(f"seed {seed}, strength {strength:g}", file=sys.stderr)
        sparse = trained("proximal", full, STEPS, strength, first, seed)
        alive = (sizes(sparse) > 0).sum(axis=1)
        left = int(alive.sum())
        rows = []
        for params in (sparse, without_smallest(plain, HEADS * LAYERS - left)):
            now = float(accuracy(full, params, seed))
            rows.append([float(left), now, tuned(full, params, seed)])
        # As many in each layer as it can be evened out.
        fewer = Transformer(tuple(-((i - left) // LAYERS) for i in range(LAYERS)))
        params = trained("plain", fewer, 2 * STEPS, 0.0, start(fewer, seed), seed)
        rows.append([float(left), np.nan, float(accuracy(fewer, params, seed))])
        result.append(rows)
    return result


def tuned(model: Transformer, params: PyTree, seed: int) -> float:
    params = trained("tuned", model, STEPS, 0.0, params, seed)
    return float(accuracy(model, params, seed))


def costs(heads: int) -> list[str]:
    """Parameters, buffers and time of a forward pass of 1,000 images."""
    model = Transformer((heads,) * LAYERS)
    params, x = start(model, 0), digits()[0][:1000]
    program = jax.jit(model.apply).lower(params, x).compile()
    numbers = sum(p.size for p in jax.tree.leaves(params))
    buffers = program.memory_analysis().temp_size_in_bytes
    jax.block_until_ready(program(params, x))
    times = []
    for _ in range(21):
        begin = time.perf_counter()
        jax.block_until_ready(program(params, x))
        times.append(time.perf_counter() - begin)
    return [
        str(heads),
        f"{numbers:,}",
        f"{buffers / 1e6:.1f} MB",
        f"{1e3 * statistics.median(times):.1f} ms",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--strengths", type=float, nargs="+", default=STRENGTHS)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    runs = [measure(tuple(options.strengths), seed) for seed in range(options.seeds)]
    names = [["no penalty"]]
    names += [["proximal", "magnitude", "fewer heads"]] * len(options.strengths)
    strengths = [0.0, *options.strengths]
    rows = []
    for i, (strength, ways) in enumerate(zip(strengths, names, strict=True)):
        for j, way in enumerate(ways):
            left, now, later = zip(*(run[i][j] for run in runs), strict=True)
            cells = [spread(list(x)) for x in (left, now, later)]
            if way == "fewer heads":
                cells[1] = ""
            rows.append([f"{strength:g}", way, *cells])
    head = ["strength", "way", "heads left of 16", "test accuracy, %", "tuned, %"]
    print_table(f"Heads, {options.seeds} seeds", head, rows)
    head = ["heads in a layer", "parameters", "buffers", "time"]
    print_table(
        "A forward pass of 1,000 images", head, [costs(n) for n in (8, 4, 2, 1)]
    )


if __name__ == "__main__":
    main()
