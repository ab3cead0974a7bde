"""`Task`: what a solver solves in one call; `Prepared`: a solver ready for a task."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

Array = np.ndarray


class Family(NamedTuple):
    """A loss and a penalty.

    Attributes:
      loss: "squares", "logistic", "poisson" or "multinomial".
      penalty: "L1", "elastic net", "groups" (of columns) or "rows" (a column's weights
        for all targets).
    """

    loss: str
    penalty: str


FAMILIES = {
    "lasso": Family("squares", "L1"),
    "elastic net": Family("squares", "elastic net"),
    "logistic": Family("logistic", "L1"),
    "poisson": Family("poisson", "L1"),
    "groups": Family("squares", "groups"),
    "multi-task": Family("squares", "rows"),
    "multinomial": Family("multinomial", "rows"),
}
NO_GROUPS = np.zeros(0, int)


class Task(NamedTuple):
    """One problem, one problem with many strengths, or a batch of problems.

    Attributes:
      family: a key of `FAMILIES`.
      X: the data, (n, p); of a batch (k, n, p). Its dtype is that of the solvers.
      y: the targets, (n,) or (n, m); of a batch (k, n). ±1 for the logistic loss, rows
        of one 1 and zeros for the multinomial one.
      l1: the strengths a, (k,).
      l2: the strengths b, (k,).
      sizes: of the groups of columns, which are contiguous; empty without groups.
      mapped: whether JAX goes through a batch by `jax.lax.map`, not by `jax.vmap`.
    """

    family: str
    X: Array
    y: Array
    l1: Array
    l2: Array
    sizes: Array = NO_GROUPS
    mapped: bool = False

    @property
    def loss(self) -> str:
        """The loss of the family."""
        return FAMILIES[self.family].loss

    @property
    def penalty(self) -> str:
        """The penalty of the family."""
        return FAMILIES[self.family].penalty

    @property
    def batch(self) -> bool:
        """Whether there are many problems, not one with many strengths."""
        return self.X.ndim == 3

    @property
    def path(self) -> bool:
        """Whether there is one problem with many strengths."""
        return not self.batch and len(self.l1) > 1

    @property
    def l1_ratio(self) -> float:
        """The part of L1, as scikit-learn counts it."""
        return float(self.l1[0] / (self.l1[0] + self.l2[0]))

    @property
    def starts(self) -> Array:
        """The first column of each group."""
        return np.asarray(np.cumsum(self.sizes) - self.sizes)

    @property
    def labels(self) -> Array:
        """The group of each column."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    def problems(self) -> Iterator["Task"]:
        """Tasks of one problem and one strength each."""
        for i in range(len(self.l1)):
            X, y = (self.X[i], self.y[i]) if self.batch else (self.X, self.y)
            one = slice(i, i + 1)
            yield self._replace(X=X, y=y, l1=self.l1[one], l2=self.l2[one])

    def save(self, folder: Path) -> None:
        """Writes it, the data in both orders, so that no reader must copy it."""
        rest: dict[str, Any] = self._asdict()
        X = rest.pop("X")
        np.save(folder / "C.npy", X)
        np.save(folder / "F.npy", np.ascontiguousarray(np.swapaxes(X, -1, -2)))
        np.savez(folder / "rest.npz", **rest)

    @classmethod
    def load(cls, folder: Path, order: str) -> Self:
        """Reads what `save` wrote; in each problem the order is "C" or "F"."""
        X = np.load(folder / f"{order}.npy")
        with np.load(folder / "rest.npz") as rest:
            values = {name: rest[name] for name in rest.files}
        values["family"] = str(values["family"])
        values["mapped"] = bool(values["mapped"])
        return cls(X=np.swapaxes(X, -1, -2) if order == "F" else X, **values)


class Prepared(NamedTuple):
    """A solver that is ready to run on a task.

    Attributes:
      run: from a tolerance to the coefficients, (strengths, p) or (strengths, p, m); of
        a batch (k, p).
      compile_seconds: to trace, lower and compile, of a JAX program.
      temporaries: bytes of that program beside its arguments and results.
      eager: as `run`, by a call outside of `jax.jit`.
    """

    run: Callable[[float], Array]
    compile_seconds: float | None = None
    temporaries: int | None = None
    eager: Callable[[float], Array] | None = None
