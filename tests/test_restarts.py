"""Trainings that are killed, and trainings that go on with something changed."""

import functools
import json
import pathlib
import subprocess
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from devices import command, printed_by
from optareg import (
    L1,
    L2,
    MCP,
    ElasticNet,
    GroupLasso,
    Penalty,
    SparseGroupLasso,
    TotalVariation,
    masked,
    proximal,
    target_sparsity,
)
from references import accelerated_descent, diabetes

# Killed.


@pytest.mark.long
def test_a_training_that_is_killed_again_and_again_ends_with_the_same_bits(tmp_path):
    """By SIGKILL, at random moments, those of saving among them."""
    rng, kills = np.random.default_rng(0), 0
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    while not (killed / "end.npz").exists():
        with started(killed) as process:
            for _ in range(rng.integers(3, 12)):  # So that each has some progress.
                process.stdout.readline()
            time.sleep(rng.uniform(0, 0.1))
            process.kill()
            process.stdout.read()
        kills += process.returncode < 0
        assert process.returncode in (0, -9)
    assert kills >= 3
    with started(whole) as process:
        process.stdout.read()
    with np.load(killed / "end.npz") as found, np.load(whole / "end.npz") as expected:
        assert len(found) == len(expected) > 6
        for a, b in zip(found.values(), expected.values(), strict=True):
            np.testing.assert_array_equal(a, b)


def started(folder: pathlib.Path) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    killed = command("killed_script.py", folder)
    return subprocess.Popen(killed, stdout=subprocess.PIPE, text=True)


def test_a_training_continues_on_another_mesh(tmp_path):
    """From eight devices in a row to four by two."""
    printed = printed_by("remeshed_script.py", tmp_path)
    for name, found in json.loads(printed).items():
        assert found["restored bits"] and found["places"], name
        # Sums for the threshold are taken in another order.
        assert found["difference"] <= 1e-5, name
        assert found["same zeros"] and 0 < found["zeros"] < 128, name


# Changed.

PAIRS_OF_TWO = np.repeat(np.arange(5), 2)
PENALTIES: dict[str, Penalty] = {
    "L1": L1(0.05),
    "stronger": L1(0.15),
    "ElasticNet": ElasticNet(0.05, 0.05),
    "MCP": MCP(0.02, 100.0),  # Convex with this loss: there is one optimum.
    "GroupLasso": GroupLasso(0.05, groups=PAIRS_OF_TWO),
    "SparseGroupLasso": SparseGroupLasso(0.03, 0.03, groups=PAIRS_OF_TWO),
    "TotalVariation": TotalVariation(0.05),
    "L1-positive": L1(0.05, positive=True),
}
CHANGES = [
    ("L1", "stronger"),
    ("stronger", "L1"),
    ("L1", "GroupLasso"),
    ("GroupLasso", "MCP"),
    ("TotalVariation", "L1"),
    ("L1", "TotalVariation"),
]
ALL = [(a, b) for a in PENALTIES for b in PENALTIES if a != b]


def go_on(
    optimizers: dict[Any, optax.GradientTransformation], carry: dict[Any, Any], n: int
) -> dict[Any, Any]:
    """Parameters and states after n more full-batch steps, in one program."""
    gradient = jax.grad(diabetes().loss)

    def step(carry: Any, _: None) -> Any:
        new = {}
        for key, optimizer in optimizers.items():
            w, state = carry[key]
            updates, state = optimizer.update(gradient(w), state, w)
            new[key] = optax.apply_updates(w, updates), state
        return new, None

    return jax.jit(lambda x: jax.lax.scan(step, x, length=n)[0])(carry)


@functools.cache
def optimum(name: str) -> np.ndarray:
    """By accelerated proximal gradient descent in NumPy."""
    penalty = PENALTIES[name]
    prox = jax.jit(lambda w, step: penalty.prox(w, step))
    return accelerated_descent(diabetes(), lambda w, step: np.asarray(prox(w, step)))


