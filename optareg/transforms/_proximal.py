"""`proximal`: any optimizer, with exact zeros and the optimum of loss + penalty."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optareg._checks import is_traced
from optareg._tree import Tree, is_masked, path_name
from optareg.penalties._base import ParamGroup, in_param_groups
from optareg.transforms._arguments import (
    PenaltyOrSchedule,
    ScalarOrSchedule,
    check_no_line_search,
    check_optimizer,
    check_penalty,
    check_scalar,
    concrete,
    first_count,
    need_params,
    penalty_at,
    resolve_at,
    scalar_at,
)
from optareg.transforms._leaf import (
    first_subgradient,
    leaves_of,
    move_leaf,
    read_subgradient,
    tracked,
    whole_gradient,
)
from optareg.transforms._statistics import Statistics
from optareg.transforms._threshold import LEAST, Automatic, Given

__all__ = ["ProximalState", "proximal"]

Array = jax.Array


class ProximalState(NamedTuple):
    """State of `proximal`.

    Attributes:
      count: the number of updates so far, an int32 scalar.
      subgradient: s for each leaf that has a nonsmooth penalty, in float32 or wider;
        for half-precision leaves the unrounded weight where s follows from it.
        `optax.MaskedNode` for other leaves.
        `optax.tree_utils.tree_map_params` with further trees needs
        `is_leaf=lambda x: isinstance(x, optax.MaskedNode)`, as for `optax.masked`.
        A leaf that was not penalised when the state was made gets its s in the next
        step, which changes the structure of the state: not within `jax.lax.scan`.
      statistics: what the threshold is found from; empty if it is given.
      inner_state: the state of the wrapped optimizer.
    """

    count: Array  # type: ignore[assignment]
    subgradient: Any
    statistics: Any
    inner_state: optax.OptState


def proximal(
    optimizer: optax.GradientTransformation,
    penalty: PenaltyOrSchedule,
    *,
    threshold: ScalarOrSchedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Wraps `optimizer` so that it minimises loss + penalty, with exact zeros.

    The penalty is R = S + λψ with a smooth S, and ψ with a prox. The state tracks one
    subgradient s ∈ ∂ψ(w). With gradient g and threshold t, a step is::

        h  = g + ∇S(w) + λ s
        u  = optimizer.update(h, params=w)
        z  = w + t s + u
        w' = prox_tψ(z),   s' = (z − w')/t

    For L1, s' = clip(z/t, −1, 1) and w' = z − t s'. At a nonzero weight s is sign(w),
    the textbook update; at zero s moves within [−1, 1], and the weight stays zero until
    s leaves it. At a fixed point g + ∇S(w) + λs = 0: the optimality condition, whatever
    positive-definite scaling the optimizer applies.

    Not needed for L2 alone, where `add_penalty_gradient` does the same (here it stores
    nothing either). The proof of convergence is for SGD with a given, constant
    threshold; for other optimizers, and for the threshold that is found, it is
    measured. An optimizer that must evaluate the loss itself (a line search) sees the
    loss without the penalty, and is not supported. Optimizers that average, such as
    `schedule_free`, work, but only the parameters that are trained have zeros: deploy
    those, not the ones of `schedule_free_eval_params`.

    Args:
      optimizer: any Optax optimizer. It receives h, the parameters and every extra
        argument; its decoupled weight decay decays w as always.
      penalty: a penalty, or a function from the step (an int32 scalar) to one. The
        strength is in units of the loss; the optimizer multiplies it by its learning
        rate. A strength of zero is no penalty: that weight moves as if unwrapped.
      threshold: t in units of the weights, a scalar or an Optax schedule, for those who
        want a certain one. By default it is found for each leaf, from the sizes of the
        optimizer's steps and gradients; the documentation has the rule. It sets the
        path to the optimum, not the optimum.

    Returns:
      A transformation that needs `params`, with a `ProximalState`. It emits updates in
      the promotion of the update's and the parameter's dtype, so that exact zeros
      survive `optax.apply_updates`. Half-precision parameters are carried in float32
      within the state: their rounding errors do not add up.

    Raises:
      TypeError: an argument is of another kind, or a penalised leaf is not floating or
        complex; the state is of another transformation; the optimizer searches along
        a line, for which it must evaluate the loss.
      ValueError: `threshold` is not positive and finite; `params` is missing, or
        strengths, updates or the state do not fit it.

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
    if threshold is not None:
        check_scalar(threshold, "`threshold`", zero=False)

    def init_fn(params: Any) -> ProximalState:
        count, inner_state = first_count(), inner.init(params)
        check_no_line_search(inner_state, "proximal")
        check_not_proximal(inner_state)
        tree = Tree(concrete(params))
        groups = tracked(resolve_at(penalty, count, tree, "proximal"))
        nothing = [w if w is None else optax.MaskedNode() for w in tree.leaves]
        s = in_param_groups(groups, first_subgradient, nothing, tree.leaves)
        return ProximalState(
            count=count,
            subgradient=tree.build(s),
            statistics=Statistics.first(len(s) if groups else 0)
            if threshold is None
            else (),
            inner_state=inner_state,
        )

    def update_fn(
        updates: Any, state: ProximalState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, ProximalState]:
        need_params(params, "proximal")
        check_state(state, threshold is None)
        tree, count = Tree(params), state.count
        now = penalty_at(penalty, count, "proximal")
        groups = now.resolve(tree)
        kept = tracked(groups)
        g = tree.match(updates, "`updates`")
        stored = tree.match(state.subgradient, "the state of `proximal`")
        stored = with_new_leaves(stored, kept, tree)

        s = in_param_groups(kept, read_subgradient, stored, tree.leaves, stored)
        h = in_param_groups(groups, whole_gradient, g, g, tree.leaves, s)
        leaves = leaves_of(kept, tree.leaves, stored, s)
        find: Automatic | Given = (
            Automatic.of(statistics_of(state, kept, tree), count, leaves, g, h)
            if threshold is None
            else Given(positive(scalar_at(threshold, count, "`threshold`")))
        )
        extra_args = of_whole_objective(extra_args, now.value, params, tree.build(h))
        steps, inner_state = inner.update(
            tree.build(h), state.inner_state, params, **extra_args
        )
        u = tree.match(steps, "the updates of the wrapped optimizer")
        moves, new = list(u), list(stored)
        find = find.with_steps(u)
        for i, leaf in enumerate(leaves):
            move, new_s = move_leaf(leaf, leaf.group.join(u), find.threshold(i, leaf))
            leaf.group.put(move, moves, tree.leaves)
            leaf.group.put(new_s, new, tree.leaves)
        return tree.build(moves), ProximalState(
            count=optax.safe_increment(count),
            subgradient=tree.build(new),
            statistics=find.after(moves, new),
            inner_state=inner_state,
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def of_whole_objective(
    extra_args: dict[str, Any], value: Callable[[Any], Array], params: Any, h: Any
) -> dict[str, Any]:
    """What an optimizer is told of the loss, told of loss + penalty.

    `value` gets the penalty's added, `value_fn` too, and `grad` becomes h. A gradient
    at other parameters would need another subgradient: `grad_fn` is refused.
    """
    result = dict(extra_args)
    if result.get("grad_fn") is not None:
        raise ValueError(
            "`proximal` got `grad_fn`: an optimizer that takes gradients elsewhere "
            "than at the parameters would have them without the penalty's. Use another "
            "optimizer, or `minimize`."
        )
    if result.get("value") is not None:
        result["value"] = result["value"] + value(params)
    if result.get("value_fn") is not None:
        value_fn = result["value_fn"]
        result["value_fn"] = lambda w, *args, **kwargs: (
            value_fn(w, *args, **kwargs) + value(w)
        )
    if result.get("grad") is not None:
        result["grad"] = h
    return result


def positive(t: Any) -> Any:
    """A threshold that a schedule gave may be 0, and others too small to divide by."""
    return jnp.maximum(t, LEAST) if is_traced(t) else max(t, LEAST)


def check_not_proximal(state: Any) -> None:
    """Raises if the optimizer with this state has a penalty already."""
    leaves = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, ProximalState))
    if any(isinstance(x, ProximalState) for x in leaves):
        raise ValueError(
            "the optimizer given to `proximal` is a `proximal` itself: the penalty "
            "would count twice. Give the optimizer within; for a penalty on other "
            "leaves, use `partition`."
        )


def check_state(state: Any, automatic: bool) -> None:
    """Raises unless `state` is one of `proximal` with this kind of threshold."""
    if not isinstance(state, ProximalState):
        raise TypeError(
            "the state given to `proximal` must be a `ProximalState`, got "
            f"{type(state).__name__}. Make one by `init(params)`; the state of the "
            "optimizer within is its `inner_state`."
        )
    if isinstance(state.statistics, Statistics) != automatic:
        kinds = ["a given", "an automatic"]
        raise ValueError(
            f"the state of `proximal` was made with {kinds[not automatic]} threshold, "
            f"but this one has {kinds[automatic]} threshold. Use the same, or start "
            "anew by `init(params)`."
        )


def statistics_of(
    state: ProximalState, kept: list[ParamGroup], tree: Tree
) -> Statistics:
    """Those of the state; new ones if nothing was tracked before."""
    n, has = len(tree.leaves), len(state.statistics.step)
    if kept and has == 0:
        return Statistics.first(n)
    if has not in (0, n):
        raise ValueError(
            f"the state of `proximal` is of {has} leaves, but the parameters have {n}. "
            "Give the parameters that made the state, or start anew by `init(params)`."
        )
    result: Statistics = state.statistics
    return result


def with_new_leaves(stored: list[Any], kept: list[ParamGroup], tree: Tree) -> list[Any]:
    """The stored subgradients; a leaf that was not penalised starts as in `init`."""
    penalised = {i for group in kept for i in group.at}
    for i, (path, s) in enumerate(zip(tree.paths, stored, strict=True)):
        if not is_masked(s) and i not in penalised and not is_masked(tree.leaves[i]):
            raise ValueError(
                f"the state of `proximal` has a subgradient for the leaf at "
                f"{path_name(path)}, but the penalty leaves it out. Give the penalty "
                "that made the state, or start anew by `init(params)`."
            )
    result = list(stored)
    for group in kept:
        if all(is_masked(stored[i]) for i in group.at):
            s = first_subgradient(group.penalty, group.join(tree.leaves))
            group.put(s, result, tree.leaves)
    return result
