"""The public surface as short jobs, under JAX's strict settings, one by one and all.

What a job gives must be what it gives without the setting. Each setting raises where it
is offended: `jax_debug_nans` at a NaN that any compiled function gives, even if it is
thrown away later; strict promotion at an operation on two dtypes; and so on.

Optax's Adam offends strict promotion by itself, and so do all complex numbers times
real ones; neither is asked of.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from laws import CASES, OF_EACH_KIND, Case, enable_x64
from marks import some_long
from optareg import (
    L1,
    L2,
    ElasticNet,
    GroupLasso,
    NuclearNorm,
    SparseGroupLasso,
    TotalVariation,
    add_penalty_gradient,
    by_path,
    choose_strength,
    compact,
    freeze_zeros,
    joined,
    low_rank,
    masked,
    max_strength,
    minimize,
    partition,
    path,
    proximal,
    proximal_step,
    sparsity,
    stationarity,
    strength_grid,
    summarize,
    target_sparsity,
)

RATE = 0.1


STRICT = "nans", "infs", "dtypes", "ranks", "leaks"


def all_strict() -> contextlib.ExitStack:
    """All that can hold at once."""
    stack = contextlib.ExitStack()
    for name in STRICT:
        stack.enter_context(SETTINGS[name]())
    return stack


SETTINGS: dict[str, Callable[[], Any]] = {
    "nans": lambda: jax.debug_nans(True),
    "infs": lambda: jax.debug_infs(True),
    "dtypes": lambda: jax.numpy_dtype_promotion("strict"),
    "ranks": lambda: jax.numpy_rank_promotion("raise"),
    "leaks": jax.checking_leaks,
    "no jit": jax.disable_jit,
    "all": all_strict,
}


# Data and a model, of the dtype that the setting gives.


def data() -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 6))
    y = X @ np.array([2.0, -1.0, 0.0, 0.0, 0.5, 0.0]) + 0.1 * rng.normal(size=20)
    return jnp.asarray(X, float), jnp.asarray(y, float)


def loss(w: Any) -> jax.Array:
    X, y = data()
    return 0.5 * jnp.mean((y - X @ w) ** 2)


def layers() -> Any:
    rng = np.random.default_rng(1)
    return {
        "in": {"kernel": floats(rng.normal(size=(3, 2))), "bias": floats(np.zeros(2))},
        "out": {"kernel": floats(rng.normal(size=(2, 1)))},
    }


def floats(x: np.ndarray) -> jax.Array:
    return jnp.asarray(x, float)


def of_layers(params: Any) -> jax.Array:
    return sum((jnp.sum((x - 1) ** 2) for x in jax.tree.leaves(params)), start=zero())


def zero() -> jax.Array:
    return jnp.zeros((), float)


# Jobs: each returns numbers.


def look(name: str) -> Any:
    """Value, gradient, prox, optimality residual and derivatives."""
    case = CASES[name]
    penalty = of_this_precision(case)
    w = tree_of(case)
    return (
        penalty.value(w),
        penalty.gradient(w),
        penalty.prox(w, 0.5),
        stationarity(penalty, w, w),
        jax.grad(lambda w: total(penalty.prox(w, 0.5)))(w),
    )


def of_this_precision(case: Case) -> Any:
    """With arrays of strengths, and centers, in the dtype of the parameters."""
    dtype = jnp.zeros((), float).dtype

    def cast(x: Any) -> Any:
        if not np.ndim(x) or np.asarray(x).dtype.kind not in "fc":
            return x
        return np.asarray(
            x, jnp.promote_types(dtype, complex) if np.iscomplexobj(x) else dtype
        )

    return jax.tree.map(cast, case.penalty)


def tree_of(case: Case) -> Any:
    w = case.within.bring(case.point(np.linspace(-1, 1.2, 12)))
    return jax.tree.map(
        lambda x: x.astype(complex if case.is_complex else float), case.tree(w)
    )


def total(tree: Any) -> jax.Array:
    return sum((jnp.sum(jnp.abs(x)) for x in jax.tree.leaves(tree)), start=zero())


def train(make: Callable[[], optax.GradientTransformation]) -> Any:
    """Two steps, outside of `jit`."""
    optimizer, params = make(), layers()
    state = optimizer.init(params)
    for _ in range(2):
        gradient = jax.grad(of_layers)(params)
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


EVERYWHERE = partition(
    {
        "a": joined(
            GroupLasso(0.3, axis=1),
            {"in": {"kernel": "u", "bias": "u"}, "out": {"kernel": None}},
        ),
        "b": ElasticNet(0.3, 0.1),
    },
    {"in": "a", "out": "b"},
)
MAKE: dict[str, Callable] = {
    "gradient": lambda: optax.chain(add_penalty_gradient(L1(0.3)), optax.lion(RATE)),
    "step": lambda: optax.chain(optax.sgd(RATE), proximal_step(L1(0.3), RATE)),
    "found": lambda: proximal(optax.lion(RATE), EVERYWHERE),
    "given": lambda: proximal(optax.sgd(RATE), ElasticNet(0.3, 0.1), threshold=RATE),
    "target": lambda: target_sparsity(optax.sgd(RATE), L1(1.0), 0.5),
    "frozen": lambda: freeze_zeros(proximal(optax.sgd(RATE), L2(0.1))),
    "scheduled": lambda: proximal(
        optax.sgd(RATE), lambda step: L1(jnp.where(step < 2, 0.1, 0.2))
    ),
    "SparseGroupLasso": lambda: proximal(optax.sgd(RATE), SparseGroupLasso(0.1, 0.1)),
    "TotalVariation": lambda: proximal(optax.sgd(RATE), TotalVariation(0.1)),
    "NuclearNorm": lambda: proximal(
        optax.sgd(RATE), masked(NuclearNorm(0.1), by_path("kernel"))
    ),
}


def solve() -> Any:
    solution = minimize(loss, floats(np.zeros(6)), L1(0.1))
    return solution.params, solution.converged


def differentiate() -> Any:
    def first(strength: Any) -> jax.Array:
        return minimize(loss, floats(np.zeros(6)), L1(strength)).params[0]

    return jax.grad(first)(floats(np.array(0.1)))


def trace_path() -> Any:
    start = floats(np.zeros(6))
    most = max_strength(loss, start, L1(1.0))
    strengths = strength_grid(most, 4, 0.1)
    solutions = path(loss, start, L1(strengths))
    errors = jnp.stack([strengths, 2 * strengths])
    return solutions.params, choose_strength(strengths, errors).best


def inspect() -> Any:
    params = {"Dense_0": layers()["in"], "Dense_1": layers()["out"]}
    params["Dense_0"]["kernel"] = params["Dense_0"]["kernel"].at[:, 1].set(0)
    rows = summarize(params, masked(GroupLasso(1.0, axis=0), by_path("kernel"))).leaves
    factors = low_rank(np.outer(np.arange(1.0, 5.0), np.ones(3)))
    return (
        sparsity(params),
        [row.zeros for row in rows],
        compact(params, ["Dense_0", "Dense_1"]),
        factors.left @ factors.right,
    )


JOBS: dict[str, Callable[[], Any]] = {
    "solve": solve,
    "differentiate": differentiate,
    "path": trace_path,
    "inspect": inspect,
    **{f"train-{name}": functools.partial(train, make) for name, make in MAKE.items()},
    **{f"look-{name}": functools.partial(look, name) for name in OF_EACH_KIND},
}
# What needs numbers, not what stands for them.
CONCRETE = "inspect"
# Run in the default suite; each is of another part of the package.
SOME = [
    ("all", "solve"),
    ("no jit", "train-given"),
    ("infs", "train-TotalVariation"),
]


def is_complex(job: str) -> bool:
    return job.startswith("look-") and CASES[job.removeprefix("look-")].is_complex


TRACED = [job for job in JOBS if job != CONCRETE]
MORE_LOOKS = {f"look-{name}" for name in OF_EACH_KIND[1::2]}


@pytest.mark.parametrize(
    "job", some_long(TRACED, *(job for job in TRACED if job not in MORE_LOOKS))
)
def test_nothing_is_promoted_and_no_tracer_leaks(job, x64):
    """All of it is traced, so that nothing need be compiled."""
    with contextlib.ExitStack() as stack:
        for name in ("ranks", "leaks", *([] if is_complex(job) else ["dtypes"])):
            stack.enter_context(SETTINGS[name]())
        result = jax.eval_shape(JOBS[job])
    for leaf in jax.tree.leaves(result):
        assert leaf.dtype not in (jnp.float32, jnp.complex64), "narrower than asked for"


@functools.cache
def plainly(job: str, wide: bool) -> Any:
    """Without a setting, and with the same optimizations as the others have."""
    with enable_x64(wide):
        return jax.tree.map(np.asarray, JOBS[job]())


def check(setting: str, job: str, wide: bool) -> None:
    with enable_x64(wide), SETTINGS[setting]():
        found = JOBS[job]()
    expected = plainly(job, wide)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.asarray(a).dtype == b.dtype
        atol = 1e-10 if wide else 1e-4
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


@pytest.mark.parametrize(("setting", "job"), SOME)
def test_a_job_gives_the_same_under_a_setting(setting, job):
    check(setting, job, wide=False)


@pytest.mark.long
@pytest.mark.parametrize("wide", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize("setting", [name for name in SETTINGS if name != "all"])
@pytest.mark.parametrize("job", JOBS)
def test_every_job_gives_the_same_under_every_setting(job, setting, wide):
    if setting == "dtypes" and is_complex(job):
        pytest.skip("JAX promotes a real factor of a complex number")
    check(setting, job, wide)


@pytest.mark.parametrize("setting", [*STRICT, "all"])
def test_an_offence_would_be_found(setting):
    for name, (error, offence) in OFFENCES.items():
        if setting in (name, "all"):
            with SETTINGS[setting](), pytest.raises(error):
                offence()


def leak() -> None:
    kept = []
    jax.jit(lambda x: kept.append(x) or x)(1.0)


OFFENCES: dict[str, tuple[Any, Callable]] = {
    "nans": (FloatingPointError, lambda: jnp.log(-jnp.ones(()))),
    "infs": (FloatingPointError, lambda: 1 / jnp.zeros(())),
    "dtypes": (
        jax.errors.TypePromotionError
        if hasattr(jax.errors, "TypePromotionError")
        else Exception,
        lambda: jnp.ones((), jnp.float32) + jnp.ones((), jnp.int32),
    ),
    "ranks": (ValueError, lambda: jnp.ones((2, 3)) + jnp.ones(3)),
    "leaks": (Exception, leak),
}
