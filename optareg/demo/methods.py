"""The six methods: for each the penalty, and the optimizer that applies it."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
import optax

from optareg import (
    L1,
    L2,
    ElasticNet,
    Penalty,
    add_penalty_gradient,
    by_path,
    masked,
    proximal,
    proximal_step,
)

__all__ = ["METHODS", "Method"]

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Method:
    """A method of training.

    Attributes:
      name: its name in the table and in `results.json`.
      weights: what the weights do, in a few words.
      penalty: a function from the strength to the penalty; it may be traced.
      optimizer: a function from the penalty and the schedule of the learning rate to
        the optimizer.
      weakest: the first strength of the sweep, in units of the loss.
      strongest: the last one; the same as `weakest` if there is nothing to sweep.
    """

    name: str
    weights: str
    penalty: Callable[[Array], Penalty]
    optimizer: Callable[[Penalty, optax.Schedule], optax.GradientTransformation]
    weakest: float
    strongest: float

    def strengths(self, number: int) -> np.ndarray:
        """At most `number` strengths, geometrically spaced, float32."""
        if self.weakest == self.strongest:
            return np.array([self.weakest], np.float32)
        return np.geomspace(self.weakest, self.strongest, number).astype(np.float32)


# Biases are not penalised, as usual.
only_kernels = by_path("kernel")


def l1(strength: Array) -> Penalty:
    """λ Σ|w|."""
    return masked(L1(strength), only_kernels)


def l2(strength: Array) -> Penalty:
    """λ Σ w²."""
    return masked(L2(strength), only_kernels)


def elastic_net(strength: Array) -> Penalty:
    """λ Σ|w| + 5λ Σ w²: at |w| = 0.1 both parts push equally hard."""
    return masked(ElasticNet(strength, 5 * strength), only_kernels)


METHODS = (
    Method(
        name="none",
        weights="move freely",
        penalty=l2,
        optimizer=lambda penalty, rate: optax.adam(rate),
        weakest=0,
        strongest=0,
    ),
    Method(
        name="l2",
        weights="shrink, none to 0",
        penalty=l2,
        optimizer=lambda penalty, rate: optax.chain(
            add_penalty_gradient(penalty), optax.adam(rate)
        ),
        weakest=2e-4,
        strongest=2e-2,
    ),
    Method(
        name="l1 gradient",
        weights="dither around 0",
        penalty=l1,
        optimizer=lambda penalty, rate: optax.chain(
            add_penalty_gradient(penalty), optax.adam(rate)
        ),
        weakest=4e-4,
        strongest=8e-3,
    ),
    Method(
        name="l1 decoupled",
        weights="cut after Adam",
        penalty=l1,
        optimizer=lambda penalty, rate: optax.chain(
            optax.adam(rate), proximal_step(penalty, rate)
        ),
        weakest=1e-2,
        strongest=6e-1,
    ),
    Method(
        name="l1",
        weights="reach 0 and stay",
        penalty=l1,
        optimizer=lambda penalty, rate: proximal(optax.adam(rate), penalty),
        weakest=4e-4,
        strongest=8e-3,
    ),
    Method(
        name="elastic net",
        weights="reach 0 or shrink",
        penalty=elastic_net,
        optimizer=lambda penalty, rate: proximal(optax.adam(rate), penalty),
        weakest=5e-5,
        strongest=2e-3,
    ),
)
