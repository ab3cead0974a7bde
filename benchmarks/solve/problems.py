"""The rows of the tables: data sets, made or of scikit-learn, and strengths."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from judge import largest_strength
from scipy.signal import lfilter
from task import NO_GROUPS, Task

Array = np.ndarray
Data = tuple[Array, Array]

GAP, GAP_FLOAT32 = 1e-6, 1e-4
# As parts of λmax, the least strength at which all is zero.
STRENGTHS = {
    "λ/10": np.array([0.1]),
    "λ/100": np.array([0.01]),
    "path": np.logspace(0, -2, 100),
}


class Row(NamedTuple):
    """One row of a table.

    Attributes:
      table: a key of `TITLES`.
      problem: its name.
      strength: a key of `STRENGTHS`; of a batch, how many problems, and how.
      make: gives the task.
      gap: the relative duality gap to reach.
      quick: whether it is in a short run.
      size: of a batch, how many problems; the times are per problem.
    """

    table: str
    problem: str
    strength: str
    make: Callable[[], Task]
    gap: float = GAP
    quick: bool = False
    size: int = 1

    @property
    def name(self) -> str:
        """What `--only` looks at."""
        return f"{self.table}: {self.problem}, {self.strength}"


# Data.


def standardised(X: Array) -> Array:
    """With mean 0 and variance 1 in each column; constant ones are left out."""
    X = X[:, X.std(axis=0) > 0]
    return np.asarray((X - X.mean(axis=0)) / X.std(axis=0))


@functools.lru_cache(maxsize=1)
def synthetic(
    n: int,
    p: int,
    correlation: float = 0.0,
    *,
    kind: str = "linear",
    targets: int = 1,
    run: int = 1,
) -> Data:
    """20 columns matter, in runs of `run`; neighbours are correlated.

    Three parts signal to one noise. `kind` is "linear", "binary" (its sign), "counts"
    (Poisson, of rates exp(z), z of variance 1) or "classes" (one-hot, by logits z).
    """
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, p))
    if correlation:
        X[:, 1:] *= np.sqrt(1 - correlation**2)
        X = lfilter([1.0], [1.0, -correlation], X, axis=1)
    X = standardised(X)
    W = np.zeros((p, targets))
    matter = rng.choice(p // run, 20 // run, replace=False)
    matter = (run * matter[:, None] + np.arange(run)).ravel()
    W[matter] = rng.normal(size=(20, targets))
    Z = X @ W
    if kind == "counts":
        Y = rng.poisson(np.exp(Z / Z.std())).astype(float)
    elif kind == "classes":
        best = np.argmax(3 * Z / Z.std() + rng.gumbel(size=Z.shape), axis=1)
        Y = np.eye(targets)[best]
    else:
        Y = Z + rng.normal(size=Z.shape) * Z.std(axis=0) / np.sqrt(3)
        Y = np.sign(Y) if kind == "binary" else Y - Y.mean(axis=0)
    return X, Y[:, 0] if targets == 1 else Y


@functools.lru_cache(maxsize=1)
def from_sklearn(name: str, target: str = "linear") -> Data:
    """A data set of scikit-learn; "binary" is below or above the mean, as ±1."""
    from sklearn import datasets

    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    X = standardised(X)
    if target == "classes":
        return X, np.eye(int(y.max()) + 1)[y]
    return X, np.where(y > y.mean(), 1.0, -1.0) if target == "binary" else y - y.mean()


def unequal(p: int) -> Array:
    """Sizes of groups of p columns: 1 to 9, in any order, each as often."""
    rounds = -(-p // 45)
    all_sizes = np.tile(np.arange(1, 10), (rounds, 1))
    sizes = np.random.default_rng(0).permuted(all_sizes, axis=1)
    ends = np.minimum(np.cumsum(sizes), p)
    sizes = np.diff(ends, prepend=0)
    return sizes[sizes > 0]


# Tasks.


def task_of(
    family: str,
    data: Data,
    parts: Array,
    sizes: Array = NO_GROUPS,
    dtype: Any = float,
) -> Task:
    """A task with strengths in parts of λmax."""
    X, y = (x.astype(dtype) for x in data)
    task = Task(family, X, y, parts, 0 * parts, sizes)
    l1 = (largest_strength(task) * parts).astype(dtype)
    # scikit-learn's l1_ratio=0.5: α/2 Σ|w| + α/4 Σ w².
    return task._replace(l1=l1, l2=l1 if family == "elastic net" else 0 * l1)


def bootstrap(data: Data, size: int, mapped: bool) -> Task:
    """The lasso at λmax/10 on resampled rows, many times."""
    X, y = data
    rows = np.random.default_rng(0).integers(len(y), size=(size, len(y)))
    tasks = [task_of("lasso", (X[i], y[i]), STRENGTHS["λ/10"]) for i in rows]
    l1 = np.concatenate([task.l1 for task in tasks])
    return Task("lasso", X[rows], y[rows], l1, 0 * l1, mapped=mapped)


def small(task: Task) -> Task:
    """A task of the same kind that takes no time."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 6)).astype(task.X.dtype, order="F")
    y = np.resize([1.0, -1.0], 20)
    if task.loss == "poisson":
        y = np.resize([0.0, 1.0, 4.0], 20)
    if task.penalty == "rows":
        y = np.resize(np.eye(3), (20, 3))
    sizes = np.array([2, 1, 3]) if task.penalty == "groups" else NO_GROUPS
    parts = np.array([0.5, 0.4] if task.path else [0.5])
    return task_of(task.family, (X, y), parts, sizes, task.X.dtype)


# Rows.

