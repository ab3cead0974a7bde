"""How long to the optimum? Time to a relative duality gap of 1e-6, against the peers.

    pip install -e ".[benchmark]" scikit-learn skglm celer
    pip install --no-deps adelie && pip install "ipython<9" matplotlib
    python benchmarks/solve.py

Every solver minimises (1/n) Σ f(xᵢᵀw, yᵢ) + a Σ|w| + ½ b Σ w², with f the halved square
or the logistic loss, in float64, without intercept, on standardised columns:

- optareg: `minimize` and `path`, in one compiled program of the data and strengths.
- JAXopt: `ProximalGradient` with acceleration and the exact step 1/L, compiled too.
  What it takes to find L is not counted.
- scikit-learn: `Lasso` and `ElasticNet`, and their paths; for the logistic loss the
  faster one of liblinear and saga.
- skglm, celer, adelie: their estimators, and their paths where they have one. adelie
  asks for numpy<2, which JAX does not; it runs with newer ones.

They stop by rules of their own, so none of these is trusted: `relative_gap`, in NumPy,
judges them all. Each runs at the loosest tolerance of 1e-1, 1e-2, … that gets below the
gap, on a path at each strength, and at that tolerance it is timed, in turns with the
others. Each has a process of its own, so that one that takes too long can be stopped.
Prints Markdown; progress goes to stderr.
"""

import argparse
import contextlib
import importlib.metadata
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from report import print_table
from scipy.signal import lfilter
from scipy.special import expit, xlogy

import optareg

Array = np.ndarray
Run = Callable[[float], Array]

GAP = 1e-6
TOLERANCES = [10.0**-i for i in range(1, 13)]
MISSING = "not installed"
PACKAGES = ("optareg", "jax", "jaxopt", "scikit-learn", "skglm", "celer", "adelie")
# Of what is no solve: imports, loading, compiling.
PATIENCE = 180.0
FOREVER = 10**9


class Task(NamedTuple):
    """What is solved in one call: one problem, one with many strengths, or a batch.

    Attributes:
      family: "lasso", "elastic net" or "logistic".
      X: the data, (n, p); for a batch (k, n, p).
      y: the targets, (n,), for the logistic loss ±1; for a batch (k, n).
      l1: the strengths a, (k,).
      l2: the strengths b, (k,).
    """

    family: str
    X: Array
    y: Array
    l1: Array
    l2: Array

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

    def problems(self) -> Iterator["Task"]:
        """Tasks of one problem and one strength each."""
        for i in range(len(self.l1)):
            X, y = (self.X[i], self.y[i]) if self.batch else (self.X, self.y)
            yield Task(self.family, X, y, self.l1[i : i + 1], self.l2[i : i + 1])

    def save(self, folder: Path) -> None:
        """Writes it, the data in both orders, so that no reader must copy it."""
        np.save(folder / "C.npy", self.X)
        swapped = np.swapaxes(self.X, -1, -2)
        np.save(folder / "F.npy", np.ascontiguousarray(swapped))
        rest = {"y": self.y, "l1": self.l1, "l2": self.l2, "family": self.family}
        np.savez(folder / "rest.npz", **rest)

    @classmethod
    def load(cls, folder: Path, order: str) -> Self:
        """Reads what `save` wrote; in each problem the order is "C" or "F"."""
        X = np.load(folder / f"{order}.npy")
        with np.load(folder / "rest.npz") as rest:
            y, l1, l2, family = (rest[name] for name in ("y", "l1", "l2", "family"))
        X = np.swapaxes(X, -1, -2) if order == "F" else X
        return cls(str(family), X, y, l1, l2)


# The judge.


def relative_gap(task: Task, coefs: Array) -> float:
    """The largest (P(w) − D(θ)) / P(0) over the strengths or problems of a task."""
    tasks = list(task.problems()) if task.batch else [task]
    parts = np.split(coefs, len(tasks))
    found = np.concatenate([gaps(*pair) for pair in zip(tasks, parts, strict=True)])
    return float(np.max(np.where(np.isfinite(found), found, np.inf)))