def check_changes(changes: list[tuple[str, str]], steps: int = 4000) -> None:
    w = jnp.zeros(10)
    before = {a: proximal(optax.sgd(0.1), PENALTIES[a]) for a, _ in changes}
    first = {a: (w, optimizer.init(w)) for a, optimizer in before.items()}
    trained = go_on(before, first, 100)
    after = {(a, b): proximal(optax.sgd(0.1), PENALTIES[b]) for a, b in changes}
    found = go_on(after, {pair: trained[pair[0]] for pair in after}, steps)
    for (a, b), (w, _) in found.items():
        expected, what = optimum(b), f"{a}, then {b}"
        np.testing.assert_allclose(w, expected, rtol=0, atol=1e-6, err_msg=what)
        if b != "TotalVariation":
            np.testing.assert_array_equal(w == 0, expected == 0, err_msg=what)


def test_another_penalty_reaches_its_own_optimum_from_the_old_state(x64):
    check_changes(CHANGES)


@pytest.mark.long
def test_each_penalty_goes_on_from_the_state_of_each_other(x64):
    check_changes(ALL)


def test_another_threshold_rate_or_momentum_does_not_change_the_optimum(x64):
    """Hyperparameters that the state does not hold, and those that it holds."""

    def make(
        learning_rate: float = 0.1, momentum: float = 0.5
    ) -> optax.GradientTransformation:
        return proximal(optax.sgd(learning_rate, momentum), PENALTIES["L1"])

    injected = optax.inject_hyperparams(make)
    first = {
        "rate": make(),
        "momentum": make(),
        "threshold": proximal(optax.sgd(0.1), PENALTIES["L1"], threshold=0.1),
        "injected": injected(learning_rate=0.1),
    }
    w = jnp.zeros(10)
    trained = go_on(first, {k: (w, opt.init(w)) for k, opt in first.items()}, 100)
    w, state = trained["injected"]
    state.hyperparams["learning_rate"] = jnp.asarray(0.02)
    trained["injected"] = w, state
    after = {
        "rate": make(learning_rate=0.02),
        "momentum": make(momentum=0.9),
        "threshold": proximal(optax.sgd(0.1), PENALTIES["L1"], threshold=10.0),
        "injected": first["injected"],
    }
    for key, (w, _) in go_on(after, trained, 8000).items():
        np.testing.assert_allclose(w, optimum("L1"), rtol=0, atol=1e-6, err_msg=key)
        np.testing.assert_array_equal(w == 0, optimum("L1") == 0, err_msg=key)


REFUSED = {
    "a penalty that leaves leaves out": (
        proximal(optax.sgd(0.1), L1(0.1)),
        proximal(optax.sgd(0.1), masked(L1(0.1), {"a": True, "b": False})),
        r"\['b'\]",
    ),
    "a smooth penalty": (
        proximal(optax.sgd(0.1), L1(0.1)),
        proximal(optax.sgd(0.1), L2(0.1)),
        r"\['a'\]",
    ),
    "a given threshold": (
        proximal(optax.sgd(0.1), L1(0.1)),
        proximal(optax.sgd(0.1), L1(0.1), threshold=0.1),
        "threshold",
    ),
    "a found threshold": (
        proximal(optax.sgd(0.1), L1(0.1), threshold=0.1),
        proximal(optax.sgd(0.1), L1(0.1)),
        "threshold",
    ),
    "the bare optimizer's": (
        optax.sgd(0.1),
        proximal(optax.sgd(0.1), L1(0.1)),
        "`proximal`",
    ),
    "for target_sparsity": (
        proximal(optax.sgd(0.1), L1(0.1)),
        target_sparsity(optax.sgd(0.1), L1(0.1), 0.5),
        "`target_sparsity`",
    ),
}


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("name", REFUSED)
def test_a_state_that_does_not_fit_is_refused(name, jit):
    before, after, words = REFUSED[name]
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    update = jax.jit(after.update) if jit else after.update
    with pytest.raises((TypeError, ValueError), match=words):
        update(params, before.init(params), params)
