"""What a penalty costs, read from the compiled step, never from a clock."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from optareg import (
    L1,
    L2,
    ElasticNet,
    GroupLasso,
    Penalty,
    add_penalty_gradient,
    by_path,
    constraint,
    masked,
    partition,
    proximal,
    proximal_step,
)

pytestmark = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="the bounds are those of the CPU compiler"
)

PyTree = Any
Optimizer = optax.GradientTransformation

SIZE = 1_000_000
RATE = 0.01
OPTIMIZERS = {
    "sgd": optax.sgd(RATE),
    "adam": optax.adam(RATE),
    "lion": optax.lion(RATE),
}
PENALTIES = {"L1": L1(0.1), "L2": L2(0.1), "ElasticNet": ElasticNet(0.1, 0.1)}

# Scalars of a state and of the compiler; a parameter-sized buffer is 4 SIZE.
SCALARS = 4096


def shapes(**sizes: int) -> PyTree:
    return {name: jax.ShapeDtypeStruct((n,), jnp.float32) for name, n in sizes.items()}


ONE_LEAF = shapes(w=SIZE)
TWO_LEAVES = shapes(kernel=SIZE, bias=SIZE)


def gradient_first(optimizer: Optimizer, penalty: Any) -> Optimizer:
    return optax.chain(add_penalty_gradient(penalty), optimizer)


def step_last(optimizer: Optimizer, penalty: Any) -> Optimizer:
    return optax.chain(optimizer, proximal_step(penalty, RATE))


WAYS = {
    "add_penalty_gradient": gradient_first,
    "proximal_step": step_last,
    "proximal": lambda optimizer, penalty: proximal(
        optimizer, penalty, threshold=10 * RATE
    ),
    "proximal, found": proximal,
}


def lower(make: Callable[..., Optimizer], params: PyTree, *traced: Any) -> Any:
    """The full step of `make(*traced)`, with `traced` an input of the program."""

    def step(params: PyTree, state: PyTree, grads: PyTree, *traced: Any) -> PyTree:
        updates, state = make(*traced).update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.eval_shape(lambda w, *traced: make(*traced).init(w), params, *traced)
    step = jax.jit(step, donate_argnums=(0, 1))
    return step.lower(params, state, params, *traced)


def bytes_accessed(program: Any) -> float:
    return program.cost_analysis()["bytes accessed"]


def temporary_bytes(program: Any) -> int:
    return program.memory_analysis().temp_size_in_bytes


def state_bytes(optimizer: Optimizer, params: PyTree) -> int:
    leaves = jax.tree.leaves(jax.eval_shape(optimizer.init, params))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def bare(name: str, params: PyTree = ONE_LEAF) -> Any:
    return lower(lambda: OPTIMIZERS[name], params).compile()


# way, penalty, optimizer, at most this many times the bytes of the bare optimizer.
BOUNDS = [
    *(("proximal_step", p, o, 1.0) for p in PENALTIES for o in OPTIMIZERS),
    *(("add_penalty_gradient", p, o, 1.4) for p in PENALTIES for o in OPTIMIZERS),
    # Where a weight stays off zero it takes the step as it is. The CPU's compiler does
    # not fuse several results, and computes the step again for each: see
    # `benchmarks/compiled.py` for the other platforms, where it is one more array.
    ("proximal", "L1", "sgd", 4.05),
    ("proximal", "L1", "adam", 2.55),
    ("proximal", "L1", "lion", 2.35),
    ("proximal", "ElasticNet", "sgd", 4.05),
    ("proximal", "ElasticNet", "adam", 2.65),
    ("proximal", "ElasticNet", "lion", 2.35),
    # Here samples are counted as if all of the array they are taken from were read.
    ("proximal, found", "L1", "sgd", 11.1),
    ("proximal, found", "L1", "adam", 4.25),
    ("proximal, found", "L1", "lion", 4.6),
]


# In arrays of the size of the parameters: step, update, moments, a traced strength.
TEMPORARIES = {"proximal": 2, "proximal, found": 5}


def known(way: str, penalty: Penalty, optimizer: Optimizer) -> Any:
    return lower(lambda: WAYS[way](optimizer, penalty), ONE_LEAF)


def traced(way: str, penalty: Penalty, optimizer: Optimizer) -> Any:
    return lower(lambda p: WAYS[way](optimizer, p), ONE_LEAF, penalty)


def scheduled(way: str, penalty: Penalty, optimizer: Optimizer) -> Any:
    def schedule(step: jax.Array) -> Penalty:
        return jax.tree.map(lambda strength: strength / (1 + step), penalty)

    return lower(lambda: WAYS[way](optimizer, schedule), ONE_LEAF)


@pytest.mark.parametrize("strength", [known, traced, scheduled])
@pytest.mark.parametrize(("way", "penalty", "optimizer", "bound"), BOUNDS)
def test_a_step_reads_and_writes_no_more_than(
    way: str, penalty: str, optimizer: str, bound: float, strength: Callable[..., Any]
) -> None:
    program = strength(way, PENALTIES[penalty], OPTIMIZERS[optimizer]).compile()
    reference = bare(optimizer)
    allowed = bound * bytes_accessed(reference) + SCALARS
    assert bytes_accessed(program) <= allowed
    if optimizer != "lion":  # It has temporaries, as it reads its old moment.
        arrays = TEMPORARIES.get(way, 0)
        allowed = temporary_bytes(reference) + 4 * SIZE * arrays + 20 * SCALARS
        assert temporary_bytes(program) <= allowed


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_proximal_with_a_smooth_penalty_costs_what_its_gradient_costs(
    optimizer: str,
) -> None:
    inner = OPTIMIZERS[optimizer]
    wrapped = known("proximal, found", L2(0.1), inner).compile()
    chained = known("add_penalty_gradient", L2(0.1), inner).compile()
    assert bytes_accessed(wrapped) <= bytes_accessed(chained) + SCALARS
    assert temporary_bytes(wrapped) <= temporary_bytes(chained) + SCALARS
    count = jnp.int32(0).nbytes
    assert (
        state_bytes(proximal(inner, L2(0.1)), ONE_LEAF)
        == state_bytes(inner, ONE_LEAF) + count
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_proximal_stores_one_float_a_parameter(optimizer: str) -> None:
    inner = OPTIMIZERS[optimizer]
    extra = state_bytes(proximal(inner, L1(0.1)), ONE_LEAF)
    extra -= state_bytes(inner, ONE_LEAF)
    assert 4 * SIZE <= extra <= 4 * SIZE + SCALARS


@pytest.mark.parametrize("way", ["add_penalty_gradient", "proximal_step"])
def test_the_stateless_ways_store_nothing(way: str) -> None:
    inner = OPTIMIZERS["adam"]
    chained = WAYS[way](inner, L1(0.1))
    assert state_bytes(chained, ONE_LEAF) == state_bytes(inner, ONE_LEAF)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("way", WAYS)
def test_leaves_left_out_by_a_mask_cost_nothing(way: str, optimizer: str) -> None:
    inner = OPTIMIZERS[optimizer]
    on_kernel = masked(L1(0.1), by_path("kernel"))
    two = lower(lambda: WAYS[way](inner, on_kernel), TWO_LEAVES).compile()
    one = known(way, L1(0.1), inner).compile()
    bare_two, bare_one = bare(optimizer, TWO_LEAVES), bare(optimizer)

    extra = bytes_accessed(two) - bytes_accessed(bare_two)
    assert extra <= bytes_accessed(one) - bytes_accessed(bare_one) + SCALARS
    arrays = 4 * SIZE * TEMPORARIES.get(way, 0) + 20 * SCALARS
    assert temporary_bytes(two) <= temporary_bytes(bare_two) + arrays
    stored = state_bytes(WAYS[way](inner, on_kernel), TWO_LEAVES)
    stored -= state_bytes(inner, TWO_LEAVES)
    assert stored <= 4 * SIZE * way.startswith("proximal") + SCALARS


# The compile time, by what it grows with: the size of the program for each leaf.

# way, penalty, at most this many times the equations and instructions of bare Adam.
SIZES = [
    ("add_penalty_gradient", L1(0.1), 1.35, 1.45),
    ("proximal_step", L1(0.1), 1.3, 1.25),
    ("proximal", L2(0.1), 1.2, 1.3),
    ("proximal", L1(0.1), 2.2, 2.6),
    ("proximal", masked(L1(0.1), by_path("w")), 2.4, 2.9),
    ("proximal", masked(L1(0.1), False), 1.0, 1.0),
    ("proximal", ElasticNet(0.1, 0.1), 2.5, 2.85),
    ("proximal, found", L2(0.1), 1.2, 1.3),
    ("proximal, found", L1(0.1), 3.2, 3.1),
]


def program_size(optimizer: Optimizer, leaves: int) -> tuple[int, int]:
    """The number of traced equations and of compiled instructions."""
    params = shapes(**{f"w{i:03d}": 1000 for i in range(leaves)})
    lowered = lower(lambda: optimizer, params)
    traced = lowered.as_text().count(" = ")
    return traced, lowered.compile().as_text().count(" = ")


@pytest.mark.parametrize(("way", "penalty", "traced", "compiled"), SIZES, ids=repr)
def test_the_program_of_many_leaves_stays_small(
    way: str, penalty: Penalty, traced: float, compiled: float
) -> None:
    def growth(optimizer: Optimizer) -> tuple[int, int]:
        few, many = program_size(optimizer, 20), program_size(optimizer, 40)
        return many[0] - few[0], many[1] - few[1]

    ours = growth(WAYS[way](OPTIMIZERS["adam"], penalty))
    theirs = growth(OPTIMIZERS["adam"])
    assert ours[0] <= traced * theirs[0]
    assert ours[1] <= compiled * theirs[1]


# How often Python runs: once.

MODEL = {"kernel": jnp.ones(4), "bias": jnp.ones(2)}


def kinds(params: PyTree) -> PyTree:
    return {name: "small" if name == "bias" else "sparse" for name in params}


FAMILIES: dict[str, Callable[[Any], Penalty]] = {
    "L1": L1,
    "L2": L2,
    "ElasticNet": lambda strength: ElasticNet(strength, strength),
    "masked by path": lambda strength: masked(L1(strength), by_path("kernel")),
    "masked by tree": lambda s: masked(L1(s), {"kernel": True, "bias": False}),
    "partition": lambda s: partition({"sparse": L1(s), "small": L2(s)}, kinds),
    "partition by tree": lambda s: partition(
        {"sparse": L1(s), "small": None}, kinds(MODEL)
    ),
}


def counted_training(way: str) -> tuple[Callable[[Penalty], PyTree], list[str]]:
    """A compiled training by strength, and a list with an entry for each trace."""
    traces: list[str] = []

    def loss(params: PyTree) -> jax.Array:
        traces.append("loss")
        return sum(jnp.sum((leaf - 1.5) ** 2) for leaf in jax.tree.leaves(params))

    @jax.jit
    def train(penalty: Penalty) -> PyTree:
        optimizer = WAYS[way](optax.adam(RATE), penalty)

        def step(carry: PyTree, _: None) -> tuple[PyTree, None]:
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        start = MODEL, optimizer.init(MODEL)
        return jax.lax.scan(step, start, length=5)[0][0]

    return train, traces


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("way", WAYS)
def test_a_sweep_over_strengths_traces_once(way: str, family: str) -> None:
    train, traces = counted_training(way)
    strengths = jnp.geomspace(1e-4, 1.0, 32)
    weights = jax.vmap(train)(FAMILIES[family](strengths))
    assert weights["kernel"].shape == (32, 4)
    assert len(traces) == 1
    jax.vmap(train)(FAMILIES[family](2 * strengths))
    assert len(traces) == 1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("way", WAYS)
def test_another_strength_does_not_retrace(way: str, family: str) -> None:
    train, traces = counted_training(way)
    for strength in (0.0, 0.1, 0.2):
        train(FAMILIES[family](strength))
    assert len(traces) == 1


@pytest.mark.parametrize("way", WAYS)
def test_another_mask_does_retrace(way: str) -> None:
    train, traces = counted_training(way)
    for regex in ("kernel", "bias", "kernel"):
        train(masked(L1(0.1), by_path(regex)))
    assert len(traces) == 2


def falling(step: jax.Array) -> jax.Array:
    return RATE / (1 + step)


SCHEDULED = {
    "add_penalty_gradient": optax.chain(
        add_penalty_gradient(lambda step: L1(falling(step))), optax.adam(falling)
    ),
    "proximal_step": optax.chain(
        optax.adam(falling), proximal_step(lambda step: L1(falling(step)), falling)
    ),
    "proximal": proximal(
        optax.adam(falling), lambda step: L1(falling(step)), threshold=falling
    ),
    "proximal, found": proximal(optax.adam(falling), lambda step: L1(falling(step))),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_scheduled_step_traces_once(way: str) -> None:
    traces = []

    @jax.jit
    def step(params: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        traces.append("step")
        updates, state = SCHEDULED[way].update(params, state, params)
        return optax.apply_updates(params, updates), state

    params, state = MODEL, SCHEDULED[way].init(MODEL)
    for _ in range(3):
        params, state = step(params, state)
    assert len(traces) == 1


@pytest.mark.parametrize(
    "penalty",
    [L1(0.1), ElasticNet(0.1, 0.1), GroupLasso(0.1), constraint(jnp.tanh)],
    ids=["L1", "ElasticNet", "GroupLasso", "constraint"],
)
@pytest.mark.parametrize("way", ["proximal", "proximal, found"])
def test_a_step_outside_of_jit_compiles_nothing_anew(way, penalty, caplog) -> None:
    optimizer = WAYS[way](OPTIMIZERS["adam"], penalty)
    params = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(2)}
    state = optimizer.init(params)
    for _ in range(2):
        _, state = optimizer.update(params, state, params)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        optimizer.update(params, state, params)
    assert "Compiling" not in caplog.text
