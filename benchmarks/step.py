"""What does a penalty cost in each step? Bytes, time, and time to compile.

    pip install -e ".[benchmark]" && python benchmarks/step.py

Every way to apply L1 is compared with the bare optimizer, with the bare optimizer and a
soft threshold written by hand, and with what is nearest to it elsewhere:

- JAXopt: the same Optax step, then `jaxopt.prox.prox_lasso`, in one compiled program.
- PyTorch: `torch.optim` with `fused=True`, its fastest on a CPU, then its `softshrink`
  in place, on each parameter, without `torch.compile`. It has no Lion. Only on a CPU.

Gradients are given arrays, so that only the optimizer's step is timed. All programs of
a row run in turns, and a ratio is the median over the turns of the ratio to the bare
optimizer in the same turn. Prints Markdown; progress goes to stderr.
"""

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from report import installed, print_table

import optareg

PyTree = Any
RunSteps = Callable[[int], float]

RATE = 0.01
STRENGTH = 0.01
PACKAGES = ("optareg", "jax", "optax", "jaxopt", "torch")
MISSING = "not installed"

OPTIMIZERS = {
    "sgd": optax.sgd(RATE),
    "adam": optax.adam(RATE),
    "lion": optax.lion(RATE),
}


class Program(NamedTuple):
    """A training step: a column of the tables.

    Attributes:
      optimizer: what turns gradients into updates.
      finish: what is done to the parameters after the update.
    """

    optimizer: optax.GradientTransformation
    finish: Callable[[PyTree], PyTree] = lambda params: params


class Built(NamedTuple):
    """A compiled step on parameters of one shape.

    Attributes:
      run: runs n steps and returns the seconds they took.
      bytes: bytes read and written by one step, by XLA's analysis.
      temporary: bytes of temporary buffers.
      compile_seconds: to trace, lower and compile it.
    """

    run: RunSteps
    bytes: float
    temporary: int
    compile_seconds: float


def soft_threshold(params: PyTree) -> PyTree:
    """What one would write by hand."""
    t = RATE * STRENGTH
    return jax.tree.map(lambda w: jnp.sign(w) * jnp.maximum(jnp.abs(w) - t, 0), params)


def programs(optimizer: optax.GradientTransformation) -> dict[str, Program | None]:
    """All columns with JAX in them; None for a peer that is not installed."""
    jaxopt_lasso = None
    if installed("jaxopt"):
        import jaxopt

        jaxopt_lasso = Program(
            optimizer, lambda w: jaxopt.prox.prox_lasso(w, STRENGTH, RATE)
        )
    l1 = optareg.L1(STRENGTH)
    gradient = optareg.add_penalty_gradient(l1)
    step = optareg.proximal_step(l1, RATE)
    return {
        "bare": Program(optimizer),
        "by hand": Program(optimizer, soft_threshold),
        "JAXopt": jaxopt_lasso,
        "add_penalty_gradient": Program(optax.chain(gradient, optimizer)),
        "proximal_step": Program(optax.chain(optimizer, step)),
        "proximal": Program(optareg.proximal(optimizer, l1)),
    }


def other_penalties(optimizer: optax.GradientTransformation) -> dict[str, Program]:
    """The ways with other penalties, for the table of bytes only."""
    penalties = {"L2": optareg.L2(STRENGTH)}
    penalties["ElasticNet"] = optareg.ElasticNet(STRENGTH, STRENGTH)
    result = {}
    for name, penalty in penalties.items():
        gradient = optareg.add_penalty_gradient(penalty)
        step = optareg.proximal_step(penalty, RATE)
        ways = {
            "add_penalty_gradient": optax.chain(gradient, optimizer),
            "proximal_step": optax.chain(optimizer, step),
            "proximal": optareg.proximal(optimizer, penalty),
        }
        result |= {f"{way}, {name}": Program(o) for way, o in ways.items()}
    return result


def random_leaves(size: int, leaves: int, seed: int) -> list[np.ndarray]:
    """`leaves` float32 arrays with `size` entries together."""
    values = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    return np.array_split(values, leaves)


def build(program: Program, size: int, leaves: int) -> Built:
    """Compiles the step of `program` and makes its data."""

    def step(params: PyTree, state: PyTree, grads: PyTree) -> tuple[PyTree, PyTree]:
        updates, state = program.optimizer.update(grads, state, params)
        return program.finish(optax.apply_updates(params, updates)), state

    params, grads = (
        {f"leaf{i:04d}": jnp.asarray(x) for i, x in enumerate(arrays)}
        for arrays in (random_leaves(size, leaves, 0), random_leaves(size, leaves, 1))
    )
    carry = params, jax.jit(program.optimizer.init)(params)
    jax.clear_caches()  # What an earlier program traced must not help this one.
    start = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*carry, grads).compile()
    seconds = time.perf_counter() - start

    def run(steps: int) -> float:
        nonlocal carry
        start = time.perf_counter()
        for _ in range(steps):
            carry = compiled(*carry, grads)
        jax.block_until_ready(carry)
        return time.perf_counter() - start

    return Built(
        run=run,
        bytes=compiled.cost_analysis()["bytes accessed"],
        temporary=compiled.memory_analysis().temp_size_in_bytes,
        compile_seconds=seconds,
    )


