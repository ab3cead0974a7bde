"""`proximal_step`: the proximal point of the step, last in a chain."""

from typing import Any

import jax.numpy as jnp
import optax

from optareg._tree import Tree, is_masked, real, widen, widest
from optareg.penalties._base import Penalty, in_param_groups
from optareg.transforms._arguments import (
    PenaltyOrSchedule,
    ScalarOrSchedule,
    check_penalty,
    check_scalar,
    concrete,
    first_count,
    initial_state,
    need_params,
    next_state,
    resolve_at,
    scalar_at,
)

__all__ = ["proximal_step"]


def proximal_step(
    penalty: PenaltyOrSchedule, learning_rate: ScalarOrSchedule
) -> optax.GradientTransformationExtraArgs:
    """Moves the step's end point w + u to its proximal point; last in a chain.

    Emits prox_{ηR}(w + u) − w. `optax.chain(optax.sgd(η), proximal_step(L1(λ), η))` is
    proximal gradient descent, ISTA, and reaches the optimum of loss + penalty. Behind
    an adaptive optimizer it is the *decoupled* penalty, to L1 what AdamW is to L2.

    Not for the optimum of loss + penalty with Adam and its like: there the decoupled
    penalty has another one, mostly far weaker at the same strength. Use `proximal`.
    Anything chained behind it (clipping, scaling, noise) breaks the zeros.

    Args:
      penalty: a penalty, or a function from the step (an int32 scalar) to one. Its
        strength is multiplied by `learning_rate`.
      learning_rate: η, a scalar or an Optax schedule, the one of the optimizer before
        it. Zero is allowed, as warm-ups start there.

    Returns:
      A transformation that needs `params`. It emits updates in the promotion of the
      update's and the parameter's dtype, so that exact zeros survive
      `optax.apply_updates`. Its state is a count if an argument is a schedule, else
      empty.

    Raises:
      TypeError: `penalty` or `learning_rate` is neither, or a penalised leaf is not
        floating or complex.
      ValueError: `learning_rate` is negative, NaN or infinite; `params` is missing, or
        strengths or updates do not fit it.

    >>> import jax.numpy as jnp, optax
    >>> from optareg import L1, proximal_step
    >>> optimizer = optax.chain(optax.sgd(0.1), proximal_step(L1(5.0), 0.1))
    >>> w = jnp.array([1.0, -0.25])
    >>> updates, state = optimizer.update(jnp.zeros(2), optimizer.init(w), w)
    >>> print(optax.apply_updates(w, updates))
    [0.5 0. ]

    Source: Daubechies, Defrise & De Mol, An iterative thresholding algorithm for linear
    inverse problems (2004); Beck & Teboulle, A fast iterative shrinkage-thresholding
    algorithm (2009), equation 1.4.
    """
    check_penalty(penalty, "proximal_step")
    check_scalar(learning_rate, "`learning_rate`", zero=True)

    def init_fn(params: Any) -> optax.OptState:
        # Only to raise at once if the penalty does not fit.
        resolve_at(penalty, first_count(), Tree(concrete(params)), "proximal_step")
        return initial_state(penalty, learning_rate)

    def update_fn(
        updates: Any, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[Any, Any]:
        del extra_args
        need_params(params, "proximal_step")
        count, state = next_state(state)
        eta = scalar_at(learning_rate, count, "`learning_rate`")
        tree = Tree(params)
        param_groups = resolve_at(penalty, count, tree, "proximal_step")

        def of_leaf(p: Penalty, u: Any, w: Any) -> Any:
            if is_masked(u):
                return u
            u = jnp.asarray(u)
            wide = widen(w)
            moved = p.leaf_prox(wide + widen(u), real(eta, wide)) - wide
            return moved.astype(widest(w.dtype, u.dtype))

        steps = tree.match(updates, "`updates`")
        new = in_param_groups(param_groups, of_leaf, steps, steps, tree.leaves)
        return tree.build(new), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
