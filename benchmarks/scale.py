"""What does a penalty cost at 1e5, 1e6, 1e7 parameters, and at 1e9 on 256 devices?

    python benchmarks/scale.py

1. The same training, of a network of Dense layers on random data with batches of 64,
   at three sizes: the time of a whole step beside the bare optimizer's, the memory that
   the compiled program says it needs, and the time to compile it. All steps run in
   turns; ratios are medians of the ratios within a turn.
2. 1e9 parameters, 15 layers of 8192×8192 cut in both directions over a mesh of devices:
   compiled only, from shapes, for 256 devices that XLA makes up on a CPU. Bytes on each
   device, and the collectives in its program with the bytes of their results.

Prints Markdown; progress goes to stderr.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from report import print_table

from optareg import L1, GroupLasso, add_penalty_gradient, proximal, target_sparsity

PyTree = Any

RATE, STRENGTH, BATCH, LAYERS = 1e-3, 1e-5, 64, 4
LARGE, LARGE_LAYERS, LARGE_BATCH = 8192, 15, 4096

WAYS: dict[str, Callable[[Any], optax.GradientTransformation]] = {
    "bare": lambda adam: adam,
    "add_penalty_gradient, L1": lambda adam: optax.chain(
        add_penalty_gradient(L1(STRENGTH)), adam
    ),
    "proximal, L1, given threshold": lambda adam: proximal(
        adam, L1(STRENGTH), threshold=0.01
    ),
    "proximal, L1": lambda adam: proximal(adam, L1(STRENGTH)),
    "proximal, GroupLasso": lambda adam: proximal(adam, GroupLasso(STRENGTH, axis=0)),
    "target_sparsity, L1": lambda adam: target_sparsity(adam, L1(STRENGTH), 0.9),
}


def step_of(optimizer: optax.GradientTransformation) -> Callable[..., Any]:
    """One step of training."""

    def loss(params: PyTree, x: jax.Array, y: jax.Array) -> jax.Array:
        for kernel in params:
            x = jax.nn.relu(x @ kernel)
        return jnp.mean((x - y) ** 2)

    def step(params: PyTree, state: PyTree, x: jax.Array, y: jax.Array) -> Any:
        slope = jax.grad(loss)(params, x, y)
        updates, state = optimizer.update(slope, state, params)
        return optax.apply_updates(params, updates), state

    return step


def in_turns(calls: Sequence[Callable[[], Any]], turns: int) -> list[list[float]]:
    """Seconds of each call, turn by turn; the first turn is left out."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(turns + 1):
        for call, mine in zip(calls, times, strict=True):
            begin = time.perf_counter()
            jax.block_until_ready(call())
            if turn:
                mine.append(time.perf_counter() - begin)
    return times


class Training:
    """A compiled step with its parameters and state, which it replaces."""

    def __init__(self, way: str, width: int) -> None:
        optimizer = WAYS[way](optax.adam(RATE))
        keys = jax.random.split(jax.random.key(0), LAYERS + 2)
        draw = jax.random.normal
        params = [draw(k, (width, width)) * (2 / width) ** 0.5 for k in keys[2:]]
        self.batch = draw(keys[0], (BATCH, width)), draw(keys[1], (BATCH, width))
        self.carry = params, jax.jit(optimizer.init)(params)
        begin = time.perf_counter()
        step = jax.jit(step_of(optimizer), donate_argnums=(0, 1))
        self.run = step.lower(*self.carry, *self.batch).compile()
        self.seconds = time.perf_counter() - begin

    def __call__(self) -> Any:
        self.carry = self.run(*self.carry, *self.batch)
        return self.carry

    def memory(self) -> tuple[float, float]:
        """Megabytes that stay, and that live during the step only."""
        sizes: Any = self.run.memory_analysis()
        return sizes.argument_size_in_bytes / 1e6, sizes.temp_size_in_bytes / 1e6


def small_rows(sizes: Sequence[float], turns: int) -> Iterator[list[str]]:
    for size in sizes:
        width = round((size / LAYERS) ** 0.5)
        print(f"{size:g} parameters", file=sys.stderr)
        runs = [Training(way, width) for way in WAYS]
        times = in_turns(runs, turns)
        for way, run, mine in zip(WAYS, runs, times, strict=True):
            ratio = statistics.median(
                a / b for a, b in zip(mine, times[0], strict=True)
            )
            stays, temporary = run.memory()
            yield [
                f"{size:.0e}".replace("e+0", "e"),
                way,
                f"{1e3 * statistics.median(mine):.2f} ms",
                f"{ratio:.2f} ×",
                f"{stays:,.1f} MB",
                f"{temporary:,.1f} MB",
                f"{run.seconds:.1f} s",
            ]


