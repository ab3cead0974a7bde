"""What `test_processes.py` runs in one process or several: prints the ends as JSON.

Its arguments: the port of the first process, the number of this one, how many there
are, and the jobs: lists of a layout of the parameters, `train` or `solve`, and whom.
The processes have four devices together.
"""

import functools
import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from optareg import L1, GroupLasso, minimize, proximal

PyTree = Any

STEPS, RATE = 30, 0.05
LAYOUTS = {"data parallel": P(), "fsdp": P("data")}
PENALTIES = {"L1": L1(0.2), "GroupLasso": GroupLasso(0.1, axis=1)}
OPTIMIZERS = {
    f"{name}, {kind}": proximal(optax.adam(RATE), penalty, threshold=threshold)
    for name, penalty in PENALTIES.items()
    for kind, threshold in {"given": 0.2, "found": None}.items()
}


def everywhere(sharding: NamedSharding, array: np.ndarray) -> jax.Array:
    """A global array, of which each process gives what lies on its devices."""
    return jax.make_array_from_callback(array.shape, sharding, lambda at: array[at])


def loss(w: jax.Array, X: jax.Array, Y: jax.Array) -> jax.Array:
    return 0.5 * jnp.mean(jnp.sum((X @ w - Y) ** 2, axis=1))


def train(name: str, w: jax.Array, X: jax.Array, Y: jax.Array) -> jax.Array:
    optimizer = OPTIMIZERS[name]

    @jax.jit
    def step(w: Any, state: PyTree, X: Any, Y: Any) -> Any:
        updates, state = optimizer.update(jax.grad(loss)(w, X, Y), state, w)
        return optax.apply_updates(w, updates), state

    state = jax.jit(optimizer.init)(w)
    for _ in range(STEPS):
        w, state = step(w, state, X, Y)
    return w


def solve(name: str, w: jax.Array, X: jax.Array, Y: jax.Array) -> jax.Array:
    def solution(w: Any, X: Any, Y: Any) -> Any:
        return minimize(lambda w: loss(w, X, Y), w, PENALTIES[name])

    found = jax.jit(solution)(w, X, Y)
    assert bool(found.converged)
    result: jax.Array = found.params
    return result


def main() -> None:
    port, number, processes = map(int, sys.argv[1:4])
    if processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, number)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    on_all = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, P()))
    generator = np.random.default_rng(0)
    X = generator.normal(size=(64, 16)).astype(np.float32)
    B = generator.normal(size=(16, 8)) * (generator.random((16, 1)) < 0.4)
    Y = (X @ B + 0.1 * generator.normal(size=(64, 8))).astype(np.float32)
    rows = functools.partial(everywhere, NamedSharding(mesh, P("data")))
    ends = {}
    for layout, job, name in json.loads(sys.argv[4]):
        where = NamedSharding(mesh, LAYOUTS[layout])
        w = everywhere(where, np.zeros((16, 8), np.float32))
        end = {"train": train, "solve": solve}[job](name, w, rows(X), rows(Y))
        ends[f"{layout}, {job}, {name}"] = {
            "stays": end.sharding.is_equivalent_to(where, end.ndim),
            "end": np.asarray(on_all(end)).tolist(),
        }
    print(json.dumps([jax.process_count(), len(jax.local_devices()), ends]))


if __name__ == "__main__":
    main()
