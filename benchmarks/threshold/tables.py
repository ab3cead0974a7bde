"""Trains every problem with every optimizer, all runs of a pair in one program."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optareg
from problems import COLUMN_SCALES, Problem, data

Array = np.ndarray
Wrap = Callable[[optax.GradientTransformation, Any], optax.GradientTransformation]

STEPS = 20_000
SCALES = {"1e-4": 1e-4, "1": 1.0, "100": 100.0, "columns": 1.0}
SCHEDULES = ("cosine", "constant")
STARTS = ("zero", "random")
FAR = 1e-3  # The bare optimizer has not arrived either: no pattern can be asked for.


class Optimizer(NamedTuple):
    """An optimizer, and its rates.

    Attributes:
      make: from a schedule to the optimizer.
      cosine: the first rate of a cosine schedule, for a target of unit variance.
      constant: a constant rate.
      weights: whether the rate is in units of the weights, and so of the target.
      goal: the largest relative error, with a cosine schedule and at a constant rate.
    """

    make: Callable[[Any], optax.GradientTransformation]
    cosine: float
    constant: float
    weights: bool
    goal: tuple[float, float]


OPTIMIZERS = {
    "sgd": Optimizer(optax.sgd, 0.1, 0.1, False, (1e-9, 1e-9)),
    "momentum": Optimizer(lambda r: optax.sgd(r, 0.9), 0.1, 0.1, False, (1e-9, 1e-9)),
    "adam": Optimizer(optax.adam, 0.01, 1e-4, True, (1e-9, 1e-3)),
    "muon": Optimizer(optax.contrib.muon, 0.01, 3e-4, True, (1e-9, 1e-3)),
    "lion": Optimizer(optax.lion, 0.005, 1e-4, True, (1e-5, 1e-3)),
}


class Case(NamedTuple):
    """One run: which data, schedule and start."""

    scale: str
    schedule: str
    start: str


class Result(NamedTuple):
    """Where a run ended.

    Attributes:
      error: max |w − solution| / max |solution|, in units of the fitted values.
      right: whether the pattern of zeros (bounds, ties, rank) is the solution's.
    """

    error: float
    right: bool


def cases(quick: bool) -> list[Case]:
    """All cases, or a few."""
    if quick:
        return [
            Case("1e-4", "cosine", "zero"),
            Case("100", "constant", "random"),
            Case("columns", "cosine", "zero"),
        ]
    return [
        Case(scale, schedule, start)
        for scale in SCALES
        for schedule in SCHEDULES
        for start in STARTS
    ]


def first_weights(problem: Problem, start: str) -> Array:
    if start == "zero":
        return np.zeros(problem.shape)
    return 0.3 * np.random.default_rng(0).normal(size=problem.shape)


def train(
    problem: Problem, optimizer: Optimizer, runs: Sequence[Case], wrap: Wrap
) -> Array:
    """The last weights of each run, at scale 1, shape (runs, *shape)."""

    def one(gram: Any, pull: Any, scale: Any, rate: Any, cosine: Any, w: Any) -> Any:
        def schedule(count: Any) -> Any:
            wave = 0.5 * (1 + jnp.cos(jnp.pi * count / STEPS))
            return rate * jnp.where(cosine, wave, 1)

        tx = wrap(optimizer.make(schedule), problem.penalty(scale))

        def step(carry: Any, _: None) -> tuple[Any, None]:
            w, state = carry
            slope = (gram @ w.reshape(pull.shape) - pull).reshape(w.shape)
            updates, state = tx.update(slope, state, w)
            return (optax.apply_updates(w, updates), state), None

        w = w * scale
        (w, _), _ = jax.lax.scan(step, (w, tx.init(w)), length=STEPS)
        return w / scale

    lanes = [lane(problem, optimizer, run) for run in runs]
    columns = [
        jnp.stack([jnp.asarray(x) for x in column])
        for column in zip(*lanes, strict=True)
    ]
    return np.asarray(jax.jit(jax.vmap(one))(*columns))


def lane(problem: Problem, optimizer: Optimizer, run: Case) -> tuple[Any, ...]:
    """The arguments of `one` for a run."""
    X, Y = data(problem.targets, run.scale == "columns")
    scale = SCALES[run.scale]
    gram, pull = X.T @ X / len(X), scale * X.T @ Y / len(X)
    rate = optimizer.cosine if run.schedule == "cosine" else optimizer.constant
    # The rate of SGD is in units of one over the curvature: .1 of it is .4 / 4.02.
    rate *= scale if optimizer.weights else 4.02 / np.linalg.eigvalsh(gram)[-1]
    start = first_weights(problem, run.start)
    return gram, pull, scale, rate, run.schedule == "cosine", start


def relative_error(problem: Problem, run: Case, w: Array, solution: Array) -> float:
    units = COLUMN_SCALES if run.scale == "columns" else np.ones(10)
    w, solution = (x.reshape(10, -1) * units[:, None] for x in (w, solution))
    error = np.abs(w - solution).max() / np.abs(solution).max()
    return float(np.nan_to_num(error, nan=np.inf))


def results(
    problem: Problem, optimizer: Optimizer, runs: Sequence[Case], wrap: Wrap
) -> list[Result]:
    """Error and pattern of each run, against the problem's solution."""
    solutions = {
        columns: problem.solve(data(problem.targets, columns))
        for columns in {run.scale == "columns" for run in runs}
    }
    found = []
    for run, w in zip(runs, train(problem, optimizer, runs, wrap), strict=True):
        columns = run.scale == "columns"
        solution = solutions[columns]
        if problem.local and np.isfinite(w).all():
            solution = problem.local(data(problem.targets, columns), w)
        right = np.array_equal(problem.pattern(w), problem.pattern(solution))
        found.append(Result(relative_error(problem, run, w, solution), right))
    return found


def with_threshold(threshold: float | None) -> Wrap:
    """`proximal`; None is its default."""
    options = {} if threshold is None else {"threshold": threshold}
    return lambda optimizer, penalty: optareg.proximal(optimizer, penalty, **options)


def bare(
    optimizer: optax.GradientTransformation, penalty: optareg.Penalty
) -> optax.GradientTransformation:
    """Without the penalty: the optimizer's own error on the smooth problem."""
    return optimizer


def least_squares(targets: int, shape: tuple[int, ...]) -> Problem:
    """The smooth problem behind the others."""
    return Problem(
        "bare, without penalty",
        lambda scale: optareg.L2(0.0),
        lambda d: np.linalg.lstsq(d.X, d.Y)[0].reshape(shape),
        lambda w: w != 0,
        shape,
        targets,
    )


def meets(optimizer: Optimizer, run: Case, result: Result) -> bool:
    """Whether a run is right, and its error at most the optimizer's goal."""
    goal = optimizer.goal[SCHEDULES.index(run.schedule)]
    return result.right and result.error <= goal


def passes(optimizer: Optimizer, run: Case, result: Result, own: float) -> bool:
    """The same, or as near as the bare optimizer gets, whose error is `own`."""
    near = result.error <= 10 * own and (result.right or own > FAR)
    return meets(optimizer, run, result) or near