TITLES = {
    "lasso": "Lasso",
    "elastic net": "Elastic net, half of its strength in the L1 part",
    "logistic": "Logistic loss, L1",
    "poisson": "Poisson loss, L1",
    "groups": "Group lasso, weights √size",
    "multi-task": "Squares of many targets, a group for each column",
    "multinomial": "Multinomial loss, a group for each column",
    "float32": "float32, to a gap of 1e-4",
    "growth": "Lasso, 200 rows and ever more columns",
    "batch": "Lassos on resampled rows, per problem",
}

LEAST_SQUARES: dict[str, Callable[[], Data]] = {
    "diabetes 442×10": lambda: from_sklearn("diabetes"),
    "500×5,000": lambda: synthetic(500, 5000),
    "500×5,000 AR .95": lambda: synthetic(500, 5000, 0.95),
    "5,000×500": lambda: synthetic(5000, 500),
    "5,000×500 AR .95": lambda: synthetic(5000, 500, 0.95),
    "100×10,000": lambda: synthetic(100, 10_000),
    "100×10,000 AR .95": lambda: synthetic(100, 10_000, 0.95),
}
BINARY: dict[str, Callable[[], Data]] = {
    "cancer 569×30": lambda: from_sklearn("breast_cancer", "binary"),
    "digits 1,797×61": lambda: from_sklearn("digits", "binary"),
    "500×5,000": lambda: synthetic(500, 5000, kind="binary"),
}
COUNTS: dict[str, Callable[[], Data]] = {
    "2,000×200": lambda: synthetic(2000, 200, kind="counts"),
    "500×5,000": lambda: synthetic(500, 5000, kind="counts"),
}
MANY_TARGETS: dict[str, Callable[[], Data]] = {
    "300×3,000, 10": lambda: synthetic(300, 3000, targets=10),
    "2,000×300, 10": lambda: synthetic(2000, 300, targets=10),
}
CLASSES: dict[str, Callable[[], Data]] = {
    "digits 1,797×61, 10": lambda: from_sklearn("digits", "classes"),
    "500×2,000, 4": lambda: synthetic(500, 2000, kind="classes", targets=4),
}
PROBLEMS = {
    "lasso": LEAST_SQUARES,
    "elastic net": LEAST_SQUARES,
    "logistic": BINARY,
    "poisson": COUNTS,
    "multi-task": MANY_TARGETS,
    "multinomial": CLASSES,
}
QUICK = {
    "lasso: diabetes 442×10, λ/10",
    "lasso: diabetes 442×10, path",
    "logistic: cancer 569×30, λ/10",
    "poisson: 2,000×200, λ/10",
    "groups: 2,000×500 by 5, λ/10",
    "groups: 2,000×500 by 1–9, λ/10",
    "multi-task: 2,000×300, 10, λ/10",
    "multinomial: digits 1,797×61, 10, λ/10",
    "float32: lasso 5,000×500, λ/10",
    "growth: 10,000, λ/10",
    "batch: diabetes 442×10, 100 by vmap",
}


def all_rows() -> list[Row]:
    """Of all tables, in their order."""
    rows = [
        Row(family, problem, strength, functools.partial(made, family, data, parts))
        for family, problems in PROBLEMS.items()
        for problem, data in problems.items()
        for strength, parts in STRENGTHS.items()
    ]
    rows += [*group_rows(), *float32_rows(), *growth_rows(), *batch_rows()]
    order = list(TITLES)
    rows.sort(key=lambda row: order.index(row.table))
    return [row._replace(quick=row.name in QUICK) for row in rows]


def made(family: str, data: Callable[[], Data], parts: Array, *more: Any) -> Task:
    return task_of(family, data(), parts, *more)


def group_rows() -> list[Row]:
    rows = []
    for n, p in ((500, 5000), (2000, 500)):
        data = functools.partial(synthetic, n, p, run=5)
        for by, sizes in (("5", np.full(p // 5, 5)), ("1–9", unequal(p))):
            for strength, parts in STRENGTHS.items():
                make = functools.partial(made, "groups", data, parts, sizes)
                rows.append(Row("groups", f"{n:,}×{p:,} by {by}", strength, make))
    return rows


def float32_rows() -> list[Row]:
    chosen = [("lasso", "500×5,000"), ("lasso", "5,000×500"), ("logistic", "500×5,000")]
    rows = []
    for family, problem in chosen:
        data = PROBLEMS[family][problem]
        for strength, parts in STRENGTHS.items():
            make = functools.partial(made, family, data, parts, NO_GROUPS, np.float32)
            name = f"{family} {problem}"
            rows.append(Row("float32", name, strength, make, GAP_FLOAT32))
    return rows


def growth_rows() -> list[Row]:
    def make(p: int) -> Task:
        return task_of("lasso", synthetic(200, p), STRENGTHS["λ/10"])

    sizes = (1000, 10_000, 100_000)
    return [Row("growth", f"{p:,}", "λ/10", functools.partial(make, p)) for p in sizes]


def batch_rows() -> list[Row]:
    rows = []
    problems = {
        "diabetes 442×10": lambda: from_sklearn("diabetes"),
        "100×200": lambda: synthetic(100, 200),
    }
    for problem, data in problems.items():
        for size in (1, 10, 100, 1000):
            for way in ("vmap", "map")[: 1 if size < 100 else 2]:

                def make(
                    data: Callable[[], Data] = data,
                    size: int = size,
                    mapped: bool = way == "map",
                ) -> Task:
                    return bootstrap(data(), size, mapped)

                name = f"{size:,} by {way}"
                rows.append(Row("batch", problem, name, make, size=size))
    return rows
