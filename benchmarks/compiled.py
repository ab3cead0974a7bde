"""What does a step read and write on a CPU, an H100 and a TPU v5e? By its program.

    pip install -e ".[benchmark]" && python benchmarks/compiled.py
    python benchmarks/compiled.py --platforms cuda   # jax-cuda12-plugin,
                                                     # nvidia-cuda-nvcc-cu12
    python benchmarks/compiled.py --platforms tpu    # libtpu
    python benchmarks/compiled.py --leaves 1000

The step of an optimizer with a penalty is compiled ahead of time, with the parameters
and the state donated and the gradient given; no such device is needed, only the named
wheels, each in an environment of its own. The bytes are counted by `hlo.py`.

`--leaves` is about many small leaves on the CPU instead: the time to compile, and of a
step. Prints Markdown. `h100.txtpb` is what the compiler must know of an H100 (SXM), by
its data sheet.
"""

import argparse
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from hlo import traffic
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

import optareg

PyTree = Any

RATE, STRENGTH, THRESHOLD = 0.01, 0.01, 0.01
SHAPE = (4096, 4096)

OPTIMIZERS = {
    "sgd": optax.sgd(RATE),
    "momentum": optax.sgd(RATE, momentum=0.9),
    "adam": optax.adam(RATE),
    "lion": optax.lion(RATE),
    "muon": optax.contrib.muon(RATE),
}
PENALTIES: dict[str, optareg.Penalty] = {
    "L1": optareg.L1(STRENGTH),
    "ElasticNet": optareg.ElasticNet(STRENGTH, STRENGTH),
    "MCP": optareg.MCP(STRENGTH, 3.0),
    "GroupLasso": optareg.GroupLasso(STRENGTH, axis=0),
}
THRESHOLDS = {"given": THRESHOLD, "found": None}

# A TPU's compiler asks the machine for these, unless it is told.
TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # Nothing is run on it.
}
PLATFORMS = {"cpu": "CPU", "cuda": "NVIDIA H100", "tpu": "TPU v5e"}


def device(platform: str) -> SingleDeviceSharding | None:
    """Where programs are compiled for; None for this machine."""
    if platform == "cpu":
        return None
    if platform == "tpu":
        os.environ.update(TPU)
        topology = topologies.get_topology_desc("v5e:2x2", "tpu")
    else:
        card = pathlib.Path(__file__).with_name("h100.txtpb").read_text()
        topology = topologies.get_topology_desc(
            "", "cuda", target_config=card, topology="1x1x1"
        )
    return SingleDeviceSharding(topology.devices[0])


def transformation(optimizer: str, penalty: str, threshold: str) -> Any:
    """The optimizer of a row, bare where the penalty is "none"."""
    inner = OPTIMIZERS[optimizer]
    if penalty == "none":
        return inner
    return optareg.proximal(inner, PENALTIES[penalty], threshold=THRESHOLDS[threshold])