def gaps(task: Task, W: Array) -> Array:
    """That of each row w of W, all for one problem, each with its own strength.

    With F the loss of z = Xw, and φ = −bw for the L2 part, the dual of P is
    D(θ, φ) = −F*(−θ) − |φ|² / 2b, where |Xᵀθ + φ| ≤ a in each entry. At the optimum
    θ = −∇F(Xw). Elsewhere that, and φ, are scaled down until they are feasible.
    """
    X, y, a, b = task.X, task.y, task.l1, task.l2
    logistic, n, Z = task.family == "logistic", len(y), W @ X.T
    ridge = b * (W**2).sum(axis=1) / 2
    theta = y * expit(-y * Z) / n if logistic else (y - Z) / n
    most = np.abs(theta @ X - b[:, None] * W).max(axis=1)
    scale = a / np.maximum(a, most)
    theta = scale[:, None] * theta
    if logistic:
        u = n * y * theta
        loss = np.logaddexp(0, -y * Z).mean(axis=1)
        dual = -(xlogy(u, u) + xlogy(1 - u, 1 - u)).mean(axis=1)
        at_zero = np.log(2.0)
    else:
        loss = ((y - Z) ** 2).mean(axis=1) / 2
        dual = theta @ y - n * (theta**2).sum(axis=1) / 2
        at_zero = (y**2).mean() / 2
    primal = loss + a * np.abs(W).sum(axis=1) + ridge
    return np.asarray(primal - dual + scale**2 * ridge) / at_zero


def check_judge() -> None:
    """Gaps are zero at solutions known in closed form, and positive elsewhere."""
    rng = np.random.default_rng(0)
    Q, _ = np.linalg.qr(rng.normal(size=(50, 8)))
    X, y, a = np.sqrt(50) * Q, rng.normal(size=50), np.array([0.1])
    one, cases = np.array([1.0, -1.0]), []
    for family, b in (("lasso", 0.0), ("elastic net", 0.3)):
        c = X.T @ y / 50
        w = np.sign(c) * np.maximum(np.abs(c) - 0.1, 0) / (1 + b)
        assert 0 < np.count_nonzero(w) < 8
        cases.append((Task(family, X, y, a, np.array([b])), w))
    # With loss log(1 + exp(−w)): where 1 / (1 + exp(w)) = 0.1.
    task = Task("logistic", one[:, None], one, a, np.zeros(1))
    cases.append((task, np.log(np.array([9.0]))))
    for task, w in cases:
        others = w + 0.1 * rng.normal(size=(99, len(w)))
        assert np.all(np.abs(gaps(task, w[None])) < 1e-14)
        assert all(gaps(task, other[None]) > 0 for other in others)


# The problems.


def standardised(X: Array) -> Array:
    """With mean 0 and variance 1 in each column; constant ones are left out."""
    X = X[:, X.std(axis=0) > 0]
    return (X - X.mean(axis=0)) / X.std(axis=0)


def synthetic(n: int, p: int, correlation: float, *, binary: bool = False) -> Any:
    """20 columns matter; neighbours are correlated; three parts signal to one noise."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, p))
    if correlation:
        fresh = np.sqrt(1 - correlation**2)
        X[:, 1:] *= fresh
        X = lfilter([1.0], [1.0, -correlation], X, axis=1)
    X = standardised(X)
    w = np.zeros(p)
    w[rng.choice(p, 20, replace=False)] = rng.normal(size=20)
    z = X @ w
    y = z + rng.normal(size=n) * z.std() / np.sqrt(3)
    return X, np.sign(y) if binary else y - y.mean()


def from_sklearn(name: str, positive: Callable[[Array], Array] | None = None) -> Any:
    """A data set of scikit-learn; binary, where `positive` says which are."""
    from sklearn import datasets

    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    if positive is None:
        return standardised(X), y - y.mean()
    return standardised(X), np.where(positive(y), 1.0, -1.0)


LEAST_SQUARES: dict[str, Callable[[], Any]] = {
    "diabetes 442×10": lambda: from_sklearn("diabetes"),
    "500×5,000": lambda: synthetic(500, 5000, 0.0),
    "500×5,000, AR .95": lambda: synthetic(500, 5000, 0.95),
    "5,000×500": lambda: synthetic(5000, 500, 0.0),
    "5,000×500, AR .95": lambda: synthetic(5000, 500, 0.95),
    "100×10,000": lambda: synthetic(100, 10_000, 0.0),
    "100×10,000, AR .95": lambda: synthetic(100, 10_000, 0.95),
}
FAMILIES: dict[str, dict[str, Callable[[], Any]]] = {
    "lasso": LEAST_SQUARES,
    "elastic net": LEAST_SQUARES,
    "logistic": {
        "breast cancer 569×30": lambda: from_sklearn("breast_cancer", lambda y: y == 1),
        "digits below 5 1,797×61": lambda: from_sklearn("digits", lambda y: y < 5),
        "500×5,000": lambda: synthetic(500, 5000, 0.0, binary=True),
    },
}
# As parts of the least strength at which all is zero.
STRENGTHS = {
    "λmax/10": np.array([0.1]),
    "λmax/100": np.array([0.01]),
    "path of 100": np.logspace(0, -2, 100),
}


def largest_gradient(family: str, X: Array, y: Array) -> Any:
    """The largest entry of the loss's gradient at zero, the L1 strength λmax."""
    gradient = np.einsum("...np,...n->...p", X, y) / y.shape[-1]
    return np.abs(gradient).max(axis=-1) / (2 if family == "logistic" else 1)


