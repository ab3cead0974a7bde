"""`low_rank`: a matrix of low rank as the product of two thin matrices."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optareg._checks import check_number, is_traced
from optareg._tree import epsilon, widen

__all__ = ["LowRank", "low_rank"]

Array = jax.Array


class LowRank(NamedTuple):
    """Two thin factors, as `low_rank` returns them.

    Attributes:
      left: A, of shape (m, rank).
      right: B, of shape (rank, n). A @ B is the matrix to rounding.
    """

    left: Array
    right: Array


def low_rank(matrix: Any, *, tolerance: float | None = None) -> LowRank:
    """Two thin factors A, B of a matrix of low rank, with A @ B equal to it.

    A layer x @ W becomes (x @ A) @ B. It has rank · (m + n) parameters in place of
    m · n. That is less work if rank < m n / (m + n). Each factor has the square roots
    of the singular values, so both have the same scale.

    Args:
      matrix: a concrete floating or complex array (m, n), for instance a kernel that
        was trained with `NuclearNorm`.
      tolerance: singular values count as zero up to this share of the largest one. By
        default it is max(m, n) times the epsilon of the dtype of the matrix. This
        covers the rounding of a prox.

    Returns:
      `LowRank(left, right)` in the dtype of the matrix. The rank is the number of
      singular values above the tolerance; it is 0 for a matrix of zeros.

    Raises:
      TypeError: the matrix is traced (its rank decides the shape of the factors), or it
        is not floating or complex.
      ValueError: it does not have two axes, or is not finite.

    >>> import jax.numpy as jnp
    >>> from optareg import low_rank
    >>> kernel = jnp.outer(jnp.arange(1.0, 5.0), jnp.ones(3))
    >>> factors = low_rank(kernel)
    >>> print(factors.left.shape, factors.right.shape)
    (4, 1) (1, 3)
    >>> bool(jnp.allclose(factors.left @ factors.right, kernel))
    True

    Source: Eckart & Young, The approximation of one matrix by another of lower rank
    (1936).
    """
    if is_traced(matrix):
        raise TypeError(
            "`low_rank` needs a concrete matrix, but got a traced one. The rank decides"
            " the shape of the factors. Call it outside of `jit` and `vmap`."
        )
    if tolerance is not None:
        check_number(tolerance, "`tolerance`", most=1, scalar=True)
    w = jnp.asarray(matrix)
    if w.ndim != 2:
        raise ValueError(
            f"`low_rank` needs a matrix, got an array of shape {w.shape}. Reshape it, "
            "or call it for each matrix."
        )
    if not jnp.issubdtype(w.dtype, jnp.inexact):
        raise TypeError(
            f"`low_rank` needs a floating or complex matrix, got dtype {w.dtype}."
        )
    wide = widen(w)
    if not bool(jnp.all(jnp.isfinite(wide))):
        raise ValueError("`low_rank` needs a finite matrix, got NaN or infinity in it.")
    u, values, vh = jnp.linalg.svd(wide, full_matrices=False)
    if tolerance is None:
        tolerance = max(w.shape) * epsilon(w.dtype)
    sizes = np.asarray(values)
    rank = int(np.sum(sizes > tolerance * sizes.max(initial=0)))
    root = jnp.sqrt(values[:rank]).astype(wide.dtype)
    left, right = u[:, :rank] * root[None], root[:, None] * vh[:rank]
    return LowRank(left.astype(w.dtype), right.astype(w.dtype))
