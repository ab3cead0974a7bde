"""`target_sparsity`: the strength is steered until the wanted share is zero."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optareg._checks import check_number, is_traced
from optareg._tree import Tree, is_masked, path_name, widen, widest
from optareg.penalties._base import ParamGroup, Penalty, map_strengths
from optareg.penalties._combinators import check_is_penalty
from optareg.transforms._arguments import (
    PenaltyOrSchedule,
    ScalarOrSchedule,
    check_optimizer,
    check_penalty,
    check_scalar,
    concrete,
    need_params,
    resolve_at,
    scalar_at,
)
from optareg.transforms._leaf import rest_of, tracked
from optareg.transforms._proximal import ProximalState, proximal
from optareg.transforms._statistics import over_shards

__all__ = ["TargetSparsityState", "target_sparsity"]

Array = jax.Array

# Chosen on digits networks and regressions: see the docstring.
# Where the factor begins, in parts of that which would make the first gradient of the
# loss stand still at zero. Zeros come back late in a network: none too many at first.
FIRST = 1e-4
# The trend of the share is an average of about 50 steps.
SMOOTHING = 0.98
# The largest error that counts, in units of the logit of the share.
MOST_ERROR = 0.5
# Where the error changes its sign, smaller steps; else larger ones, up to the whole.
CUT, GROW, LEAST_GAIN = 0.7, 1.01, 0.01
# Of the logarithm of the factor.
MOST_LOG = 60.0


class TargetSparsityState(NamedTuple):
    """State of `target_sparsity`.

    Attributes:
      factor: what the penalty is multiplied by, a float32 scalar; 0 until there is a
        gradient.
      share: the share of zeros, or of zero groups, before the last update.
      logit: the logarithm of nonzeros over zeros then.
      trend: the smoothed change of `logit` in a step.
      gain: what the steps of `factor` are multiplied by, from 0.01 to 1.
      sign: that of the last error: 1 where there were too few zeros, −1 too many.
      proximal: the state of the `proximal` within.
    """

    factor: Array
    share: Array
    logit: Array
    trend: Array
    gain: Array
    sign: Array
    proximal: ProximalState


def target_sparsity(
    optimizer: optax.GradientTransformation,
    penalty: PenaltyOrSchedule,
    target: ScalarOrSchedule,
    *,
    threshold: ScalarOrSchedule | None = None,
    rate: float = 0.1,
    lead: float = 100,
) -> optax.GradientTransformationExtraArgs:
    """`proximal`, with the penalty multiplied by what gives the wanted share of zeros.

    The factor begins at 1e-4 of what would hold all at zero against the first gradient.
    It is raised while there are too few zeros, and lowered while there are too many, by
    feedback on the logit of the share and its trend. It comes to rest where the share
    is within half an entry of the target; the parameters then converge to the optimum
    of loss + factor · penalty. What is counted are the entries that have the penalty,
    or its groups: all leaves together.

    It needs some hundred steps at a learning rate that still moves weights: one that
    has decayed too early keeps the share where it is. In a network with rectifiers a
    unit that is zero as a whole does not come back, so that an overshoot stays. So
    where nearly all weights of a network, or groups of them, are to go, ramp the
    target, as pruning schedules do, or take more steps and a longer `lead`: else the
    share is met, and little is left of the accuracy. A ramp must end while the rate
    still moves weights. A small problem with noisy gradients at a constant rate has a
    share that changes at any factor: let it decay.

    Measured with Adam at targets 0.5, 0.9 and 0.98 (`tests/test_target.py`): on digits
    networks within 0.02 for all of the last of 1,000 steps, on regressions within 0.05.

    Args:
      optimizer: any Optax optimizer, as for `proximal`.
      penalty: a penalty that gives zeros, or a function from the step to one. Its
        strengths say how parts compare; their scale does not matter.
      target: the share, from 0 to below 1: a scalar, or an Optax schedule of the step.
        For instance `optax.linear_schedule(0.0, 0.9, 2000)`.
      threshold: as for `proximal`.
      rate: the most that an error of one (in the logit) changes the logarithm of the
        factor in a step; errors count up to 0.5. Larger finds the target earlier, and
        overshoots sooner.
      lead: for how many steps the trend of the share is taken to go on: about as many
        as weights need to reach zero. Longer is slower, and overshoots less.

    Returns:
      A transformation that needs `params`, with a `TargetSparsityState`: `factor` and
      `share` are there to be logged, by `optax.tree_utils.tree_get(state, "factor")`.

    Raises:
      TypeError: an argument is of another kind.
      ValueError: `target` is not in [0, 1); `rate` or `threshold` is not positive;
        `lead` is negative; the penalty gives no zeros; `params` is missing, or
        something does not fit it.

    >>> import jax, jax.numpy as jnp, optax
    >>> from optareg import L1, sparsity, target_sparsity
    >>> loss = lambda w: 0.5 * jnp.sum((w - jnp.arange(10.0)) ** 2)
    >>> optimizer = target_sparsity(optax.adam(0.05), L1(1.0), 0.7)
    >>> w = jnp.zeros(10)
    >>> state = optimizer.init(w)
    >>> @jax.jit
    ... def step(w, state):
    ...     updates, state = optimizer.update(jax.grad(loss)(w), state, w)
    ...     return optax.apply_updates(w, updates), state
    >>> for _ in range(1000):
    ...     w, state = step(w, state)
    >>> print(sparsity(w), 6 < state.factor < 7)
    0.7 True

    Source: integral control with a lead term; steps that shrink when the error changes
    its sign: Kesten, Accelerated stochastic approximation (1958).
    """
    inner = check_optimizer(optimizer, "target_sparsity")
    check_penalty(penalty, "target_sparsity")
    if threshold is not None:
        check_scalar(threshold, "`threshold`", zero=False)
    check_number(rate, "`rate`", zero=False, scalar=True)
    check_number(lead, "`lead`", scalar=True)
    check_target(target)

    def within(factor: Array) -> optax.GradientTransformationExtraArgs:
        def scaled(count: Array) -> Penalty:
            now = penalty if isinstance(penalty, Penalty) else penalty(count)
            check_is_penalty(now, "target_sparsity")
            return map_strengths(lambda s: product(factor, s), now)

        return proximal(inner, scaled, threshold=threshold)

    def init_fn(params: Any) -> TargetSparsityState:
        factor = jnp.float32(0)
        state = within(factor).init(params)
        tree = Tree(concrete(params))
        param_groups = tracked(
            resolve_at(penalty, state.count, tree, "target_sparsity")
        )
        if not param_groups and not all(map(is_masked, tree.leaves)):
            raise ValueError(
                "`target_sparsity` needs a penalty that gives zeros to some leaf, "
                f"got {penalty!r}."
            )
        zeros, n = count_zeros(param_groups, tree)
        return TargetSparsityState(
            factor=factor,
            share=zeros / max(n, 1),
            logit=logit(zeros, n),
            trend=jnp.float32(0),
            gain=jnp.float32(1),
            sign=jnp.float32(0),
            proximal=state,
        )

    def update_fn(
        updates: Any, state: TargetSparsityState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, TargetSparsityState]:
        need_params(params, "target_sparsity")
        if not isinstance(state, TargetSparsityState):
            raise TypeError(
                "the state given to `target_sparsity` must be a `TargetSparsityState`, "
                f"got {type(state).__name__}. Make one by `init(params)`."
            )
        count = state.proximal.count
        tree = Tree(params)
        param_groups = tracked(resolve_at(penalty, count, tree, "target_sparsity"))
        factor = jax.lax.cond(
            state.factor > 0,
            lambda: state.factor,
            lambda: first_factor(param_groups, tree.match(updates, "`updates`")),
        )
        zeros, n = count_zeros(param_groups, tree)
        share = scalar_at(target, count, "`target`")
        check_target(share)
        wanted = n * jnp.asarray(share, jnp.float32)
        state = state._replace(factor=factor)
        state = steer(state, zeros, wanted, n, rate, lead)
        new, inner_state = within(state.factor).update(
            updates, state.proximal, params, **extra_args
        )
        return new, state._replace(proximal=inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def steer(
    state: TargetSparsityState,
    zeros: Array,
    wanted: Array,
    n: int,
    rate: Any,
    lead: Any,
) -> TargetSparsityState:
    """The next factor, from the numbers of zeros there are and there should be."""
    now = logit(zeros, n)
    trend = SMOOTHING * state.trend + (1 - SMOOTHING) * (now - state.logit)
    error = now - logit(wanted, n) + jnp.asarray(lead, jnp.float32) * trend
    error = jnp.clip(error, -MOST_ERROR, MOST_ERROR)
    # Nothing to gain within half an entry.
    error = jnp.where(jnp.abs(zeros - wanted) <= 0.5, 0, error)
    sign = jnp.sign(error)
    gain = state.gain * jnp.where(sign * state.sign < 0, CUT, GROW)
    gain = jnp.clip(gain, LEAST_GAIN, 1)
    some = state.factor > 0
    log = jnp.log(jnp.where(some, state.factor, 1))
    log = log + jnp.asarray(rate, jnp.float32) * gain * error
    return state._replace(
        factor=jnp.where(some, jnp.exp(jnp.clip(log, -MOST_LOG, MOST_LOG)), 0),
        share=zeros / max(n, 1),
        logit=now,
        trend=trend,
        gain=gain,
        sign=jnp.where(sign == 0, state.sign, sign),
    )


def first_factor(param_groups: list[ParamGroup], g: list[Any]) -> Array:
    """Where to begin, from the loss's gradient; 0 if that is zero or not finite."""
    size = jnp.float32(0)
    for param_group in param_groups:
        rest, here = rest_of(param_group.penalty), param_group.join(g)
        if not is_masked(here):
            here = jnp.conj(widen(jnp.asarray(here)))
            # Either way: of positive weights, one way alone is held.
            for g_block in (here, -here):
                least = rest.leaf_dual_norm(g_block)
                size = jnp.maximum(size, least.astype(jnp.float32))
    size = over_shards(jax.lax.pmax, size)
    return jnp.where(jnp.isfinite(size), FIRST * size, 0)


