"""Gradients that are not finite, too large or too small; trees with nothing in them.

`coupled` of `laws.py` says how far a fault may spread: what the definition of a penalty
couples, found from its values alone.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from laws import CASES, OF_EACH_KIND, Case, coupled
from optareg import (
    L1,
    L2,
    MCP,
    ElasticNet,
    GroupLasso,
    NuclearNorm,
    SparseGroupLasso,
    TotalVariation,
    add_penalty_gradient,
    constraint,
    freeze_zeros,
    joined,
    masked,
    max_strength,
    minimize,
    path,
    proximal,
    proximal_step,
    sparsity,
    stationarity,
    summarize,
    target_sparsity,
)

RATE, STEPS = 0.1, 5
WAYS: dict[str, Callable] = {
    "gradient": lambda p: optax.chain(add_penalty_gradient(p), optax.sgd(RATE)),
    "step": lambda p: optax.chain(optax.sgd(RATE), proximal_step(p, RATE)),
    "given": lambda p: proximal(optax.sgd(RATE), p, threshold=RATE),
    "found": lambda p: proximal(optax.sgd(RATE), p),
    "found-adam": lambda p: proximal(optax.adam(RATE), p),
}
# Each entry once, at some step, and a value.
FAULTS = [
    (entry, step, bad)
    for entry, step in zip(range(6), np.resize([0, 2, 1], 6), strict=True)
    for bad in (np.nan, np.inf, -np.inf)
]


def start_of(case: Case) -> np.ndarray:
    """Within its set, with some entries at the kink and others far from it."""
    w = case.center + case.point(np.resize([0.9, 0.0, -1.5, 0.0, 2.0, 1e-3], 12))
    return case.within.bring(w)


@functools.cache
def gradients() -> np.ndarray:
    """Of all steps, shape (STEPS, 12)."""
    return np.random.default_rng(0).normal(size=(STEPS, 12))


def optimizers_of(way: str) -> dict[str, tuple[str, Any]]:
    """A way and an optimizer for each case; `in turn`: another way for each."""
    ways = {
        name: way if way in WAYS else list(WAYS)[i % len(WAYS)]
        for i, name in enumerate(OF_EACH_KIND)
    }
    return {
        name: (way, WAYS[way](CASES[name].penalty))
        for name, way in ways.items()
        # A gradient knows nothing of where a penalty is infinite.
        if way != "gradient" or CASES[name].finite_everywhere
    }


every_way = pytest.mark.parametrize(
    "way", ["in turn", *(pytest.param(way, marks=pytest.mark.long) for way in WAYS)]
)


def plain(optimizer: Any, x: Any, g: Any, skip: jax.Array, bad: jax.Array) -> Any:
    """A step with what is bad added to its gradient."""
    del skip
    return step_with(optimizer, x, jax.tree.map(lambda g, b: g + b, g, bad))


def if_finite(optimizer: Any, x: Any, g: Any, skip: jax.Array, bad: jax.Array) -> Any:
    """The same, where Optax is to leave out the step."""
    return plain(optax.apply_if_finite(optimizer, 9), x, g, skip, bad)


def without(optimizer: Any, x: Any, g: Any, skip: jax.Array, bad: jax.Array) -> Any:
    """No step at all where it is to be left out."""
    del bad
    new = step_with(optimizer, x, g)
    return jax.tree.map(lambda a, b: jnp.where(skip, a, b), x, new)


def step_with(optimizer: Any, x: Any, g: Any) -> Any:
    params, state = x
    updates, state = optimizer.update(g, state, params)
    return optax.apply_updates(params, updates), state


@functools.cache
def ends(way: str, move: Callable) -> dict[str, np.ndarray]:
    """The weights of all cases after each fault, and last after none.

    Computed in one program, of which each fault is a row.
    """
    optimizers = {
        name: optimizer for name, (_, optimizer) in optimizers_of(way).items()
    }

    def run(entry: jax.Array, step: jax.Array, bad: jax.Array) -> Any:
        def one(carry: Any, x: Any) -> Any:
            count, row = x
            skip = count == step
            faults = jnp.where(skip & (jnp.arange(6) == entry), bad, 0)
            new = {}
            for name, optimizer in optimizers.items():
                case = CASES[name]
                g = row[:6] + 1j * row[6:] if case.is_complex else row[:6]
                pair = split(case, g), split(case, faults)
                new[name] = move(optimizer, carry[name], pair[0], skip, pair[1])
            return new, None

        first = {}
        for name, optimizer in optimizers.items():
            params = CASES[name].tree(start_of(CASES[name]))
            inner = optax.apply_if_finite(optimizer, 9)
            first[name] = (
                params,
                (inner if move is if_finite else optimizer).init(params),
            )
        rows = jnp.arange(STEPS), jnp.asarray(gradients())
        last = jax.lax.scan(one, first, rows)[0]
        return {name: params for name, (params, _) in last.items()}

    columns = tuple(map(np.array, zip(*FAULTS, (0, -1, 0.0), strict=True)))
    found = jax.jit(lambda faults: jax.lax.map(lambda x: run(*x), faults))(columns)
    return {
        name: np.concatenate(
            [np.reshape(x, (len(FAULTS) + 1, -1)) for x in jax.tree.leaves(tree)], -1
        )
        for name, tree in found.items()
    }


def split(case: Case, x: jax.Array) -> Any:
    """A flat traced array as a tree of the case."""
    leaves, treedef = jax.tree.flatten(case.like)
    parts = jnp.split(x, np.cumsum([leaf.size for leaf in leaves])[:-1])
    return treedef.unflatten(
        [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    )


@every_way
def test_a_fault_in_a_gradient_makes_no_zero_and_spreads_no_further(way, x64):
    found = ends(way, plain)
    for name, (kind, _) in optimizers_of(way).items():
        case, rows = CASES[name], found[name]
        together = coupled(case)
        for (entry, step, bad), w in zip(FAULTS, rows, strict=False):
            what = f"{name}, {kind}: {bad} at entry {entry} in step {step}: {w}"
            apart = ~together[entry]
            assert np.all(np.isfinite(w[apart])), what
            if np.isnan(bad):
                assert np.isnan(w[entry]), what
            elif case.finite_everywhere and kind != "found-adam":
                assert not np.isfinite(w[entry]), what
            if not kind.startswith("found"):
                # Entries that are apart do not even feel it.
                np.testing.assert_allclose(w[apart], rows[-1][apart], rtol=1e-12)


@pytest.mark.to_the_bit
@pytest.mark.long  # `test_composition` has some pairs of it.
@every_way
def test_apply_if_finite_leaves_out_the_step_of_a_fault(way, x64):
    """Then all is as if there had been no such step, but for rounding."""
    guarded, without_it = ends(way, if_finite), ends(way, without)
    for name, rows in guarded.items():
        np.testing.assert_allclose(
            rows, without_it[name], rtol=1e-12, atol=1e-13, err_msg=name
        )
        assert np.all(np.isfinite(rows))


# Sizes: in float32 the square of 1e30 is infinite, and that of 1e-30 is 0.

SIZES = [1e30, 1e18, 1e-30, 1e-42]
BARE = {
    "sgd": lambda: optax.sgd(RATE),
    "adam": lambda: optax.adam(RATE),
    "lion": lambda: optax.lion(RATE),
    "clipped": lambda: optax.chain(optax.clip(1.0), optax.sgd(RATE)),
}
MADE = {
    "L1": L1(0.5),
    "L1-positive": L1(0.5, positive=True),
    "ElasticNet": ElasticNet(0.5, 0.1),
    "MCP": MCP(0.5, 3.0),
    "GroupLasso": GroupLasso(0.5, axis=0),
    "SparseGroupLasso": SparseGroupLasso(0.3, 0.4, axis=0),
    "TotalVariation": TotalVariation(0.5),
    "NuclearNorm": NuclearNorm(0.5),
    "box": constraint(lambda x: jnp.clip(x, -1, 1)),
}


PAIRS = [("sgd", key) for key in MADE] + list(
    zip(np.resize(["adam", "lion", "clipped"], len(MADE)), MADE, strict=True)
)
# Norms are roots of sums of squares, as `optax.global_norm` is.
NORMS = "GroupLasso", "SparseGroupLasso", "NuclearNorm"


@jax.jit
def many_steps(rows: jax.Array) -> Any:
    """Parameters and states of all steps, of each optimizer and of each pair."""
    start = jnp.array([[0.0, 1.0, 0.0], [0.0, -1.0, 0.5]])
    optimizers = {
        f"{name} {key}": proximal(BARE[name](), MADE[key]) for name, key in PAIRS
    }

    def one(carry: Any, g: jax.Array) -> Any:
        new = {k: step_with(o, carry[k], g) for k, o in optimizers.items()}
        return new, new

    first = {k: (start, o.init(start)) for k, o in optimizers.items()}
    return jax.lax.scan(one, first, rows)[1]


@pytest.mark.parametrize("size", SIZES)
def test_all_is_finite_at_any_size_of_gradients(size):
    """What is zero, and has no reason to move, stays."""
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (10, 2, 3))
    after = many_steps(jnp.asarray(size * signs, jnp.float32))
    for name, key in PAIRS:
        w, state = after[f"{name} {key}"]
        what = f"{name} {key}"
        if size > 1e18 and name == "sgd" and key in NORMS:
            continue
        assert np.all(np.isfinite(w)), what
        for mine in jax.tree.leaves(state._replace(inner_state=())):
            assert np.all(np.isfinite(mine)), what
        apart = key not in ("TotalVariation", "NuclearNorm", "box")
        if size < 1 and apart and name in ("sgd", "clipped"):
            np.testing.assert_array_equal(w[:, :, 0], 0, err_msg=what)


def test_one_huge_gradient_behind_clipping_is_forgotten():
    """The optimum is reached as if it had not been: prox_R(c) of ½‖w − c‖²."""
    c = jnp.array([[3.0, 0.2, -0.4], [1.0, 0.3, -2.0]])
    some = "L1", "GroupLasso", "NuclearNorm"
    optimizers = {k: proximal(BARE["clipped"](), MADE[k]) for k in some}

    def one(carry: Any, count: jax.Array) -> Any:
        new = {}
        for key, optimizer in optimizers.items():
            g = jnp.where(count == 5, 1e30, carry[key][0] - c)
            new[key] = step_with(optimizer, carry[key], g)
        return new, None

    first = {k: (jnp.zeros_like(c), o.init(c)) for k, o in optimizers.items()}
    last = jax.jit(lambda x: jax.lax.scan(one, x, jnp.arange(1500))[0])(first)
    for key, (w, _) in last.items():
        expected = MADE[key].prox(c, 1.0)
        np.testing.assert_allclose(w, expected, rtol=0, atol=1e-4, err_msg=key)
        assert np.array_equal(w == 0, expected == 0) or key == "NuclearNorm", key


# Nothing: no leaves, no entries, axes of length 0, beside others that have some.

EMPTY = {
    "leaf": (0,),
    "rows": (0, 3),
    "columns": (3, 0),
    "between": (2, 0, 3),
}
FOR_EMPTY = {
    **{k: p for k, p in MADE.items() if k not in ("GroupLasso", "SparseGroupLasso")},
    "L2": L2(0.5),
    "GroupLasso": GroupLasso(0.5, axis=-1),
    "GroupLasso-of-the-leaf": GroupLasso(0.5),
    "SparseGroupLasso": SparseGroupLasso(0.3, 0.4, axis=0),
    "joined": joined(GroupLasso(0.5, axis=0), "nothing"),
}
ALL_WAYS = {
    **{name: WAYS[name] for name in ("gradient", "step", "given", "found")},
    "target": lambda p: target_sparsity(optax.sgd(RATE), p, 0.5),
    "frozen": lambda p: freeze_zeros(proximal(optax.sgd(RATE), p)),
}


def fits(key: str, shape: tuple[int, ...]) -> bool:
    return key != "NuclearNorm" or len(shape) > 1


@pytest.mark.parametrize("shape", EMPTY.values(), ids=EMPTY.keys())
def test_an_empty_leaf_is_worth_nothing_and_moves_nothing(shape):
    """All is traced, and the numbers that could be something else are computed."""
    params = {"nothing": jnp.zeros(shape)}
    like = jax.eval_shape(lambda: params)
    some = {k: p for k, p in FOR_EMPTY.items() if fits(k, shape)}
    for key, penalty in some.items():
        for made in (
            jax.eval_shape(penalty.gradient, params),
            jax.eval_shape(lambda w, p=penalty: p.prox(w, 0.5), params),
            jax.eval_shape(jax.grad(lambda w, p=penalty: p.value(w)), params),
        ):
            assert made == like, key
        for name, way in ALL_WAYS.items():
            if name == "target" and key in ("L2", "box"):
                continue
            optimizer = way(penalty)
            state = jax.eval_shape(optimizer.init, params)
            after = jax.eval_shape(optimizer.update, params, state, params)
            assert after == (like, state), (key, name)
        assert summarize(params, penalty).total.size == 0

    @jax.jit
    def numbers(params):
        values = [
            (penalty.value(params), stationarity(penalty, params, params))
            for penalty in some.values()
        ]
        optimizer = proximal(optax.adam(RATE), L1(0.5))
        return values, optimizer.update(params, optimizer.init(params), params)

    values, (_, state) = numbers(params)
    assert not np.any(values)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state))


long = functools.partial(pytest.param, marks=pytest.mark.long)


@pytest.mark.parametrize(
    "key", ["L1", "NuclearNorm", long("GroupLasso"), long("TotalVariation")]
)
def test_solvers_pass_over_what_is_empty(key):
    """The solution of the rest is as it is alone."""
    penalty, c = FOR_EMPTY[key], jnp.array([[3.0, 0.2], [-1.0, 0.9]])

    def loss(params):
        return 0.5 * jnp.sum((params["w"] - c) ** 2) + jnp.sum(params["nothing"])

    start = {"w": jnp.zeros((2, 2)), "nothing": jnp.zeros((2, 0))}
    alone = minimize(lambda w: 0.5 * jnp.sum((w - c) ** 2), start["w"], penalty)
    solution = minimize(loss, start, penalty)
    assert solution.converged
    np.testing.assert_allclose(solution.params["w"], alone.params, atol=1e-5)
    assert solution.params["nothing"].shape == (2, 0)
    if key != "NuclearNorm":
        many = jax.tree.map(lambda x: x * jnp.array([2.0, 1.0]), penalty)
        solutions = path(loss, start, many)
        np.testing.assert_allclose(solutions.params["w"][1], alone.params, atol=1e-5)


@pytest.mark.parametrize("params", [{}, (), None, {"a": None}, [{}]])
def test_no_leaves_at_all(params):
    for penalty in (L1(0.5), masked(L2(0.5), True)):
        assert penalty.value(params) == 0
        assert jax.tree.leaves(penalty.prox(params, 1.0)) == []
        assert stationarity(penalty, params, params) == 0
    assert jnp.isnan(sparsity(params))
    for name, way in ALL_WAYS.items():
        if params is not None:
            optimizer = way(L1(0.5))
            updates, _ = optimizer.update(params, optimizer.init(params), params)
            assert jax.tree.structure(updates) == jax.tree.structure(params), name
    with pytest.raises(ValueError, match="`params`"):
        minimize(lambda _: jnp.zeros(()), params, L1(0.5))
    with pytest.raises(ValueError, match="`params`"):
        max_strength(lambda _: jnp.zeros(()), params, L1(0.5))
