"""The threshold t of `proximal`, found leaf by leaf from sizes of steps and gradients.

With r_u and r_h the root mean squares of the optimizer's step and of what it saw, each
an average over about ten steps, and their forgetting maxima M and G::

    M_k = max(r_u, M_{k−1} k/(k+1))
    t_k = 3 √min(k, 30,000) M_k + 2 λ r_u / r_h          for λψ, in units of the weights
    t_k = 3 √min(k, 30,000) M_k / max(λ, G_k) + 2 r_u / r_h      for other penalties

G is that of h − s there, and 3 is 1 where such a penalty couples entries. For groups
the first term is multiplied by √size over the weight of a group.

The second term is the optimizer's own step size times the strength, as in proximal
gradient descent. The first averages the noise of gradients over ever more steps, as
dual averaging does. Both are measured, not proven: `python benchmarks/threshold`.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optareg._tree import is_masked, real, widen
from optareg.penalties._base import ParamGroup, Penalty
from optareg.transforms._leaf import (
    Leaf,
    leaves_of,
    read_subgradient,
    rest_of,
    whole_gradient,
)

__all__ = ["Automatic", "Given", "Statistics"]

Array = jax.Array

AVERAGING, STEPS, DECAY = 3.0, 2.0, 0.9
# What couples entries without a bound on s has a shorter average.
COUPLED = 3.0
# A longer average has no fewer zeros that flip, and takes longer to forget: after
# 60,000 steps a changed problem is found again in 2/3 of the steps with this bound.
LONGEST = 30_000
# The sizes of large leaves are those of so many of their entries.
SAMPLE = 4096


class Statistics(NamedTuple):
    """Sizes of steps and gradients, each of shape (number of leaves,), in float32.

    Attributes:
      step: r_u, the average of the rms of the optimizer's steps.
      gradient: r_h, that of the gradients it saw.
      largest_step: M, the forgetting maximum of `step`.
      largest_gradient: G, that of `gradient`.
    """

    step: Array
    gradient: Array
    largest_step: Array
    largest_gradient: Array

    @classmethod
    def first(cls, n: int) -> "Statistics":
        """Of n leaves, before the first step; of none where nothing is tracked."""
        return cls(*(jnp.zeros(n, jnp.float32) for _ in cls._fields))

    def see_gradients(
        self, sizes: Sequence[Any], largest: Sequence[Any], count: Array
    ) -> "Statistics":
        """With the rms of h of each leaf, and that of which the maximum is kept."""
        return self._replace(
            gradient=averaged(self.gradient, sizes),
            largest_gradient=forgetting(self.largest_gradient, stacked(largest), count),
        )

    def see_steps(self, sizes: Sequence[Any], count: Array) -> "Statistics":
        """With the rms of u of each leaf; None where it is not known yet."""
        average = averaged(self.step, sizes)
        largest = forgetting(self.largest_step, average, count)
        known = jnp.asarray([size is not None for size in sizes], bool)
        return self._replace(
            step=jnp.where(known, average, self.step),
            largest_step=jnp.where(known, largest, self.largest_step),
        )

    def terms(self, count: Array) -> tuple[Array, Array]:
        """3 √k M and 2 r_u / r_h of each leaf."""
        k = jnp.minimum(count.astype(jnp.float32) + 1, LONGEST)
        # In parts of the larger one, so that a quotient overflows only if it must.
        ratio = self.step / jnp.where(self.gradient > 0, self.gradient, jnp.inf)
        return AVERAGING * jnp.sqrt(k) * self.largest_step, STEPS * ratio


def at_kink(leaf: Leaf, w: Array) -> Array:
    """Where s does not follow from the weights w of a leaf."""
    kink = leaf.psi.leaf_kink(w)
    return jnp.ones(w.shape, bool) if kink is None else kink


def sampled_first(leaf: Leaf) -> bool:
    """Whether h and s of a sample follow from samples of what the leaf is given."""
    smooth, _ = leaf.group.penalty.split()
    kept = smooth is None and leaf.stored.dtype == leaf.w.dtype
    return leaf.scaled and (leaf.psi.entrywise or kept)


def few_strengths(leaf: Leaf) -> Penalty:
    """The penalty for a sample of a leaf."""

    def of_field(x: Any) -> Any:
        return sample(jnp.broadcast_to(x, leaf.w.shape)) if np.ndim(x) else x

    result: Penalty = jax.tree.map(of_field, leaf.group.penalty)
    return result


def kink_of_sample(leaf: Leaf, w: Array) -> Array:
    """`at_kink` for a sample of the weights `w`."""
    if not sampled_first(leaf):
        return sample(at_kink(leaf, w))
    _, psi = rest_of(few_strengths(leaf)).split_strength()
    return at_kink(leaf._replace(psi=psi), sample(w))


def few_entries(leaf: Leaf, g: Any) -> tuple[Leaf, Any]:
    """A sample of a `sampled_first` leaf, and of h there; None if there is no gradient.

    From samples of what the step is given, not of what it computes: those would be
    arrays of the size of the leaf that are written and read for their samples only.
    Of groups, s is what the last step left, as if nobody had changed w since.
    """
    w, stored = sample(leaf.w), sample(leaf.stored)
    penalty = few_strengths(leaf)
    s = read_subgradient(penalty, w, stored) if leaf.psi.entrywise else stored
    (few,) = leaves_of([ParamGroup(penalty, (0,))], [w], [stored], [s])
    if is_masked(g):
        return few, None
    return few, whole_gradient(penalty, sample(g), w, s)


class Given(NamedTuple):
    """The threshold of all leaves, as it was given."""

    t: Any

    def with_steps(self, leaves: Sequence[Leaf], u: Sequence[Any]) -> "Given":
        """It is the same, whatever the steps."""
        del leaves, u
        return self

    def threshold(self, i: int, leaf: Leaf) -> Any:
        """The threshold of a leaf."""
        del i
        return real(self.t, leaf.start)

    def after(self, leaves: Any, moves: Any, new: Any) -> tuple[()]:
        """No statistics."""
        del leaves, moves, new
        return ()


class Automatic(NamedTuple):
    """The thresholds found so far within an update.

    Of `scaled` penalties the steps are seen after the update, from w + ts of a sample,
    before and after: then the compiled update reads and writes as much as with a
    given threshold. (A sample of u would make it compute u twice.) Of other penalties,
    whose subgradient has no bound, they are seen before.

    Attributes:
      statistics: with this step's gradients, and those of its steps that are known.
      count: the number of updates so far.
      terms: the two terms of t for each leaf.
      samples: of w, s and the kink before the update, for each leaf that is `scaled`.
    """

    statistics: Statistics
    count: Array  # type: ignore[assignment]
    terms: list[Any]
    samples: list[Any]

    @classmethod
    def of(
        cls,
        statistics: Statistics,
        count: Array,
        leaves: Sequence[Leaf],
        g: Sequence[Any],
        h: Sequence[Any],
    ) -> "Automatic":
        """With the gradients h that the optimizer is about to see; g is the loss's."""
        sizes: list[Any] = [None] * len(statistics.step)
        largest = list(sizes)
        samples: list[Any] = []
        for leaf in leaves:
            i, seen, before = leaf.group.at[0], None, None
            if sampled_first(leaf):
                few, seen = few_entries(leaf, leaf.group.join(g))
                before = few.start, few.s, at_kink(few, few.start)
            else:
                if not is_masked(leaf.group.join(h)):
                    seen = sample(leaf.group.join(h))
                if leaf.scaled:
                    kink = at_kink(leaf, leaf.start)
                    before = sample(leaf.start), sample(leaf.s), sample(kink)
            if seen is not None:
                sizes[i] = rms(seen)
                # Of what s must balance, where s itself may be as large as it needs.
                largest[i] = sizes[i] if leaf.scaled else rms(seen - sample(leaf.s))
            samples.append(before)
        statistics = statistics.see_gradients(sizes, largest, count)
        first = cls(statistics, count, [], samples)
        # So that arrays are read before they are overwritten in place, not copied.
        barrier: Any = jax.lax.optimization_barrier
        result: Automatic = barrier(first._with_terms(leaves))
        return result

    def _with_terms(self, leaves: Sequence[Leaf]) -> "Automatic":
        averaging, steps = self.statistics.terms(self.count)
        largest = self.statistics.largest_gradient
        at = [leaf.group.at[0] for leaf in leaves]
        return self._replace(terms=[(averaging[i], steps[i], largest[i]) for i in at])

    def with_steps(self, leaves: Sequence[Leaf], u: Sequence[Any]) -> "Automatic":
        """With the steps of the leaves that are not `scaled`."""
        sizes: list[Any] = [None] * len(self.statistics.step)
        for leaf in leaves:
            here = leaf.group.join(u)
            if not leaf.scaled and not is_masked(here):
                sizes[leaf.group.at[0]] = rms(sample(here))
        if all(size is None for size in sizes):
            return self
        statistics = self.statistics.see_steps(sizes, self.count)
        new = self._replace(statistics=statistics)._with_terms(leaves)
        pairs = zip(leaves, self.terms, new.terms, strict=True)
        return new._replace(terms=[a if leaf.scaled else b for leaf, a, b in pairs])

    def threshold(self, i: int, leaf: Leaf) -> Any:
        """The threshold of a leaf: one for each strength, if it has many."""
        averaging, steps, largest = self.terms[i]
        dtype = jnp.finfo(leaf.start.dtype).dtype  # type: ignore[no-untyped-call]
        if leaf.scaled:
            noise = averaging.astype(dtype) * leaf.psi.leaf_noise_scale(leaf.start)
            t = noise + steps.astype(dtype) * leaf.strength
        else:
            if not leaf.psi.entrywise:
                averaging = averaging / COUPLED
            strength = leaf.psi.leaf_largest_subgradient()
            largest = jnp.maximum(largest, strength)
            t = averaging / jnp.where(largest > 0, largest, jnp.inf) + steps
        # Nothing is known before the first step.
        return jnp.where(t > 0, t, 1).astype(dtype)

    def after(
        self, leaves: Sequence[Leaf], moves: Sequence[Any], new: Sequence[Any]
    ) -> Statistics:
        """The statistics with the steps of the leaves that are `scaled`."""
        sizes: list[Any] = [None] * len(self.statistics.step)
        for i, leaf in enumerate(leaves):
            move = leaf.group.join(moves)
            if leaf.scaled and not is_masked(move):
                w, s, was = self.samples[i]
                # With w, as the caller adds it: the compiler then has this sum already.
                end = leaf.start + widen(move)
                t = self.threshold(i, leaf)
                t = t if t.ndim == 0 else sample(jnp.broadcast_to(t, leaf.w.shape))
                by_s = t * (sample(leaf.group.join(new)) - s)
                # Off the kink s follows from w, and all of the step is in w.
                by_s = jnp.where(was | kink_of_sample(leaf, end), by_s, 0)
                sizes[leaf.group.at[0]] = rms(sample(end) - w + by_s)
        return self.statistics.see_steps(sizes, self.count)


