"""`all_digits`: a decorator that says how exactly products of matrices are computed.

By default GPUs and TPUs round the factors of float32 products to three digits, which
training stands. A solution or a matrix of low rank does not: it would be wrong by 1e-3,
and its residuals, computed so too, would not show it.
"""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

__all__ = ["all_digits"]

P = ParamSpec("P")
R = TypeVar("R")


def all_digits(f: Callable[P, R]) -> Callable[P, R]:
    """`f`, in which products of matrices have all digits of their dtype.

    Where a product asks for a precision of its own, that remains.
    """

    @functools.wraps(f)
    def exact(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.default_matmul_precision("highest"):
            return f(*args, **kwargs)

    return exact
