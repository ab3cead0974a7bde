"""Programs for GPU and TPU, made by `jax.export` on a machine that has neither.

An export is the whole way to the program that the platform's compiler gets. It fails
where an operation has no rule for the platform, where the program calls back to Python,
and where it calls what JAX does not promise to keep.
"""

import functools
import itertools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from laws import CASES, OF_EACH_KIND, Case, enable_x64
from optareg import (
    L1,
    Penalty,
    add_penalty_gradient,
    freeze_zeros,
    max_strength,
    minimize,
    path,
    proximal,
    proximal_step,
    sparsity,
    stationarity,
    target_sparsity,
)
from optareg.penalties._base import map_strengths
from problems import regression_data

# The programs are made in one go; each platform has its own lowering in them.
PLATFORMS = ["cuda", "rocm", "tpu"]
RATE = 0.1
OPTIMIZERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "sgd": lambda: optax.sgd(RATE, momentum=0.9),
    "adam": lambda: optax.adam(RATE),
    "lion": lambda: optax.lion(RATE),
    "muon": lambda: optax.contrib.muon(RATE),
}
WAYS: dict[str, Callable] = {
    "gradient": lambda o, p: optax.chain(add_penalty_gradient(p), o),
    "step": lambda o, p: optax.chain(o, proximal_step(p, RATE)),
    "found": proximal,
    "given": lambda o, p: proximal(o, p, threshold=RATE),
    "target": lambda o, p: target_sparsity(o, p, 0.5),
    "frozen": lambda o, p: freeze_zeros(optax.chain(o, proximal_step(p, RATE))),
}


def exported(f: Callable, *args: Any, platforms: Any = PLATFORMS) -> Any:
    """The program of `f` for all of `platforms`."""
    program = jax.export.export(jax.jit(f), platforms=platforms)(*args)
    assert program.platforms == tuple(platforms)
    return program


def check_digits(program: Any) -> None:
    """No product of matrices has fewer digits than its dtype."""
    lines = program.mlir_module().splitlines()
    for line in lines:
        if "stablehlo.dot_general" in line:
            assert "precision = [HIGHEST, HIGHEST]" in line, line


def shapes(tree: Any) -> Any:
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


def step_of(optimizer: optax.GradientTransformation) -> Callable:
    def step(params: Any, state: Any, gradient: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    return step


def counts_zeros(penalty: Penalty, params: Any) -> bool:
    """Whether `target_sparsity` takes it."""
    try:
        target_sparsity(optax.sgd(RATE), penalty, 0.5).init(params)
    except (TypeError, ValueError, NotImplementedError):
        return False
    return True


def check_step(case: Case, way: str, optimizer: str) -> None:
    params = case.tree(case.within.bring(case.point(np.linspace(-1, 1, 12))))
    if way == "target" and not counts_zeros(case.penalty, params):
        way = "found"
    made = WAYS[way](OPTIMIZERS[optimizer](), case.penalty)
    state = jax.eval_shape(made.init, params)
    program = exported(step_of(made), params, state, params)
    # The state that comes out is one that goes in, on these platforms too.
    assert shapes(list(program.out_avals)) == shapes(jax.tree.leaves((params, state)))
    if optimizer != "muon":  # It has products of its own.
        check_digits(program)


# As 6 and 5 have no common divisor, so that ways and optimizers meet in many pairs.
IN_TURN = zip(
    itertools.cycle(WAYS), itertools.cycle([*OPTIMIZERS, "adam"]), strict=True
)
COVERING = [
    (name, way, optimizer)
    for name, (way, optimizer) in zip(OF_EACH_KIND, IN_TURN, strict=False)
]


def test_the_subset_has_each_way_and_optimizer() -> None:
    names, ways, optimizers = map(set, zip(*COVERING, strict=True))
    assert ways == set(WAYS) and optimizers == set(OPTIMIZERS)
    assert {"L1", "GroupLasso-of-columns", "NuclearNorm", "box", "joined"} <= names


@pytest.mark.parametrize(("name", "way", "optimizer"), COVERING)
def test_a_step_is_made_for_gpu_and_tpu(name: str, way: str, optimizer: str) -> None:
    check_step(CASES[name], way, optimizer)


@pytest.mark.long
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_every_step_is_made_for_gpu_and_tpu(
    precision: str, way: str, optimizer: str
) -> None:
    with enable_x64(precision == "float64"):
        for case in CASES.values():
            check_step(case, way, optimizer)


# What solves and looks. Columns of diabetes make leaves of any shape of six entries.


def loss_of(like: Any) -> Callable:
    X, y = (jnp.asarray(x[:40]) for x in regression_data("diabetes"))

    def loss(params: Any) -> jax.Array:
        w = jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(params)])
        return 0.5 * jnp.mean(jnp.abs(y - X[:, : w.size] @ w) ** 2)

    return loss


def solved(penalty: Penalty, start: Any) -> Any:
    return minimize(loss_of(start), start, penalty)


def in_strength(penalty: Penalty, start: Any) -> Any:
    """The derivative of a part of the solution by all strengths."""

    def first(penalty: Penalty) -> jax.Array:
        solution = minimize(loss_of(start), start, penalty)
        return jnp.real(jax.tree.leaves(solution.params)[0].ravel()[0])

    return jax.grad(first)(penalty)


