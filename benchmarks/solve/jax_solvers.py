"""The solvers in JAX: optareg, and JAXopt's proximal gradient with acceleration.

Each is one compiled program of the data and the strengths. JAXopt has the exact step
1/L; what it takes to find L is not counted. For the Poisson loss it searches.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from judge import largest_strength
from task import Prepared, Task

import optareg

Array = np.ndarray

FOREVER = 10**9


def use(platform: str) -> str:
    """Makes a platform the default; the name of its device."""
    if platform == "cpu":  # Leaves other devices alone.
        # Leaves other devices alone.
        jax.config.update("jax_platforms", "cpu")  # type: ignore[no-untyped-call]
    device = jax.devices(platform)[0]
    jax.config.update("jax_default_device", device)  # type: ignore[no-untyped-call]
    return str(device.device_kind)


def loss_of(name: str, X: Any, y: Any) -> Callable[[Any], Any]:
    """The loss of parameters (p,) or (p, m)."""

    def loss(w: Any) -> Any:
        z = X @ w
        if name == "logistic":
            return jnp.mean(jax.nn.softplus(-y * z))
        if name == "poisson":
            return jnp.mean(jnp.exp(z) - y * z)
        if name == "multinomial":
            return jnp.mean(jax.nn.logsumexp(z, axis=1) - jnp.sum(y * z, axis=1))
        return 0.5 * jnp.sum((y - z) ** 2) / len(y)

    return loss


def penalty_of(task: Task, l1: Any, l2: Any) -> optareg.Penalty:
    if task.penalty == "elastic net":
        return optareg.ElasticNet(l1, l2 / 2)
    if task.penalty == "groups":
        return optareg.GroupLasso(l1, groups=task.labels)
    if task.penalty == "rows":
        return optareg.GroupLasso(l1, axis=1, size_scaled=False)
    return optareg.L1(l1)


def start_of(X: Any, y: Any) -> Any:
    """Zeros, of a shape that fits the data."""
    return jnp.zeros((X.shape[-1], *y.shape[1:]), X.dtype)


def by_optareg(task: Task) -> Prepared:
    solver = optareg.path if task.path else optareg.minimize

    def solve(X: Any, y: Any, l1: Any, l2: Any, tol: Any) -> Any:
        loss, penalty = loss_of(task.loss, X, y), penalty_of(task, l1, l2)
        return solver(loss, start_of(X, y), penalty, tol=tol).params

    return compiled(solve, task)


def by_jaxopt(task: Task) -> Prepared:
    from jaxopt import ProximalGradient

    def solve(X: Any, y: Any, l1: Any, l2: Any, tol: Any, step: Any) -> Any:
        solver = ProximalGradient(
            fun=loss_of(task.loss, X, y),
            prox=prox_of(task),
            stepsize=0.0 if task.loss == "poisson" else lambda _: step,
            acceleration=True,
            maxiter=FOREVER,
            tol=tol,
            implicit_diff=False,
            unroll=False,
        )

        def one(w: Any, strengths: Any) -> Any:
            l1, l2 = strengths
            elastic = task.penalty == "elastic net"
            w = solver.run(w, (l1, l2 / l1) if elastic else l1).params
            return w, w

        if not task.path:
            return one(start_of(X, y), (l1, l2))[0]
        return jax.lax.scan(one, start_of(X, y), (l1, l2))[1]

    problems = task.problems() if task.batch else [task]
    steps = np.array([step_size(one) for one in problems], task.X.dtype)
    return compiled(solve, task, steps if task.batch else steps[0])


def prox_of(task: Task) -> Callable[..., Any]:
    """JAXopt's own where it has one; it has none of groups within an array."""
    from jaxopt import prox

    if task.penalty == "elastic net":
        return prox.prox_elastic_net  # type: ignore[no-any-return]
    if task.penalty == "L1":
        return prox.prox_lasso  # type: ignore[no-any-return]
    labels, sizes = task.labels, np.sqrt(task.sizes)

    def shrink(w: Any, l1: Any, scaling: Any = 1.0) -> Any:
        if task.penalty == "rows":
            length = jnp.linalg.norm(w, axis=1, keepdims=True)
            least = scaling * l1
        else:
            length = jnp.sqrt(jax.ops.segment_sum(w**2, labels, len(sizes)))[labels]
            least = scaling * l1 * jnp.asarray(sizes, w.dtype)[labels]
        return w * jnp.maximum(0, 1 - least / jnp.where(length > 0, length, 1))

    return shrink


def step_size(task: Task) -> float:
    """One over the exact Lipschitz constant of the loss's gradient."""
    X = task.X if task.X.shape[0] > task.X.shape[1] else task.X.T
    most = np.linalg.eigvalsh(X.T @ X)[-1] / len(task.y)
    return float(1 / most) * {"logistic": 4, "multinomial": 2}.get(task.loss, 1)


def compiled(solve: Callable[..., Any], task: Task, *more: Any) -> Prepared:
    """Compiles `solve(X, y, l1, l2, tol, …)`; tol is in units of λmax."""
    dtype, single = task.X.dtype, not task.batch and not task.path
    l1, l2 = (task.l1[0], task.l2[0]) if single else (task.l1, task.l2)
    problems = list(task.problems()) if task.batch else [task]
    units = np.array([largest_strength(one) for one in problems])
    unit = units if task.batch else units[0]
    arrays = [jnp.asarray(x, dtype) for x in (task.X, task.y, l1, l2, unit, *more)]

    def scaled(tol: Any, *arrays: Any) -> Any:
        X, y, l1, l2, unit, *more = arrays
        return solve(X, y, l1, l2, tol * unit, *more)

    def mapped(tol: Any, *arrays: Any) -> Any:
        return jax.lax.map(lambda one: scaled(tol, *one), arrays)

    axes = (None, *(0 for _ in arrays))
    batched = mapped if task.mapped else jax.vmap(scaled, in_axes=axes)
    function = batched if task.batch else scaled
    # What only the first program costs.
    jax.block_until_ready(jax.jit(jnp.sin)(1.0))  # type: ignore[no-untyped-call]
    jax.clear_caches()  # type: ignore[no-untyped-call]
    start = time.perf_counter()
    program = jax.jit(function).lower(jnp.asarray(0.1, dtype), *arrays).compile()
    seconds = time.perf_counter() - start

    def run(tol: float) -> Array:
        found = np.asarray(program(jnp.asarray(tol, dtype), *arrays))
        return found[None] if single else found

    def eager(tol: float) -> Array:
        return np.asarray(scaled(jnp.asarray(tol, dtype), *arrays))

    memory = program.memory_analysis()
    temporaries = None if memory is None else memory.temp_size_in_bytes
    return Prepared(run, seconds, temporaries, None if task.batch else eager)


def eager_seconds(prepared: Prepared, tol: float) -> tuple[float, float] | None:
    """Of the first call outside of `jit`, which compiles, and of the second one."""
    if prepared.eager is None:
        return None
    optareg.clear_programs()
    jax.clear_caches()  # type: ignore[no-untyped-call]
    times = []
    for _ in range(2):
        start = time.perf_counter()
        prepared.eager(tol)
        times.append(time.perf_counter() - start)
    return times[0], times[1]
