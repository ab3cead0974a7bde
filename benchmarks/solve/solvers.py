"""The list of solvers: in which column each is shown, and what it solves."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from jax_solvers import by_jaxopt, by_optareg
from peers import by_adelie, by_celer, by_skglm, by_sklearn, by_sklearn_logistic
from task import FAMILIES, Prepared, Task


class Solver(NamedTuple):
    """A solver, or one of two that share a column.

    Attributes:
      column: where it is shown.
      package: what must be installed.
      prepare: makes it ready for a task.
      order: that of the data it likes.
      families: what it solves.
      in_jax: whether it is a JAX program.
    """

    column: str
    package: str
    prepare: Callable[[Task], Prepared]
    order: str = "F"
    families: Sequence[str] = tuple(FAMILIES)
    in_jax: bool = False


COORDINATES = ("lasso", "elastic net", "multi-task")
LIBLINEAR, SAGA = (by_sklearn_logistic(name) for name in ("liblinear", "saga"))
SOLVERS = {
    "optareg": Solver("optareg", "optareg", by_optareg, "C", in_jax=True),
    "JAXopt": Solver("JAXopt", "jaxopt", by_jaxopt, "C", in_jax=True),
    "sklearn": Solver("sklearn", "scikit-learn", by_sklearn, "F", COORDINATES),
    "liblinear": Solver("sklearn", "scikit-learn", LIBLINEAR, "F", ("logistic",)),
    "saga": Solver("sklearn", "scikit-learn", SAGA, "C", ("logistic",)),
    "skglm": Solver(
        "skglm",
        "skglm",
        by_skglm,
        families=(*COORDINATES, "logistic", "groups", "poisson"),
    ),
    "celer": Solver(
        "celer", "celer", by_celer, families=(*COORDINATES, "logistic", "groups")
    ),
    "adelie": Solver("adelie", "adelie", by_adelie),
}
COLUMNS = list(dict.fromkeys(solver.column for solver in SOLVERS.values()))
