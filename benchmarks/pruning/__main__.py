"""Accuracy against sparsity: penalties, pruning by magnitude, and smaller networks.

    pip install -e ".[benchmark]" && python benchmarks/pruning

`networks.py` has the networks and their data, `phases.py` how they are trained, and
`methods.py` the methods. All methods have the same number of gradient evaluations, and
the same number of trainings to choose from: two learning rates × two values of a number
of their own × six shares of zeros, or two learning rates × twelve strengths where a
strength is swept. For each seed and share, of the trainings with at least that share of
zeros, the one is chosen that is best on the validation data. Only that one meets the
test data.

A seed is a start and an order of minibatches; the split of the data is one for all.
All trainings of a method on a network are one compiled program. Prints Markdown, means
and standard deviations over seeds; progress goes to stderr.
"""

import argparse
import collections
import functools
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(1, str(Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from methods import METHODS, MORE
from networks import Task, count, smaller, tasks
from phases import Method, Setting, quality, share_of_zeros, trained
from report import print_table, spread

PyTree = Any

SHARES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
SLACK = 1e-3  # Of the share; a weight or so.


class Runs(NamedTuple):
    """Trainings of one method, seeds × settings.

    Attributes:
      settings: one for each training of a seed.
      quality: on the validation data.
      found: the share of zeros before any were cut.
      share: the share at the end, in parts of the full network.
      params: the last parameters, by groups of settings with the same shapes, and the
        place in there of each setting.
    """

    settings: list[Setting]
    quality: np.ndarray
    found: np.ndarray
    share: np.ndarray
    params: list[PyTree]
    place: list[tuple[int, int]]


def settings_of(task: Task, method: Method) -> list[Setting]:
    shares = (0.0,) if method.swept else SHARES
    grid = itertools.product(shares, task.rates, method.own)
    return [Setting(*numbers) for numbers in grid]


def run(task: Task, method: Method, seeds: int) -> Runs:
    settings = settings_of(task, method)
    if method is not METHODS["dense"]:
        parts = [call(task, method, task.widths, settings, seeds)]
    else:
        sizes = {share: smaller(task, share) for share in SHARES}
        some = {s: [x for x in settings if x.share == s] for s in SHARES if sizes[s]}
        settings = [x for group in some.values() for x in group]
        parts = [
            call(task, method, sizes[s], group, seeds) for s, group in some.items()
        ]
    qualities, found, shares, params = (list(x) for x in zip(*parts, strict=True))
    place = [(i, j) for i, q in enumerate(qualities) for j in range(q.shape[1])]
    arrays = [np.concatenate(x, 1) for x in (qualities, found, shares)]
    return Runs(settings, arrays[0], arrays[1], arrays[2], params, place)


def call(
    task: Task, method: Method, widths: Any, settings: list[Setting], seeds: int
) -> tuple[Any, ...]:
    """Quality, share found, share, and parameters of seeds × settings."""
    full, size = count(task, task.widths), count(task, widths)

    def one(seed: Any, s: Setting) -> tuple[Any, ...]:
        p, found = trained(task, method, widths, s, seed)
        share = 1 - (1 - share_of_zeros(p)) * size / full
        return quality(task, p, task.parts[1]), found, share, p

    numbers = Setting(
        *(jnp.asarray(x, jnp.float32) for x in zip(*settings, strict=True))
    )
    over_settings = jax.vmap(one, in_axes=(None, 0))
    result = jax.jit(jax.vmap(over_settings, in_axes=(0, None)))(
        jnp.arange(seeds), numbers
    )
    return (*(np.asarray(x) for x in result[:3]), result[3])


def chosen(runs: Runs, share: float) -> list[int] | None:
    """For each seed the best on validation that has the share; None if none has it."""
    enough = runs.share >= share - SLACK
    if not enough.any(1).all():
        return None
    return list(np.where(enough, runs.quality, -np.inf).argmax(1))


def tested(task: Task, runs: Runs, choice: Sequence[int]) -> list[float]:
    """The quality on the test data, of each seed's choice."""
    measure = jax.jit(functools.partial(quality, task))
    result = []
    for seed, setting in enumerate(choice):
        part, row = runs.place[setting]
        p = jax.tree.map(lambda x, s=seed, r=row: x[s, r], runs.params[part])
        result.append(float(measure(p, task.parts[2])))
    return result


def cells(task: Task, runs: Runs) -> Iterator[str]:
    for share in SHARES:
        choice = chosen(runs, share)
        if choice is None:
            yield "none"
        elif task.bits:
            yield spread([-x for x in tested(task, runs, choice)], 2)
        else:
            yield spread(tested(task, runs, choice))


def often(runs: Runs) -> Iterator[str]:
    """The setting that most seeds chose, for each share."""
    for share in SHARES:
        choice = chosen(runs, share)
        if choice is None:
            yield ""
            continue
        some = [runs.settings[i] for i in choice]
        names = [f"{s.rate:g}, {s.own:.2g}" for s in some]
        yield collections.Counter(names).most_common(1)[0][0]


def landed(runs: Runs) -> Iterator[str]:
    """How many weights there were before the cut, in parts of those asked for."""
    for share in SHARES:
        rows = [i for i, s in enumerate(runs.settings) if s.share == share]
        left = (1 - runs.found[:, rows]) / (1 - share)
        yield " / ".join(f"{q:.2f}" for q in np.quantile(left, [0.1, 0.5, 0.9]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=["mlp", "cnn", "text"], nargs="+")
    everything = METHODS | MORE
    parser.add_argument("--methods", choices=list(everything), nargs="+")
    parser.add_argument("--more", action="store_true", help="rows that tell why, too")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a third of the steps")
    options = parser.parse_args()
    names = options.methods or list(everything if options.more else METHODS)
    for name in options.only or ["mlp", "cnn", "text"]:
        task = tasks(name)
        if options.quick:
            task = task._replace(steps=task.steps // 3)
        print_tables(name, task, {n: everything[n] for n in names}, options.seeds)


def print_tables(name: str, task: Task, methods: dict[str, Method], seeds: int) -> None:
    first, second, third = [], [], []
    for key, method in methods.items():
        begin = time.perf_counter()
        runs = run(task, method, seeds)
        first.append([method.title, *cells(task, runs)])
        second.append([method.title, *often(runs)])
        if key.startswith("target-") and "units" not in key:
            third.append([method.title, *landed(runs)])
        seconds = time.perf_counter() - begin
        print(f"{name}, {key}: {seconds:.0f} s, {first[-1]}", file=sys.stderr)
    what = "bits per byte, less is better" if task.bits else "accuracy, %"
    head = ["zeros, at least", *(f"{100 * share:g} %" for share in SHARES)]
    print_table(
        f"{name}, {count(task, task.widths):,} weights, {task.steps} steps, "
        f"{seeds} seeds: test {what}",
        head,
        first,
    )
    print_table(
        f"{name}: what was chosen most often: rate, own number",
        head,
        second,
    )
    if third:
        print_table(
            f"{name}: weights that `target_sparsity` left before the cut, in parts of "
            "those asked for: 10 %, 50 % and 90 % quantiles",
            head,
            third,
        )


if __name__ == "__main__":
    main()
