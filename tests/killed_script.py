"""A training that saves with Orbax as it goes, for `test_restarts.py` to kill.

Run as `python killed_script.py FOLDER`: it goes on from the last whole checkpoint, and
leaves `end.npz` when it is done.
"""

import pathlib
import sys
from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp

from optareg import GroupLasso, by_path, masked, proximal
from training import batches, start, step

STEPS, EVERY = 200, 5


def optimizer() -> optax.GradientTransformation:
    adam = optax.adam(optax.cosine_decay_schedule(0.02, STEPS))
    return proximal(adam, masked(GroupLasso(0.05, axis=1), by_path("kernel")))


def first() -> dict[str, Any]:
    params = start()
    return {"params": params, "state": optimizer().init(params)}


def train(folder: pathlib.Path) -> dict[str, Any]:
    """All steps, from the last checkpoint in `folder` on."""
    one = jax.jit(lambda carry, rows: step(optimizer(), *carry, rows))
    carry, done = first(), 0
    with ocp.CheckpointManager(folder / "checkpoints") as manager:
        if manager.latest_step() is not None:
            done = manager.latest_step()
            like = jax.tree.map(ocp.utils.to_shape_dtype_struct, carry)
            carry = manager.restore(done, args=ocp.args.StandardRestore(like))
        for i, rows in enumerate(batches(STEPS)[done:], done + 1):
            params, state = one((carry["params"], carry["state"]), rows)
            carry = {"params": params, "state": state}
            if i % EVERY == 0:
                manager.save(i, args=ocp.args.StandardSave(carry))
                print(i, flush=True)
    return carry


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    leaves = jax.tree.leaves(train(folder))
    np.savez(folder / "end.npz", *map(np.asarray, leaves))
