"""The methods: for each the penalty, and the optimizer that applies it."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
import optax

from optareg import (
    ElasticNet,
    Penalty,
    add_penalty_gradient,
    by_path,
    masked,
    proximal,
    proximal_step,
)

__all__ = ["METHODS", "QUICK_METHODS", "Method"]

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Method:
    """A method of training, and what is done to the weights afterwards.

    Attributes:
      name: its name in the table and in `results.json`.
      weights: what the weights do, in a few words.
      penalty: a function from the strength to the penalty; it may be traced.
      optimizer: a function from the penalty and the learning rate to the optimizer.
        Methods with the same function share a compiled program.
      weakest: the first strength of the sweep, in units of the loss.
      strongest: the last one; the same as `weakest` if there is nothing to sweep.
      last_rate: the share of the learning rate that is left at the end; with 1 the rate
        is constant.
      cut: if weights below a cut are set to zero after training. The cut is chosen as
        the strength is.
      pruned_as: the method whose share of zeros this one is pruned to, by magnitude,
        after half of the steps; the other half trains what is left.
    """

    name: str
    weights: str
    penalty: Callable[[Array], Penalty]
    optimizer: Callable[[Penalty, optax.ScalarOrSchedule], optax.GradientTransformation]
    weakest: float
    strongest: float
    last_rate: float = 0.0
    cut: bool = False
    pruned_as: str | None = None

    def strengths(self, number: int) -> np.ndarray:
        """At most `number` strengths, geometrically spaced, float32."""
        if self.weakest == self.strongest:
            return np.array([self.weakest], np.float32)
        return np.geomspace(self.weakest, self.strongest, number).astype(np.float32)


# All penalties are elastic nets, a Σ|w| + b Σ w²; L1 and L2 have one part that is 0.
# So one program trains several of them. Biases are not penalised, as usual.
only_kernels = by_path("kernel")


def l1(strength: Array) -> Penalty:
    """λ Σ|w|, the same as `L1(λ)`."""
    return masked(ElasticNet(strength, 0 * strength), only_kernels)


def l2(strength: Array) -> Penalty:
    """λ Σ w², the same as `L2(λ)`."""
    return masked(ElasticNet(0 * strength, strength), only_kernels)


def elastic_net(strength: Array) -> Penalty:
    """λ Σ|w| + 5λ Σ w²: at |w| = 0.1 both parts push equally hard."""
    return masked(ElasticNet(strength, 5 * strength), only_kernels)


def by_gradient(
    penalty: Penalty, rate: optax.ScalarOrSchedule
) -> optax.GradientTransformation:
    """Adam; the gradient of the penalty is added to that of the loss."""
    return optax.chain(add_penalty_gradient(penalty), optax.adam(rate))


def decoupled(
    penalty: Penalty, rate: optax.ScalarOrSchedule
) -> optax.GradientTransformation:
    """Adam, and after each of its steps the proximal step of the penalty."""
    return optax.chain(optax.adam(rate), proximal_step(penalty, rate))


def by_proximal(
    penalty: Penalty, rate: optax.ScalarOrSchedule
) -> optax.GradientTransformation:
    """Adam within `proximal`."""
    return proximal(optax.adam(rate), penalty)


NONE = Method("none", "move freely", l2, by_gradient, 0, 0)
RIDGE = Method("l2", "shrink, none to 0", l2, by_gradient, 2e-4, 2e-2)
TEXTBOOK = Method("l1 gradient", "dither around 0", l1, by_gradient, 4e-4, 8e-3)
DECOUPLED = Method("l1 decoupled", "cut after Adam", l1, decoupled, 1e-2, 6e-1)
LASSO = Method("l1", "reach 0 and stay", l1, by_proximal, 4e-4, 8e-3)
ELASTIC = Method(
    "elastic net", "reach 0 or shrink", elastic_net, by_proximal, 5e-5, 2e-3
)

METHODS = (
    NONE,
    RIDGE,
    TEXTBOOK,
    dataclasses.replace(
        TEXTBOOK, name="l1 gradient, cut", weights="small ones cut", cut=True
    ),
    DECOUPLED,
    LASSO,
    ELASTIC,
    dataclasses.replace(
        RIDGE, name="l2, pruned", weights="small ones cut halfway", pruned_as="l1"
    ),
    dataclasses.replace(
        TEXTBOOK,
        name="cut, constant rate",
        weights="dither, then cut",
        last_rate=1.0,
        cut=True,
    ),
    dataclasses.replace(
        LASSO, name="l1, constant rate", weights="reach 0 and stay", last_rate=1.0
    ),
)

# `l1 decoupled` has a program of its own, which takes long to compile.
QUICK_METHODS = tuple(method for method in METHODS if method is not DECOUPLED)
