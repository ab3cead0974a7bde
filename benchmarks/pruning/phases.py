"""How a method trains a network, and how the smallest weights are cut.

A method is one or two phases of training by Adam. In each the rate is held for `HOLD`
of the steps, and then falls to 0 on a line. After the first phase the smallest weights
may be cut to the share that is asked for. `TUNING` of the steps are the second phase's.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from networks import Data, Task, kernels

from optareg import by_path, freeze_zeros

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
      gradual: the share to cut to at a part of the training, if it is cut meanwhile.
      cut: whether the smallest weights are cut to the share after the first phase.
      by_layer: whether each layer is cut to the share where `own` is 1, not all in one.
      tuned: whether there is a second phase, without a penalty and with zeros fixed.
    """

    title: str
    make: Callable[[Task, Setting, Any, int], optax.GradientTransformation]
    own: tuple[float, ...]
    swept: bool = False
    gradual: Callable[[Setting, Any], Any] | None = None
    cut: bool = False
    by_layer: bool = False
    tuned: bool = False


def fixed_zeros(task: Task, s: Setting, rate: Any, steps: int) -> Any:
    """Zeros in kernels stay; biases start at zero and move."""
    parts = {True: freeze_zeros(optax.adam(rate)), False: optax.adam(rate)}
    return optax.partition(parts, by_path("kernel"))


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
    """With what reads a zero unit at zero too: the network computes the same."""
    if not task.chain:
        return p
    names = sorted(p)
    new = dict(p)
    for a, b in itertools.pairwise(names):
        alive = (new[a]["kernel"] != 0).any(0) | (new[a]["bias"] != 0)
        rows = new[b]["kernel"].reshape(-1, alive.size, new[b]["kernel"].shape[1])
        kept = jnp.where(alive[:, None], rows, 0).reshape(new[b]["kernel"].shape)
        new[b] = new[b] | {"kernel": kept}
    return new


def loss(task: Task, p: PyTree, data: Data) -> Any:
    """The mean cross entropy."""
    scores = task.scores(p, data.x)
    return optax.softmax_cross_entropy_with_integer_labels(scores, data.y).mean()


def quality(task: Task, p: PyTree, data: Data) -> Any:
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
        p = cut(p, s.share, s.own if method.by_layer else 0.0)
    if method.tuned:
        p = without_dead(task, p)
        p = phase(task, fixed_zeros, s, p, keys[2], second)
    return without_dead(task, p), found


def share_of_zeros(p: PyTree) -> Any:
    some = kernels(p)
    return sum(jnp.sum(w == 0) for w in some) / sum(w.size for w in some)
