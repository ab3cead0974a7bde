"""`all_digits`: how exactly products of matrices are computed.

By default GPUs and TPUs round the factors of float32 products to three digits, which
training stands. A solution or a matrix of low rank does not: it would be wrong by 1e-3,
and its residuals, computed so too, would not show it.
"""

from typing import Any

import jax

__all__ = ["all_digits"]


def all_digits() -> Any:
    """A context in which products of matrices have all digits of their dtype.

    Where a product asks for a precision of its own, that remains.
    """
    return jax.default_matmul_precision("highest")
