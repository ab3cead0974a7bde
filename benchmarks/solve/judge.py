"""The judge: duality gaps in NumPy and float64, for the coefficients of any solver.

P(W) = F(XW) + a Ω(W) + ½ b ‖W‖², F(Z) = (1/n) Σ f(zᵢ, yᵢ). With θ = −∇F(XW) and
φ = −bW the dual is D = −F*(−θ) − ‖φ‖² / 2b, where Ω*(Xᵀθ + φ) ≤ a. Away from the
optimum θ and φ are scaled down until they are feasible. W is (strengths, p, m).
"""

import numpy as np
from scipy.special import expit, logsumexp, softmax, xlogy
from task import Task

Array = np.ndarray


def relative_gap(task: Task, coefs: Array) -> float:
    """The largest (P(W) − D(θ)) / (F(0) − min F) of the strengths or problems."""
    tasks = list(task.problems()) if task.batch else [task]
    W = coefs.astype(float).reshape(len(task.l1), task.X.shape[-1], -1)
    parts = np.split(W, len(tasks))
    found = np.concatenate([gaps(*pair) for pair in zip(tasks, parts, strict=True)])
    return float(np.max(np.where(np.isfinite(found), found, np.inf)))


@np.errstate(over="ignore", invalid="ignore")
def gaps(task: Task, W: Array) -> Array:
    """That of each W[i], all for one problem, each with its own strength."""
    X, Y, a, b = (x.astype(float) for x in (task.X, task.y, task.l1, task.l2))
    Y = Y.reshape(len(Y), -1)
    Z = X @ W
    T = -slope(task.loss, Y, Z)
    squares = (W**2).sum(axis=(1, 2))
    most = dual_norm(task, X.T @ T / len(Y) - b[:, None, None] * W)
    scale = a / np.maximum(a, most)
    primal = loss(task.loss, Y, Z) + a * norm(task, W) + b / 2 * squares
    dual = (
        conjugate(task.loss, Y, scale[:, None, None] * T) + scale**2 * b / 2 * squares
    )
    zero = loss(task.loss, Y, np.zeros((1, *Y.shape)))
    return np.asarray((primal + dual) / (zero - least(task.loss, Y)))


def largest_strength(task: Task) -> float:
    """λmax, the least strength at which all is zero, for one problem."""
    Y = task.y.reshape(len(task.y), -1)
    T = -slope(task.loss, Y, np.zeros((1, *Y.shape)))
    return float(dual_norm(task, task.X.T @ T / len(Y))[0])


# The losses, each (1/n) Σ over rows of what is summed over targets.


def loss(name: str, Y: Array, Z: Array) -> Array:
    """F(Z), of each Z[i]."""
    if name == "logistic":
        each = np.logaddexp(0, -Y * Z)
    elif name == "poisson":
        each = np.exp(Z) - Y * Z
    elif name == "multinomial":
        each = logsumexp(Z, axis=2, keepdims=True) - (Y * Z).sum(axis=2, keepdims=True)
    else:
        each = (Y - Z) ** 2 / 2
    return np.asarray(each.sum(axis=2).mean(axis=1))


def slope(name: str, Y: Array, Z: Array) -> Array:
    """The gradient at Z, times n."""
    if name == "logistic":
        return np.asarray(-Y * expit(-Y * Z))
    if name == "poisson":
        return np.asarray(np.exp(Z) - Y)
    if name == "multinomial":
        return np.asarray(softmax(Z, axis=2) - Y)
    return np.asarray(Z - Y)


def conjugate(name: str, Y: Array, T: Array) -> Array:
    """F*(−θ), with T = nθ."""
    if name == "logistic":
        u = Y * T
        each = xlogy(u, u) + xlogy(1 - u, 1 - u)
    elif name == "poisson":
        v = np.maximum(Y - T, 0)  # Below 0 by rounding alone.
        each = xlogy(v, v) - v
    elif name == "multinomial":
        v = np.maximum(Y - T, 0)
        each = xlogy(v, v)
    else:
        each = T**2 / 2 - T * Y
    return np.asarray(each.sum(axis=2).mean(axis=1))


