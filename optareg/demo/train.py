"""Training: a sweep over strengths and seeds for each method, the choice, the test.

All strengths and all seeds of methods with the same optimizer train at once, in one
jitted call. The strength with the lowest mean validation loss is chosen, and with it
the cut of a method that has one; only then the test set is looked at.
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

from optareg import Penalty, sparsity
from optareg.demo.data import Data, Digits, load_digits
from optareg.demo.methods import METHODS, Method, only_kernels

__all__ = [
    "CUTS",
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
# What a cut is chosen from. Of cuts with the same validation loss the largest is taken.
CUTS = np.geomspace(1e-1, 1e-5, 17).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Setting:
    """How much is trained.

    Attributes:
      seed: the first seed, from 0 to 2³² − 1. Everything random follows from it.
      seeds: how many seeds; each has its own split, wrong labels, start and batches.
      strengths: how many strengths a sweep has.
      steps: updates of a run, each with one gradient; a multiple of `points`.
      points: how often the losses are recorded during a run; an even number.
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
QUICK = Setting(
    seeds=3,
    strengths=4,
    steps=800,
    points=20,
    learning_rate=6e-3,
    hidden=(64,),
    train=150,
)


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
      cuts: the best cut at each strength, the same shape; None without a cut.
      tried: what was measured with each of `CUTS`: arrays as those of `sweep`, with
        another axis in front, (cuts, strengths, seeds); None without a cut.
      chosen: the index of the chosen strength.
      sweep: all that was measured without the test set.
      test_loss: mean cross-entropy of the chosen runs on the test set, shape (seeds,).
      test_accuracy: share of test labels hit, shape (seeds,).
    """

    method: Method
    strengths: np.ndarray
    cuts: np.ndarray | None
    tried: dict[str, np.ndarray] | None
    chosen: int
    sweep: Sweep
    test_loss: np.ndarray
    test_accuracy: np.ndarray

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
      methods: what is trained, all from the same starts and on the same batches. What
        is pruned to another one's share needs that one among them.
      progress: called with what is being done, "compiling by proximal" and then
        "training by proximal" for example, again and again until it is done.
    """
    data = load_digits(
        setting.seed, setting.seeds, train=setting.train, wrong=setting.wrong
    )
    start, batches = first_params(setting), draw_batches(setting)
    calls = plan(methods)
    programs = compiled(calls, (start, *data[:2], batches), setting, progress)

    sweeps: dict[Method, Sweep] = {}
    chosen: dict[str, np.ndarray] = {}  # The shares of zeros of the chosen runs.
    for call, program in zip(calls, programs, strict=True):
        shares = chosen[call[0].pruned_as] if call[0].pruned_as else None
        swept = program(*runs(call, setting), shares, start, *data[:2], batches)
        ready = swept.objective.is_ready
        wait(ready, functools.partial(progress, f"training {names(call)}"))
        swept, first = jax.tree.map(np.asarray, swept), 0
        for method in call:
            last = first + len(method.strengths(setting.strengths))
            part = jax.tree.map(lambda x, i=first, j=last: x[i:j], swept)
            sweeps[method], first = part, last
            chosen[method.name] = np.asarray(part.zeros[best(part)])
    return tuple(
        finish(method, sweeps[training(method)], data, setting) for method in methods
    )


def training(method: Method) -> Method:
    """How a method is trained, the same for one that is cut afterwards."""
    if not method.cut:
        return method
    return dataclasses.replace(method, name=method.name + " (training)", cut=False)


def plan(methods: Sequence[Method]) -> list[list[Method]]:
    """Which methods are trained in one call: those with the same optimizer.

    What is pruned comes last, when the share of zeros is known.
    """
    calls: dict[Any, list[Method]] = {}
    for method in sorted(methods, key=lambda method: bool(method.pruned_as)):
        call = calls.setdefault((method.optimizer, method.pruned_as), [])
        if training(method) not in call:
            call.append(training(method))
    return list(calls.values())


