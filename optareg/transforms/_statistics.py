"""Sizes of steps and gradients, leaf by leaf, from which the threshold is found.

Each is a root mean square over a sample of a leaf, averaged over about ten steps.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optareg._checks import is_traced
from optareg._tree import widen, widest

__all__ = ["Statistics", "apart", "over_shards", "rms", "sample", "sums"]

Array = jax.Array

DECAY = 0.9
# The sizes of large leaves are those of so many of their entries.
SAMPLE = 4096
# So many leaves of one kind are seen together, for the sake of compile time, which
# grows faster than their number.
MANY, MOST = 16, 128
# Squares overflow, or are 0, long before their roots do: so they are summed thrice.
SMALLER, LARGER = 2.0**-64, 2.0**64
LARGEST = float(np.finfo(np.float32).max)


# Some leaves, and what was seen of them: for each the `sums` of h and of u. A third row
# may have those of what s must balance, of which the largest is kept. By default that
# is h. Where s may be as large as it needs, it is h without s.
Seen = tuple[Sequence[int], Array]


class Statistics(NamedTuple):
    """Sizes of steps and gradients, each of shape (number of leaves,), in float32.

    Attributes:
      step: r_u, the average of the rms of the optimizer's steps.
      gradient: r_h, that of the gradients it saw.
      largest_step: M, the forgetting maximum of `step`.
      largest_gradient: G, that of the gradients that s must balance.
    """

    step: Array
    gradient: Array
    largest_step: Array
    largest_gradient: Array

    @classmethod
    def first(cls, n: int) -> "Statistics":
        """Of n leaves, before the first step; of none where nothing is tracked."""
        return cls(*(jnp.zeros(n, jnp.float32) for _ in cls._fields))

    def see(self, seen: Sequence[Seen], count: Array) -> "Statistics":
        """With what was seen of some leaves."""
        if not seen:
            return self
        n = len(self.step)
        order = np.concatenate([at for at, _ in seen])
        place = np.full(n, len(order))
        place[order] = np.arange(len(order))
        update = functools.partial(with_rows, place=tuple(place.tolist()))
        result: Statistics = compiled_alone(
            update,
            lambda self, rows, count: self,
            count,
            self,
            [rows for _, rows in seen],
            count,
        )
        return result


@functools.partial(jax.jit, inline=True, static_argnames="place")
def with_rows(
    before: Statistics, rows: Sequence[Array], count: Array, place: tuple[int, ...]
) -> Statistics:
    """With the rows of some leaves; `place` says which each leaf has, if it has one."""
    nothing = jnp.zeros_like(rows[0][:1])
    sizes = root_of_mean(jnp.concatenate([*rows, nothing])[np.array(place)])
    gradient = averaged(before.gradient, sizes[:, 0])
    step = averaged(before.step, sizes[:, 1])
    balanced = sizes[:, 2] if sizes.shape[1] > 2 else sizes[:, 0]
    new = Statistics(
        step=step,
        gradient=gradient,
        largest_step=forgetting(before.largest_step, step, count),
        largest_gradient=forgetting(before.largest_gradient, balanced, count),
    )
    known = np.array(place) < sum(len(x) for x in rows)
    if known.all():
        return new
    result: Statistics = jax.tree.map(lambda a, b: jnp.where(known, a, b), new, before)
    return result


def averaged(before: Array, new: Array) -> Array:
    """The average with what is new; the first that is not 0 is taken whole."""
    return jnp.where(before > 0, DECAY * before + (1 - DECAY) * new, new)


def forgetting(largest: Array, now: Array, count: Array) -> Array:
    """The forgetting maximum."""
    k = count.astype(jnp.float32) + 1
    return jnp.maximum(now, largest * (k / (k + 1)))


def sample(x: Array) -> Array:
    """At most some thousand entries, evenly spaced along every axis.

    Not along the first ones only: a matrix would be represented by one row, that is by
    one input, which may be dead.
    """
    if x.size <= SAMPLE:
        return x
    left, axes, strides = float(SAMPLE), x.ndim, [1] * x.ndim
    for axis in sorted(range(x.ndim), key=lambda axis: x.shape[axis]):
        most = max(1, int(left ** (1 / axes) + 1e-6))
        strides[axis] = math.ceil(x.shape[axis] / most)
        left, axes = left / math.ceil(x.shape[axis] / strides[axis]), axes - 1
    return jax.lax.slice(x, (0,) * x.ndim, x.shape, tuple(strides))


def sums(*arrays: Array) -> Array:
    """The number of finite entries, and the sums of their squares at three scales.

    Of arrays of one shape; the result has a row of four for each. One reduction, and so
    one kernel and one all-reduce for a leaf. Within `shard_map`, the sums over all
    shards.
    """
    dtype = widest(*(widen(x).real.dtype for x in arrays))
    x = jnp.stack([jnp.abs(x).astype(dtype) for x in arrays])[:, None]
    shape = (1, 4) + (1,) * arrays[0].ndim
    scales = np.array([0, SMALLER, 1, LARGER], x.dtype).reshape(shape)
    ones = np.array([1, 0, 0, 0], x.dtype).reshape(shape)
    squares = jnp.where(jnp.isfinite(x), jnp.square(x * scales + ones), 0)
    total = jnp.sum(squares, axis=tuple(range(2, x.ndim)))
    total = over_shards(jax.lax.psum, total)
    # Finite, so that no one who looks for infinities (`jax_debug_infs`) finds these.
    return jnp.minimum(total.astype(jnp.float32), LARGEST)


def root_of_mean(total: Array) -> Array:
    """The rms for each row of `sums`; 0 where no entry is finite."""
    n = jnp.maximum(total[..., 0], 1)
    smaller, plain, larger = (jnp.sqrt(total[..., i] / n) for i in (1, 2, 3))
    least = float(jnp.finfo(jnp.float32).tiny) * 1e4  # type: ignore[no-untyped-call]
    plain = jnp.where(total[..., 2] < LARGEST, plain, smaller / SMALLER)
    return jnp.where(total[..., 2] > least, plain, larger / LARGER)


def rms(x: Array) -> Array:
    """The root mean square of the finite entries, a float32; 0 if there are none."""
    return root_of_mean(sums(x))[0]


def alike(things: Mapping[int, Any]) -> list[list[int]]:
    """The keys of what is of one structure and shape, if there are many of it.

    Others stand alone: on several devices, arrays of several leaves in one might be
    moved from one to another.
    """
    kinds: dict[Any, list[int]] = {}
    for i, thing in things.items():
        leaves, structure = jax.tree.flatten(thing)
        kind = structure, tuple(jax.typeof(x) for x in leaves)
        kinds.setdefault(kind, []).append(i)
    result = []
    for same in kinds.values():
        size = MOST if len(same) >= MANY else 1
        result += [same[i : i + size] for i in range(0, len(same), size)]
    return result


def together(
    kinds: Sequence[Sequence[Any]], count: Array, given: Sequence[bool]
) -> tuple[list[Any], Array]:
    """For each kind its things as one, with a first axis for which it is.

    Also returns the count. What follows from that one is computed later: so the arrays
    may then be overwritten in place, and need not be copied. Things that are `given`
    and small need not wait, and compile sooner.
    """

    def stack(kinds: Any, count: Array) -> tuple[list[Any], Array]:
        return list(map(stacked, kinds)), jnp.maximum(count, 0)

    def other(kinds: Any, count: Array) -> tuple[list[Any], Array]:
        def first(x: Array, n: int) -> Array:
            return jnp.broadcast_to(x, (n, *x.shape))

        firsts = [
            jax.tree.map(functools.partial(first, n=len(things)), things[0])
            for things in kinds
        ]
        return firsts, -count

    rows = list(zip(jax.tree.map(jnp.asarray, list(kinds)), given, strict=True))
    waiting = [things for things, here in rows if not here]
    later: list[Any] = []
    if waiting:
        later, count = compiled_alone(stack, other, count, waiting, count)
    rest = iter(later)
    return [stacked(things) if here else next(rest) for things, here in rows], count


def stacked(things: Sequence[Any]) -> Any:
    """Trees of arrays as one, with a first axis for which it is."""
    return jax.tree.map(lambda *x: jnp.stack(x), *things)


def apart(x: Array, count: Array) -> list[Array]:
    """The entries of x, of shape (n,), each an array of its own.

    Each is read by an index that stands in memory. With x[i], whatever uses it would be
    compiled once for each i; now it is compiled once for all leaves of one shape.
    """

    def with_index(x: Array, count: Array) -> tuple[Array, Array]:
        # Unsigned: JAX takes no negative index for one from the end.
        return x, jnp.minimum(count, 0).astype(jnp.uint32)

    def other(x: Array, count: Array) -> tuple[Array, Array]:
        return -x, jnp.abs(count).astype(jnp.uint32)

    if not is_traced(count):
        return list(x)
    # `none` is 0, which the compiler does not know.
    x, none = compiled_alone(with_index, other, count, x, count)

    def entry(i: int) -> Array:
        index = np.array([i, i + 1], np.uint32)
        here: Array = jax.lax.dynamic_slice(index, (none,), (1,))
        result: Array = jax.lax.dynamic_slice(x, (here[0],), (1,))
        return result.reshape(())

    return [entry(i) for i in range(len(x))]


def compiled_alone(
    f: Callable[..., Any], other: Callable[..., Any], count: Array, *args: Any
) -> Any:
    """Returns f(*args), not fused with what makes `args` or takes the result.

    What takes one row of an array is else compiled once for each row, and what puts
    rows together is one program as long as all that makes them: 1,000 leaves then took
    20 times as long to compile.
    """
    # A step outside of `jit` would compile a branch anew.
    if not is_traced(count) or varies(args):
        return f(*args)

    def branch(*args: Any) -> Any:
        # The CPU's compiler looks through a barrier, but not into a branch. It does not
        # know that a count is never negative, nor that `other` is never taken.
        return jax.lax.cond(count >= 0, f, other, *args)

    def waiting(*args: Any) -> Any:
        return barrier(f(*args))

    return jax.lax.platform_dependent(*args, cpu=branch, default=waiting)


def barrier(x: Any) -> Any:
    """The tree x, all of which is computed before any of it is used."""
    if varies(x):
        return x
    return jax.lax.optimization_barrier(x)  # type: ignore[no-untyped-call]


def varies(x: Any) -> bool:
    """Whether parts of a tree differ from shard to shard, within `shard_map`.

    A barrier would make all others differ too, the count for instance.
    """
    return any(map(varying_axes, jax.tree.leaves(x)))


def over_shards(reduce: Callable[..., Any], x: Any) -> Any:
    """The arrays x, reduced over the shards on which they differ, if there are any."""
    axes = {axis for part in jax.tree.leaves(x) for axis in varying_axes(part)}
    # In one order in all processes: that of a set is not.
    return reduce(x, tuple(sorted(axes, key=str))) if axes else x


def varying_axes(x: Any) -> tuple[Any, ...]:
    """The axes of the mesh along which x differs, within `shard_map`."""
    kind = jax.typeof(x)
    manual = getattr(kind, "manual_axis_type", None)
    axes: Any = getattr(kind, "vma", ()) if manual is None else manual.varying
    return tuple(axes)
