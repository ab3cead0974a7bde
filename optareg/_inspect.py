"""Looking at parameters: `sparsity`, `stationarity`; `summarize` for people."""

import dataclasses
import functools
import html
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optareg._checks import is_traced
from optareg._tree import Tree, is_masked, numbers_only, path_name, widen, widest
from optareg.penalties._base import Penalty
from optareg.penalties._combinators import check_is_penalty
from optareg.penalties._unpenalised import cover

__all__ = ["LeafSummary", "Summary", "sparsity", "stationarity", "summarize"]

Array = jax.Array
PyTree = Any


def sparsity(params: PyTree, *, per_leaf: bool = False) -> Array | PyTree:
    """The share of exact zeros among all entries.

    Args:
      params: a tree of arrays of any shapes and dtypes. May be traced. PRNG keys and
        functions, as in `nnx.state(model)` or an Equinox module, are passed over.
      per_leaf: whether to give the share of each leaf on its own.

    Returns:
      A float32 scalar from 0 to 1, or a tree of them with the structure of `params`,
      and None for what is passed over. NaN where there are no entries.

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


def stationarity(penalty: Penalty, params: PyTree, grads: PyTree) -> Array:
    """How far parameters are from optimal: the distance of −∇L(w) from ∂R(w).

    For L1 that is |g + λ sign(w)| at a nonzero weight and max(|g| − λ, 0) at a zero
    one. Zero at the optimum of loss + penalty, and only there if both are convex; for
    others at every point with the optimality conditions to first order.

    Args:
      penalty: any penalty; at unpenalised parameters the distance is |g|.
      params: a tree of floating or complex arrays of any shapes. May be traced.
      grads: the gradient of the loss alone at `params`, as `jax.grad` gives it.

    Returns:
      A scalar, in float32 or wider: the largest distance over all entries, or groups
      for penalties on groups, in units of the loss per unit of weight. NaN if a
      gradient is NaN.

    Raises:
      TypeError: `penalty` is none, or a penalised leaf is not floating or complex.
      ValueError: `grads`, or a strength, mask or label does not fit `params`.

    >>> import jax.numpy as jnp
    >>> from optareg import L1, stationarity
    >>> w, grads = jnp.array([2.0, 0.0, 0.0]), jnp.array([-1.0, 0.9, 1.25])
    >>> print(stationarity(L1(1.0), w, grads))
    0.25

    Source: the KKT conditions, Rockafellar, Convex analysis (1970), theorem 27.4.
    """
    check_is_penalty(penalty, "stationarity")
    return greatest(residuals(penalty, params, grads))


def residuals(penalty: Penalty, params: PyTree, grads: PyTree) -> list[Array]:
    """What the optimality conditions lack, for each parameter group."""
    tree = Tree(params)
    g = tree.match(grads, "`grads`")
    param_groups = cover(penalty.resolve(tree), tree)
    columns = [(b.penalty, b.join(tree.leaves), b.join(g)) for b in param_groups]
    return [residual(*c) for c in columns if not is_masked(c[-1])]


def greatest(parts: Sequence[Array]) -> Array:
    """The largest entry of all, in float32 or wider; NaN if there is one."""
    dtype = widest(jnp.float32, *(part.dtype for part in parts))
    each = [jnp.max(part, initial=0).astype(dtype) for part in parts]
    return functools.reduce(jnp.maximum, each, jnp.zeros((), dtype))


def residual(penalty: Penalty, w: Array, g: Any) -> Array:
    """What the optimality conditions of one leaf lack."""
    if not jnp.issubdtype(w.dtype, jnp.inexact):
        return jnp.zeros((), jnp.float32)
    w, g = widen(w), jnp.conj(widen(jnp.asarray(g)))
    smooth, norm = penalty.split()
    if smooth is not None:
        g = g + smooth.leaf_gradient(w)
    return jnp.abs(g) if norm is None else norm.leaf_residual(w, g)


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
      groups: the number of groups of the penalty; of joined leaves, at the first. None
        without a penalty on groups.
      zero_groups: the number of those that are zero as a whole.
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
    """What `summarize` returns: prints as a table, shows as one in a notebook.

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
        left = 3  # The names are to the left, the numbers to the right.
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
    """The sum of what there is; None if nothing is."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def summarize(params: PyTree, penalty: Penalty | None = None) -> Summary:
    """A table of the parameters for people, a row for each leaf and one for all.

    Args:
      params: a tree of concrete arrays of any shapes and dtypes. PRNG keys and
        functions are passed over.
      penalty: a penalty on groups, to count its zero groups too.

    Returns:
      A `Summary`: its text is a table, and notebooks show it as HTML. `.leaves` and
      `.total` hold the numbers.

    Raises:
      TypeError: `params` is traced; use `sparsity` within `jit`. `penalty` is none.
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
            _, norm = param_group.penalty.split()
            if norm is not None and not param_group.penalty.entrywise:
                zeros = norm.leaf_zeros(widen(param_group.join(tree.leaves)))
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