def task_of(family: str, X: Array, y: Array, parts: Array) -> Task:
    """A task with strengths in parts of the least at which all is zero."""
    l1 = largest_gradient(family, X, y) * parts
    # scikit-learn's l1_ratio=0.5: α/2 Σ|w| + α/4 Σ w².
    return Task(family, X, y, l1, l1 if family == "elastic net" else 0 * l1)


def bootstrap(X: Array, y: Array, n: int) -> Task:
    """The lasso at λmax/10 on n resamples of the rows."""
    rows = np.random.default_rng(0).integers(len(y), size=(n, len(y)))
    return task_of("lasso", X[rows], y[rows], np.full(n, 0.1))


# The solvers. Each makes of a task a function of the tolerance to the coefficients, of
# shape (strengths, p) or (batch, p).


class Prepared(NamedTuple):
    """A solver that is ready to run on a task.

    Attributes:
      run: solves to a tolerance.
      compile_seconds: to trace, lower and compile, if it is a JAX program.
    """

    run: Run
    compile_seconds: float | None = None


def compiled(solve: Callable[..., Any], task: Task, *more: Array) -> Prepared:
    """Compiles `solve(X, y, l1, l2, tol, …)`; tol is in units of the gradient."""
    single = not task.batch and not task.path
    unit = largest_gradient(task.family, task.X, task.y)
    l1, l2 = (task.l1[0], task.l2[0]) if single else (task.l1, task.l2)
    arrays = [jnp.asarray(x) for x in (task.X, task.y, l1, l2, unit, *more)]

    def scaled(tol: Any, *arrays: Any) -> Any:
        X, y, l1, l2, unit, *more = arrays
        return solve(X, y, l1, l2, tol * unit, *more)

    def mapped(tol: Any, *arrays: Any) -> Any:
        return jax.lax.map(lambda one: scaled(tol, *one), arrays)

    axes = (None, *(0 for _ in arrays))
    batched = mapped if os.environ.get(MAP) else jax.vmap(scaled, in_axes=axes)
    function = batched if task.batch else scaled
    jax.block_until_ready(jax.jit(jnp.sin)(1.0))  # What only the first one costs.
    jax.clear_caches()
    start = time.perf_counter()
    program = jax.jit(function).lower(jnp.asarray(0.1), *arrays).compile()
    seconds = time.perf_counter() - start

    def run(tol: float) -> Array:
        return np.atleast_2d(np.asarray(program(jnp.asarray(tol), *arrays)))

    return Prepared(run, seconds)


def jax_loss(family: str, X: Any, y: Any) -> Callable[[Any], Any]:
    """The loss in JAX."""
    if family == "logistic":
        return lambda w: jnp.mean(jax.nn.softplus(-y * (X @ w)))
    return lambda w: 0.5 * jnp.mean((y - X @ w) ** 2)


def by_optareg(task: Task) -> Prepared:
    solver = optareg.path if task.path else optareg.minimize

    def solve(X: Any, y: Any, l1: Any, l2: Any, tol: Any) -> Any:
        elastic = task.family == "elastic net"
        penalty = optareg.ElasticNet(l1, l2 / 2) if elastic else optareg.L1(l1)
        loss = jax_loss(task.family, X, y)
        return solver(loss, jnp.zeros(X.shape[-1]), penalty, tol=tol).params

    return compiled(solve, task)


