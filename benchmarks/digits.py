"""What benchmarks on scikit-learn's digits share: images, training, numbers in a table.

Training is one `jax.lax.scan`, so that seeds and strengths need one program.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import sklearn.datasets

from optareg import LowRank

PyTree = Any
Model = Callable[[PyTree, jax.Array], jax.Array]

BATCH = 64


class Images(NamedTuple):
    """Pixels in [0, 1], float32 of shape (n, 64), and labels."""

    x: jax.Array
    y: jax.Array

    def where(self, rows: np.ndarray) -> "Images":
        """Some of them."""
        return Images(self.x[rows], self.y[rows])


def load(seed: int | None = None, test: int = 597) -> tuple[Images, Images]:
    """Those for training and those for the test, in a random order.

    Without a seed in the order of the file: then other people wrote the test images.
    """
    x, y = sklearn.datasets.load_digits(return_X_y=True)
    order = np.arange(len(y))
    if seed is not None:
        order = np.random.default_rng(seed).permutation(order)
    data = Images(jnp.asarray(x[order] / 16, jnp.float32), jnp.asarray(y[order]))
    rows = np.arange(len(y))
    return data.where(rows[:-test]), data.where(rows[-test:])


def normal(key: jax.Array, *shape: int) -> jax.Array:
    return jax.random.normal(key, shape) * np.sqrt(2 / np.prod(shape[:-1]))


def dense(key: jax.Array, widths: Sequence[int]) -> PyTree:
    """The kernel and bias of each layer of a network of Dense layers."""
    keys = jax.random.split(key, len(widths) - 1)
    shapes = itertools.pairwise(widths)
    return [(normal(k, *s), jnp.zeros(s[1])) for k, s in zip(keys, shapes, strict=True)]


def layers(p: PyTree, x: jax.Array) -> jax.Array:
    """The scores of that network; a kernel may be two thin factors."""
    for w, b in p[:-1]:
        x = jax.nn.relu(product(x, w) + b)
    return product(x, p[-1][0]) + p[-1][1]


def product(x: jax.Array, w: Any) -> jax.Array:
    return (x @ w.left) @ w.right if isinstance(w, LowRank) else x @ w


def loss(model: Model, p: PyTree, data: Images) -> jax.Array:
    """The mean cross entropy."""
    scores = model(p, data.x)
    return optax.softmax_cross_entropy_with_integer_labels(scores, data.y).mean()


def accuracy(model: Model, p: PyTree, data: Images) -> jax.Array:
    """In percent."""
    return 100 * jnp.mean(model(p, data.x).argmax(-1) == data.y)


def train(
    model: Model,
    optimizer: optax.GradientTransformation,
    p: PyTree,
    data: Images,
    key: jax.Array,
    epochs: int,
    look: Callable[[PyTree], PyTree] = lambda p: None,
    batch: int = BATCH,
) -> tuple[PyTree, PyTree]:
    """The last parameters, and what `look` sees after each epoch of minibatches."""
    n = len(data.y)

    def step(carry: Any, rows: jax.Array) -> tuple[Any, None]:
        p, state = carry
        some = Images(data.x[rows], data.y[rows])
        slope = jax.grad(lambda p: loss(model, p, some))(p)
        updates, state = optimizer.update(slope, state, p)
        return (optax.apply_updates(p, updates), state), None

    def epoch(carry: Any, key: jax.Array) -> tuple[Any, PyTree]:
        rows = jax.random.permutation(key, n)[: n - n % batch]
        carry, _ = jax.lax.scan(step, carry, rows.reshape(-1, batch))
        return carry, look(carry[0])

    start = p, optimizer.init(p)
    (p, _), seen = jax.lax.scan(epoch, start, jax.random.split(key, epochs))
    return p, seen


def steps_of(data: Images, epochs: int, batch: int = BATCH) -> int:
    """The number of steps of so many epochs."""
    return epochs * (len(data.y) // batch)
