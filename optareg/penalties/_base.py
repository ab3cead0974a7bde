"""`Penalty`: the contract between a penalty and all that applies it.

A penalty class states its formulas for one leaf. It must write `leaf_value` and
`leaf_prox`. Everything else is a refinement, and has a fallback that is right for every
penalty. `_lifting` makes formulas for whole trees from those for one leaf.
"""

from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from optareg._tree import Tree
from optareg.penalties import _fallbacks, _lifting
from optareg.penalties._param_group import ParamGroup, in_param_groups
from optareg.penalties._register import (
    Registered,
    check_strengths,
    data,
    map_strengths,
    register_penalty,
    static,
    strength_fields,
)

__all__ = [
    "ParamGroup",
    "Penalty",
    "check_strengths",
    "data",
    "in_param_groups",
    "map_strengths",
    "register_penalty",
    "static",
    "strength_fields",
]

Array = jax.Array
PyTree = Any


class Penalty(Registered):
    """A penalty R on a tree of parameters.

    Subclasses are decorated with `register_penalty`. Their fields are strengths:
    scalars, or prefix trees of the parameters.

    The `leaf_…` methods get one leaf w, in float32 or wider. There a strength is an
    array that broadcasts against w. The gradient g of the loss, a subgradient s of R
    and an update u are shaped as w.
    """

    # What an author must write.

    def leaf_value(self, w: Array) -> Array:
        """R(w), a scalar."""
        raise NotImplementedError(_fallbacks.missing(self, "leaf_value"))

    def leaf_prox(self, w: Array, step: Array) -> Array:
        """argmin_x ½‖x − w‖² + step · R(x), shaped as w.

        `step` is not negative. It broadcasts against w, and is the same for all entries
        that R couples.
        """
        raise NotImplementedError(_fallbacks.missing(self, "leaf_prox"))

    # What an author may say of R. The defaults claim nothing.

    # Whether R is `strength` times a ψ without a strength. Then the threshold of
    # `proximal` is in units of the weights, and a strength of 0 is no penalty.
    scaled: ClassVar[bool] = False
    # Whether R is a sum over entries. Then a solver may work on some of them alone.
    entrywise: ClassVar[bool] = False
    # Whether R is convex. Then the optimum does not depend on where a solver starts.
    convex: ClassVar[bool] = True

    def weak_convexity(self) -> Any:
        """A ρ ≥ 0 for which R + ½ρ‖w‖² is convex.

        It must be said if R is not convex, and `split` does not make it so.
        """
        if self.convex:
            return 0.0
        raise NotImplementedError(
            f"{type(self).__name__} is not convex: it must either have a `split` with a"
            " convex second part, or say its `weak_convexity()`."
        )

    def split(self) -> "tuple[Penalty | None, Penalty | None]":
        """R as a smooth part, used by its gradient, plus a part used by its prox.

        None stands for 0. A smooth part needs no state in `proximal`. A concave part
        that is smooth belongs there: the rest may then be convex.
        Fallback: R has no smooth part.
        """
        return None, self

    def at_leaf(self, leaf: Array, path: tuple[Any, ...]) -> Self:
        """This penalty for one leaf. Raises, naming the leaf, if it does not fit.

        Fallback: it fits every leaf.
        """
        del path
        return self

    # Refinements for the gradient, `stationarity` and the solvers.

    def leaf_gradient(self, w: Array) -> Array:
        """The gradient of R at w; at a kink, the subgradient nearest to 0.

        Fallback: the automatic derivative of `leaf_value`.
        """
        return _fallbacks.gradient(self.leaf_value, w)

    def leaf_nearest_subgradient(self, w: Array, g: Array) -> Array:
        """The projection of −g onto ∂R(w).

        Fallback: a small proximal step, which has half of the digits.
        """
        return _fallbacks.nearest_subgradient(self, w, g)

    def leaf_residual(self, w: Array, g: Array) -> Array:
        """The optimality residual: how far −g is from ∂R(w), for each entry or group.

        It should be ∞ where R(w) is. Fallback: |g + s|, with the nearest subgradient s.
        """
        return jnp.abs(g + self.leaf_nearest_subgradient(w, g))

    def leaf_dual_norm(self, g: Array) -> Array:
        """The least c ≥ 0 with −g in c ∂R(`leaf_center`); ∞ if there is none.

        Fallback: bisection, for a `leaf_center` of zero.
        """
        return _fallbacks.dual_norm(self.leaf_prox, g)

    def leaf_conjugate_prox(self, w: Array, step: Any) -> Array:
        """The prox of the conjugate of step · R, which is w − prox(w) (Moreau).

        Fallback: this difference, which may have fewer digits.
        """
        return w - self.leaf_prox(w, step)

    def leaf_group_max(self, x: Array) -> Array:
        """For each entry of x ≥ 0, the largest one of those that R couples it to.

        Fallback: x itself if R is `entrywise`, else one scalar for all entries.
        """
        return x if self.entrywise else jnp.max(x, initial=0)

    # Refinements for counting zeros: `target_sparsity`, `max_strength`, `summarize`.

    def leaf_zeros(self, w: Array) -> Array | None:
        """What counts as zero: a bool for each entry or group.

        None if R makes no zeros to count. Fallback: `leaf_kink`.
        """
        return self.leaf_kink(w)

    def leaf_center(self, w: Array) -> Array:
        """The point, shaped as w, at which everything counts as zero. Fallback: 0."""
        return jnp.zeros_like(w)

    # Refinements for `proximal`, which tracks a subgradient s of R and a threshold t.

    def leaf_kink(self, w: Array) -> Array | None:
        """Where ∂R(w) may have more than one member, bools shaped as w.

        Elsewhere `proximal` computes s from w. Then half precision keeps more digits.
        Fallback: None, by which s is stored for all entries.
        """
        del w
        return None

    # These two are needed with a `leaf_kink` only.

    def leaf_subgradient(self, w: Array, at_kink: Array) -> Array:
        """A member of ∂R(w): where there are several, the one nearest to `at_kink`."""
        del w
        return at_kink

    def leaf_project_dual(self, s: Array) -> Array:
        """The projection of s onto ∂R at its kink: for a norm, onto its dual ball."""
        return s

    # These are needed with or without it.

    def leaf_project_domain(self, w: Array) -> Array:
        """The projection of w onto the set where R is finite.

        Fallback: w itself, as R is finite everywhere.
        """
        return w

    def leaf_move(self, w: Array, s: Array, u: Array, t: Any) -> tuple[Array, Array]:
        """(w' − w, s') of z = w + ts + u, w' = prox_tR(z) and s' = (z − w')/t.

        Fallback: these formulas. The sum z loses the digits of w below those of ts. A
        refinement keeps them: it returns u where w stays off its kink.
        """
        z = w + t * s + u
        new = self.leaf_prox(z, t)
        return new - w, (z - new) / t

    def leaf_noise_scale(self, w: Array) -> Any:
        """A factor of the noise term of t: √n / weight for a group of n entries.

        It is used for `scaled` penalties. Fallback: 1.
        """
        del w
        return 1.0

    def leaf_largest_subgradient(self) -> Any:
        """A bound of ∂R off zero, used if R is not `scaled`. Fallback: 0."""
        return 0.0

    # What follows from the above. Combinators refine it.

    def split_strength(self) -> "tuple[Any, Penalty]":
        """λ and ψ with R = λψ; 1 and R if it is not `scaled`."""
        if not self.scaled:
            return np.float32(1), self
        strength: Any = getattr(self, "strength")  # noqa: B009
        return strength, self.replace(strength=np.ones((), strength.dtype))

    def leaf_blocks(self, axis: int, shape: tuple[int, ...]) -> np.ndarray | None:
        """Rows along an axis that R couples with no others, shape (blocks, rows each).

        Filled up with rows past the last. Fallback: each row if `entrywise`, else None.
        """
        return np.arange(shape[axis])[:, None] if self.entrywise else None

    def take(self, rows: Array, axis: int, like: Array) -> Self:
        """This penalty of one leaf, shaped `like`, for some of its blocks of rows."""
        result: Self = _lifting.take(self, rows, axis, like)
        return result

    def resolve(self, tree: Tree) -> list[ParamGroup]:
        """This penalty for each parameter group of `tree` that it penalises."""
        return _lifting.resolve(self, tree)

    # Marks the end of a penalty's own methods.
    is_contract: ClassVar[bool] = True

    # What users call: whole trees.

    def value(self, params: PyTree) -> Array:
        """R(params).

        Args:
          params: a tree of floating or complex arrays of any shapes.

        Returns:
          A scalar, in float32 or wider. Its `jax.grad` is `gradient(params)`, at zero
          too (for complex leaves: its conjugate, as everywhere in JAX).

        Raises:
          TypeError: a penalised leaf is not floating or complex.
          ValueError: the structure or shape of a strength, mask or label does not fit.
        """
        return _lifting.value(self, params)

    def gradient(self, params: PyTree) -> PyTree:
        """The gradient of R at `params`; where R has a kink, the subgradient 0.

        Args:
          params: a tree of floating or complex arrays of any shapes.

        Returns:
          A tree with the shapes and dtypes of `params`; zeros at unpenalised leaves.

        Raises:
          TypeError, ValueError: as for `value`.
        """
        return _lifting.gradient(self, params)

    def prox(self, params: PyTree, step: Any) -> PyTree:
        """The proximal point: argmin_x ½‖x − params‖² + step · R(x).

        Args:
          params: a tree of floating or complex arrays of any shapes.
          step: a finite scalar, not negative; usually the learning rate.

        Returns:
          A tree with the shapes and dtypes of `params`, with exact zeros where R is
          nonsmooth. NaN stays NaN.

        Raises:
          TypeError, ValueError: as for `value`, or `step` is not such a scalar.
        """
        return _lifting.prox(self, params, step)

    def __add__(self, other: Any) -> Any:
        """Raises: there is another way to do what is meant."""
        raise TypeError(
            "penalties are not added with `+`: use `partition` for other leaves, "
            "`ElasticNet` for L1 + L2, `SparseGroupLasso` for L1 + groups."
        )

    __radd__ = __add__
