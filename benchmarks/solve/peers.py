"""The peers on the CPU: scikit-learn, skglm, celer and adelie.

Each weights groups by what it is given: the roots of their sizes for `groups`, 1 for
`rows`. adelie divides the loss of m targets by m, and so its strengths are too.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from judge import largest_strength
from task import Prepared, Task

Array = np.ndarray

FOREVER = 10**9


def one_by_one(prepare: Callable[[Task], Prepared]) -> Callable[[Task], Prepared]:
    """Of a solver that knows no batches: a loop over them."""

    def prepare_all(task: Task) -> Prepared:
        if not task.batch:
            return prepare(task)
        runs = [prepare(one).run for one in task.problems()]
        return Prepared(lambda tol: np.concatenate([run(tol) for run in runs]))

    return prepare_all


def warm_fits(model: Any, name: str, values: Iterable[Any], X: Any, y: Any) -> Array:
    """A path by hand: each fit starts at the last one, where the model can do so."""
    coefs = []
    for value in values:
        model.set_params(**{name: value}).fit(X, y)
        coefs.append(np.array(model.coef_).ravel())
    return np.array(coefs)


def rows_first(coefs: Array) -> Array:
    """From (m, p, strengths) to (strengths, p, m)."""
    return np.ascontiguousarray(coefs.transpose(2, 1, 0))


def by_sklearn(task: Task) -> Prepared:
    from sklearn import linear_model as models

    X, y, ratio, alphas = task.X, task.y, task.l1_ratio, task.l1 + task.l2

    def run(tol: float) -> Array:
        more = {"tol": tol, "max_iter": FOREVER}
        if task.path and task.penalty == "rows":
            return rows_first(models.lasso_path(X, y, alphas=alphas, **more)[1])
        if task.path and task.penalty == "elastic net":
            some = {"l1_ratio": ratio, "alphas": alphas}
            return np.asarray(models.enet_path(X, y, **some, **more)[1].T)
        if task.path:
            return np.asarray(models.lasso_path(X, y, alphas=alphas, **more)[1].T)
        more |= {"alpha": alphas[0], "fit_intercept": False}
        if task.penalty == "rows":
            return np.asarray(models.MultiTaskLasso(**more).fit(X, y).coef_.T[None])
        elastic = task.penalty == "elastic net"
        model = (
            models.ElasticNet(l1_ratio=ratio, **more)
            if elastic
            else models.Lasso(**more)
        )
        return np.asarray(model.fit(X, y).coef_[None])

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
    from skglm.datafits import Poisson
    from skglm.penalties import L1
    from skglm.solvers import ProxNewton

    X, y = task.X, task.y
    alphas = [float(alpha) for alpha in task.l1 + task.l2]
    unit = largest_strength(task)
    sizes = [int(size) for size in task.sizes]

    def run(tol: float) -> Array:
        more = {"fit_intercept": False, "tol": tol * unit, "max_iter": 10_000}
        if task.loss == "poisson":
            model = skglm.GeneralizedLinearEstimator(
                Poisson(), L1(1.0), ProxNewton(warm_start=True, **more)
            )
            return warm_fits(model, "penalty", map(L1, alphas), X, y)
        if task.loss == "logistic":
            model = skglm.SparseLogisticRegression(warm_start=True, **more)
            return warm_fits(model, "alpha", alphas, X, y)
        if task.penalty == "groups":
            some = {"weights": np.sqrt(sizes), "warm_start": True}
            model = skglm.GroupLasso(sizes, **some, **more)
            return warm_fits(model, "alpha", alphas, X, y)
        if task.penalty == "rows":
            model = skglm.MultiTaskLasso(alphas[0], **more)
            if task.path:
                return np.asarray(model.path(X, y, alphas)[1]).transpose(2, 0, 1)
            return np.asarray(model.fit(X, y).coef_.T[None])
        if task.penalty == "L1":
            model = skglm.Lasso(alphas[0], **more)
        else:
            model = skglm.ElasticNet(alphas[0], l1_ratio=task.l1_ratio, **more)
        if task.path:
            return np.asarray(model.path(X, y, np.array(alphas))[1].T)
        return np.asarray(model.fit(X, y).coef_[None])

    return Prepared(run)


def by_celer(task: Task) -> Prepared:
    import celer

    X, y, alphas = task.X, task.y, task.l1 + task.l2
    sizes = [int(size) for size in task.sizes]
    weights = np.sqrt(sizes)

    def whole_path(more: dict[str, Any]) -> Array:
        if task.loss == "logistic":
            some = {"alphas": alphas * len(y), "pb": "logreg", "use_PN": True}
        elif task.penalty == "groups":
            some = {"alphas": alphas, "pb": "grouplasso"}
            some |= {"groups": sizes, "weights": weights}
        else:
            some = {"alphas": alphas, "pb": "lasso", "l1_ratio": task.l1_ratio}
        return np.asarray(celer.celer_path(X, y, **some, **more)[1].T)

    def run(tol: float) -> Array:
        more: dict[str, Any] = {"tol": tol, "max_iter": 10_000}
        if task.penalty == "rows":  # Its estimator does not fit a new scikit-learn.
            return rows_first(celer.homotopy.mtl_path(X, y, alphas=alphas, **more)[1])
        if task.path:
            return whole_path(more)
        if task.loss == "logistic":
            model = celer.LogisticRegression(C=1 / (len(y) * alphas[0]), **more)
            return np.atleast_2d(model.fit(X, y).coef_)
        more |= {"alpha": alphas[0], "fit_intercept": False}
        if task.penalty == "groups":
            model = celer.GroupLasso(sizes, weights=weights, **more)
        elif task.penalty == "L1":
            model = celer.Lasso(**more)
        else:
            model = celer.ElasticNet(l1_ratio=task.l1_ratio, **more)
        return np.atleast_2d(model.fit(X, y).coef_)

    return Prepared(run)


def by_adelie(task: Task) -> Prepared:
    import adelie

    X, y, dtype = task.X, task.y, task.X.dtype.type
    targets = y.shape[1] if y.ndim == 2 else 1
    groups = {"groups": task.starts, "penalty": np.sqrt(task.sizes).astype(dtype)}
    each = {"groups": np.arange(X.shape[1]), "penalty": np.ones(X.shape[1], dtype)}

    def model() -> Any:
        if task.loss == "logistic":
            return adelie.glm.binomial((y > 0).astype(dtype), dtype=dtype)
        if task.loss == "poisson":
            return adelie.glm.poisson(y, dtype=dtype)
        if task.loss == "multinomial":
            return adelie.glm.multinomial(y, dtype=dtype)
        if task.penalty == "rows":
            return adelie.glm.multigaussian(y, dtype=dtype)
        return adelie.glm.gaussian(y, dtype=dtype)

    glm = model()

    def run(tol: float) -> Array:
        # Its tolerance is one on the square of a step.
        state = adelie.grpnet(
            X,
            glm,
            alpha=task.l1_ratio,
            lmda_path=(task.l1 + task.l2) / targets,
            intercept=False,
            early_exit=False,
            adev_tol=1.0,
            tol=tol**2,
            irls_tol=tol**2,
            max_iters=FOREVER,
            progress_bar=False,
            **(groups if task.penalty == "groups" else each),
        )
        return np.asarray(state.betas.toarray())

    return Prepared(run)