def count_zeros(param_groups: list[ParamGroup], tree: Tree) -> tuple[Array, int]:
    """The number of zeros, or zero groups, and of all that could be zero.

    Within `shard_map`, of all shards.
    """
    zeros, n = jnp.float32(0), 0
    for param_group in param_groups:
        rest = rest_of(param_group.penalty)
        found = rest.leaf_zeros(widen(param_group.join(tree.leaves)))
        if found is None:
            raise ValueError(
                f"`target_sparsity` counts zeros, and {type(rest).__name__} at "
                f"{path_name(tree.paths[param_group.at[0]])} does not say what they "
                "are. Leave the leaf out with `masked`, or use `proximal`."
            )
        pair = jnp.sum(found).astype(jnp.float32), found.size
        here, size = over_shards(jax.lax.psum, pair)
        zeros, n = zeros + here, n + int(size)
    return zeros, n


def logit(zeros: Array, n: int) -> Array:
    """log(nonzeros / zeros), finite where there are none."""
    return jnp.log(jnp.maximum(n - zeros, 0.5)) - jnp.log(jnp.maximum(zeros, 0.5))


def product(factor: Array, strength: Any) -> Any:
    """A strength times the factor, in a dtype that holds both."""
    if isinstance(strength, (int, float)):
        return strength * factor
    strength = jnp.asarray(strength)
    dtype = widest(strength.dtype, factor.dtype)
    return strength.astype(dtype) * factor.astype(dtype)


def check_target(target: Any) -> None:
    """Raises unless `target` is a schedule, or a share below 1."""
    if callable(target):
        return
    check_number(target, "`target`", most=1, scalar=True)
    if not is_traced(target) and target == 1:
        raise ValueError(
            "`target` must be below 1, got 1. No finite strength is needed to have no "
            "parameters."
        )