def names(call: Sequence[Method]) -> str:
    """What a call trains, for the progress bar."""
    if call[0].pruned_as:
        return call[0].name
    return call[0].optimizer.__name__.replace("_", " ")


def runs(call: Sequence[Method], setting: Setting) -> tuple[Penalty, np.ndarray]:
    """The penalties, and the last rates, of all runs of a call; shape (runs,)."""
    strengths = [method.strengths(setting.strengths) for method in call]
    penalties = [
        m.penalty(jnp.asarray(s)) for m, s in zip(call, strengths, strict=True)
    ]
    rates = [np.full_like(s, m.last_rate) for m, s in zip(call, strengths, strict=True)]
    return jax.tree.map(lambda *x: np.concatenate(x), *penalties), np.concatenate(rates)


def compiled(
    calls: Sequence[Sequence[Method]],
    arguments: tuple[Any, ...],
    setting: Setting,
    progress: Callable[[str], None],
) -> list[Callable[..., Any]]:
    """The programs of the calls, compiled two at a time."""

    def one(call: Sequence[Method]) -> Callable[..., Any]:
        shares = np.zeros(setting.seeds, np.float32) if call[0].pruned_as else None
        every = (*runs(call, setting), shares, *arguments)
        optimizer = call[0].optimizer
        return sweep.lower(*every, optimizer=optimizer, setting=setting).compile()

    pool = ThreadPoolExecutor(max_workers=2)
    try:
        jobs = [pool.submit(one, call) for call in calls]
        for call, job in zip(calls, jobs, strict=True):
            wait(job.done, functools.partial(progress, f"compiling {names(call)}"))
    finally:  # When interrupted, too: do not stay for what is left to compile.
        pool.shutdown(wait=False, cancel_futures=True)
    return [job.result() for job in jobs]


def best(swept: Sweep) -> int:
    """The index of the strength with the lowest mean validation loss."""
    return int(np.argmin(np.mean(swept.validation_loss, axis=1)))


def finish(method: Method, swept: Sweep, data: Data, setting: Setting) -> Result:
    """The cut if there is one, the choice, and then the test."""
    strengths, cuts, tried = method.strengths(setting.strengths), None, None
    if method.cut:
        penalties = method.penalty(jnp.asarray(strengths))
        swept, cuts, tried = cut(swept, penalties, data, setting)
    chosen = best(swept)
    params = jax.tree.map(lambda x: x[chosen], swept.params)
    loss, accuracy = scores(params, data.test, setting)
    return Result(
        method=method,
        strengths=strengths,
        cuts=cuts,
        tried=tried,
        chosen=chosen,
        sweep=swept,
        test_loss=np.asarray(loss),
        test_accuracy=np.asarray(accuracy),
    )


def wait(done: Callable[[], bool], tell: Callable[[], None]) -> None:
    """Calls `tell` until `done()`; other than in a call to JAX, Ctrl-C works here."""
    tell()
    while not done():
        time.sleep(0.03)
        tell()


def first_params(setting: Setting) -> PyTree:
    """The parameters to start from; each leaf starts with the axis (seeds,).

    Kernels are normal with variance 1 / rows, as Flax's, drawn by NumPy: this compiles
    nothing. Biases are 0.
    """
    shapes = jax.eval_shape(
        MLP(setting.hidden).init, jax.random.key(0), jnp.zeros((1, 64))
    )
    rngs = [np.random.default_rng((setting.seed, 1, k)) for k in range(setting.seeds)]

    def draw(leaf: jax.ShapeDtypeStruct, is_kernel: bool) -> Array:
        if not is_kernel:
            return jnp.zeros((setting.seeds, *leaf.shape))
        scale = leaf.shape[0] ** -0.5
        draws = [rng.normal(0, scale, leaf.shape) for rng in rngs]
        return jnp.asarray(np.stack(draws), jnp.float32)

    return jax.tree.map(draw, shapes, only_kernels(shapes))


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