def by_jaxopt(task: Task) -> Prepared:
    from jaxopt import ProximalGradient, prox

    elastic = task.family == "elastic net"

    def solve(X: Any, y: Any, l1: Any, l2: Any, tol: Any, step: Any) -> Any:
        solver = ProximalGradient(
            fun=jax_loss(task.family, X, y),
            prox=prox.prox_elastic_net if elastic else prox.prox_lasso,
            stepsize=lambda _: step,
            acceleration=True,
            maxiter=FOREVER,
            tol=tol,
            implicit_diff=False,
            unroll=False,
        )

        def one(w: Any, strengths: Any) -> Any:
            l1, l2 = strengths
            w = solver.run(w, (l1, l2 / l1) if elastic else l1).params
            return w, w

        start = jnp.zeros(X.shape[-1])
        if not task.path:
            return one(start, (l1, l2))[0]
        return jax.lax.scan(one, start, (l1, l2))[1]

    problems = list(task.problems())
    steps = [step_size(p) for p in (problems if task.batch else problems[:1])]
    return compiled(solve, task, np.array(steps if task.batch else steps[0]))


def step_size(task: Task) -> float:
    """One over the exact Lipschitz constant of the loss's gradient."""
    X = task.X if task.X.shape[0] > task.X.shape[1] else task.X.T
    most = np.linalg.eigvalsh(X.T @ X)[-1] / len(task.y)
    return float(1 / most) * (4 if task.family == "logistic" else 1)


def one_by_one(prepare: Callable[[Task], Prepared]) -> Callable[[Task], Prepared]:
    """Of a solver that knows no batches: a loop over them."""

    def prepare_all(task: Task) -> Prepared:
        if not task.batch:
            return prepare(task)
        runs = [prepare(one).run for one in task.problems()]
        return Prepared(lambda tol: np.concatenate([run(tol) for run in runs]))

    return prepare_all


def warm_fits(model: Any, name: str, values: Sequence[float], X: Any, y: Any) -> Array:
    """A path by hand: each fit starts at the last one, where the model can do so."""
    coefs = []
    for value in values:
        model.set_params(**{name: value}).fit(X, y)
        coefs.append(np.array(model.coef_).ravel())
    return np.array(coefs)


def by_sklearn(task: Task) -> Prepared:
    from sklearn.linear_model import ElasticNet, Lasso, enet_path, lasso_path

    X, y, ratio, alphas = task.X, task.y, task.l1_ratio, task.l1 + task.l2
    elastic = task.family == "elastic net"

    def run(tol: float) -> Array:
        more = {"tol": tol, "max_iter": FOREVER}
        if task.path and elastic:
            return enet_path(X, y, l1_ratio=ratio, alphas=alphas, **more)[1].T
        if task.path:
            return lasso_path(X, y, alphas=alphas, **more)[1].T
        more |= {"alpha": alphas[0], "fit_intercept": False}
        model = ElasticNet(l1_ratio=ratio, **more) if elastic else Lasso(**more)
        return model.fit(X, y).coef_[None]

    return Prepared(run)


def by_sklearn_logistic(solver: str) -> Callable[[Task], Prepared]:
    def prepare(task: Task) -> Prepared:
        from sklearn.linear_model import LogisticRegression

        values = 1 / (len(task.y) * task.l1)

        def run(tol: float) -> Array:
            model = LogisticRegression(
                penalty="l1",
                solver=solver,
                tol=tol,
                max_iter=FOREVER,
                fit_intercept=False,
                warm_start=solver == "saga",
                random_state=0,
            )
            return warm_fits(model, "C", values, task.X, task.y)

        return Prepared(run)

    return prepare


def by_skglm(task: Task) -> Prepared:
    import skglm

    X, y, alphas = task.X, task.y, task.l1 + task.l2
    unit = float(largest_gradient(task.family, X, y))
    more: dict[str, Any] = {"max_iter": 10_000, "fit_intercept": False}

    def run(tol: float) -> Array:
        some = {**more, "alpha": float(alphas[0]), "tol": tol * unit}
        if task.family == "logistic":
            model = skglm.SparseLogisticRegression(**some, warm_start=True)
            return warm_fits(model, "alpha", alphas, X, y)
        if task.family == "lasso":
            model = skglm.Lasso(**some)
        else:
            model = skglm.ElasticNet(l1_ratio=task.l1_ratio, **some)
        if task.path:
            return model.path(X, y, alphas)[1].T
        return model.fit(X, y).coef_[None]

    return Prepared(run)


