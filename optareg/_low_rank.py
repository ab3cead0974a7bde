"""`low_rank`: a matrix of low rank as the product of two thin ones."""

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
      right: B, of shape (rank, n): A @ B is the matrix to rounding.
    """

    left: Array
    right: Array


def low_rank(matrix: Any, *, tolerance: float | None = None) -> LowRank:
    """The thin factors A, B of a matrix of low rank, with A @ B equal to it.

    A layer x @ W becomes (x @ A) @ B, of rank · (m + n) parameters for m · n, which
    saves work where rank < m n / (m + n). The square roots of the singular values are
    in both factors, so that both are of one size.

    Args:
      matrix: a concrete floating or complex array (m, n), a kernel trained with
        `NuclearNorm` for instance.
      tolerance: which singular values count as zero: those up to this share of the
        largest one. By default max(m, n) roundings of the dtype of the matrix, float32
        at least: the rounding of a prox, and of the sums before it.

    Returns:
      `LowRank(left, right)` in the dtype of the matrix, of the rank that the singular
      values show, 0 for a matrix of zeros.

    Raises:
      TypeError: the matrix is traced: its rank decides the shape of the factors.
      ValueError: it does not have two axes, or is not finite.

    >>> import jax.numpy as jnp
    >>> from optareg import low_rank
    >>> kernel = jnp.outer(jnp.arange(1.0, 5.0), jnp.ones(3))
    >>> factors = low_rank(kernel)
    >>> print(factors.left.shape, factors.right.shape)
    (4, 1) (1, 3)
    >>> bool(jnp.allclose(factors.left @ factors.right, kernel))
    True
    """
    if is_traced(matrix):
        raise TypeError(
            "`low_rank` needs a concrete matrix, but got a traced one: the rank decides"
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
        tolerance = max(w.shape) * max(epsilon(w.dtype), epsilon(wide.dtype))
    sizes = np.asarray(values)
    rank = int(np.sum(sizes > tolerance * sizes.max(initial=0)))
    root = jnp.sqrt(values[:rank]).astype(wide.dtype)
    left, right = u[:, :rank] * root, root[:, None] * vh[:rank]
    return LowRank(left.astype(w.dtype), right.astype(w.dtype))