def least(name: str, Y: Array) -> float:
    """Below which F never is."""
    return float((Y - xlogy(Y, Y)).mean()) if name == "poisson" else 0.0


# The penalties.


def norm(task: Task, W: Array) -> Array:
    """Ω(W), of each W[i]; groups are weighted by the roots of their sizes."""
    if task.penalty == "groups":
        return np.asarray((lengths(task, W) * np.sqrt(task.sizes)).sum(axis=1))
    if task.penalty == "rows":
        return np.asarray(np.linalg.norm(W, axis=2).sum(axis=1))
    return np.asarray(np.abs(W).sum(axis=(1, 2)))


def dual_norm(task: Task, G: Array) -> Array:
    """Ω*(G), of each G[i]."""
    if task.penalty == "groups":
        return np.asarray((lengths(task, G) / np.sqrt(task.sizes)).max(axis=1))
    if task.penalty == "rows":
        return np.asarray(np.linalg.norm(G, axis=2).max(axis=1))
    return np.asarray(np.abs(G).max(axis=(1, 2)))


def lengths(task: Task, W: Array) -> Array:
    """‖W_g‖ of each group."""
    return np.asarray(np.sqrt(np.add.reduceat(W[:, :, 0] ** 2, task.starts, axis=1)))


def check_judge() -> None:
    """Gaps are zero at solutions known in closed form, and positive elsewhere."""
    rng = np.random.default_rng(0)
    Q, _ = np.linalg.qr(rng.normal(size=(50, 8)))
    X, Y, a = np.sqrt(50) * Q, rng.normal(size=(50, 3)), np.array([0.1])
    c, none, sizes = X.T @ Y / 50, np.zeros(1), np.array([3, 1, 4])
    cases = []
    for family, b in (("lasso", 0.0), ("elastic net", 0.3)):
        w = np.sign(c[:, 0]) * np.maximum(np.abs(c[:, 0]) - 0.1, 0) / (1 + b)
        cases.append((Task(family, X, Y[:, 0], a, np.array([b])), w))
    radii = 0.15 * np.sqrt(sizes) / np.sqrt(np.add.reduceat(c[:, 0] ** 2, [0, 3, 4]))
    w = c[:, 0] * np.repeat(np.maximum(0, 1 - radii), sizes)
    cases.append((Task("groups", X, Y[:, 0], 1.5 * a, none, sizes), w))
    W = c * np.maximum(0, 1 - 0.2 / np.linalg.norm(c, axis=1, keepdims=True))
    cases.append((Task("multi-task", X, Y, 2 * a, none), W))
    assert all(0 < np.count_nonzero(w) < w.size for _, w in cases)
    # log(1 + exp(−w)), where 1 / (1 + exp(w)) = 0.1; exp(w) − 3w, where exp(w) = 2.9.
    two, one = np.array([1.0, -1.0]), np.ones((1, 1))
    task = Task("logistic", two[:, None], two, a, none)
    cases.append((task, np.log(np.array([9.0]))))
    task = Task("poisson", one, np.array([3.0]), a, none)
    cases.append((task, np.log(np.array([2.9]))))
    # log(1 + exp(−2u)) at (u, −u), where √2 / (1 + exp(2u)) = 0.1.
    u = np.log(np.sqrt(2) / 0.1 - 1) / 2
    task = Task("multinomial", one, np.array([[1.0, 0.0]]), a, none)
    cases.append((task, np.array([[u, -u]])))
    for task, w in cases:
        assert abs(relative_gap(task, w)) < 1e-14, task.family
        for _ in range(99):
            other = w + 0.1 * rng.normal(size=w.shape)
            assert relative_gap(task, other) > 0, task.family
