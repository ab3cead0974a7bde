"""Which rows a working set has, and how many: `Sizes`, `choose`."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optareg.solve._composite import Composite
from optareg.solve._leaves import Leaves
from optareg.solve._products import Chosen

__all__ = ["Sizes", "apart", "choose", "in_order", "most_rows", "sizes_of"]

Array = jax.Array

# Sizes of working sets: of a fixed shape each, as compiled programs want. The next one
# is taken when a set is nearly full: the larger one costs as much more as it is larger.
SMALLEST, GROWTH = 72, 2
# So many of them share one program, in which all but the matrix is as large as the
# largest needs: compiling goes by the number of programs.
TOGETHER = 4
FULL = 7 / 8
# The largest set has half of the rows; a quarter, of matrices with more entries.
MANY_ENTRIES = 2**22


class Sizes(NamedTuple):
    """Sizes of working sets that share one program, rising.

    Attributes:
      some: numbers of rows.
      whole: whether all rows, as they are, follow as the last one.
    """

    some: tuple[int, ...]
    whole: bool

    @property
    def most(self) -> list[float]:
        """How many rows may be in use with each."""
        return [FULL * size for size in self.some] + [math.inf] * self.whole


def sizes_of(problem: Composite, w: Leaves) -> list[Sizes]:
    """The sizes of working sets, by programs that share them; at last all rows."""
    leaves = list(zip(blocks_of(problem, w), problem.loss.axes, w, strict=True))
    rows = [
        x.shape[axis]
        for blocks, axis, x in leaves
        if blocks is not None and axis is not None
    ]
    # A set is copied, and gathering it takes as much again.
    share = 4 if problem.loss.entries > MANY_ENTRIES else 2
    sizes, size = [], SMALLEST
    while rows and share * size <= max(rows):
        sizes.append(size)
        size *= GROWTH
    groups = [tuple(sizes[i : i + TOGETHER]) for i in range(0, len(sizes), TOGETHER)]
    programs = [Sizes(some, whole=False) for some in groups]
    contiguous = all(
        blocks is None or np.array_equal(blocks.ravel(), np.arange(blocks.size))
        for blocks, *_ in leaves
    )
    if programs and contiguous and len(programs[-1].some) < TOGETHER:
        return [*programs[:-1], programs[-1]._replace(whole=True)]
    return [*programs, Sizes((), whole=True)]


def apart(programs: list[Sizes]) -> list[Sizes]:
    """The same sizes, with a program of its own for all rows."""
    sets = [sizes._replace(whole=False) for sizes in programs if sizes.some]
    return [*sets, Sizes((), whole=True)]


def choose(
    problem: Composite, w: Leaves, g: Leaves, sizes: Sizes, which: Array
) -> tuple[list[Chosen | None], Array]:
    """The blocks that are not zero, and of the others those with most to gain.

    Also whether no others have anything to gain.
    """
    residuals = problem.unscaled(w).residuals(w, g)
    chosen: list[Chosen | None] = []
    complete = jnp.array(True)
    for axis, blocks, x, r in zip(
        problem.loss.axes, blocks_of(problem, w), w, residuals, strict=True
    ):
        if axis is None or blocks is None or x.shape[axis] <= sizes.some[-1]:
            chosen.append(None)
            continue
        score = jnp.where(in_blocks(x != 0, axis, blocks), jnp.inf, 0)
        score = jnp.maximum(score, in_blocks(r, axis, blocks))
        each, length = blocks.shape[1], x.shape[axis]
        numbers = [max(1, size // each) for size in sizes.some]
        _, rows = jax.lax.top_k(score.astype(jnp.float32), numbers[-1])
        numbers += [len(score)] * sizes.whole
        number = jnp.array(numbers)[which]
        rows = in_order(rows, number, len(score))
        if each > 1:
            rows = jnp.asarray(blocks)[rows].ravel()
        if sizes.whole:
            all_rows = jnp.arange(length, dtype=rows.dtype)
            rows = jnp.append(rows, length + all_rows[len(rows) :])
            rows = jnp.where(which < len(sizes.some), rows, all_rows)
        counts, filled = tuple(n * each for n in numbers), blocks.size > length
        chosen.append(Chosen(rows, axis, counts, which, filled, sizes.whole))
        complete &= jnp.sum(score > 0) <= number
    return chosen, complete


def in_order(rows: Array, number: Array, most: int) -> Array:
    """The first so many in their order, which is faster to gather; then the others."""
    last = jnp.arange(len(rows)) >= number
    return jnp.sort(rows + jnp.where(last, most, 0).astype(rows.dtype)) % most


def blocks_of(problem: Composite, w: Leaves) -> list[np.ndarray | None]:
    """For each leaf the rows that are chosen together; None where all of them matter.

    Where a penalty has kinks, blocks at zero may stay there and be left alone.
    """
    rows = zip(problem.penalties, problem.norms, problem.loss.axes, w, strict=True)
    return [
        None if axis is None or norm is None else p.leaf_blocks(axis, x.shape)
        for p, norm, axis, x in rows
    ]


def in_blocks(x: Array, axis: int, blocks: np.ndarray) -> Array:
    """The largest entry in each block of rows."""
    of_rows = jnp.max(x, tuple(i for i in range(x.ndim) if i != axis))
    if blocks.shape[1] == 1:
        return of_rows
    of_blocks = jnp.take(of_rows, blocks, mode="fill", fill_value=0)
    return jnp.max(of_blocks, axis=1)


def most_rows(problem: Composite, matters: Leaves) -> Array:
    """The largest number of rows in blocks where an entry is true."""
    rows = zip(problem.loss.axes, blocks_of(problem, matters), matters, strict=True)
    counts = [
        blocks.shape[1] * jnp.sum(in_blocks(m, axis, blocks))
        for axis, blocks, m in rows
        if axis is not None and blocks is not None
    ]
    return jnp.max(jnp.stack(counts))