def over_path(penalty: Penalty, start: Any) -> Any:
    many = map_strengths(lambda x: np.multiply.outer([1.0, 0.3, 0.1], x), penalty)
    return path(loss_of(start), start, many)


def looked_at(penalty: Penalty, start: Any) -> Any:
    gradient = jax.grad(loss_of(start))(start)
    return stationarity(penalty, start, gradient), sparsity(start)


def largest(penalty: Penalty, start: Any) -> Any:
    return max_strength(loss_of(start), start, penalty)


def proxes(penalty: Penalty, start: Any) -> Any:
    """The prox, and its derivatives by the parameters and by the strengths."""

    def total(penalty: Penalty, w: Any) -> jax.Array:
        return sum(jnp.sum(jnp.abs(x)) for x in jax.tree.leaves(penalty.prox(w, 0.5)))

    return jax.value_and_grad(total, (0, 1), allow_int=True)(penalty, start)


SOLVING = [
    (solved, "L1"),
    (solved, "NuclearNorm"),
    (in_strength, "ElasticNet"),
    (over_path, "GroupLasso-of-columns"),
    (largest, "SparseGroupLasso"),
    (looked_at, "TotalVariation"),
    (looked_at, "joined"),
    (proxes, "TotalVariation"),
    (proxes, "NuclearNorm-complex"),
    (proxes, "simplex"),
]


def check_solving(f: Callable, case: Case) -> None:
    start = case.tree(case.within.bring(case.point(np.linspace(-1, 1, 12))))
    program = exported(functools.partial(f, case.penalty), start)
    assert all(shapes(list(program.out_avals)))
    if f is not looked_at:  # The gradient there is a user's own.
        check_digits(program)


@pytest.mark.parametrize(("f", "name"), SOLVING)
def test_solving_is_made_for_gpu_and_tpu(f: Callable, name: str) -> None:
    check_solving(f, CASES[name])


@pytest.mark.long
@pytest.mark.parametrize("f", [solved, in_strength, over_path, looked_at, proxes])
@pytest.mark.parametrize("name", CASES)
def test_all_solving_is_made_for_gpu_and_tpu(name: str, f: Callable) -> None:
    case = CASES[name]
    strengths: list[Any] = []
    map_strengths(strengths.append, case.penalty)
    if f is over_path and not strengths:
        pytest.skip("a constraint has no strength")
    with enable_x64(True):
        check_solving(f, case)


def test_a_loss_may_ask_for_fewer_digits() -> None:
    """In a product of its own; what JAX is set to counts for training alone."""
    X = jnp.linspace(-1, 1, 24).reshape(8, 3)

    def largest(w: jax.Array) -> jax.Array:
        def loss(w: jax.Array) -> jax.Array:
            some, others = w[:1], w[1:]
            here = jnp.dot(X[:, :1], some, precision="high")
            return jnp.sum((1 - here - X[:, 1:] @ others) ** 2)

        return max_strength(loss, w, L1(1.0))

    with jax.default_matmul_precision("bfloat16"):
        text = exported(largest, jnp.zeros(3)).mlir_module()
    found = set(re.findall(r"dot_general.*precision = (\[.*?\])", text))
    assert found == {"[HIGH, HIGH]", "[HIGHEST, HIGHEST]"}


@pytest.mark.parametrize("optimizer", [None, optax.sgd(0.1)])
def test_digits_count_where_a_derivative_has_a_rule(optimizer: Any) -> None:
    """Which JAX traces after the solver, too."""
    X = jnp.linspace(-1, 1, 24).reshape(8, 3)

    @jax.custom_vjp
    def product(w: jax.Array) -> jax.Array:
        return X @ w

    product.defvjp(lambda w: (X @ w, None), lambda _, g: (X.T @ g,))

    @jax.jit
    def solve(strength: jax.Array) -> jax.Array:
        def loss(w: jax.Array) -> jax.Array:
            return jnp.sum((1 - product(w)) ** 2)

        options = {"optimizer": optimizer, "max_steps": 5}
        return jnp.sum(minimize(loss, jnp.zeros(3), L1(strength), **options).params)

    check_digits(exported(jax.grad(solve), jnp.float32(0.1)))


def test_an_export_runs_as_the_program_that_it_was_made_of() -> None:
    """On this machine, from the same module that has the other platforms' code."""
    optimizer = proximal(optax.adam(RATE), L1(0.3))
    w = jnp.linspace(-1, 1, 12)
    state = optimizer.init(w)
    step = step_of(optimizer)
    program = exported(step, w, state, w, platforms=["cpu", *PLATFORMS])
    there = program.call(w, state, w)
    here = jax.jit(step)(w, state, w)
    for a, b in zip(jax.tree.leaves(there), jax.tree.leaves(here), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_calls_back_to_python_would_be_found() -> None:
    def called(x: jax.Array) -> jax.Array:
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct((), jnp.float32), x)

    with pytest.raises(NotImplementedError, match="callback"):
        exported(called, jnp.float32(0))


def test_what_only_the_cpu_can_do_would_be_found() -> None:
    with pytest.raises(NotImplementedError, match="MLIR translation rule"):
        exported(lambda x: jax.lax.linalg.schur(x)[0], jnp.eye(3))
