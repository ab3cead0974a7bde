"""What does a network without its dead units save? Time, memory, parameters.

    pip install -e ".[demo]" && python benchmarks/compact.py

A convolutional network learns scikit-learn's digits, with one group for each filter
(scale and bias of its norm) and each hidden unit (weights and bias), at some strengths.
`compact` then cuts the units that are exactly zero. Each network is compared with
itself before the cut, where zeros cost as much as any number: the same outputs, from a
smaller compiled program. Strength 0 is the network without a penalty.

Both programs run in turns; times are medians, and ratios medians of the ratios within a
turn. Prints Markdown; progress goes to stderr.
"""

import argparse
import functools
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import sklearn.datasets
from report import print_table

import optareg
from optareg import GroupLasso, compact, joined, proximal

PyTree = Any

CHAIN = ["Conv_0", "BatchNorm_0", "Conv_1", "BatchNorm_1", "Dense_0", "Dense_1"]
LAYERS = [name for name in CHAIN if "Norm" not in name]
UNITS = r"BatchNorm_([01])|(Dense_0)"
WIDTHS = (64, 128, 256, 10)
RATE, BATCH = 0.02, 64


class Net(nn.Module):
    """Two convolutions with norms and one pool, two Dense layers.

    Attributes:
      widths: filters of either convolution, hidden units, classes.
    """

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        for i, width in enumerate(self.widths[:2]):
            x = nn.Conv(width, (3, 3))(x)
            x = nn.relu(nn.BatchNorm(not train, momentum=0.9)(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2)) if i == 0 else x
        x = x.reshape(len(x), -1)
        x = nn.relu(nn.Dense(self.widths[2])(x))
        return nn.Dense(self.widths[3])(x)


class Digits(NamedTuple):
    """Images, float32 of shape (n, 8, 8, 1), and labels; the rest is for the test."""

    images: jax.Array
    labels: jax.Array
    test_images: jax.Array
    test_labels: jax.Array


def load(seed: int, test: int = 600) -> Digits:
    """The digits in a random order, split in two."""
    data = sklearn.datasets.load_digits()
    order = np.random.default_rng(seed).permutation(len(data.target))
    images = jnp.asarray(data.images[order, ..., None] / 16, jnp.float32)
    labels = jnp.asarray(data.target[order])
    return Digits(images[test:], labels[test:], images[:test], labels[:test])


