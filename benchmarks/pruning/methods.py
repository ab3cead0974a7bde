"""The methods: `METHODS`, and `MORE` that tell why; each an optimizer and its grid."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from networks import Task
from phases import Method, Setting, fixed_zeros

from optareg import (
    L1,
    MCP,
    GroupLasso,
    Penalty,
    add_penalty_gradient,
    by_path,
    joined,
    masked,
    proximal,
    target_sparsity,
)

# Optimizers.


def adam(task: Task, s: Setting, rate: Any, steps: int) -> Any:
    return optax.adam(rate)


def slower_adam(task: Task, s: Setting, rate: Any, steps: int) -> Any:
    return optax.adam(lambda step: s.own * rate(step))


def on_kernels(penalty: Penalty) -> Penalty:
    return masked(penalty, by_path("kernel"))


def units(task: Task) -> Penalty:
    """A hidden unit with its bias, or a filter; of a transformer columns of kernels."""
    if task.chain:
        return joined(GroupLasso(1.0, axis=1), r"(hidden_\d)")
    return on_kernels(GroupLasso(1.0, axis=0))


def target_l1(task: Task, s: Setting, rate: Any, steps: int) -> Any:
    penalty = on_kernels(L1(1.0))
    return target_sparsity(optax.adam(rate), penalty, s.share, lead=s.own)


def target_milder(task: Task, s: Setting, rate: Any, steps: int) -> Any:
    """Of `1 − share` the power `own`; the cut does the rest."""
    share = 1 - (1 - s.share) ** s.own
    return target_sparsity(optax.adam(rate), on_kernels(L1(1.0)), share, lead=30)


def target_mcp(task: Task, s: Setting, rate: Any, steps: int) -> Any:
    penalty = on_kernels(MCP(1.0))
    return target_sparsity(optax.adam(rate), penalty, s.share, lead=s.own)


def target_units(task: Task, s: Setting, rate: Any, steps: int) -> Any:
    """The share is of units; in a chain a unit's weights are those in and out."""
    share = 1 - jnp.sqrt(1 - s.share) if task.chain else s.share
    return target_sparsity(optax.adam(rate), units(task), share, lead=s.own)


def target_ramp(task: Task, s: Setting, rate: Any, steps: int) -> Any:
    """The share rises as that of gradual pruning does."""
    penalty = on_kernels(L1(1.0))
    return target_sparsity(
        optax.adam(rate), penalty, lambda step: cubic(s, step / steps), lead=30
    )


def proximal_l1(task: Task, s: Setting, rate: Any, steps: int) -> Any:
    return proximal(optax.adam(rate), on_kernels(L1(s.own)))


def textbook_l1(task: Task, s: Setting, rate: Any, steps: int) -> Any:
    return optax.chain(add_penalty_gradient(on_kernels(L1(s.own))), optax.adam(rate))


def cubic(s: Setting, part: Any) -> Any:
    """Zhu & Gupta, To prune, or not to prune (2017): done at `own` of the training."""
    return s.share * (1 - (1 - jnp.clip(part / s.own, 0, 1)) ** 3)


SWEEP = tuple(float(x) for x in np.geomspace(1e-4, 2e-2, 12))
STRENGTHS = (3e-4, 2e-3)
LEADS = (30.0, 100.0)

METHODS = {
    "target-l1": Method("`target_sparsity`, L1", target_l1, LEADS, cut=True),
    "target-l1-tuned": Method(
        "`target_sparsity`, L1, tuned", target_l1, LEADS, cut=True, tuned=True
    ),
    "target-mcp": Method("`target_sparsity`, MCP", target_mcp, LEADS, cut=True),
    "target-units": Method("`target_sparsity`, groups", target_units, LEADS),
    "target-units-tuned": Method(
        "`target_sparsity`, groups, tuned", target_units, LEADS, tuned=True
    ),
    "proximal": Method("`proximal`, L1", proximal_l1, SWEEP, swept=True),
    "proximal-tuned": Method(
        "`proximal`, L1, tuned", proximal_l1, SWEEP, swept=True, tuned=True
    ),
    "textbook": Method("textbook L1, cut", textbook_l1, STRENGTHS, cut=True),
    "textbook-tuned": Method(
        "textbook L1, cut, tuned", textbook_l1, STRENGTHS, cut=True, tuned=True
    ),
    "gradual": Method(
        "gradual magnitude", fixed_zeros, (0.5, 0.8), gradual=cubic, cut=True
    ),
    "one-shot": Method(
        "one-shot magnitude, tuned",
        adam,
        (0.0, 1.0),
        cut=True,
        by_layer=True,
        tuned=True,
    ),
    "dense": Method("dense, fewer units", slower_adam, (1.0, 0.3)),
}
# To find out why.
MORE = {
    "target-milder": Method(
        "`target_sparsity`, L1, milder, tuned",
        target_milder,
        (0.5, 0.75),
        cut=True,
        tuned=True,
    ),
    "proximal-cut": Method(
        "`proximal`, L1, cut, tuned", proximal_l1, STRENGTHS, cut=True, tuned=True
    ),
    "target-ramp": Method(
        "`target_sparsity`, L1, share rises", target_ramp, (0.3, 0.6), cut=True
    ),
    "target-mcp-tuned": Method(
        "`target_sparsity`, MCP, tuned", target_mcp, LEADS, cut=True, tuned=True
    ),
}
