"""Every penalty with every way to apply it: for ½‖w − c‖² the optimum is prox_R(c)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from laws import CASES, numerical_prox
from optareg import add_penalty_gradient, masked, proximal, proximal_step

pytestmark = pytest.mark.usefixtures("x64")
C = np.array([3.0, -2.0, 0.6, -0.45, 0.1, 0.0])
RATE, STEPS = 0.2, 1000


def adam():
    return optax.adam(optax.cosine_decay_schedule(RATE, STEPS))


WAYS = {
    "gradient-sgd": lambda p: optax.chain(add_penalty_gradient(p), optax.sgd(RATE)),
    "gradient-adam": lambda p: optax.chain(add_penalty_gradient(p), adam()),
    "step-sgd": lambda p: optax.chain(optax.sgd(RATE), proximal_step(p, RATE)),
    # The rule for SGD: the threshold is at least learning rate times strength.
    "proximal-sgd": lambda p: proximal(optax.sgd(RATE), p, threshold=RATE * 0.7),
    "proximal-momentum": lambda p: proximal(
        optax.sgd(RATE, momentum=0.5), p, threshold=RATE * 0.7
    ),
    "proximal-adam": lambda p: proximal(adam(), p),
}


def train(optimizer, params):
    def step(carry, _):
        params, state = carry
        g = jax.tree.map(lambda w: w - C, params)
        updates, state = optimizer.update(g, state, params)
        return (optax.apply_updates(params, updates), state), None

    start = params, optimizer.init(params)
    return jax.jit(lambda c: jax.lax.scan(step, c, length=STEPS)[0][0])(start)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_every_way_takes_every_penalty(case, way):
    penalty = masked(case.penalty, {"penalised": True, "free": False})
    start = jnp.linspace(-1, 1, len(C))
    w = train(way(penalty), {"penalised": start, "free": start})
    np.testing.assert_allclose(w["free"], C, rtol=0, atol=1e-6)
    expected = numerical_prox(case, C, 1.0)
    is_textbook_l1 = way in list(WAYS.values())[:2] and not case.is_smooth
    if is_textbook_l1:  # Near, by a step or two; and no zero but where it began.
        np.testing.assert_allclose(w["penalised"], expected, rtol=0, atol=3 * RATE)
    else:
        np.testing.assert_allclose(w["penalised"], expected, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(
            w["penalised"][:5] == 0, expected[:5] == 0, err_msg="zeros"
        )
