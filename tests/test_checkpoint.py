"""An Orbax checkpoint continues in another process to the same bits."""

import pathlib
import subprocess
import sys

import jax
import numpy as np
import optax
import orbax.checkpoint
import pytest

from optareg import L1, ElasticNet, by_path, masked, proximal
from training import PENALTIES, RATE, WAYS, batches, number_of_zeros, start, train

STEPS, SAVED_AT = 60, 25


def scheduled(step):
    strength = optax.linear_schedule(0.0, 0.3, 40)
    return masked(ElasticNet(strength(step), 0.1), by_path("kernel"))


def injected(strength, learning_rate):
    return proximal(optax.adam(learning_rate), L1(strength))


OPTIMIZERS = {
    "proximal": lambda: WAYS["proximal"](PENALTIES["masked"]),
    "proximal_step": lambda: WAYS["proximal_step"](PENALTIES["L1"]),
    "add_penalty_gradient": lambda: WAYS["add_penalty_gradient"](PENALTIES["L2"]),
    "schedules": lambda: proximal(
        optax.adam(optax.cosine_decay_schedule(RATE, STEPS)),
        scheduled,
        threshold=optax.linear_schedule(0.1, 0.01, 50),
    ),
    "wrapped": lambda: optax.MultiSteps(
        optax.inject_hyperparams(injected)(strength=0.3, learning_rate=RATE), 2
    ),
}
DTYPES = {"schedules": "bfloat16"}  # Whose rounding errors are in the state only.


def first(name):
    params = start(DTYPES.get(name, "float32"))
    return {"params": params, "state": OPTIMIZERS[name]().init(params)}


def continue_from(name, carry, rows):
    params, state = train(OPTIMIZERS[name](), **carry, rows=rows)
    return {"params": params, "state": state}


def restore_and_continue(folder: str) -> None:
    """Runs in the new process: saves the final parameters."""
    for name in OPTIMIZERS:
        abstract = jax.eval_shape(lambda name=name: first(name))
        with orbax.checkpoint.StandardCheckpointer() as checkpointer:
            carry = checkpointer.restore(pathlib.Path(folder) / name, abstract)
        carry = continue_from(name, carry, batches(STEPS)[SAVED_AT:])
        leaves = [np.asarray(x, np.float32) for x in jax.tree.leaves(carry)]
        np.savez(pathlib.Path(folder) / f"{name}.npz", *leaves)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoints of all optimizers, and what a new process made of them."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name in OPTIMIZERS:
        carry = continue_from(name, first(name), batches(STEPS)[:SAVED_AT])
        with orbax.checkpoint.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder / name, carry)
    code = "import sys, test_checkpoint as t; t.restore_and_continue(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        check=True,
        cwd=pathlib.Path(__file__).parent,
    )
    return folder


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_restored_run_ends_with_the_bits_of_the_uninterrupted_one(name, folder):
    uninterrupted = continue_from(name, first(name), batches(STEPS))
    with np.load(folder / f"{name}.npz") as restored:
        leaves = jax.tree.leaves(uninterrupted)
        assert len(restored) == len(leaves)
        for x, y in zip(restored.values(), leaves, strict=True):
            np.testing.assert_array_equal(x, np.asarray(y, np.float32))
    if name in ("proximal", "proximal_step", "schedules", "wrapped"):
        assert number_of_zeros(uninterrupted["params"]) > 0


def test_what_is_restored_is_what_was_saved(folder):
    """Structure, dtypes and bits; the places without a penalty too."""
    carry = continue_from("proximal", first("proximal"), batches(STEPS)[:SAVED_AT])
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(
            folder / "proximal", jax.eval_shape(lambda: carry)
        )
    assert isinstance(restored["state"].subgradient["bias"], optax.MaskedNode)
    assert jax.tree.structure(restored) == jax.tree.structure(carry)
    for x, y in zip(jax.tree.leaves(restored), jax.tree.leaves(carry), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)