@functools.partial(jax.jit, static_argnames=("optimizer", "setting"))
def sweep(
    penalties: Penalty,
    last_rates: Array,
    shares: Array | None,
    starts: PyTree,
    training: Digits,
    validation: Digits,
    batches: Array,
    *,
    optimizer: Callable[..., optax.GradientTransformation],
    setting: Setting,
) -> Sweep:
    """`train` for all runs, which have their own penalty and rate, and all seeds.

    Args:
      penalties: a penalty whose strengths have shape (runs,).
      last_rates: as in `Method`, shape (runs,).
      shares: of the weights that are pruned halfway, shape (seeds,), or None.
      starts: parameters, each leaf with a leading axis (seeds,).
      training: images and labels, with the same leading axis.
      validation: the same.
      batches: rows of the training sets, shape (seeds, points, steps/points, batch).
      optimizer: as in `Method`.
      setting: how much.
    """
    one = functools.partial(train, optimizer=optimizer, setting=setting)
    over_seeds = jax.vmap(one, in_axes=(None, None, 0, 0, 0, 0, 0))
    over_both = jax.vmap(over_seeds, in_axes=(0, 0, None, None, None, None, None))
    return over_both(
        penalties, last_rates, shares, starts, training, validation, batches
    )


def train(
    penalty: Penalty,
    last_rate: Array,
    share: Array | None,
    start: PyTree,
    training: Digits,
    validation: Digits,
    batches: Array,
    *,
    optimizer: Callable[..., optax.GradientTransformation],
    setting: Setting,
) -> Sweep:
    """One run: a scan over the batches. Returns scalars and curves.

    With a share the run has two halves, and a rate that falls in each of them. Between
    them so many of the kernel weights become zero, the smallest ones, and stay it.
    """
    halves = 1 if share is None else 2
    rate = optax.cosine_decay_schedule(
        setting.learning_rate, setting.steps // halves, last_rate
    )
    adam = optimizer(penalty, rate)

    def descend(params: PyTree, batches: Array, keep: PyTree) -> tuple[PyTree, PyTree]:
        def step(carry: PyTree, rows: Array) -> tuple[PyTree, None]:
            params, state = carry
            batch = jax.tree.map(lambda x: x[rows], training)
            gradient = jax.grad(lambda p: score(p, batch, setting)[0])(params)
            updates, state = adam.update(gradient, state, params)
            if keep is not None:
                updates = jax.tree.map(lambda u, k: u * k, updates, keep)
            return (optax.apply_updates(params, updates), state), None

        def stretch(carry: PyTree, rows: Array) -> tuple[PyTree, PyTree]:
            carry, _ = jax.lax.scan(step, carry, rows)
            return carry, score_both(carry[0], training, validation, setting)

        (params, _), curves = jax.lax.scan(
            stretch, (params, adam.init(params)), batches
        )
        return params, curves

    if share is None:
        params, curves = descend(start, batches, None)
    else:

        def half(params: PyTree, now: tuple[Array, Array]) -> tuple[PyTree, PyTree]:
            share, batches = now
            keep = largest(params, 1 - share)
            return descend(jax.tree.map(jnp.multiply, params, keep), batches, keep)

        two = batches.reshape(2, -1, *batches.shape[1:])
        params, curves = jax.lax.scan(
            half, start, (jnp.stack([jnp.zeros_like(share), share]), two)
        )
        curves = jax.tree.map(lambda x: x.reshape(-1), curves)
    last = jax.tree.map(lambda x: x[-1], curves)
    return Sweep(
        params=params,
        **measures(params, penalty, last),
        train_curve=curves[0][0],
        validation_curve=curves[1][0],
    )


def largest(params: PyTree, share: Array) -> PyTree:
    """1 for the largest kernel weights, that share of them, and all biases; else 0."""
    sizes = jnp.sort(jnp.abs(flat_kernels(params)))
    number = jnp.round((1 - share) * sizes.size).astype(jnp.int32)
    least = sizes[jnp.minimum(number, sizes.size - 1)]
    return jax.tree.map(
        lambda w, is_kernel: jnp.asarray(
            (jnp.abs(w) >= least) | (not is_kernel), w.dtype
        ),
        params,
        only_kernels(params),
    )