def lower(optimizer: Any, params: PyTree, where: Any = None) -> Any:
    """The step on parameters of these shapes, lowered for the device `where`."""

    def step(params: PyTree, state: PyTree, grads: PyTree) -> tuple[PyTree, PyTree]:
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def placed(x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

    state = jax.eval_shape(optimizer.init, params)
    arguments = jax.tree.map(placed, (params, state, params))
    return jax.jit(step, donate_argnums=(0, 1)).lower(*arguments)


def measure(
    optimizer: Any, where: Any = None, shape: tuple[int, int] = SHAPE
) -> dict[str, float]:
    """Bytes and temporary bytes of a step, a parameter; its copies and kernels."""
    params = jax.ShapeDtypeStruct(shape, jnp.float32)
    program = lower(optimizer, params, where).compile()
    cost = traffic(program.as_text(), params.size)
    temporary = program.memory_analysis().temp_size_in_bytes
    return {
        "bytes": cost.bytes / params.size,
        "temporary": temporary / params.size,
        "copies": cost.copies,
        "kernels": cost.kernels,
    }


def cell(cost: dict[str, float]) -> str:
    """A cell of the table."""
    kernels = f"{cost['kernels']} kernel{'s' * (cost['kernels'] != 1)}"
    text = f"{cost['bytes']:.1f} ({kernels})"
    if cost["temporary"] >= 0.5:
        text += f", {cost['temporary']:.0f} temporary"
    if cost["copies"]:
        text += f", {cost['copies']} copied"
    return text


def byte_rows(platform: str, optimizers: Sequence[str]) -> Iterable[list[str]]:
    """A row for each penalty and kind of threshold."""
    where = device(platform)
    rows = [("none", "")] + [(p, t) for p in PENALTIES for t in THRESHOLDS]
    for penalty, threshold in rows:
        print(platform, penalty, threshold, file=sys.stderr)
        chosen = (transformation(o, penalty, threshold) for o in optimizers)
        yield [penalty, threshold, *(cell(measure(c, where)) for c in chosen)]


def small_leaves(n: int) -> PyTree:
    return {f"leaf{i:04d}": jnp.full((16, 16), 0.01) for i in range(n)}


def built(optimizer: Any, leaves: int) -> tuple[float, Callable[[], float]]:
    """The seconds to compile a step on the CPU, and a function that times one."""
    carry = small_leaves(leaves), optimizer.init(small_leaves(leaves))
    grads = small_leaves(leaves)
    jax.clear_caches()  # What an earlier program traced must not help this one.
    start = time.process_time()  # Other work on the machine must not count.
    program = lower(optimizer, carry[0]).compile()
    seconds = time.process_time() - start

    def run() -> float:
        nonlocal carry
        start = time.perf_counter()
        carry = jax.block_until_ready(program(*carry, grads))
        return time.perf_counter() - start

    return seconds, run


def leaf_rows(leaves: int, optimizers: Sequence[str]) -> Iterable[list[str]]:
    """Times with many small leaves; the steps of a row take turns."""
    for optimizer in optimizers:
        for penalty in PENALTIES:
            print(optimizer, penalty, file=sys.stderr)
            kinds = [("none", ""), *((penalty, t) for t in THRESHOLDS)]
            programs = [built(transformation(optimizer, *k), leaves) for k in kinds]
            turns = [[run() for _, run in programs] for _ in range(30)][3:]
            times = list(map(statistics.median, zip(*turns, strict=True)))
            compiling = [seconds for seconds, _ in programs]
            yield [
                optimizer,
                penalty,
                *(f"{s:.1f} s" for s in compiling),
                f"{compiling[2] / compiling[1]:.2f} ×",
                *(f"{1e3 * s:.1f} ms" for s in times),
                f"{times[2] / times[1]:.2f} ×",
            ]


def print_table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    print(f"\n**{title}**\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--platforms", nargs="+", default=["cpu"], choices=list(PLATFORMS)
    )
    parser.add_argument(
        "--optimizers", nargs="+", default=list(OPTIMIZERS), choices=OPTIMIZERS
    )
    parser.add_argument("--leaves", type=int, help="times with so many leaves instead")
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    print(f"optareg {optareg.__version__}, jax {jax.__version__}, float32.")
    if options.leaves:
        print_table(
            f"{options.leaves:,} leaves of 16×16 on the CPU: to compile, and a step",
            ["optimizer", "penalty", *("bare", "given", "found", "found / given") * 2],
            leaf_rows(options.leaves, options.optimizers),
        )
        return
    for platform in options.platforms:
        print_table(
            f"{PLATFORMS[platform]}: bytes a parameter and step, {SHAPE[0]}×{SHAPE[1]}",
            ["penalty", "threshold", *options.optimizers],
            byte_rows(platform, options.optimizers),
        )


if __name__ == "__main__":
    main()