def train(digits: Digits, strengths: Sequence[float], epochs: int, seed: int) -> Any:
    """Yields the variables trained at each strength, by one compiled program."""
    net, n = Net(WIDTHS), len(digits.labels)
    steps = epochs * (n // BATCH)

    def loss(
        params: PyTree, stats: PyTree, rows: jax.Array
    ) -> tuple[jax.Array, PyTree]:
        variables = {"params": params, "batch_stats": stats}
        logits, new = net.apply(
            variables, digits.images[rows], True, mutable=["batch_stats"]
        )
        errors = optax.softmax_cross_entropy_with_integer_labels(
            logits, digits.labels[rows]
        )
        return errors.mean(), new["batch_stats"]

    def optimizer(strength: jax.Array) -> optax.GradientTransformation:
        penalty = joined(GroupLasso(strength, axis=1, size_scaled=False), UNITS)
        rate = optax.cosine_decay_schedule(RATE, steps)
        return proximal(optax.adam(rate), penalty, threshold=10 * RATE)

    @functools.partial(jax.jit, donate_argnums=1)
    def step(strength: jax.Array, carry: PyTree, rows: jax.Array) -> PyTree:
        params, stats, state = carry
        grads, stats = jax.grad(loss, has_aux=True)(params, stats, rows)
        updates, state = optimizer(strength).update(grads, state, params)
        return optax.apply_updates(params, updates), stats, state

    for strength in map(jnp.float32, strengths):
        print(f"strength {strength:g}", file=sys.stderr)
        variables = jax.jit(net.init)(jax.random.key(seed), digits.images[:1])
        params, stats = variables["params"], variables["batch_stats"]
        carry = params, stats, optimizer(strength).init(params)
        rng = np.random.default_rng(seed)
        for _ in range(epochs):
            for rows in rng.permutation(n)[: n - n % BATCH].reshape(-1, BATCH):
                carry = step(strength, carry, rows)
        yield jax.block_until_ready({"params": carry[0], "batch_stats": carry[1]})


class Program(NamedTuple):
    """A network and its weights."""

    net: Net
    variables: PyTree

    def accuracy(self, digits: Digits) -> float:
        logits = jax.jit(self.net.apply)(self.variables, digits.test_images)
        return float(jnp.mean(jnp.argmax(logits, -1) == digits.test_labels))

    def build(self, images: jax.Array) -> Any:
        return jax.jit(self.net.apply).lower(self.variables, images).compile()

    def buffers(self, images: jax.Array) -> int:
        """Bytes of the buffers between the layers, as XLA plans them.

        On a CPU without YNNPACK, where XLA knows of it, since it does not count the
        buffers inside of that.
        """
        lowered = jax.jit(self.net.apply).lower(self.variables, images)
        try:
            built = lowered.compile({"xla_cpu_experimental_ynn_fusion_type": ""})
        except jax.errors.JaxRuntimeError:
            built = lowered.compile()
        return int(built.memory_analysis().temp_size_in_bytes)

    @property
    def parameters(self) -> int:
        return sum(x.size for x in jax.tree.leaves(self.variables["params"]))

    @property
    def flops(self) -> float:
        """Floating-point operations for one image, as XLA counts them."""
        built = self.build(jnp.zeros((1, 8, 8, 1)))
        return float(built.cost_analysis()["flops"])

    @property
    def bytes(self) -> int:
        return sum(x.nbytes for x in jax.tree.leaves(self.variables))


def in_turns(calls: Sequence[Any], seconds: float) -> list[list[float]]:
    """Seconds of one call of each, turn by turn, for about `seconds` in all."""
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        jax.block_until_ready(call())
    start = time.perf_counter()
    while len(times[0]) < 10 or time.perf_counter() - start < seconds:
        for call, mine in zip(calls, times, strict=True):
            begin = time.perf_counter()
            jax.block_until_ready(call())
            mine.append(time.perf_counter() - begin)
    return times


def forward_cells(before: Program, after: Program, n: int, seconds: float) -> list[str]:
    """Time of a forward pass on `n` images, and memory that it needs meanwhile."""
    images = jnp.asarray(np.random.default_rng(0).random((n, 8, 8, 1)), jnp.float32)
    built = [program.build(images) for program in (before, after)]
    calls = [
        lambda run=run, program=program: run(program.variables, images)
        for run, program in zip(built, (before, after), strict=True)
    ]
    slow, fast = in_turns(calls, seconds)
    ratio = statistics.median(a / b for a, b in zip(slow, fast, strict=True))
    a, b = (1e6 * statistics.median(times) for times in (slow, fast))
    memory = [program.buffers(images) / 1e3 for program in (before, after)]
    return [
        f"{a:,.0f} → {b:,.0f} µs ({ratio:.1f} ×)",
        f"{memory[0]:,.0f} → {memory[1]:,.0f} kB",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--strengths", type=float, nargs="+", default=[0, 0.01, 0.02, 0.04]
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 256])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="one strength, fast")
    options = parser.parse_args()
    if options.quick:
        options.strengths, options.epochs = [0.04], 10
    turn_seconds = 0.5 if options.quick else 3.0

    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    print(
        f"optareg {optareg.__version__}, jax {jax.__version__}, flax "
        f"{flax.__version__}; Python {platform.python_version()}. "
        f"{jax.default_backend().upper()}, {cores} cores, float32. "
        f"{options.epochs} epochs, seed {options.seed}.",
        flush=True,
    )
    digits = load(options.seed)
    sizes, speeds = [], []
    for strength, variables in zip(
        options.strengths,
        train(digits, options.strengths, options.epochs, options.seed),
        strict=True,
    ):
        before = Program(Net(WIDTHS), variables)
        start = time.perf_counter()
        small = jax.block_until_ready(compact(variables, CHAIN))
        seconds = time.perf_counter() - start
        kernels = [small["params"][name]["kernel"] for name in LAYERS]
        widths = tuple(kernel.shape[-1] for kernel in kernels)
        after = Program(Net(widths), small)
        outputs = [
            program.net.apply(program.variables, digits.test_images)
            for program in (before, after)
        ]
        difference = float(jnp.max(jnp.abs(outputs[0] - outputs[1])))
        accuracies = [program.accuracy(digits) for program in (before, after)]
        sizes.append(
            [
                f"{strength:g}",
                ", ".join(map(str, widths[:-1])),
                " → ".join(f"{100 * a:.1f} %" for a in accuracies),
                f"{difference / float(jnp.max(jnp.abs(outputs[0]))):.0e}",
                f"{before.parameters:,} → {after.parameters:,}",
                f"{before.bytes / 1e3:,.0f} → {after.bytes / 1e3:,.0f} kB",
                " → ".join(f"{program.flops / 1e6:.2f}" for program in (before, after)),
                f"{seconds:.2f} s",
            ]
        )
        cells = [
            cell
            for n in options.batches
            for cell in forward_cells(before, after, n, turn_seconds)
        ]
        speeds.append([f"{strength:g}", *cells])

    print_table(
        f"Before → after `compact`, from {WIDTHS[0]} and {WIDTHS[1]} filters and "
        f"{WIDTHS[2]} hidden units",
        [
            "strength",
            "left",
            "test accuracy",
            "largest difference of outputs",
            "parameters",
            "memory of the variables",
            "MFLOP an image",
            "time of `compact`",
        ],
        sizes,
    )
    print_table(
        "A forward pass, compiled: time, and memory of the buffers between layers",
        [
            "strength",
            *(
                head
                for n in options.batches
                for head in (f"time, batch of {n}", f"buffers, batch of {n}")
            ),
        ],
        speeds,
    )


if __name__ == "__main__":
    main()
