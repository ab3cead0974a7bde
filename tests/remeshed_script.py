"""What `test_restarts.py` runs with eight devices: trained on one mesh, then another.

Run as `python remeshed_script.py FOLDER`: prints what it finds as JSON.
"""

import json
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from optareg import L1, GroupLasso, proximal

PyTree = Any

STEPS, SHAPE = 200, (16, 8)
PENALTIES = {"L1": L1(0.3), "GroupLasso": GroupLasso(0.95, axis=0)}
TARGET = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def on_mesh(shape: tuple[int, ...], *axes: str) -> NamedSharding:
    """Rows, and columns if there are two axes, over the devices."""
    devices = np.array(jax.devices()).reshape(shape)
    return NamedSharding(
        Mesh(devices, ("data", "model")[: len(shape)]), PartitionSpec(*axes)
    )


def places(carry: PyTree, where: NamedSharding) -> PyTree:
    """The sharding of parameters for all of their shape, none for numbers."""
    alone = NamedSharding(where.mesh, PartitionSpec())
    return jax.tree.map(lambda x: where if x.shape == SHAPE else alone, carry)


def train(penalty: Any, carry: PyTree, where: NamedSharding, steps: range) -> PyTree:
    """The parameters and the state after these steps, of noisy gradients."""
    optimizer = proximal(optax.adam(0.02), penalty)

    def step(carry: PyTree, i: jax.Array) -> tuple[PyTree, None]:
        params, state = carry
        noise = 0.1 * jax.random.normal(jax.random.key(i), SHAPE)
        updates, state = optimizer.update(params - TARGET + noise, state, params)
        return (optax.apply_updates(params, updates), state), None

    def all_steps(carry: PyTree) -> PyTree:
        return jax.lax.scan(step, carry, jnp.asarray(steps))[0]

    # Waited for: steps that overlap may block one another on few cores.
    train_on = jax.jit(all_steps, out_shardings=places(carry, where))
    return jax.block_until_ready(train_on(carry))


def first(penalty: Any, where: NamedSharding) -> PyTree:
    params = jax.device_put(jnp.zeros(SHAPE), where)
    carry = params, proximal(optax.adam(0.02), penalty).init(params)
    return jax.device_put(carry, places(carry, where))


def moved(folder: pathlib.Path, penalty: Any) -> dict[str, Any]:
    """A run that changes its mesh in the middle, beside one that does not."""
    before, after = on_mesh((8,), "data"), on_mesh((4, 2), "data", "model")
    whole = train(penalty, first(penalty, before), before, range(STEPS))
    half = train(penalty, first(penalty, before), before, range(STEPS // 2))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder, half)
    like = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        half,
        places(half, after),
    )
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(folder, like)
    same = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), restored, half)
    end = train(penalty, restored, after, range(STEPS // 2, STEPS))
    return {
        "restored bits": all(jax.tree.leaves(same)),
        "places": end[0].sharding.is_equivalent_to(after, 2),
        "difference": float(jnp.max(jnp.abs(np.asarray(end[0]) - whole[0]))),
        "same zeros": bool(np.array_equal(np.asarray(end[0]) == 0, whole[0] == 0)),
        "zeros": int((np.asarray(end[0]) == 0).sum()),
    }


if __name__ == "__main__":
    base = pathlib.Path(sys.argv[1])
    found = {name: moved(base / name, p) for name, p in PENALTIES.items()}
    print(json.dumps(found))
