"""`Problem`: a loss, parameters and penalties as arrays, which the solver works on."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr

from optareg._checks import check_number
from optareg._precision import all_digits
from optareg._tree import Tree, epsilon, is_masked, path_name, widest
from optareg.penalties._base import ParamGroup, Penalty
from optareg.penalties._unpenalised import cover
from optareg.solve._solution import Outcome, Solution

__all__ = ["Loss", "Problem", "check_arguments", "check_precision"]

Array = jax.Array
PyTree = Any
Leaves = tuple[Array, ...]
Loss = Callable[[PyTree], Array]

# Numbers whose distances are larger are of half precision.
HALF = 1e-6
# Steps are counted in int32.
MOST_STEPS = 2**31 - 1


class Problem(NamedTuple):
    """What is minimised, seen as a tree by its user and as arrays by the solver.

    The solver calls the array of a parameter group a leaf.

    Attributes:
      tree: the parameters to start at.
      groups: the parameter groups, which cover the tree; each has entries.
      traced: the loss as a program of the leaves.
    """

    tree: Tree
    groups: tuple[ParamGroup, ...]
    traced: ClosedJaxpr

    @classmethod
    def of(cls, loss: Loss, tree: Tree, penalty: Penalty) -> Self:
        """Raises if the result of `loss` is no scalar, or there are no parameters."""
        groups = groups_of(penalty, tree)
        return cls(tree, groups, trace(loss, tree, groups))

    @property
    def penalties(self) -> tuple[Penalty, ...]:
        """The penalty of each leaf."""
        return tuple(group.penalty for group in self.groups)

    def penalties_of(self, penalty: Penalty) -> tuple[Penalty, ...]:
        """Those of another penalty, which differs in its strengths only."""
        return tuple(group.penalty for group in groups_of(penalty, self.tree))

    @property
    def start(self) -> Leaves:
        """The leaves to start at."""
        return arrays(self.tree, self.groups)

    @property
    def double(self) -> bool:
        """Whether the loss and all parameters have double precision."""
        leaves = [x.dtype for x in self.tree.leaves if not is_masked(x)]
        return max(map(epsilon, [self.traced.out_avals[0].dtype, *leaves])) < 1e-10

    @property
    def half(self) -> bool:
        """Whether some parameters have half precision."""
        return any(epsilon(x.dtype) > HALF for x in self.start)

    def program(self, consts: Any) -> ClosedJaxpr:
        """The loss as a program, of other data."""
        return ClosedJaxpr(self.traced.jaxpr, consts)

    def leaves(self, params: PyTree) -> Leaves:
        """The leaves of a tree as that given."""
        return arrays(Tree(params), self.groups)

    def params(self, leaves: Sequence[Array]) -> PyTree:
        """The tree of leaves."""
        return rebuild(self.tree, self.groups, leaves)

    def solution(self, outcome: Outcome, tol: Any) -> Solution:
        """What `outcome` is for the user."""
        return Solution(
            params=self.params(outcome.w),
            stationarity=outcome.stationarity,
            steps=outcome.steps,
            converged=outcome.reaches(tol),
        )


def arrays(tree: Tree, groups: Sequence[ParamGroup]) -> Leaves:
    """The arrays of the parameter groups, all of the precision of the widest."""
    leaves = [group.join(tree.leaves) for group in groups]
    wide = widest(*(x.real.dtype for x in leaves))
    return tuple(x.astype(widest(x.dtype, wide)) for x in leaves)


def rebuild(
    tree: Tree, groups: Sequence[ParamGroup], leaves: Sequence[Array]
) -> PyTree:
    """The tree with other arrays in its parameter groups, which cover it."""
    result = list(tree.leaves)
    for group, leaf in zip(groups, leaves, strict=True):
        dtype = tree.leaves[group.at[0]].dtype
        group.put(leaf.astype(dtype), result, tree.leaves)
    return tree.build(result)


def groups_of(penalty: Penalty, tree: Tree) -> tuple[ParamGroup, ...]:
    """The parameter groups with entries; raises if there are none."""
    groups = cover(penalty.resolve(tree), tree)
    result = tuple(group for group in groups if group.join(tree.leaves).size)
    if not result:
        raise ValueError("there is nothing to minimise over: `params` has no entries.")
    return result


@all_digits
def trace(loss: Loss, tree: Tree, groups: Sequence[ParamGroup]) -> ClosedJaxpr:
    """The loss as a program of these arrays; raises if its result is no scalar."""
    leaves = arrays(tree, groups)
    wide = widest(*(x.real.dtype for x in leaves))

    def of_leaves(*leaves: Array) -> Any:
        result = loss(rebuild(tree, groups, leaves))
        dtype = getattr(result, "dtype", None)
        # More digits than the leaves have say nothing.
        if dtype in (jnp.float32, jnp.float64) and epsilon(dtype) < epsilon(wide):
            return result.astype(wide)
        return result

    traced = jax.make_jaxpr(of_leaves)(*leaves)
    results = traced.out_avals
    if len(results) != 1 or results[0].shape != ():
        raise TypeError(
            "`loss` must return one scalar, got "
            f"{', '.join(map(str, results)) or 'nothing'}. Leave auxiliary results out."
        )
    if not jnp.issubdtype(results[0].dtype, jnp.floating):
        raise TypeError(f"`loss` must return a real scalar, got a {results[0].dtype}.")
    return traced


# Checks.


def check_arguments(
    loss: Any, params: PyTree, tol: Any, max_steps: Any, callback: Any = None
) -> Tree:
    """The tree of `params`; raises if an argument is of the wrong kind."""
    if not callable(loss):
        raise TypeError(
            f"`loss` must be a function of the parameters, got {loss!r}. "
            "Are the arguments swapped?"
        )
    if tol is not None:
        check_number(tol, "`tol`", scalar=True)
    check_number(max_steps, "`max_steps`", zero=False, most=MOST_STEPS, scalar=True)
    if not jnp.issubdtype(jnp.result_type(max_steps), jnp.integer):
        raise TypeError(f"`max_steps` must be an integer, got {max_steps!r}.")
    if callback is not None and not callable(callback):
        raise TypeError(
            "`callback` must be a function of steps, objective and stationarity, or "
            f"None, got {callback!r}."
        )
    tree = Tree(params)
    for path, leaf in zip(tree.paths, tree.leaves, strict=True):
        if not is_masked(leaf) and not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise TypeError(
                f"the leaf at {path_name(path)} has dtype {leaf.dtype}, but the loss "
                "is minimised over floating or complex leaves. Cast it, or close over "
                "it in `loss`."
            )
    return tree


def check_precision(tree: Tree) -> None:
    """Raises if a leaf has too few digits for a tolerance."""
    for path, leaf in zip(tree.paths, tree.leaves, strict=True):
        if not is_masked(leaf) and epsilon(leaf.dtype) > HALF:
            raise ValueError(
                f"the leaf at {path_name(path)} has dtype {leaf.dtype}, which has too "
                "few digits to solve to a tolerance. Cast it to float32, or give an "
                "`optimizer`."
            )