def averaged(before: Array, sizes: Sequence[Any]) -> Array:
    """The average with what is new; the first that is not 0 is taken whole."""
    if not sizes:
        return before
    new = stacked(sizes)
    return jnp.where(before > 0, DECAY * before + (1 - DECAY) * new, new)


def stacked(sizes: Sequence[Any]) -> Array:
    """The sizes in one array, 0 where there is none."""
    zero = jnp.float32(0)
    if not sizes:
        return jnp.zeros(0, jnp.float32)
    return jnp.stack([zero if size is None else size for size in sizes])


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


def rms(x: Array) -> Array:
    """The root mean square of the finite entries, a float32; 0 if there are none.

    Within `shard_map`, that over all shards.
    """
    size = jnp.abs(x)
    finite = jnp.isfinite(size)
    size = jnp.where(finite, size, 0)
    total, n = jnp.sum(size * size), jnp.sum(finite).astype(size.dtype)
    most = jnp.max(size, initial=0)
    axes = tuple(getattr(jax.typeof(x), "vma", ()))
    if axes:
        lax: Any = jax.lax
        total, n = lax.psum((total, n), axes)
        most = lax.pmax(most, axes)
    root = jnp.sqrt(total / jnp.maximum(n, 1))
    # Squares overflow, or are 0, long before their roots do.
    least = jnp.finfo(total.dtype).tiny * 1e4  # type: ignore[no-untyped-call]
    good = jnp.isfinite(total) & (total > least)
    return jnp.where(good, root, most).astype(jnp.float32)
