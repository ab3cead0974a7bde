"""What do many small leaves cost: to trace, to compile, and in each step?

    pip install -e ".[benchmark]" && python benchmarks/many_leaves.py

Each row is a program of its own, of leaves of shape (16, 16) under Adam. Processor time
of compiling, as others may use the machine; the step is the median of 100.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optareg

WAYS = {
    "adam alone": None,
    "given threshold": 0.01,
    "found threshold": "found",
}


def made(name: str, penalty: optareg.Penalty) -> optax.GradientTransformation:
    """The optimizer of a row."""
    threshold, adam = WAYS[name], optax.adam(1e-3)
    if threshold is None:
        return adam
    given = None if threshold == "found" else threshold
    return optareg.proximal(adam, penalty, threshold=given)


def measure(name: str, penalty: optareg.Penalty, n: int) -> tuple[float, ...]:
    """Seconds to trace and lower, to compile, in a step; and instructions."""
    optimizer = made(name, penalty)
    w = 0.05 * np.random.default_rng(0).normal(size=(n, 16, 16)).astype(np.float32)
    params = {f"{i}": jnp.asarray(leaf) for i, leaf in enumerate(w)}
    state = optimizer.init(params)

    def step(params, state):
        gradients = jax.tree.map(lambda w: w - 0.01, params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    start = time.process_time()
    lowered = jax.jit(step, donate_argnums=(0, 1)).lower(params, state)
    traced = time.process_time()
    program = lowered.compile()
    compiled = time.process_time()
    steps = []
    for _ in range(100):
        begin = time.perf_counter()
        params, state = program(params, state)
        jax.block_until_ready((params, state))
        steps.append(time.perf_counter() - begin)
    instructions = program.as_text().count(" = ")
    return traced - start, compiled - traced, float(np.median(steps)), instructions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--leaves", type=int, nargs="+", default=[100, 1000])
    options = parser.parse_args()
    for n in options.leaves:
        for penalty in (optareg.L1(1e-3), optareg.GroupLasso(1e-3)):
            print(f"\n{n:,} leaves, {type(penalty).__name__}")
            print(f"{'':18}{'trace s':>9}{'compile s':>11}{'step ms':>9}{'instr.':>10}")
            for name in WAYS:
                traced, compiled, step, size = measure(name, penalty, n)
                numbers = f"{traced:9.1f}{compiled:11.1f}{step * 1e3:9.2f}{size:10,}"
                print(f"{name:18}{numbers}", flush=True)


if __name__ == "__main__":
    main()
