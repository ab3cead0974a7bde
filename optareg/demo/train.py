"""Training: a sweep over strengths and seeds for each method, the choice, the test.

All strengths and all seeds of a method train at once, in one jitted call. The strength
with the lowest mean validation loss is chosen; only then the test set is looked at.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from optareg import sparsity
from optareg.demo.data import Digits, load_digits
from optareg.demo.methods import METHODS, Method, only_kernels

__all__ = [
    "FULL",
    "MLP",
    "QUICK",
    "Result",
    "Setting",
    "Sweep",
    "flat_kernels",
    "run",
    "sweep",
    "train",
]

Array = jax.Array
PyTree = Any

NEAR_ZERO = 1e-3


@dataclasses.dataclass(frozen=True)
class Setting:
    """How much is trained.

    Attributes:
      seed: the first seed, from 0 to 2³² − 1. Everything random follows from it.
      seeds: how many seeds; each has its own split, wrong labels, start and batches.
      strengths: how many strengths a sweep has.
      steps: updates of a run, a multiple of `points`.
      points: how often the losses are recorded during a run.
      batch: images a step.
      learning_rate: of Adam at the start; it falls to 0 as a cosine.
      hidden: the widths of the hidden layers.
      train: images in a training set.
      wrong: the share of training labels that are wrong.
    """

    seed: int = 0
    seeds: int = 5
    strengths: int = 8
    steps: int = 1500
    points: int = 30
    batch: int = 32
    learning_rate: float = 3e-3
    hidden: tuple[int, ...] = (128, 128)
    train: int = 300
    wrong: float = 0.1


FULL = Setting()
QUICK = Setting(seeds=3, strengths=5, steps=600)


class MLP(nn.Module):
    """A ReLU network from images (..., 64) to ten logits (..., 10)."""

    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """The logits of the ten digits."""
        x = images
        for width in self.hidden:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(10)(x)


class Sweep(NamedTuple):
    """What a sweep gave; all arrays start with the axes (strengths, seeds).

    Attributes:
      params: the trained parameters.
      zeros: the share of kernel weights that are exactly zero.
      near_zeros: the share that is not, but below 0.001 in size.
      norm: the Euclidean norm of the kernel weights.
      train_loss: mean cross-entropy on the training set, in nats.
      train_accuracy: share of training labels hit, the wrong ones included.
      validation_loss: mean cross-entropy on the validation set, in nats.
      validation_accuracy: share of validation labels hit.
      objective: `train_loss` + penalty.
      train_curve: the training loss during the run, shape (strengths, seeds, points).
      validation_curve: the validation loss, the same shape.
    """

    params: PyTree
    zeros: Array
    near_zeros: Array
    norm: Array
    train_loss: Array
    train_accuracy: Array
    validation_loss: Array
    validation_accuracy: Array
    objective: Array
    train_curve: Array
    validation_curve: Array


@dataclasses.dataclass(frozen=True)
class Result:
    """A method after its sweep, its choice, and its test.

    Attributes:
      method: what was trained.
      strengths: the strengths of the sweep, shape (strengths,).
      chosen: the index of the chosen one.
      sweep: all that was measured without the test set.
      test_loss: mean cross-entropy of the chosen runs on the test set, shape (seeds,).
      test_accuracy: share of test labels hit, shape (seeds,).
      seconds: for the whole sweep, without compilation.
    """

    method: Method
    strengths: np.ndarray
    chosen: int
    sweep: Sweep
    test_loss: np.ndarray
    test_accuracy: np.ndarray
    seconds: float

    def of_chosen(self, name: str) -> np.ndarray:
        """A measure of the chosen runs, shape (seeds,) or (seeds, points)."""
        if name in ("test_loss", "test_accuracy"):
            return np.asarray(getattr(self, name))
        return np.asarray(getattr(self.sweep, name)[self.chosen])

    @property
    def params(self) -> PyTree:
        """The parameters of the chosen runs; leaves start with the axis (seeds,)."""
        return jax.tree.map(lambda x: x[self.chosen], self.sweep.params)


def run(
    setting: Setting = FULL,
    methods: Sequence[Method] = METHODS,
    progress: Callable[[str], None] = lambda stage: None,
) -> tuple[Result, ...]:
    """Trains each method with every strength and seed, chooses, and tests.

    Args:
      setting: how much is trained; `QUICK` takes seconds.
      methods: what is trained, all from the same starts and on the same batches.
      progress: called with what is being done, "compiling l1" and then "training l1"
        for example, again and again until it is done.
    """
    data = load_digits(
        setting.seed, setting.seeds, train=setting.train, wrong=setting.wrong
    )
    start, batches = first_params(setting), draw_batches(setting)
    arguments = {
        method: (method.strengths(setting.strengths), start, *data[:2], batches)
        for method in methods
    }

    def compiled(method: Method) -> Callable[..., Sweep]:
        program = sweep.lower(*arguments[method], method=method, setting=setting)
        return program.compile()

    pool = ThreadPoolExecutor(max_workers=2)
    try:
        jobs = [pool.submit(compiled, method) for method in methods]
        for method, job in zip(methods, jobs, strict=True):
            wait(job.done, functools.partial(progress, f"compiling {method.name}"))
    finally:  # When interrupted, too: do not stay for what is left to compile.
        pool.shutdown(wait=False, cancel_futures=True)
    programs = [job.result() for job in jobs]

    results = []
    for method, program in zip(methods, programs, strict=True):
        began = time.perf_counter()
        swept = program(*arguments[method])
        ready = swept.objective.is_ready  # type: ignore[attr-defined]
        wait(ready, functools.partial(progress, f"training {method.name}"))
        seconds = time.perf_counter() - began
        chosen = int(np.argmin(np.mean(swept.validation_loss, axis=1)))
        params = jax.tree.map(lambda x, i=chosen: x[i], swept.params)
        loss, accuracy = scores(params, data.test, setting)
        results.append(
            Result(
                method=method,
                strengths=arguments[method][0],
                chosen=chosen,
                sweep=swept,
                test_loss=np.asarray(loss),
                test_accuracy=np.asarray(accuracy),
                seconds=seconds,
            )
        )
    return tuple(results)


def wait(done: Callable[[], bool], tell: Callable[[], None]) -> None:
    """Calls `tell` until `done()`; other than in a call to JAX, Ctrl-C works here."""
    tell()
    while not done():
        time.sleep(0.03)
        tell()


def first_params(setting: Setting) -> PyTree:
    """The parameters to start from; each leaf starts with the axis (seeds,)."""
    model = MLP(setting.hidden)
    keys = jax.random.split(jax.random.key(setting.seed), setting.seeds)
    init = jax.jit(jax.vmap(model.init, in_axes=(0, None)))
    return init(keys, jnp.zeros((1, 64)))


def draw_batches(setting: Setting) -> Array:
    """Rows of the training sets, int32, shape (seeds, points, steps/points, batch)."""
    size = setting.train
    shape = (setting.points, setting.steps // setting.points, setting.batch)
    epochs = -(-setting.steps * setting.batch // size)
    rows = [
        np.concatenate([rng.permutation(size) for _ in range(epochs)])
        for rng in (
            np.random.default_rng((setting.seed, k)) for k in range(setting.seeds)
        )
    ]
    return jnp.asarray(
        np.stack([row[: np.prod(shape)].reshape(shape) for row in rows]), jnp.int32
    )


@functools.partial(jax.jit, static_argnames=("method", "setting"))
def sweep(
    strengths: Array,
    starts: PyTree,
    training: Digits,
    validation: Digits,
    batches: Array,
    *,
    method: Method,
    setting: Setting,
) -> Sweep:
    """`train` for all strengths and seeds at once.

    Args:
      strengths: shape (strengths,).
      starts: parameters, each leaf with a leading axis (seeds,).
      training: images and labels, with the same leading axis.
      validation: the same.
      batches: rows of the training sets, shape (seeds, points, steps/points, batch).
      method: what to train.
      setting: how much.
    """
    one = functools.partial(train, method=method, setting=setting)
    over_seeds = jax.vmap(one, in_axes=(None, 0, 0, 0, 0))
    over_both = jax.vmap(over_seeds, in_axes=(0, None, None, None, None))
    return over_both(strengths, starts, training, validation, batches)


def train(
    strength: Array,
    start: PyTree,
    training: Digits,
    validation: Digits,
    batches: Array,
    *,
    method: Method,
    setting: Setting,
) -> Sweep:
    """One run of `method`: a scan over the batches. Returns scalars and curves."""
    penalty = method.penalty(strength)
    rate = optax.cosine_decay_schedule(setting.learning_rate, setting.steps)
    optimizer = method.optimizer(penalty, rate)

    def step(carry: PyTree, rows: Array) -> tuple[PyTree, None]:
        params, state = carry
        batch = jax.tree.map(lambda x: x[rows], training)
        gradient = jax.grad(lambda p: score(p, batch, setting)[0])(params)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    def stretch(carry: PyTree, rows: Array) -> tuple[PyTree, PyTree]:
        carry, _ = jax.lax.scan(step, carry, rows)
        scores = (score(carry[0], part, setting) for part in (training, validation))
        return carry, tuple(scores)

    first = start, optimizer.init(start)
    (params, _), curves = jax.lax.scan(stretch, first, batches)
    (train_loss, train_accuracy), (validation_loss, validation_accuracy) = curves
    weights = flat_kernels(params)
    near = (weights != 0) & (jnp.abs(weights) < NEAR_ZERO)
    return Sweep(
        params=params,
        zeros=sparsity(weights),
        near_zeros=jnp.mean(near, dtype=jnp.float32),
        norm=jnp.linalg.norm(weights),
        train_loss=train_loss[-1],
        train_accuracy=train_accuracy[-1],
        validation_loss=validation_loss[-1],
        validation_accuracy=validation_accuracy[-1],
        objective=train_loss[-1] + penalty.value(params),
        train_curve=train_loss,
        validation_curve=validation_loss,
    )


def flat_kernels(params: PyTree) -> Array:
    """All kernel weights of one network in one row; the biases are left out."""
    chosen = jax.tree.leaves(only_kernels(params))
    leaves = jax.tree.leaves(params)
    return jnp.concatenate(
        [
            leaf.ravel()
            for leaf, is_kernel in zip(leaves, chosen, strict=True)
            if is_kernel
        ]
    )


def score(params: PyTree, digits: Digits, setting: Setting) -> tuple[Array, Array]:
    """Mean cross-entropy in nats, and the share of labels hit."""
    logits = jnp.asarray(MLP(setting.hidden).apply(params, digits.images))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, digits.labels)
    return jnp.mean(losses), jnp.mean(jnp.argmax(logits, -1) == digits.labels)


@functools.partial(jax.jit, static_argnames="setting")
def scores(params: PyTree, digits: Digits, setting: Setting) -> tuple[Array, Array]:
    """`score` for parameters with a leading axis of seeds, on the same digits."""
    return jax.vmap(lambda p: score(p, digits, setting))(params)