def measures(params: PyTree, penalty: Penalty, scores: PyTree) -> dict[str, Array]:
    """The fields of `Sweep` that are numbers, from the last losses and accuracies."""
    (train_loss, train_accuracy), (validation_loss, validation_accuracy) = scores
    weights = flat_kernels(params)
    near = (weights != 0) & (jnp.abs(weights) < NEAR_ZERO)
    return {
        "zeros": sparsity(weights),
        "near_zeros": jnp.mean(near, dtype=jnp.float32),
        "norm": jnp.linalg.norm(weights),
        "train_loss": train_loss,
        "train_accuracy": train_accuracy,
        "validation_loss": validation_loss,
        "validation_accuracy": validation_accuracy,
        "objective": train_loss + penalty.value(params),
    }


def cut(
    swept: Sweep, penalties: Penalty, data: Data, setting: Setting
) -> tuple[Sweep, np.ndarray, dict[str, np.ndarray]]:
    """Weights below a cut set to zero; the cut at each strength; all that was tried.

    The cut is the one of `CUTS` with the lowest mean validation loss over the seeds.
    """
    all_cuts = try_cuts(CUTS, swept.params, penalties, *data[:2], setting=setting)
    tried = {name: np.asarray(x) for name, x in all_cuts.items()}
    index = np.argmin(np.mean(tried["validation_loss"], axis=2), axis=0)
    each = np.arange(len(index))
    cuts = CUTS[index]
    params = jax.vmap(cut_below)(swept.params, jnp.asarray(cuts))
    chosen = {name: x[index, each] for name, x in tried.items()}
    return swept._replace(params=params, **chosen), cuts, tried


@functools.partial(jax.jit, static_argnames="setting")
def try_cuts(
    cuts: Array,
    params: PyTree,
    penalties: Penalty,
    training: Digits,
    validation: Digits,
    *,
    setting: Setting,
) -> dict[str, Array]:
    """`measures` of all cuts, strengths and seeds."""

    def one(
        cut: Array,
        params: PyTree,
        penalty: Penalty,
        training: Digits,
        validation: Digits,
    ) -> dict[str, Array]:
        params = cut_below(params, cut)
        both = score_both(params, training, validation, setting)
        return measures(params, penalty, both)

    over_seeds = jax.vmap(one, in_axes=(None, 0, None, 0, 0))
    over_both = jax.vmap(over_seeds, in_axes=(None, 0, 0, None, None))
    tried: dict[str, Array] = jax.lax.map(
        lambda cut: over_both(cut, params, penalties, training, validation), cuts
    )
    return tried


def cut_below(params: PyTree, cut: Array) -> PyTree:
    """The parameters, kernel weights below the cut set to zero."""
    return jax.tree.map(
        lambda w, is_kernel: jnp.where(jnp.abs(w) < cut, 0, w) if is_kernel else w,
        params,
        only_kernels(params),
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
    losses, hits = score_each(params, digits, setting)
    return jnp.mean(losses), jnp.mean(hits)


def score_each(params: PyTree, digits: Digits, setting: Setting) -> tuple[Array, Array]:
    """The cross-entropy of each image, and if its label is hit."""
    logits = jnp.asarray(MLP(setting.hidden).apply(params, digits.images))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, digits.labels)
    return losses, jnp.argmax(logits, -1) == digits.labels


def score_both(
    params: PyTree, training: Digits, validation: Digits, setting: Setting
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """`score` on both sets, by one pass through the network."""
    joined = jax.tree.map(lambda *x: jnp.concatenate(x), training, validation)
    losses, hits = score_each(params, joined, setting)
    n = len(training.labels)
    return (
        (jnp.mean(losses[:n]), jnp.mean(hits[:n])),
        (jnp.mean(losses[n:]), jnp.mean(hits[n:])),
    )


@functools.partial(jax.jit, static_argnames="setting")
def scores(params: PyTree, digits: Digits, setting: Setting) -> tuple[Array, Array]:
    """`score` for parameters with a leading axis of seeds, on the same digits."""
    return jax.vmap(lambda p: score(p, digits, setting))(params)
