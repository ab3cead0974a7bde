"""`proximal`: any optimizer, with exact zeros and the optimum of loss + penalty."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optareg._checks import is_traced
from optareg._tree import Tree, is_masked, real, widen, widest
from optareg.penalties._base import Norm, ParamGroup, Penalty, in_param_groups
from optareg.transforms._arguments import (
    PenaltyOrSchedule,
    ScalarOrSchedule,
    check_optimizer,
    check_penalty,
    check_scalar,
    first_count,
    need_params,
    resolve_at,
    scalar_at,
)

__all__ = ["ProximalState", "proximal"]

Array = jax.Array


class ProximalState(NamedTuple):
    """State of `proximal`.

    Attributes:
      count: the number of updates so far, an int32 scalar.
      z: w/t + s for each leaf that has a nonsmooth penalty, in float32 or wider;
        `optax.MaskedNode` for the others. Its dual part (for L1 clip(z, −1, 1)) is the
        tracked subgradient s, the rest is the weight in units of the threshold t.
        `optax.tree_utils.tree_map_params` with further trees needs
        `is_leaf=lambda x: isinstance(x, optax.MaskedNode)`, as for `optax.masked`.
      inner_state: the state of the wrapped optimizer.
    """

    count: Array  # type: ignore[assignment]
    z: Any
    inner_state: optax.OptState


def proximal(
    optimizer: optax.GradientTransformation,
    penalty: PenaltyOrSchedule,
    *,
    threshold: ScalarOrSchedule = 0.01,
) -> optax.GradientTransformationExtraArgs:
    """Wraps `optimizer` so that it minimises loss + penalty, with exact zeros.

    The penalty is R = S + λψ with a smooth S and a nonsmooth ψ. The state tracks one
    subgradient s ∈ ∂ψ(w). With gradient g and threshold t, a step is::

        h  = g + ∇S(w) + λ s
        u  = optimizer.update(h, params=w)
        z  = w/t + s + u/t
        w' = t prox_ψ(z),   s' = z − prox_ψ(z)

    For L1, s' = clip(z, −1, 1) and w' = t (z − s'). At a nonzero weight s is sign(w),
    the textbook update; at zero s moves within [−1, 1], and the weight stays zero until
    s leaves it. At a fixed point g + ∇S(w) + λs = 0: the optimality condition, whatever
    positive-definite scaling the optimizer applies.

    Not needed for L2 alone, where `add_penalty_gradient` does the same (here it stores
    nothing either). The proof of convergence covers SGD only; for other optimizers it
    is measured. An optimizer that must evaluate the loss itself (a line search) sees
    the loss without the penalty, and is not supported.

    Args:
      optimizer: any Optax optimizer. It receives h, the parameters and every extra
        argument; its decoupled weight decay decays w as always.
      penalty: a penalty, or a function from the step (an int32 scalar) to one. The
        strength is in units of the loss; the optimizer multiplies it by its learning
        rate. A strength of zero is no penalty: that weight moves as if unwrapped.
      threshold: t > 0 in units of the weights, a scalar or an Optax schedule. It sets
        the path to the optimum, not the optimum. Too small and zeros chatter at a
        constant learning rate, too large and the start is slow. Rules: about ten
        learning rates η of an Adam-like optimizer; for SGD at least ηλ (at t = ηλ it
        is ISTA, below ηλ/2 zeros are unstable).

    Returns:
      A transformation that needs `params`, with a `ProximalState`. It emits updates in
      the promotion of the update's and the parameter's dtype, so that exact zeros
      survive `optax.apply_updates`. Half-precision parameters are carried in float32
      within the state: their rounding errors do not add up.

    Raises:
      TypeError: an argument is of another kind, or a penalised leaf is not floating or
        complex.
      ValueError: `threshold` is not positive and finite; `params` is missing, or
        strengths or updates do not fit it.

    >>> import jax, jax.numpy as jnp, optax
    >>> from optareg import L1, proximal
    >>> loss = lambda w: 0.5 * jnp.sum((w - jnp.array([3.0, 0.4])) ** 2)
    >>> optimizer = proximal(optax.adam(0.1), L1(1.0))
    >>> w = jnp.zeros(2)
    >>> state = optimizer.init(w)
    >>> for _ in range(300):
    ...     updates, state = optimizer.update(jax.grad(loss)(w), state, w)
    ...     w = optax.apply_updates(w, updates)
    >>> print(w.round(3))
    [2. 0.]

    Source: the normal map of Robinson, Normal maps induced by linear transformations
    (1992), with γ = t/λ; for SGD, Qiu, Jiang & Milzarek, arXiv:2305.05828.
    """
    inner = check_optimizer(optimizer, "proximal")
    check_penalty(penalty, "proximal")
    check_scalar(threshold, "`threshold`", zero=False)

    def init_fn(params: Any) -> ProximalState:
        count = first_count()
        tree = Tree(params)
        param_groups = tracked(resolve_at(penalty, count, tree, "proximal"))
        nothing = [w if w is None else optax.MaskedNode() for w in tree.leaves]
        return ProximalState(
            count=count,
            z=tree.build(in_param_groups(param_groups, first_z, nothing, tree.leaves)),
            inner_state=inner.init(params),
        )

    def update_fn(
        updates: Any, state: ProximalState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, ProximalState]:
        need_params(params, "proximal")
        t = scalar_at(threshold, state.count, "`threshold`")
        if callable(threshold) or is_traced(t):  # It may be 0, which must not divide.
            t = jnp.maximum(t, 1e-18)
        tree = Tree(params)
        param_groups = resolve_at(penalty, state.count, tree, "proximal")
        g = tree.match(updates, "`updates`")
        z = tree.match(state.z, "the state of `proximal`")

        s = in_param_groups(tracked(param_groups), tracked_subgradient, z, z)
        h = in_param_groups(param_groups, whole_gradient, g, g, tree.leaves, s)
        steps, inner_state = inner.update(
            tree.build(h), state.inner_state, params, **extra_args
        )
        u = tree.match(steps, "the updates of the wrapped optimizer")
        moves, new_z = list(u), list(z)
        for param_group in tracked(param_groups):
            here = (param_group.join(column) for column in (u, tree.leaves, s, z))
            move, moved_z = proximal_move(t, param_group.penalty, *here)
            param_group.put(move, moves, tree.leaves)
            param_group.put(moved_z, new_z, tree.leaves)
        return tree.build(moves), ProximalState(
            count=optax.safe_increment(state.count),
            z=tree.build(new_z),
            inner_state=inner_state,
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


# What happens to one leaf, in the order of the formulas. The formulas are compiled
# functions, so that leaves of one shape are traced once.


def tracked(param_groups: list[ParamGroup]) -> list[ParamGroup]:
    """The parameter groups with a nonsmooth part."""
    return [
        param_group
        for param_group in param_groups
        if param_group.penalty.split()[1] is not None
    ]


def first_z(penalty: Penalty, w: Any) -> Any:
    """A z whose dual part is the subgradient at the initial parameters."""
    norm = nonsmooth(penalty)
    return norm.leaf_subgradient(widen(w), jnp.zeros_like(widen(w)))


def tracked_subgradient(penalty: Penalty, z: Any) -> Any:
    """The subgradient s that z holds, its dual part."""
    return dual_part(nonsmooth(penalty), z)


@functools.partial(jax.jit, inline=True)
def dual_part(norm: Norm, z: Array) -> Array:
    """Returns s = z − prox_ψ(z)."""
    return norm.leaf_dual(z, 1)


def whole_gradient(penalty: Penalty, g: Any, w: Any, s: Any) -> Any:
    """The gradient of the whole objective, unless there is none of the loss."""
    return g if is_masked(g) else penalised_gradient(penalty, g, w, s)


@functools.partial(jax.jit, inline=True)
def penalised_gradient(penalty: Penalty, g: Array, w: Array, s: Any) -> Array:
    """Returns h = g + ∇S(w) + λ s."""
    smooth, norm = penalty.split()
    h = widen(g)
    if smooth is not None:
        h = h + smooth.leaf_gradient(widen(w))
    if norm is not None:
        h = h + norm.strength * s
    return h.astype(widest(w.dtype, g.dtype))


def proximal_move(
    t: Any, penalty: Penalty, u: Any, w: Any, s: Any, z: Any
) -> tuple[Any, Any]:
    """The update and the next z."""
    if is_masked(u):
        return u, z
    norm = nonsmooth(penalty)
    known = isinstance(norm.strength, (np.ndarray, np.generic))
    acts = bool(norm.strength > 0) if known else None
    move, z = norm_move(norm, u, w, s, z, t, acts)
    return move, z


@functools.partial(jax.jit, inline=True, static_argnames="acts")
def norm_move(
    norm: Norm, u: Array, w: Array, s: Array, z: Array, t: Any, acts: bool | None
) -> tuple[Array, Array]:
    """Returns w' − w and z = w/t + s + u/t, with w' = t prox_ψ(z).

    `acts` says whether the strength is positive; None if only the run will show.
    """
    wide, step = widen(w), widen(u)
    t = real(t, wide)
    start = wide
    if wide.dtype != w.dtype:
        # Rounded to half precision; z has more digits, unless w was changed outside.
        # (`reduce_precision`: the compiler may leave out a cast to and fro.)
        kind = jnp.finfo(w.dtype)  # type: ignore[no-untyped-call]
        unrounded = t * (z - s)
        rounded = jax.lax.reduce_precision(unrounded, kind.nexp, kind.nmant)
        start = jnp.where(rounded == wide, unrounded, wide)
    end = start + step
    # The s of the parameters as they come in, changed from outside or not; where the
    # strength is zero and the weight moves freely, of those that go out.
    at = end if acts is False else start
    if acts is None:  # Multiplied to be of the shape and sharding of the leaf.
        at = jnp.where(norm.strength * jnp.ones_like(wide.real) > 0, start, end)
    s = norm.leaf_subgradient(at, at_zero=s)
    z = end / t + s
    # A strength known to be zero leaves the step as it is, to the last bit; another
    # that is zero costs a rounding of w/t, and does not read the step again.
    goal = (t * (z - norm.leaf_dual(z, 1))).astype(w.dtype)
    move = step if acts is False else widen(goal) - wide
    return move.astype(widest(w.dtype, u.dtype)), z


def nonsmooth(penalty: Penalty) -> Norm:
    """The nonsmooth part of a `penalty` that has one."""
    norm = penalty.split()[1]
    assert norm is not None
    return norm