# 1e9 parameters, in a process of its own with many devices.


def large_rows(devices: int) -> Iterator[list[str]]:
    side = 2 ** (devices.bit_length() // 2)
    mesh = jax.make_mesh(
        (devices // side, side), ("data", "model"), (AxisType.Auto, AxisType.Auto)
    )
    shape = jax.ShapeDtypeStruct(
        (LARGE, LARGE), jnp.float32, sharding=named(mesh, "data", "model")
    )
    params = [shape] * LARGE_LAYERS
    batch = jax.ShapeDtypeStruct(
        (LARGE_BATCH, LARGE), jnp.float32, sharding=named(mesh, "data", None)
    )
    for way, make in WAYS.items():
        print(f"{devices} devices, {way}", file=sys.stderr)
        optimizer = make(optax.adam(RATE))
        begin = time.perf_counter()
        state = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                x.shape,
                x.dtype,
                sharding=named(mesh, *(("data", "model") if x.ndim == 2 else ())),
            ),
            jax.eval_shape(optimizer.init, params),
        )
        step = jax.jit(step_of(optimizer), donate_argnums=(0, 1))
        run = step.lower(params, state, batch, batch).compile()
        seconds = time.perf_counter() - begin
        sizes: Any = run.memory_analysis()
        yield [
            way,
            f"{sizes.argument_size_in_bytes / 1e6:,.1f} MB",
            f"{sizes.temp_size_in_bytes / 1e6:,.1f} MB",
            *collectives(str(run.as_text())),
            f"{seconds:.0f} s",
        ]


def named(mesh: Mesh, *axes: str | None) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(*axes))


SHAPE = re.compile(r"(?:f32|s32|pred|u32)\[([\d,]*)\]")
COLLECTIVE = re.compile(
    r" = (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)"
    r"(?:-start)?\("
)


def collectives(program: str) -> list[str]:
    """How many there are, kind by kind, and megabytes of results; arrays first."""
    counts: dict[tuple[bool, str], int] = defaultdict(int)
    sizes: dict[bool, float] = defaultdict(float)
    for line in program.splitlines():
        found = COLLECTIVE.search(line)
        if found:
            entries = 0
            for shape in SHAPE.findall(found[1]):
                size = 1
                for n in filter(None, shape.split(",")):
                    size *= int(n)
                entries += size
            large = entries > LARGE
            counts[large, found[2]] += 1
            sizes[large] += 4e-6 * entries
    cells = []
    for large in (True, False):
        some = [
            f"{n} {kind}" for (big, kind), n in sorted(counts.items()) if big == large
        ]
        unit = f"{sizes[large]:,.0f} MB" if large else f"{1e3 * sizes[large]:,.1f} kB"
        cells.append(f"{', '.join(some)}: {unit}" if some else "none")
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", type=float, nargs="+", default=[1e5, 1e6, 1e7])
    parser.add_argument("--turns", type=int, default=50)
    parser.add_argument("--devices", type=int, default=256)
    parser.add_argument("--only", choices=["small", "large"])
    parser.add_argument("--quick", action="store_true", help="few turns, 8 devices")
    parser.add_argument("--large-here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.sizes, options.turns, options.devices = [1e5, 1e6], 10, 8
    if options.large_here:
        count = LARGE_LAYERS * LARGE**2
        print_table(
            f"{count:,} parameters on {options.devices} devices: one device's part",
            [
                "way",
                "arguments",
                "temporary",
                "collectives of arrays",
                "of less",
                "compiles in",
            ],
            large_rows(options.devices),
        )
        return
    if options.only != "large":
        print_table(
            f"A step of training, Adam, {LAYERS} layers, a batch of {BATCH}",
            [
                "parameters",
                "way",
                "step",
                "to bare",
                "arguments",
                "temporary",
                "compiles in",
            ],
            small_rows(options.sizes, options.turns),
        )
    if options.only != "small":
        flags = f"--xla_force_host_platform_device_count={options.devices}"
        environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, __file__, "--large-here"]
        sys.stdout.flush()
        subprocess.run(
            [*command, "--devices", str(options.devices)], env=environment, check=True
        )


if __name__ == "__main__":
    main()