def by_celer(task: Task) -> Prepared:
    import celer

    X, y, alphas = task.X, task.y, task.l1 + task.l2
    logistic = task.family == "logistic"

    def run(tol: float) -> Array:
        more: dict[str, Any] = {"tol": tol, "max_iter": 10_000}
        if task.path:
            if logistic:
                some = {"alphas": alphas * len(y), "pb": "logreg", "use_PN": True}
            else:
                some = {"alphas": alphas, "pb": "lasso", "l1_ratio": task.l1_ratio}
            return celer.celer_path(X, y, **some, **more)[1].T
        if logistic:
            model = celer.LogisticRegression(C=1 / (len(y) * alphas[0]), **more)
        elif task.family == "lasso":
            model = celer.Lasso(alphas[0], fit_intercept=False, **more)
        else:
            some = {"l1_ratio": task.l1_ratio, "fit_intercept": False}
            model = celer.ElasticNet(alphas[0], **some, **more)
        return np.atleast_2d(model.fit(X, y).coef_)

    return Prepared(run)


def by_adelie(task: Task) -> Prepared:
    import adelie

    logistic = task.family == "logistic"
    glm = adelie.glm.binomial((task.y > 0) * 1.0) if logistic else None
    glm = glm or adelie.glm.gaussian(task.y)

    def run(tol: float) -> Array:
        # Its tolerance is one on the square of a step.
        state = adelie.grpnet(
            task.X,
            glm,
            alpha=task.l1_ratio,
            lmda_path=task.l1 + task.l2,
            intercept=False,
            early_exit=False,
            adev_tol=1.0,
            tol=tol**2,
            irls_tol=tol**2,
            max_iters=FOREVER,
            progress_bar=False,
        )
        return state.betas.toarray()

    return Prepared(run)


class Solver(NamedTuple):
    """A solver, or one of two that share a column.

    Attributes:
      column: where it is shown.
      package: what must be installed.
      prepare: makes it ready for a task.
      order: that of the data it likes.
      families: what it solves.
      compiles: whether it is a JAX program.
    """

    column: str
    package: str
    prepare: Callable[[Task], Prepared]
    order: str = "F"
    families: Sequence[str] = tuple(FAMILIES)
    compiles: bool = False


# Set in the environment if batches are mapped, not vmapped.
MAP = "BENCHMARK_BATCHES_ARE_MAPPED"
LINEAR, LOGISTIC = ("lasso", "elastic net"), ("logistic",)
LIBLINEAR, SAGA = (by_sklearn_logistic(name) for name in ("liblinear", "saga"))
SOLVERS = {
    "optareg": Solver("optareg", "optareg", by_optareg, "C", compiles=True),
    "JAXopt": Solver("JAXopt", "jaxopt", by_jaxopt, "C", compiles=True),
    "scikit-learn": Solver("scikit-learn", "scikit-learn", by_sklearn, "F", LINEAR),
    "liblinear": Solver("scikit-learn", "scikit-learn", LIBLINEAR, "F", LOGISTIC),
    "saga": Solver("scikit-learn", "scikit-learn", SAGA, "C", LOGISTIC),
    "skglm": Solver("skglm", "skglm", by_skglm),
    "celer": Solver("celer", "celer", by_celer),
    "adelie": Solver("adelie", "adelie", by_adelie),
}
COLUMNS = list(dict.fromkeys(solver.column for solver in SOLVERS.values()))


# The processes they run in.