def torch_step(optimizer: str, size: int, leaves: int) -> RunSteps | None:
    """PyTorch's optimizer and soft threshold; None where it has no such optimizer."""
    import torch

    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    if optimizer not in kinds:
        return None
    params = [torch.tensor(x) for x in random_leaves(size, leaves, 0)]
    for param, grad in zip(params, random_leaves(size, leaves, 1), strict=True):
        param.grad = torch.tensor(grad)
    inner = kinds[optimizer](params, lr=RATE, fused=True)
    shrink = torch.ops.aten.softshrink.out

    def run(steps: int) -> float:
        start = time.perf_counter()
        with torch.no_grad():
            for _ in range(steps):
                inner.step()
                for param in params:
                    shrink(param, RATE * STRENGTH, out=param)
        return time.perf_counter() - start

    return run


def in_turns(runs: dict[str, RunSteps], seconds: float) -> dict[str, list[float]]:
    """Seconds for one step of each, turn by turn, for about `seconds` in all."""
    for run in runs.values():
        run(2)
    one = min(runs["bare"](3) / 3 for _ in range(3))
    steps = max(1, round(0.003 / one))
    times: dict[str, list[float]] = {name: [] for name in runs}
    start, turn = time.perf_counter(), 0
    while turn < 7 or time.perf_counter() - start < seconds:
        # Backwards every second time, so that no one always follows the same other.
        for name in list(runs)[:: (-1) ** turn]:
            times[name].append(runs[name](steps) / steps)
        turn += 1
    return times


def median_ratio(ours: Iterable[float], bare: Iterable[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, bare, strict=True))


def bytes_rows(optimizers: Sequence[str], size: int) -> Iterable[list[str]]:
    """Bytes per parameter and the ratio to the bare optimizer, a row a program."""
    table: dict[str, list[str]] = {}
    for name in optimizers:
        optimizer = OPTIMIZERS[name]
        bare = build(Program(optimizer), size, 1)
        columns = programs(optimizer) | other_penalties(optimizer)
        for column, program in columns.items():
            cell = MISSING
            if program is not None:
                built = build(program, size, 1)
                cell = f"{built.bytes / size:.0f} ({built.bytes / bare.bytes:.2f} ×)"
                if built.temporary > size:
                    cell += f", {built.temporary / size:.0f} temporary"
            table.setdefault(column, []).append(cell)
    return ([column, *cells] for column, cells in table.items())


def time_cells(
    optimizer: str, size: int, leaves: int, seconds: float
) -> tuple[dict[str, str], dict[str, float]]:
    """The cells of one row of the table of times, and the seconds to compile."""
    columns = programs(OPTIMIZERS[optimizer])
    built = {
        name: build(program, size, leaves)
        for name, program in columns.items()
        if program is not None
    }
    cells = dict.fromkeys([*columns, "PyTorch"], MISSING)
    runs = {name: b.run for name, b in built.items()}
    if installed("torch") and jax.default_backend() == "cpu":
        peer = torch_step(optimizer, size, leaves)
        cells["PyTorch"] = "has none"
        runs |= {"PyTorch": peer} if peer else {}
    times = in_turns(runs, seconds)
    for name, values in times.items():
        cells[name] = f"{median_ratio(values, times['bare']):.2f} ×"
    cells["bare"] = f"{1e6 * statistics.median(times['bare']):,.0f} µs"
    return cells, {name: b.compile_seconds for name, b in built.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**4, 10**6, 10**7])
    parser.add_argument("--leaves", type=int, nargs="+", default=[1, 100, 1000])
    parser.add_argument(
        "--optimizers", nargs="+", default=list(OPTIMIZERS), choices=OPTIMIZERS
    )
    parser.add_argument("--quick", action="store_true", help="a small part, fast")
    options = parser.parse_args()
    if options.quick:
        options.sizes, options.leaves = [10**4, 10**6], [1, 100]
    turn_seconds = 0.3 if options.quick else 1.5

    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    versions = (f"{name} {installed(name) or MISSING}" for name in PACKAGES)
    print(f"{', '.join(versions)}; Python {platform.python_version()}.")
    print(
        f"{jax.default_backend().upper()}, {cores} cores, float32. The penalty is L1."
    )

    size = max(options.sizes[0], min(10**6, options.sizes[-1]))
    print_table(
        f"Bytes per parameter and step ({size:,} parameters)",
        ["", *options.optimizers],
        bytes_rows(options.optimizers, size),
    )

    names = [*programs(OPTIMIZERS["sgd"]), "PyTorch"]
    compile_times: dict[tuple[str, int], list[dict[str, float]]] = {}

    def time_rows() -> Iterable[list[str]]:
        for optimizer in options.optimizers:
            for size in options.sizes:
                for leaves in options.leaves:
                    where = optimizer, f"{size:,}", f"{leaves:,}"
                    print(*where, file=sys.stderr)
                    cells, seconds = time_cells(optimizer, size, leaves, turn_seconds)
                    compile_times.setdefault((optimizer, leaves), []).append(seconds)
                    yield [*where, *(cells[name] for name in names)]

    print_table(
        "Time of a step: the bare optimizer's, and ratios to it",
        ["optimizer", "parameters", "leaves", *names],
        time_rows(),
    )

    def compile_rows() -> Iterable[list[str]]:
        for optimizer in options.optimizers:
            runs = compile_times[optimizer, max(options.leaves)]
            bare = [run["bare"] for run in runs]
            row = [optimizer, f"{statistics.median(bare):.2f} s"]
            for name in names[1:-1]:
                known = name in runs[0]
                ours = [run.get(name, 0.0) for run in runs]
                row.append(f"{median_ratio(ours, bare):.2f} ×" if known else MISSING)
            yield row

    print_table(
        f"Time to trace and compile {max(options.leaves):,} leaves, and ratios to it",
        ["optimizer", *names[:-1]],
        compile_rows(),
    )


if __name__ == "__main__":
    main()
