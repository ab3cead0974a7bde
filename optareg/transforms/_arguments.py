"""What the transformations share: arguments that may be schedules, and their checks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optareg._checks import check_number, is_number
from optareg._tree import Tree, is_state
from optareg.penalties._base import ParamGroup, Penalty
from optareg.penalties._combinators import check_is_penalty

__all__ = [
    "PenaltyOrSchedule",
    "ScalarOrSchedule",
    "ScheduleState",
    "check_no_line_search",
    "check_optimizer",
    "check_penalty",
    "check_scalar",
    "concrete",
    "first_count",
    "initial_state",
    "need_params",
    "penalty_at",
    "next_state",
    "resolve_at",
    "scalar_at",
]

Array = jax.Array
PenaltyOrSchedule = Penalty | Callable[[Array], Penalty]
ScalarOrSchedule = float | Array | Callable[[Array], Any]


class ScheduleState(NamedTuple):
    """State of a transformation whose only memory is its schedules'.

    Attributes:
      count: the number of updates so far, an int32 scalar.
    """

    count: Array  # type: ignore[assignment]


def initial_state(*arguments: Any) -> optax.OptState:
    """A count if any of `arguments` is a schedule, else no state."""
    if any(callable(x) for x in arguments):
        return ScheduleState(first_count())
    return optax.EmptyState()


def first_count() -> Array:
    """The count before the first update."""
    return jnp.zeros((), jnp.int32)


def next_state(state: optax.OptState) -> tuple[Any, optax.OptState]:
    """The count to evaluate schedules at, the old one, and the state after."""
    if isinstance(state, ScheduleState):
        return state.count, ScheduleState(optax.safe_increment(state.count))
    return None, state


def resolve_at(
    penalty: PenaltyOrSchedule, count: Any, tree: Tree, where: str
) -> list[ParamGroup]:
    """What is penalised at step `count`."""
    return penalty_at(penalty, count, where).resolve(tree)


def penalty_at(penalty: PenaltyOrSchedule, count: Any, where: str) -> Penalty:
    """The penalty at step `count`."""
    if not isinstance(penalty, Penalty):
        penalty = penalty(count)
        if is_number(penalty):
            raise TypeError(
                f"`{where}` with a penalty schedule `step -> penalty` got the number "
                f"{penalty!r} from it. Put it into a penalty, as in "
                "`lambda step: L1(schedule(step))`."
            )
        check_is_penalty(penalty, f"{where}` with a penalty schedule `step -> penalty")
    return penalty


def scalar_at(x: ScalarOrSchedule, count: Any, what: str) -> Any:
    """The scalar at step `count`; what a schedule gave is checked, and may be 0."""
    if callable(x):
        x = x(count)
        check_number(x, f"{what} at step {count}", scalar=True)
    return x


def concrete(params: Any) -> Any:
    """Zeros for abstract parameters, which `init` takes as Optax's optimizers do."""

    def of_leaf(x: Any) -> Any:
        abstract = isinstance(x, jax.ShapeDtypeStruct)
        return jnp.zeros(x.shape, x.dtype) if abstract else x

    return jax.tree.map(of_leaf, params)


def check_no_line_search(state: Any, where: str) -> None:
    """Raises if the optimizer with this state searches along a line."""
    kinds = (
        optax.ScaleByZoomLinesearchState,
        optax.ScaleByBacktrackingLinesearchState,
    )
    leaves = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, kinds))
    if any(isinstance(x, kinds) for x in leaves):
        raise TypeError(
            f"`{where}` got an optimizer with a line search, which looks for the least"
            " loss along a step: not for that of loss + penalty after the prox. Use "
            "one without, such as `optax.lbfgs(learning_rate, linesearch=None)`, or "
            "`minimize`, which needs no optimizer."
        )


def check_penalty(penalty: Any, where: str) -> None:
    """Raises unless `penalty` is a penalty or may be a schedule of penalties."""
    is_schedule = callable(penalty) and not isinstance(penalty, type)
    if not is_schedule or hasattr(penalty, "update"):
        check_is_penalty(penalty, where)


def check_scalar(x: Any, what: str, *, zero: bool) -> None:
    """Raises unless `x` is a schedule, or a scalar that is positive (or zero)."""
    if not callable(x):
        check_number(x, what, zero=zero, scalar=True)


def check_optimizer(x: Any, where: str) -> optax.GradientTransformationExtraArgs:
    """`x` as a transformation that takes extra arguments; raises if it is none."""
    if not all(callable(getattr(x, name, None)) for name in ("init", "update")):
        hint = (
            "Call it first, as in `optax.adam(1e-3)`."
            if callable(x)
            else "Are the arguments swapped?"
        )
        raise TypeError(
            f"`{where}` needs an optimizer, an `optax.GradientTransformation`, as its "
            f"first argument, got {x!r}. {hint}"
        )
    return optax.with_extra_args_support(x)


def need_params(params: Any, where: str) -> None:
    """Raises when `update` was called without the parameters."""
    if params is None:
        raise ValueError(
            f"`{where}` needs the parameters: call `update(updates, state, params)`."
        )
    if is_state(params):
        raise ValueError(
            f"`{where}` got a state where it needs the parameters, beside `updates`: "
            "are the state and the parameters swapped? Call "
            "`update(updates, state, params)`."
        )
