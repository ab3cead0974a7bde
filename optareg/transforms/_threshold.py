"""The threshold t of `proximal`, found leaf by leaf from sizes of steps and gradients.

With r_u and r_h the root mean squares of the optimizer's step and of what it saw, each
an average over about ten steps, and their forgetting maxima M and G::

    M_k = max(r_u, M_{k−1} k/(k+1))
    t_k = 3 √min(k, 30,000) M_k + 2 λ r_u / r_h          for λψ, in units of the weights
    t_k = 3 √min(k, 30,000) M_k / max(λ, G_k) + 2 r_u / r_h      for other penalties

G is that of h − s there, and 3 is 1 where such a penalty couples entries. For groups
the first term is multiplied by √size over the weight of a group. The first rule takes
the sizes of the steps before this one, the second those of this one too: what is new
there may have no bound.

The second term is the optimizer's own step size times the strength, as in proximal
gradient descent. The first averages the noise of gradients over ever more steps, as
dual averaging does. Both are measured, not proven: `python benchmarks/threshold`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optareg._checks import is_traced
from optareg._tree import is_masked, real, widen
from optareg.transforms._leaf import Leaf
from optareg.transforms._samples import samples_after, samples_before, seen_of
from optareg.transforms._statistics import (
    SAMPLE,
    Statistics,
    alike,
    apart,
    barrier,
    sample,
    sums,
    together,
)

__all__ = ["LEAST", "Automatic", "Given"]

Array = jax.Array

AVERAGING, STEPS = 3.0, 2.0
# The least threshold: what is smaller, 0 or subnormal, could not be divided by.
LEAST = 1e-30
# What couples entries without a bound on s has a shorter average.
COUPLED = 3.0
# A longer average has no fewer zeros that flip, and takes longer to forget: after
# 60,000 steps a changed problem is found again in 2/3 of the steps with this bound.
LONGEST = 30_000


class Given(NamedTuple):
    """The threshold of all leaves, as it was given."""

    t: Any

    def with_steps(self, u: Sequence[Any]) -> "Given":
        """It is the same, whatever the steps."""
        del u
        return self

    def threshold(self, i: int, leaf: Leaf) -> Any:
        """The threshold of a leaf."""
        del i
        return real(self.t, leaf.start)

    def after(self, moves: Any, new: Any) -> tuple[()]:
        """No statistics."""
        del moves, new
        return ()


class Automatic(NamedTuple):
    """The thresholds found so far within an update.

    Of `scaled` penalties, what a step shows is seen after the update and serves the
    next one: its steps follow from w + ts of a sample, before and after. Then the
    compiled update reads and writes as much as with a given threshold. (A sample of u
    would make it compute u twice.) Of other penalties, whose subgradient has no bound,
    it is seen before, and serves at once.

    Attributes:
      statistics: of the steps before this one, and of this one where it was seen.
      count: the number of updates so far.
      leaves: the parameter groups with a nonsmooth penalty.
      thresholds: t for each of `leaves`; None where it is not known yet.
      kinds: which of `leaves` are alike, of those that are `scaled`.
      samples: for each kind, samples of its leaves before the update.
      gradients: h for each of `leaves`.
    """

    statistics: Statistics
    count: Array  # type: ignore[assignment]
    leaves: Sequence[Leaf]
    thresholds: list[Any]
    kinds: list[list[int]]
    samples: list[Any]
    gradients: list[Any]

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
        joined = [leaf.group.join(h) for leaf in leaves]
        few = {
            i: samples_before(leaf, leaf.group.join(g), joined[i])
            for i, leaf in enumerate(leaves)
            if leaf.scaled and not is_masked(joined[i])
        }
        kinds = alike(few)
        small = [len(at) > 1 and needs_no_wait(leaves[at[0]]) for at in kinds]
        samples, count = together([[few[i] for i in at] for at in kinds], count, small)
        # What t follows from waits for the samples, so that arrays are read before they
        # are overwritten in place, not copied.
        samples, statistics = barrier((samples, statistics))
        nothing = [None] * len(leaves)
        first = cls(statistics, count, leaves, nothing, kinds, samples, joined)
        return first._find(scaled=True)

    def _find(self, scaled: bool) -> "Automatic":
        """With t of the leaves that are `scaled`, or of those that are not."""
        at = [i for i, leaf in enumerate(self.leaves) if leaf.scaled == scaled]
        if not at:
            return self
        rule = of_scaled if scaled else of_others
        leaves = [self.leaves[i] for i in at]
        result = list(self.thresholds)
        found = thresholds(rule, self.statistics, self.count, leaves)
        for i, t in zip(at, found, strict=True):
            result[i] = t
        return self._replace(thresholds=result)

    def with_steps(self, u: Sequence[Any]) -> "Automatic":
        """With the steps of the leaves that are not `scaled`."""
        seen = []
        for leaf, h in zip(self.leaves, self.gradients, strict=True):
            here = leaf.group.join(u)
            if not (leaf.scaled or is_masked(h) or is_masked(here)):
                few = sample(h)
                arrays = few, sample(here), few - sample(leaf.s)
                seen.append((leaf.group.at[:1], sums(*arrays)[None]))
        statistics = self.statistics.see(seen, self.count)
        new = self._replace(statistics=statistics)
        return new._find(scaled=False)

    def threshold(self, i: int, leaf: Leaf) -> Any:
        """The threshold of a leaf: one for each strength, if it has many."""
        return self.thresholds[i].astype(leaf.start.real.dtype)

    def after(self, moves: Sequence[Any], new: Sequence[Any]) -> Statistics:
        """The statistics with what was seen of the leaves that are `scaled`."""

        def after_of(i: int) -> Any:
            leaf = self.leaves[i]
            move = leaf.group.join(moves)
            half = leaf.start.dtype != leaf.w.dtype
            end = leaf.w if half else leaf.start
            if not is_masked(move):
                # With w, as the caller adds it: the compiler then has this sum already.
                end = (end + move).astype(end.dtype) if half else end + widen(move)
            return samples_after(
                leaf, end, leaf.group.join(new), self.threshold(i, leaf)
            )

        seen = []
        afters = [[after_of(i) for i in at] for at in self.kinds]
        thens, _ = together(afters, self.count, [False] * len(afters))
        for at, samples, then in zip(self.kinds, self.samples, thens, strict=True):
            rows = seen_of(self.leaves[at[0]])(samples, then)
            seen.append(([self.leaves[i].group.at[0] for i in at], rows))
        return self.statistics.see(seen, self.count)


def needs_no_wait(leaf: Leaf) -> bool:
    """Whether leaves like this one are copied anyway: small ones with an entrywise R.

    Not those of groups, of which s would be copied for the sample alone.
    """
    return leaf.w.size <= SAMPLE and leaf.psi.entrywise


def of_scaled(
    averaging: Any, steps: Any, largest: Any, noise: Any, strength: Any
) -> Any:
    """The threshold of penalties that are `scaled`."""
    del largest
    return averaging * noise + steps * strength


def of_others(
    averaging: Any, steps: Any, largest: Any, shorter: Any, least: Any
) -> Any:
    """The threshold of other penalties."""
    largest = jnp.maximum(largest, least)
    return averaging / jnp.where(largest > 0, shorter * largest, jnp.inf) + steps


def factors_of(leaf: Leaf) -> tuple[Any, Any]:
    """What the rule needs to know of a leaf; numbers, or one for each entry."""
    if leaf.scaled:
        return leaf.psi.leaf_noise_scale(leaf.start), leaf.strength
    shorter = 1.0 if leaf.psi.entrywise else COUPLED
    return shorter, leaf.psi.leaf_largest_subgradient()


def thresholds(
    rule: Callable[..., Any],
    statistics: Statistics,
    count: Array,
    leaves: Sequence[Leaf],
) -> list[Array]:
    """The threshold of each leaf: one for each strength, if it has many."""
    terms = terms_of(statistics, count, tuple(leaf.group.at[0] for leaf in leaves))
    factors = [factors_of(leaf) for leaf in leaves]
    # What is one number is computed for all leaves at once, what has entries for each.
    alone = [i for i, (a, b) in enumerate(factors) if np.ndim(a) or np.ndim(b)]
    single = [(0.0, 0.0) if i in alone else ab for i, ab in enumerate(factors)]
    columns = [as_array(column) for column in zip(*single, strict=True)]
    n, here = len(leaves), np.array(alone, int)
    numbers = [known_or_one(rule(*terms, *columns))]
    if alone:
        numbers += [x[here] for x in terms]
    result = apart(jnp.concatenate(numbers), count)
    for j, i in enumerate(alone):
        terms_here = result[n + j :: len(alone)]
        result[i] = known_or_one(rule(*terms_here, *factors[i]))
    return result[:n]


def as_array(numbers: Sequence[Any]) -> Any:
    """Numbers as one array; known ones need no code."""
    if any(map(is_traced, numbers)):
        return jnp.stack([jnp.asarray(x, jnp.float32) for x in numbers])
    return np.array(numbers, np.float32)


@functools.partial(jax.jit, inline=True, static_argnames="at")
def terms_of(
    statistics: Statistics, count: Array, at: tuple[int, ...]
) -> tuple[Array, Array, Array]:
    """3 √k M, 2 r_u / r_h and G of the leaves `at`."""
    step, gradient, largest_step, largest = (x[np.array(at)] for x in statistics)
    k = jnp.minimum(count.astype(jnp.float32) + 1, LONGEST)
    averaging = AVERAGING * jnp.sqrt(k) * largest_step
    # In parts of the larger one, so that a quotient overflows only if it must.
    steps = STEPS * (step / jnp.where(gradient > 0, gradient, jnp.inf))
    return averaging, steps, largest


def known_or_one(t: Any) -> Any:
    """One before the first step, when nothing is known; else 1/t is a number too."""
    return jnp.where(t > 0, jnp.maximum(t, LEAST), 1)