class Desk:
    """What a process does with a solver, when told to."""

    def __init__(self, name: str):
        self.solver = SOLVERS[name]
        self.warm: set[Any] = set()

    def prepare(self, folder: Path) -> float | None:
        """Loads a task and makes all ready; the seconds to compile."""
        task = Task.load(folder, self.solver.order)
        prepare = self.solver.prepare
        if not self.solver.compiles:
            prepare = one_by_one(prepare)
            kind = task.family, task.path
            if kind not in self.warm:  # Numba compiles at the first call.
                prepare(small(task)).run(0.1)
                self.warm.add(kind)
        self.run, seconds = prepare(task)
        del task
        with contextlib.suppress(OSError):  # Forgets the peak so far, on Linux.
            Path("/proc/self/clear_refs").write_text("5")
        self.before = peak_memory()
        return seconds

    def solve(self, tol: float) -> tuple[float, Array]:
        """The seconds, and the coefficients."""
        start = time.perf_counter()
        coefs = self.run(tol)
        return time.perf_counter() - start, coefs

    def seconds(self, tol: float, times: int) -> float:
        """The seconds for each of many times."""
        start = time.perf_counter()
        for _ in range(times):
            self.run(tol)
        return (time.perf_counter() - start) / times

    def memory(self) -> float:
        """By how many bytes the peak rose since all was ready."""
        return peak_memory() - self.before


def small(task: Task) -> Task:
    """A task of the same kind that takes no time."""
    rng = np.random.default_rng(0)
    X, y = np.asfortranarray(rng.normal(size=(20, 5))), np.resize([1.0, -1.0], 20)
    return task_of(task.family, X, y, np.array([0.5, 0.4] if task.path else [0.5]))


def peak_memory() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def serve(connection: Any, name: str) -> None:
    """Obeys until there is nobody any more."""
    warnings.simplefilter("ignore")
    jax.config.update("jax_enable_x64", True)
    sys.stdout = sys.stderr
    desk = Desk(name)
    with contextlib.suppress(EOFError):
        while True:
            order, *arguments = connection.recv()
            try:
                reply = getattr(desk, order)(*arguments)
            except Exception as error:
                reply = error
            connection.send(reply)


class Worker:
    """A solver in a process of its own."""

    def __init__(self, name: str):
        self.name = name
        self.process: Any = None

    def ask(self, patience: float, order: str, *arguments: Any) -> Any:
        """Sends an order; TimeoutError, and the end of the process, after a while."""
        if self.process is None:
            context = multiprocessing.get_context("spawn")
            self.line, other = context.Pipe()
            self.process = context.Process(
                target=serve, args=(other, self.name), daemon=True
            )
            self.process.start()
            other.close()
        self.line.send((order, *arguments))
        try:
            if not self.line.poll(patience):
                raise TimeoutError
            reply = self.line.recv()
        except (TimeoutError, EOFError, OSError):
            self.stop()
            raise
        if isinstance(reply, Exception):
            raise reply
        return reply

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.line.close()
            self.process = None


# The measurement.


class Result(NamedTuple):
    """What came of a solver on a task.

    Attributes:
      seconds: the median time at the loosest tolerance that passes; None if none does.
      failure: why there is no time.
      tol: that tolerance.
      coefs: what it found.
      compile_seconds: if it is a JAX program.
    """

    seconds: float | None = None
    failure: str = ""
    tol: float = 0.0
    coefs: Array | None = None
    compile_seconds: float | None = None


class Settings(NamedTuple):
    """How long, and what.

    Attributes:
      limit: seconds that a solve may take.
      repeats: how often each is timed.
      budget: seconds after which a solver is not timed again.
      solvers: their names.
    """

    limit: float
    repeats: int
    budget: float
    solvers: Sequence[str]

    def workers(self) -> dict[str, Worker]:
        """One for each solver that is installed."""
        return {
            name: Worker(name)
            for name in self.solvers
            if installed(SOLVERS[name].package)
        }


def installed(package: str) -> str | None:
    """The version of `package`, if it is installed."""
    if package == "optareg":
        return optareg.__version__
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def climb(worker: Worker, task: Task, folder: Path, limit: float) -> Result:
    """Finds the loosest tolerance that passes."""
    best, compile_seconds = np.inf, None
    try:
        compile_seconds = worker.ask(PATIENCE, "prepare", folder)
        for tol in TOLERANCES:
            # The time to send the result is not the solver's.
            seconds, coefs = worker.ask(limit + 1, "solve", tol)
            if seconds > limit:
                raise TimeoutError
            here = relative_gap(task, coefs)
            print(
                f"    {worker.name}: tol {tol:.0e}, gap {here:.1e}, {seconds:.3g} s",
                file=sys.stderr,
            )
            if here <= GAP:
                return Result(seconds, "", tol, coefs, compile_seconds)
            best = min(best, here)
    except TimeoutError:
        return Result(failure=f"> {limit:g} s", compile_seconds=compile_seconds)
    except Exception as error:
        print(f"    {worker.name}: {error!r}", file=sys.stderr)
        return Result(failure=type(error).__name__)
    return Result(failure=f"gap {best:.0e} at best", compile_seconds=compile_seconds)


