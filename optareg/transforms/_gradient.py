"""`add_penalty_gradient`: loss gradient + penalty gradient, the textbook update."""

from typing import Any

import jax.numpy as jnp
import optax

from optareg._tree import Tree, is_masked, widen, widest
from optareg.penalties._base import Penalty, in_param_groups
from optareg.transforms._arguments import (
    PenaltyOrSchedule,
    check_penalty,
    concrete,
    first_count,
    initial_state,
    need_params,
    next_state,
    resolve_at,
)

__all__ = ["add_penalty_gradient"]


def add_penalty_gradient(
    penalty: PenaltyOrSchedule,
) -> optax.GradientTransformationExtraArgs:
    """Adds the (sub)gradient of `penalty` to the updates; first in a chain.

    With `optax.sgd(η)` behind it this is the textbook update: w ← w − η(g + 2λw) for
    L2, w ← w − η(g + λ sign w) for L1, their sum for ElasticNet.

    Not for zeros: with L1, weights dither around zero in steps of the learning rate
    and are almost never exactly zero. Use `proximal` for that. For L2 it is all one
    needs.

    Args:
      penalty: a penalty, or a function from the step (an int32 scalar) to one. The
        strength is in units of the loss; the optimizer behind multiplies it by its
        learning rate.

    Returns:
      A transformation that needs `params`. It emits updates in the promotion of the
      update's and the parameter's dtype. Its state is a count if `penalty` is a
      schedule, else empty.

    Raises:
      TypeError: `penalty` is neither, or a penalised leaf is not floating or complex.
      ValueError: `params` is missing, or strengths or updates do not fit it.

    >>> import jax.numpy as jnp, optax
    >>> from optareg import L2, add_penalty_gradient
    >>> optimizer = optax.chain(add_penalty_gradient(L2(0.5)), optax.sgd(0.1))
    >>> w = jnp.array([1.0, -2.0])
    >>> updates, state = optimizer.update(jnp.zeros(2), optimizer.init(w), w)
    >>> print(optax.apply_updates(w, updates))
    [ 0.9 -1.8]
    """
    check_penalty(penalty, "add_penalty_gradient")

    def init_fn(params: Any) -> optax.OptState:
        # Only to raise at once if the penalty does not fit.
        resolve_at(
            penalty, first_count(), Tree(concrete(params)), "add_penalty_gradient"
        )
        return initial_state(penalty)

    def update_fn(
        updates: Any, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[Any, Any]:
        if extra_args.get("value_fn") is not None:
            raise ValueError(
                "`add_penalty_gradient` got `value_fn`: a line search would see the "
                "loss without the penalty. Add the penalty to the loss instead, as in "
                "`value_fn=lambda params: loss(params) + penalty.value(params)`, and "
                "leave `add_penalty_gradient` out."
            )
        need_params(params, "add_penalty_gradient")
        count, state = next_state(state)
        tree = Tree(params)
        param_groups = resolve_at(penalty, count, tree, "add_penalty_gradient")

        def of_leaf(p: Penalty, g: Any, w: Any) -> Any:
            if is_masked(g):
                return g
            g = jnp.asarray(g)
            total = widen(g) + p.leaf_gradient(widen(w))
            return total.astype(widest(w.dtype, g.dtype))

        gradients = tree.match(updates, "`updates`")
        new = in_param_groups(param_groups, of_leaf, gradients, gradients, tree.leaves)
        return tree.build(new), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
