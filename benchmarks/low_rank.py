"""Dense kernels of low rank by a nuclear norm, beside a truncated decomposition.

    pip install -e ".[demo]" && python benchmarks/low_rank.py

A network of three Dense layers learns scikit-learn's digits, with `NuclearNorm` on its
two hidden kernels (64×128 and 128×128), by `proximal` around Adam and Muon. After
training, `low_rank` writes each kernel as two thin factors: the same network, from
fewer numbers. The rival is the plain network of the same optimizer and seed, with
kernels cut to the same ranks by a singular value decomposition. Tuned: the thin factors
themselves, trained on without a penalty for a third of the epochs.

Means ± standard deviations over seeds. Times are the least of programs that run in
turns, which other work on the machine disturbs least. Prints Markdown; progress goes to
stderr.
"""

import argparse
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

# Threads of OpenBLAS wait for each other where other work runs: two of them take a
# hundred times as long for a small decomposition as one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

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
    steps_of,
    train,
)
from report import print_table, spread

from optareg import LowRank, NuclearNorm, Penalty, low_rank, masked, proximal

PyTree = Any

WIDTHS = (64, 128, 128, 10)
HIDDEN = [(True, False), (True, False), (False, False)]
OPTIMIZERS = {
    "Adam": (optax.adam, 0.003),
    "Muon": (optax.contrib.muon, 0.01),
}


class Run(NamedTuple):
    """A trained network.

    Attributes:
      params: kernel and bias of each layer.
      ranks: of the hidden kernels after each epoch, shape (epochs, 2).
    """

    params: PyTree
    ranks: jax.Array


def penalty(strength: Any) -> Penalty:
    return masked(NuclearNorm(strength), HIDDEN)


def ranks(p: PyTree) -> jax.Array:
    """Of the hidden kernels; NumPy's tolerance, which is that of `low_rank`."""
    return jnp.stack([jnp.linalg.matrix_rank(w) for w, _ in p[:-1]])


@functools.partial(jax.jit, static_argnames=("name", "epochs", "penalised"))
def trained(
    name: str,
    epochs: int,
    penalised: bool,
    data: Images,
    start: PyTree,
    key: jax.Array,
    strength: Any = 0.0,
) -> Run:
    make, rate = OPTIMIZERS[name]
    optimizer = make(optax.cosine_decay_schedule(rate, steps_of(data, epochs)))
    if penalised:
        optimizer = proximal(optimizer, penalty(strength))
    thin = isinstance(start[0][0], LowRank)
    look = (lambda p: None) if thin else ranks
    return Run(*train(layers, optimizer, start, data, key, epochs, look))


def truncated(w: jax.Array, rank: int) -> LowRank:
    """The nearest matrix of this rank, as two thin factors."""
    u, values, vh = jnp.linalg.svd(w, full_matrices=False)
    root = jnp.sqrt(values[:rank])
    return LowRank(u[:, :rank] * root, root[:, None] * vh[:rank])


def padded(factors: LowRank) -> LowRank:
    """With zeros up to full rank, which stay: ranks then share one program."""
    full = min(len(factors.left), factors.right.shape[1]) - factors.left.shape[1]
    return LowRank(
        jnp.pad(factors.left, ((0, 0), (0, full))),
        jnp.pad(factors.right, ((0, full), (0, 0))),
    )


def with_factors(p: PyTree, factors: Sequence[LowRank]) -> PyTree:
    """The network with its hidden kernels replaced."""
    pairs = zip(factors, p[:-1], strict=True)
    return [*((f, b) for f, (_, b) in pairs), p[-1]]


@jax.jit
def right(p: PyTree, test: Images) -> jax.Array:
    return accuracy(layers, p, test)