def measure(
    task: Task, workers: dict[str, Worker], settings: Settings
) -> dict[str, Result]:
    """The results of all solvers, timed in turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task.save(folder)
        results = {
            solver: climb(worker, task, folder, settings.limit)
            for solver, worker in workers.items()
            if task.family in SOLVERS[solver].families
        }
    passing = {s: r for s, r in results.items() if r.seconds is not None}
    # A solver that takes long has been timed well enough by the climb.
    times = {
        solver: [result.seconds] if result.seconds > settings.budget else []
        for solver, result in passing.items()
    }
    for turn in range(settings.repeats):
        # Backwards every second time, so that no one always follows the same other.
        for solver in list(passing)[:: (-1) ** turn]:
            result = passing[solver]
            if times[solver] and sum(times[solver]) > settings.budget:
                continue
            often = max(1, round(0.005 / result.seconds))
            one = workers[solver].ask(PATIENCE, "seconds", result.tol, often)
            times[solver].append(one)
    medians = {s: statistics.median(values) for s, values in times.items()}
    return {
        solver: result._replace(seconds=medians.get(solver))
        for solver, result in results.items()
    }


def best_of(results: dict[str, Result], column: str) -> tuple[str, Result] | None:
    """The fastest of the solvers that share a column."""
    mine = [(s, r) for s, r in results.items() if SOLVERS[s].column == column]
    return min(mine, key=lambda pair: pair[1].seconds or np.inf, default=None)


# The tables.


def milliseconds(seconds: float) -> str:
    digits = 0 if seconds >= 0.1 else 1 if seconds >= 0.01 else 2
    return f"{1e3 * seconds:,.{digits}f}"


def time_cell(results: dict[str, Result], column: str, settings: Settings) -> str:
    """Milliseconds, and the ratio to optareg's."""
    solvers = [s for s, solver in SOLVERS.items() if solver.column == column]
    if not installed(SOLVERS[solvers[0]].package):
        return MISSING
    found = best_of(results, column)
    if found is None:
        return "not run"
    solver, result = found
    ours = results["optareg"].seconds if "optareg" in results else None
    if result.seconds is None:
        if ours and column != "optareg" and result.failure.startswith(">"):
            return f"{result.failure} (> {ratio(settings.limit / ours)})"
        return result.failure
    cell = milliseconds(result.seconds)
    if ours and column != "optareg":
        cell += f" ({ratio(result.seconds / ours)})"
    return cell if solver in COLUMNS else f"{cell} {solver}"


def ratio(value: float) -> str:
    return f"{value:,.0f} ×" if value >= 10 else f"{value:.2g} ×"


def compile_cells(results: dict[str, Result]) -> Iterator[str]:
    for solver in ("optareg", "JAXopt"):
        seconds = results.get(solver, Result()).compile_seconds
        yield "—" if seconds is None else f"{seconds:.1f} s"


def nonzeros(results: dict[str, Result]) -> str:
    """Of the first solver that passes, on a path at the weakest strength."""
    passing = (r.coefs for r in results.values() if r.coefs is not None)
    coefs = next(passing, None)
    return "—" if coefs is None else f"{np.count_nonzero(coefs[-1]):,}"


HEAD = [*(f"{column}, ms" for column in COLUMNS)]
COMPILE = ["optareg compiles in", "JAXopt compiles in"]


def family_rows(
    family: str,
    problems: Sequence[str],
    strengths: Sequence[str],
    workers: dict[str, Worker],
    settings: Settings,
) -> Iterator[list[str]]:
    for problem in problems:
        X, y = FAMILIES[family][problem]()
        for strength in strengths:
            print(family, problem, strength, file=sys.stderr)
            task = task_of(family, X, y, STRENGTHS[strength])
            results = measure(task, workers, settings)
            cells = (time_cell(results, column, settings) for column in COLUMNS)
            row = [problem, strength, nonzeros(results), *cells]
            yield [*row, *compile_cells(results)]


