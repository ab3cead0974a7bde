"""The methods: each makes a sparse network from as many gradient evaluations.

A method is one or two phases of training by Adam. In each the rate is held for `HOLD`
of the steps, and then falls to 0 on a line. After the first phase the smallest weights
may be cut to the share that is asked for. `TUNING` of the steps are the second phase's.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from networks import Data, Task, kernels

from optareg import (
    L1,
    MCP,
    GroupLasso,
    Penalty,
    add_penalty_gradient,
    by_path,
    freeze_zeros,
    joined,
    masked,
    proximal,
    target_sparsity,
)

PyTree = Any

EVERY = 10  # Steps between two cuts of gradual pruning.
HOLD, TUNING = 0.7, 0.4


class Setting(NamedTuple):
    """What differs between trainings by one compiled program; each a number.

    Attributes:
      share: of zeros that are asked for.
      rate: the first learning rate.
      own: the number that the method has for itself, if any.
    """

    share: Any
    rate: Any
    own: Any


class Method(NamedTuple):
    """A way to a sparse network.

    Attributes:
      title: in tables.
      make: the first phase's optimizer, from task, setting, schedule of the rate, and
        the number of its steps.
      own: the values of `Setting.own` to be searched.
      swept: whether `own` is a strength that gives whatever share it gives.
      gradual: the share to cut to at a part of the training, if it is pruned meanwhile.
      cut: whether the smallest weights are cut to the share after the first phase.
      tuned: whether there is a second phase, without a penalty and with zeros fixed.
    """

    title: str
    make: Callable[[Task, Setting, Any, int], optax.GradientTransformation]
    own: tuple[float, ...]
    swept: bool = False
    gradual: Callable[[Setting, Any], Any] | None = None
    cut: bool = False
    tuned: bool = False


# Optimizers.


def adam(task: Task, s: Setting, rate: Any, steps: int) -> Any:
    return optax.adam(rate)


def slower_adam(task: Task, s: Setting, rate: Any, steps: int) -> Any:
    return optax.adam(lambda step: s.own * rate(step))


def fixed_zeros(task: Task, s: Setting, rate: Any, steps: int) -> Any:
    """Zeros in kernels stay; biases start at zero and move."""
    parts = {True: freeze_zeros(optax.adam(rate)), False: optax.adam(rate)}
    return optax.partition(parts, by_path("kernel"))


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
        "one-shot magnitude, tuned", adam, (0.0, 1.0), cut=True, tuned=True
    ),
    "dense": Method("dense, fewer units", slower_adam, (1.0, 0.3)),
}
# To find out why.
MORE = {
    "target-ramp": Method(
        "`target_sparsity`, L1, share rises", target_ramp, (0.3, 0.6), cut=True
    ),
    "target-mcp-tuned": Method(
        "`target_sparsity`, MCP, tuned", target_mcp, LEADS, cut=True, tuned=True
    ),
}


# Training.


def cut(p: PyTree, share: Any, by_layer: Any = 0.0) -> PyTree:
    """With the smallest weights at zero, of all kernels together, or of each."""
    sizes = [jnp.abs(w).ravel() for w in kernels(p)]
    of_all = largest_of(jnp.concatenate(sizes), share)
    of_each = iter([largest_of(some, share) for some in sizes])

    def one(v: Any) -> Any:
        if not isinstance(v, dict):
            return v
        w, most = v["kernel"], jnp.where(by_layer > 0, next(of_each), of_all)
        return v | {"kernel": jnp.where(jnp.abs(w) > most, w, 0)}

    return {name: one(v) for name, v in p.items()}


def largest_of(sizes: jax.Array, share: Any) -> jax.Array:
    """The largest of that share of the smallest, or −1 if the share has none.

    By bisection on the bits, which are in the order of the floats: `jnp.sort` is slow
    under `jax.vmap` on a CPU.
    """
    n = jnp.floor(share * sizes.size + 1e-3)
    bits = jax.lax.bitcast_convert_type(sizes, jnp.int32)

    def halve(ends: Any, _: None) -> tuple[Any, None]:
        low, high = ends  # Below n entries are ≤ low, and n or more are ≤ high.
        middle = low + (high - low) // 2
        enough = (bits <= middle).sum() >= n
        return (jnp.where(enough, low, middle), jnp.where(enough, middle, high)), None

    ends = jnp.int32(-1), jnp.int32(np.float32(np.inf).view(np.int32))
    (_, high), _ = jax.lax.scan(halve, ends, None, length=32)
    return jnp.where(n > 0, jax.lax.bitcast_convert_type(high, jnp.float32), -1.0)


def without_dead(task: Task, p: PyTree) -> PyTree:
    """With what reads a unit that is zero at zero too: the network computes the same."""
    if not task.chain:
        return p
    names = sorted(p)
    new = dict(p)
    for a, b in zip(names[:-1], names[1:], strict=True):
        alive = (new[a]["kernel"] != 0).any(0) | (new[a]["bias"] != 0)
        rows = new[b]["kernel"].reshape(-1, alive.size, new[b]["kernel"].shape[1])
        kept = jnp.where(alive[:, None], rows, 0).reshape(new[b]["kernel"].shape)
        new[b] = new[b] | {"kernel": kept}
    return new


def loss(task: Task, p: PyTree, data: Data) -> jax.Array:
    """The mean cross entropy."""
    scores = task.scores(p, data.x)
    return optax.softmax_cross_entropy_with_integer_labels(scores, data.y).mean()


def quality(task: Task, p: PyTree, data: Data) -> jax.Array:
    """Accuracy in percent, or minus the bits per byte: larger is better."""
    if task.bits:
        return -loss(task, p, data) / np.log(2)
    return 100 * jnp.mean(task.scores(p, data.x).argmax(-1) == data.y)


def phase(
    task: Task,
    make: Any,
    s: Setting,
    p: PyTree,
    key: jax.Array,
    steps: int,
    gradual: Any = None,
) -> PyTree:
    """The parameters after so many steps, with cuts between them if it is gradual."""
    data = task.parts[0]

    def rate(step: Any) -> Any:
        return s.rate * jnp.clip((1 - step / steps) / (1 - HOLD), 0, 1)

    optimizer = make(task, s, rate, steps)

    def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
        p, state = carry
        rows = jax.random.randint(key, (task.batch,), 0, len(data.y))
        some = Data(data.x[rows], data.y[rows])
        slope = jax.grad(lambda p: loss(task, p, some))(p)
        updates, state = optimizer.update(slope, state, p)
        return (optax.apply_updates(p, updates), state), None

    def block(carry: Any, now: Any) -> tuple[Any, None]:
        (p, state), (part, keys) = carry, now
        if gradual is not None:
            p = cut(p, gradual(s, part))
        carry, _ = jax.lax.scan(step, (p, state), keys)
        return carry, None

    keys = jax.random.split(key, (steps // EVERY, EVERY))
    parts = jnp.arange(len(keys)) / len(keys)
    (p, _), _ = jax.lax.scan(block, (p, optimizer.init(p)), (parts, keys))
    return p


def trained(
    task: Task, method: Method, widths: Any, s: Setting, seed: Any
) -> tuple[PyTree, Any]:
    """The last parameters, and the share of zeros before anything was cut."""
    keys = jax.random.split(jax.random.key(seed), 3)
    p = task.start(keys[0], widths)
    second = round(task.steps * TUNING / EVERY) * EVERY if method.tuned else 0
    first = task.steps - second
    p = phase(task, method.make, s, p, keys[1], first, method.gradual)
    found = share_of_zeros(p)
    if method.cut:
        by_layer = s.own if method.make is adam else 0.0
        p = cut(p, s.share, by_layer)
    if method.tuned:
        p = without_dead(task, p)
        p = phase(task, fixed_zeros, s, p, keys[2], second)
    return without_dead(task, p), found


def share_of_zeros(p: PyTree) -> Any:
    some = kernels(p)
    return sum(jnp.sum(w == 0) for w in some) / sum(w.size for w in some)
