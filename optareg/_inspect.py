"""Looking at parameters: `sparsity` counts zeros, `summarize` makes a table."""

import dataclasses
import html
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optareg._checks import is_traced
from optareg._tree import Tree, is_masked, numbers_only, path_name, widen
from optareg.penalties._base import Penalty
from optareg.penalties._combinators import check_is_penalty

__all__ = ["LeafSummary", "Summary", "sparsity", "summarize"]

Array = jax.Array
PyTree = Any


def sparsity(params: PyTree, *, per_leaf: bool = False) -> Array | PyTree:
    """The share of exact zeros among all entries.

    Args:
      params: a tree of arrays of any shapes and dtypes. May be traced. PRNG keys and
        functions, as in `nnx.state(model)` or an Equinox module, are not counted.
      per_leaf: whether to return the share of each leaf.

    Returns:
      A float32 scalar from 0 to 1, or a tree of them with the structure of `params`.
      It has None for what is not counted. NaN where there are no entries.

    >>> import jax.numpy as jnp
    >>> from optareg import sparsity
    >>> params = {"w": jnp.array([0.0, 0.0, 0.0, 2.0]), "b": jnp.array([1.0, 1.0])}
    >>> print(sparsity(params))
    0.5
    >>> print(sparsity(params, per_leaf=True)["w"])
    0.75
    """

    def share(leaf: Any) -> Any:
        # The mean of an empty array is NaN too, but comes with a warning.
        return zeros(leaf) / jnp.float32(leaf.size) if not is_masked(leaf) else leaf

    def zeros(leaf: Array) -> Array:
        return jnp.sum(leaf == 0, dtype=jnp.float32)

    tree = Tree(numbers_only(params))
    if per_leaf:
        return tree.build(share(leaf) for leaf in tree.leaves)
    arrays = [leaf for leaf in tree.leaves if not is_masked(leaf)]
    total = sum((zeros(leaf) for leaf in arrays), start=jnp.float32(0))
    return total / jnp.float32(sum(leaf.size for leaf in arrays))


@dataclasses.dataclass(frozen=True)
class LeafSummary:
    """One row of a `Summary`.

    Attributes:
      path: the key path, as `jax.tree_util.keystr` writes it.
      shape: the shape of the leaf.
      dtype: the name of its dtype.
      size: the number of entries.
      zeros: the number of exact zeros.
      norm: the Euclidean norm.
      groups: the number of groups of the penalty. Those of joined leaves are counted at
        the first leaf. None if the penalty has no groups.
      zero_groups: the number of groups that are zero as a whole.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    size: int
    zeros: int
    norm: float
    groups: int | None = None
    zero_groups: int | None = None


@dataclasses.dataclass(frozen=True)
class Summary:
    """What `summarize` returns. It prints as a table, and is one in a notebook.

    Attributes:
      leaves: a `LeafSummary` for each leaf, in the order of `jax.tree.leaves`.
    """

    leaves: tuple[LeafSummary, ...]

    @property
    def total(self) -> LeafSummary:
        """All leaves together."""
        return LeafSummary(
            path="total",
            shape=(),
            dtype="",
            size=sum(leaf.size for leaf in self.leaves),
            zeros=sum(leaf.zeros for leaf in self.leaves),
            norm=float(np.sqrt(sum(leaf.norm**2 for leaf in self.leaves))),
            groups=total_of(leaf.groups for leaf in self.leaves),
            zero_groups=total_of(leaf.zero_groups for leaf in self.leaves),
        )

    def _rows(self) -> Iterator[tuple[str, ...]]:
        grouped = self.total.groups is not None
        heads = ("leaf", "shape", "dtype", "size", "zeros", "zeros %", "norm")
        yield heads + (("groups", "zero groups") if grouped else ())
        for row in (*self.leaves, self.total):
            shape = str(row.shape) if row.dtype else ""
            share = f"{100 * row.zeros / row.size:.1f}" if row.size else "-"
            counts = f"{row.size:,}", f"{row.zeros:,}", share
            groups = (row.groups, row.zero_groups) if grouped else ()
            cells = ["" if n is None else f"{n:,}" for n in groups]
            yield row.path, shape, row.dtype, *counts, f"{row.norm:.4g}", *cells

    def __str__(self) -> str:
        rows = list(self._rows())
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        left = 3  # So many columns are aligned to the left: names, not numbers.
        lines = [
            "  ".join(
                cell.ljust(width) if i < left else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        rule = "-" * max(map(len, lines))
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, *body = (
            "".join(f"<{{0}}>{html.escape(cell)}</{{0}}>" for cell in row)
            for row in self._rows()
        )
        lines = "".join(f"<tr>{row.format('td')}</tr>" for row in body)
        return (
            f"<table><thead><tr>{head.format('th')}</tr></thead>"
            f"<tbody>{lines}</tbody></table>"
        )


def total_of(counts: Iterable[int | None]) -> int | None:
    """The sum of the counts that are not None; None if all are."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def summarize(params: PyTree, penalty: Penalty | None = None) -> Summary:
    """A table of the parameters: a row for each leaf, and one for all of them.

    Args:
      params: a tree of concrete arrays of any shapes and dtypes. PRNG keys and
        functions are left out.
      penalty: a penalty on groups, if its zero groups are to be counted too.

    Returns:
      A `Summary`: its text is a table, and notebooks show it as HTML. `.leaves` and
      `.total` hold the numbers.

    Raises:
      TypeError: `params` is traced; use `sparsity` within `jit`. Or `penalty` is not a
        penalty.
      ValueError: `penalty` does not fit `params`.

    >>> import jax.numpy as jnp
    >>> from optareg import summarize
    >>> print(summarize({"w": jnp.array([0.0, 0.0, 0.0, 2.0]), "b": jnp.ones(1)}))
    leaf   shape  dtype    size  zeros  zeros %   norm
    --------------------------------------------------
    ['b']  (1,)   float32     1      0      0.0      1
    ['w']  (4,)   float32     4      3     75.0      2
    --------------------------------------------------
    total                     5      3     60.0  2.236
    """
    tree = Tree(numbers_only(params))
    if any(is_traced(leaf) for leaf in tree.leaves):
        raise TypeError(
            "`summarize` needs concrete parameters, but got traced ones. Call it "
            "outside of `jit` and `vmap`, or use `sparsity`."
        )
    groups: dict[int, tuple[int, int]] = {}
    if penalty is not None:
        check_is_penalty(penalty, "summarize")
        for param_group in penalty.resolve(tree):
            _, nonsmooth = param_group.penalty.split()
            if nonsmooth is not None and not param_group.penalty.entrywise:
                zeros = nonsmooth.leaf_zeros(widen(param_group.join(tree.leaves)))
                if zeros is not None:
                    groups[param_group.at[0]] = zeros.size, int(jnp.sum(zeros))
    return Summary(
        tuple(
            LeafSummary(
                path_name(path),
                leaf.shape,
                leaf.dtype.name,
                leaf.size,
                int(jnp.sum(leaf == 0)),
                float(jnp.linalg.norm(widen(leaf).ravel())),
                *groups.get(i, ()),
            )
            for i, (path, leaf) in enumerate(zip(tree.paths, tree.leaves, strict=True))
            if not is_masked(leaf)
        )
    )