def measure(
    name: str, strengths: Sequence[float], epochs: int, seed: int
) -> dict[float, dict[str, Any]]:
    """For each strength what the tables show."""
    data, test = load(seed)
    key = jax.random.key(seed)
    start = dense(key, WIDTHS)
    plain = trained(name, epochs, False, data, start, key).params
    result = {}
    for strength in strengths:
        print(f"{name}, seed {seed}, strength {strength:g}", file=sys.stderr)
        run = trained(name, epochs, True, data, start, key, jnp.float32(strength))
        kernels = [w for w, _ in run.params[:-1]]
        factors = [low_rank(w) for w in kernels]
        thin = with_factors(run.params, factors)
        cut = with_factors(
            plain,
            [
                truncated(w, len(f.right))
                for (w, _), f in zip(plain[:-1], factors, strict=True)
            ],
        )

        def tuned(p: PyTree) -> PyTree:
            p = with_factors(p, [padded(w) for w, _ in p[:-1]])
            return trained(name, epochs // 3, False, data, p, key).params

        whole, same = layers(run.params, test.x), layers(thin, test.x)
        numbers = sum(f.left.size + f.right.size for f in factors)
        result[strength] = {
            "ranks": np.asarray(run.ranks),
            "kept": 100 * numbers / sum(w.size for w in kernels),
            "difference": float(
                jnp.max(jnp.abs(whole - same)) / jnp.max(jnp.abs(whole))
            ),
            "plain": float(right(plain, test)),
            "nuclear": float(right(thin, test)),
            "nuclear, tuned": float(right(tuned(thin), test)),
            "cut": float(right(cut, test)),
            "cut, tuned": float(right(tuned(cut), test)),
        }
    return result


def step_times(seconds: float) -> Iterator[list[str]]:
    """Rows of the time of a step, for a network with hidden kernels of one size."""
    data, _ = load()
    some = Images(data.x[:64], data.y[:64])
    for width in (64, 128):
        p = dense(jax.random.key(0), (64, width, width, 10))
        only = masked(
            NuclearNorm(1e-3), [(False, False), (True, False), (False, False)]
        )
        for name, (make, rate) in OPTIMIZERS.items():
            calls = [
                compiled_step(optimizer, p, some)
                for optimizer in (make(rate), proximal(make(rate), only))
            ]
            svd = jax.jit(lambda w: jnp.linalg.svd(w, full_matrices=False))
            svd(p[1][0])
            calls.append(lambda p=p, svd=svd: svd(p[1][0]))
            bare, ours, alone = in_turns(calls, seconds)
            yield [
                f"{width}×{width}",
                name,
                f"{1e6 * bare:,.0f}",
                f"{1e6 * ours:,.0f}",
                f"{1e6 * alone:,.0f}",
            ]


def compiled_step(
    optimizer: optax.GradientTransformation, p: PyTree, some: Images
) -> Callable[[], Any]:
    """A function that makes one step from the same parameters again."""
    state = optimizer.init(p)

    @jax.jit
    def step(p: PyTree, state: PyTree) -> PyTree:
        slope = jax.grad(lambda p: loss(layers, p, some))(p)
        updates, state = optimizer.update(slope, state, p)
        return optax.apply_updates(p, updates), state

    # Not the first step: there the subgradient is zero.
    p, state = step(p, state)
    return lambda: step(p, state)


def in_turns(calls: Sequence[Callable[[], Any]], seconds: float) -> list[float]:
    """The least time of each call."""
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for call, mine in zip(calls, times, strict=True):
            begin = time.perf_counter()
            jax.block_until_ready(call())
            mine.append(time.perf_counter() - begin)
    return [min(mine) for mine in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--strengths", type=float, nargs="+", default=[3e-3, 1e-2, 3e-2]
    )
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one seed, few epochs")
    parser.add_argument("--only", choices=["networks", "times"])
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.seeds, chosen.epochs = 1, 12
    if chosen.only != "times":
        print_networks(chosen)
    if chosen.only != "networks":
        print_table(
            "Time of a step, µs",
            ["kernel", "optimizer", "bare", "with `NuclearNorm`", "one decomposition"],
            step_times(1.0 if chosen.quick else 8.0),
        )


def print_networks(chosen: argparse.Namespace) -> None:
    looks = sorted({1, *(chosen.epochs * i // 12 for i in (1, 2, 3, 6, 9, 12))} - {0})
    sizes, accuracies, paths = [], [], []
    for name in OPTIMIZERS:
        runs = [
            measure(name, chosen.strengths, chosen.epochs, seed)
            for seed in range(chosen.seeds)
        ]
        for strength in chosen.strengths:
            here = [run[strength] for run in runs]
            setting = [name, f"{strength:g}"]

            def column(key: str, here: Any = here) -> list[float]:
                return [run[key] for run in here]

            steps = np.mean(column("ranks"), axis=0)
            sizes.append(
                [
                    *setting,
                    ", ".join(f"{r:.0f}" for r in steps[-1]),
                    spread(column("kept")),
                    f"{max(column('difference')):.0e}",
                ]
            )
            names = ("plain", "nuclear", "cut", "nuclear, tuned", "cut, tuned")
            accuracies.append([*setting, *(spread(column(key)) for key in names)])
            paths.append([*setting, *(f"{steps[i - 1].mean():.0f}" for i in looks)])
    head = ["optimizer", "λ"]
    print_table(
        "The two thin factors",
        [*head, "ranks", "numbers in kernels, %", "largest difference of outputs"],
        sizes,
    )
    print_table(
        "Test accuracy, %",
        [
            *head,
            "plain",
            "nuclear norm",
            "plain, truncated",
            "tuned",
            "truncated, tuned",
        ],
        accuracies,
    )
    print_table(
        "Rank over training, mean of both kernels; after so many epochs",
        [*head, *map(str, looks)],
        paths,
    )


if __name__ == "__main__":
    main()
