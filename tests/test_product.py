"""Every penalty with every way to apply it: for ½‖w − c‖² the optimum is prox_R(c)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from laws import CASES, Case, flat, prox, slopes
from marks import some_long
from optareg import add_penalty_gradient, proximal, proximal_step

pytestmark = pytest.mark.usefixtures("x64")
RATE, STEPS = 0.2, 200
STEPS_OF_ADAM = 600
C = np.array([3.0, -2.0, 0.6, -0.45, 0.1, 0.25])


def adam() -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(RATE, STEPS_OF_ADAM))


WAYS = {
    "gradient-sgd": lambda p: optax.chain(add_penalty_gradient(p), optax.sgd(RATE)),
    "gradient-adam": lambda p: optax.chain(add_penalty_gradient(p), adam()),
    "step-sgd": lambda p: optax.chain(optax.sgd(RATE), proximal_step(p, RATE)),
    # The rule for SGD: the threshold is at least learning rate times strength.
    "proximal-sgd": lambda p: proximal(optax.sgd(RATE), p, threshold=RATE),
    "proximal-momentum": lambda p: proximal(
        optax.sgd(RATE, momentum=0.5), p, threshold=RATE
    ),
    "proximal-adam": lambda p: proximal(adam(), p),
}


def target(case: Case) -> np.ndarray:
    return case.center + case.point(np.concatenate([C, C[::-1]]))


def train(optimizers: dict[str, Any], steps: int) -> dict[str, Any]:
    """The weights of all cases after training, in one program."""
    goals = {name: CASES[name].tree(target(CASES[name])) for name in optimizers}

    def step(carry: Any, _: None) -> Any:
        params, states = carry
        new = {}
        for name, optimizer in optimizers.items():
            g = jax.tree.map(jnp.subtract, params[name], goals[name])
            updates, states[name] = optimizer.update(g, states[name], params[name])
            new[name] = optax.apply_updates(params[name], updates)
        return (new, states), None

    start = {
        name: CASES[name].tree(CASES[name].point(np.linspace(-1, 1, 12)))
        for name in optimizers
    }
    states = {name: opt.init(start[name]) for name, opt in optimizers.items()}
    return jax.jit(lambda c: jax.lax.scan(step, c, length=steps)[0][0])((start, states))


SHORT = ["gradient-sgd", "step-sgd", "proximal-sgd", "proximal-adam"]


@pytest.mark.parametrize("way", some_long(WAYS, *SHORT))
def test_every_way_takes_every_penalty(way):
    """The gradient alone only comes near, and knows of no constraint."""
    by_gradient = way.startswith("gradient")
    names = [
        name
        for name, case in CASES.items()
        if not by_gradient or case.finite_everywhere
    ]
    optimizers = {name: WAYS[way](CASES[name].penalty) for name in names}
    found = train(optimizers, STEPS_OF_ADAM if "adam" in way else STEPS)
    for name in names:
        case, w = CASES[name], flat(found[name])
        expected = prox(case, target(case), 1.0)
        atol = 1e-6
        if by_gradient:  # By a step or two, as long as R is steep.
            atol += 3 * RATE * np.linalg.norm(slopes(case.rest, target(case)))
        np.testing.assert_allclose(w, expected, rtol=0, atol=atol, err_msg=name)
        if not by_gradient and case.zeros is not None:
            zeros = case.zeros(w), case.zeros(expected)
            np.testing.assert_array_equal(*zeros, err_msg=name)
