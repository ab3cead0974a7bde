"""The penalties under test with naive references, and Hypothesis strategies."""

from collections.abc import Callable
from typing import NamedTuple

import hypothesis.extra.numpy
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np

from optareg import L1, L2, ElasticNet, Penalty


class Case(NamedTuple):
    """A penalty and its definition, written down a second time in plain NumPy.

    Attributes:
      penalty: the penalty under test.
      value: R(x) for one coordinate, elementwise.
      is_smooth: whether it has a gradient everywhere and so gives no zeros.
    """

    penalty: Penalty
    value: Callable[[np.ndarray], np.ndarray]
    is_smooth: bool = False


CASES = {
    "L1": Case(L1(0.7), lambda x: 0.7 * np.abs(x)),
    "L1-of-0": Case(L1(0.0), lambda x: 0 * np.abs(x), is_smooth=True),
    "L2": Case(L2(0.4), lambda x: 0.4 * np.abs(x) ** 2, is_smooth=True),
    "ElasticNet": Case(
        ElasticNet(0.5, 0.3), lambda x: 0.5 * np.abs(x) + 0.3 * np.abs(x) ** 2
    ),
    "ElasticNet-without-l1": Case(
        ElasticNet(0.0, 0.3), lambda x: 0.3 * np.abs(x) ** 2, is_smooth=True
    ),
    "ElasticNet-without-l2": Case(ElasticNet(0.5, 0.0), lambda x: 0.5 * np.abs(x)),
}

# Of a fixed shape, so that nothing is compiled anew; with the places where it matters.
coordinates = st.one_of(
    st.sampled_from([0.0, -0.0, 0.7, -0.7, 1e-300, 1e8]),
    st.floats(-10, 10, allow_subnormal=False),
)
vectors = hypothesis.extra.numpy.arrays(np.float64, (6,), elements=coordinates)
steps = st.floats(0, 5, allow_subnormal=False)


def numerical_prox(case: Case, w: np.ndarray, step: float) -> np.ndarray:
    """argmin_x ½(x − w)² + step · R(x), coordinate by coordinate, by golden section."""
    low, high = np.minimum(w, 0), np.maximum(w, 0)

    def objective(x: np.ndarray) -> np.ndarray:
        return 0.5 * (x - w) ** 2 + step * case.value(x)

    ratio = (np.sqrt(5) - 1) / 2
    for _ in range(100):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        left = objective(a) < objective(b)
        low, high = np.where(left, low, a), np.where(left, b, high)
    middle = (low + high) / 2
    # Objectives that differ by their rounding only are equal; then zero is meant.
    zero_is_best = objective(np.zeros_like(w)) <= objective(middle) * (1 + 1e-14)
    return np.where(zero_is_best, 0, middle)


def total_objective(case: Case, x: np.ndarray, w: np.ndarray, step: float) -> float:
    """½‖x − w‖² + step · R(x), the one that the prox minimises."""
    return float(np.sum(0.5 * (x - w) ** 2 + step * case.value(x)))


def prox(case: Case, w: np.ndarray, step: float) -> np.ndarray:
    """The prox under test, as a NumPy array."""
    return np.asarray(case.penalty.prox(jnp.asarray(w), step))