def growth_rows(sizes: Sequence[int], settings: Settings) -> Iterator[list[str]]:
    # New processes for each: what an earlier one left would hide what this one takes.
    for p in sizes:
        print("growth", f"{p:,}", file=sys.stderr)
        X, y = synthetic(200, p, 0.0)
        workers = settings.workers()
        task = task_of("lasso", X, y, STRENGTHS["λmax/10"])
        results = measure(task, workers, settings)
        row = [f"{p:,}", f"{X.nbytes / 1e6:,.0f}"]
        for column in COLUMNS:
            cell = time_cell(results, column, settings)
            if column in results and results[column].seconds is not None:
                more = workers[column].ask(PATIENCE, "memory")
                cell += f", {more / 1e6:,.0f} MB"
            row.append(cell)
        yield [*row, *compile_cells(results)]
        for worker in workers.values():
            worker.stop()


def batch_rows(
    sizes: Sequence[int], workers: dict[str, Worker], settings: Settings
) -> Iterator[list[str]]:
    problems = {
        "diabetes 442×10": from_sklearn("diabetes"),
        "100×200": synthetic(100, 200, 0.0),
    }
    for problem, (X, y) in problems.items():
        for size in sizes:
            print("batch", problem, size, file=sys.stderr)
            results = measure(bootstrap(X, y, size), workers, settings)
            for solver, result in results.items():
                if result.seconds is not None:
                    each = result.seconds / size
                    results[solver] = result._replace(seconds=each)
            each = settings._replace(limit=settings.limit / size)
            cells = (time_cell(results, column, each) for column in COLUMNS)
            yield [problem, f"{size:,}", *cells, *compile_cells(results)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    tables = [*FAMILIES, "growth", "batch"]
    parser.add_argument("--tables", nargs="+", default=tables, choices=tables)
    parser.add_argument("--problems", nargs="+", help="parts of the names of the rows")
    parser.add_argument(
        "--strengths", nargs="+", default=list(STRENGTHS), choices=STRENGTHS
    )
    parser.add_argument("--solvers", nargs="+", default=list(SOLVERS), choices=SOLVERS)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds a solve")
    parser.add_argument("--repeats", type=int, default=7, help="of the timing")
    parser.add_argument(
        "--map", action="store_true", help="batches by `jax.lax.map`, not `jax.vmap`"
    )
    parser.add_argument("--quick", action="store_true", help="a small part, fast")
    options = parser.parse_args()
    growth, batch = [10**3, 10**4, 10**5], [1, 10, 100, 1000]
    budget = 2.0
    if options.quick:
        options.problems = options.problems or ["diabetes", "breast"]
        options.strengths = [s for s in options.strengths if s != "λmax/100"]
        options.limit, options.repeats, budget = min(options.limit, 2.0), 3, 0.5
        growth, batch = growth[1:2], batch[2:3]
    if options.map:
        os.environ[MAP] = "1"  # For the processes of the solvers.
    settings = Settings(options.limit, options.repeats, budget, options.solvers)
    workers = settings.workers()
    check_judge()

    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    versions = (f"{name} {installed(name) or MISSING}" for name in PACKAGES)
    print(f"{', '.join(versions)}; Python {platform.python_version()}.")
    print(f"CPU, {cores} cores, float64. Time to a relative duality gap of {GAP:.0e}.")
    print("In brackets the ratio to optareg: above 1 means that optareg is faster.")

    for family in FAMILIES:
        wanted = options.problems or [""]
        problems = [x for x in FAMILIES[family] if any(part in x for part in wanted)]
        if family in options.tables and problems:
            print_table(
                f"Time, {family}",
                ["problem", "strength", "nonzeros", *HEAD, *COMPILE],
                family_rows(family, problems, options.strengths, workers, settings),
            )
    if "growth" in options.tables:
        print_table(
            "Time, and memory beside the data: lasso at λmax/10, 200 rows",
            ["columns", "data, MB", *HEAD, *COMPILE],
            growth_rows(growth, settings),
        )
    if "batch" in options.tables:
        print_table(
            "Time per problem: lassos at λmax/10 on resampled rows, "
            f"by `jax.{'lax.map' if options.map else 'vmap'}` with JAX, else in a loop",
            ["problem", "batch", *HEAD, *COMPILE],
            batch_rows(batch, workers, settings),
        )


if __name__ == "__main__":
    main()
