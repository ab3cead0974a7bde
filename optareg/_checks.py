"""Checks of numbers. Their errors say what was given and what is expected.

Only concrete values are checked. Values traced by `jit` or `vmap` pass.
"""

import numbers
from typing import Any

import jax
import numpy as np

__all__ = ["check_number", "is_number", "is_traced"]


def is_traced(x: Any) -> bool:
    """Whether the value of `x` is unknown until the compiled function runs."""
    return isinstance(x, jax.core.Tracer)


def is_number(x: Any) -> bool:
    """Whether `x` is a real scalar or an array of real numbers. A bool is not."""
    if isinstance(x, (jax.Array, np.ndarray, np.generic)):
        return bool(
            jax.numpy.issubdtype(x.dtype, np.floating)
            or jax.numpy.issubdtype(x.dtype, np.integer)
        )
    return isinstance(x, numbers.Real) and not isinstance(x, bool)


def check_number(
    x: Any, what: str, *, zero: bool = True, most: float = np.inf, scalar: bool = False
) -> None:
    """Raises unless `x` is finite, at most `most`, and at least 0 or above it."""
    if not is_number(x):
        raise TypeError(
            f"{what} must be a real number{'' if scalar else ' or an array of them'}, "
            f"got {x!r} of type {type(x).__name__}."
        )
    if scalar and np.ndim(x) != 0:
        raise ValueError(f"{what} must be a scalar, got an array of shape {x.shape}.")
    if is_traced(x):
        return
    values = np.asarray(x, dtype=np.float64)
    good = np.isfinite(values) & (values >= 0 if zero else values > 0)
    good &= values <= most
    if not good.all():
        raise ValueError(
            f"{what} must be finite and {'at least' if zero else 'above'} 0"
            f"{'' if most == np.inf else f' and at most {most}'}, "
            f"got {values[~good].flat[0]}."
        )
