"""What `test_devices.py` runs with eight devices: prints what it finds as JSON."""

import contextlib
import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from optareg import (
    L1,
    L2,
    ElasticNet,
    add_penalty_gradient,
    by_path,
    masked,
    minimize,
    proximal,
    proximal_step,
    sparsity,
)

PyTree = Any

STEPS = 20
RATE = 0.01
SPECS = {
    "kernel": PartitionSpec("data", "model"),
    "column": PartitionSpec("model"),
    "copy": PartitionSpec(),
}
SHAPES = {"kernel": (16, 8), "column": (12,), "copy": (7,)}
COLLECTIVES = (
    "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    "|collective-broadcast"
)


def scheduled(step: jax.Array) -> L1:
    return L1(1 / (1 + step))


def given(penalty):
    """With a given threshold, which needs no communication; a found one needs some."""
    return proximal(optax.adam(RATE), penalty, threshold=10 * RATE)


OPTIMIZERS = {
    "bare": optax.adam(RATE),
    "add_penalty_gradient": optax.chain(
        add_penalty_gradient(ElasticNet(0.5, 0.5)), optax.adam(RATE)
    ),
    "proximal_step": optax.chain(
        optax.adam(RATE), proximal_step(ElasticNet(0.5, 0.5), RATE)
    ),
    "proximal L1": given(L1(0.5)),
    "proximal L2": given(L2(0.5)),
    "proximal elastic net": given(ElasticNet(0.5, 0.5)),
    "proximal masked": given(masked(L1(0.5), by_path("kernel"))),
    "proximal adaptive": given(
        L1({"kernel": np.full((16, 8), 0.5), "column": 0, "copy": 1})
    ),
    "proximal scheduled": given(scheduled),
}


def random_tree(seed: int, scale: float) -> PyTree:
    generator = np.random.default_rng(seed)
    return {
        name: scale * generator.normal(size=shape).astype(np.float32)
        for name, shape in SHAPES.items()
    }


def sharded_otherwise(state: PyTree, shardings: PyTree) -> list[str]:
    """The leaves of `state` that are like a parameter, but sharded differently."""
    return [
        f"{jax.tree_util.keystr(path)}: {leaf.sharding}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if (name := parameter_of(path))
        and not leaf.sharding.is_equivalent_to(shardings[name], leaf.ndim)
    ]


def parameter_of(path: tuple[Any, ...]) -> str | None:
    """The parameter that a leaf of the state belongs to: the last key of its path."""
    return getattr(path[-1], "key", None) if path else None


def largest_difference(a: PyTree, b: PyTree) -> float:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.max(np.abs(np.asarray(x) - np.asarray(y)))) for x, y in pairs)


def shard_of(tree: PyTree, shardings: PyTree, device: jax.Device) -> PyTree:
    """The part of each array that lies on `device`, as an array of its own."""

    def cut(leaf: Any, sharding: NamedSharding) -> np.ndarray:
        rows = sharding.devices_indices_map(leaf.shape)[device]
        return np.ascontiguousarray(np.asarray(leaf)[rows])

    return jax.tree.map(cut, tree, shardings)


def look(name: str, kind: str) -> dict[str, Any]:
    """All measurements of one optimizer on a mesh whose axes are Auto or Explicit."""
    optimizer = OPTIMIZERS[name]

    @jax.jit
    def step(params: PyTree, state: PyTree, grads: PyTree) -> tuple[PyTree, PyTree]:
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def train(place: Any) -> tuple[PyTree, PyTree]:
        params = place(random_tree(0, 0.1))
        state = jax.jit(optimizer.init)(params)
        for seed in range(1, STEPS + 1):
            params, state = step(params, state, place(random_tree(seed, 1.0)))
        return params, state

    types = (getattr(jax.sharding.AxisType, kind),) * 2
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=types)
    shardings = {name: NamedSharding(mesh, spec) for name, spec in SPECS.items()}
    with jax.set_mesh(mesh) if kind == "Explicit" else contextlib.nullcontext():
        params = jax.device_put(random_tree(0, 0.1), shardings)
        eager = optimizer.init(params)
        jitted = jax.jit(optimizer.init)(params)
        program = step.lower(params, eager, params).compile().as_text()
        many = train(lambda tree: jax.device_put(tree, shardings))
    first = jax.devices()[0]
    one = train(lambda tree: jax.device_put(tree, first))

    def shard_difference(device: jax.Device) -> float:
        def place(tree: PyTree) -> PyTree:
            return jax.device_put(shard_of(tree, shardings, device), first)

        return largest_difference(shard_of(many[0], shardings, device), train(place)[0])

    return {
        "leaves like a parameter": sum(
            parameter_of(path) is not None
            for path, _ in jax.tree_util.tree_leaves_with_path(eager)
        ),
        "eager init, sharded otherwise": sharded_otherwise(eager, shardings),
        "jit init, sharded otherwise": sharded_otherwise(jitted, shardings),
        "training, sharded otherwise": sharded_otherwise(many, shardings),
        "collectives": re.findall(rf"\b({COLLECTIVES})[-a-z]*\(", program),
        "difference": largest_difference(many[0], one[0]),
        # An array of strengths has the shape of the whole, and fits no shard.
        "difference of shards": None
        if name == "proximal adaptive"
        else max(map(shard_difference, jax.devices())),
        "zeros": float(sparsity(many[0])),
    }


def try_to_look(name: str, kind: str) -> dict[str, Any]:
    """What `look` finds, or the error, so that one way cannot hide the others."""
    try:
        return look(name, kind)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def within_shard_map() -> dict[str, float]:
    """For each optimizer, how far from one device's a run within `shard_map` ends."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split, whole = jax.sharding.PartitionSpec("data"), jax.sharding.PartitionSpec()
    center = jax.random.normal(jax.random.key(0), (64, 3))
    differences = {}
    for name, inner in {"sgd": optax.sgd(0.1), "adam": optax.adam(0.01)}.items():
        optimizer = proximal(inner, ElasticNet(0.5, 0.1))

        def steps(params: Any, state: Any, optimizer: Any = optimizer) -> Any:
            params, state, center = params[0], state, params[1]
            for _ in range(5):
                updates, state = optimizer.update(params - center, state, params)
                params = optax.apply_updates(params, updates)
            return params, state

        start = jnp.zeros_like(center)
        state = optimizer.init(start)
        specs = jax.tree.map(
            lambda x: split if x.shape == center.shape else whole, state
        )
        sharded = jax.shard_map(
            steps, mesh=mesh, in_specs=((split, split), specs), out_specs=(split, specs)
        )
        many = jax.jit(sharded)((start, center), state)
        one = jax.jit(steps)((start, center), state)
        differences[name] = largest_difference(many, one)
    return differences


def solved_within_shard_map() -> dict[str, Any]:
    """How far a strength and data for each device end from one device; and an error."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rng = np.random.default_rng(0)
    X, strengths = rng.normal(size=(8, 20, 6)), jnp.linspace(0.05, 0.4, 8)
    y = X[..., 0] + 0.1 * rng.normal(size=(8, 20))
    data = jnp.asarray(X, jnp.float32), jnp.asarray(y, jnp.float32)

    def fit(X: Any, y: Any, strength: Any) -> Any:
        def loss(w: jax.Array) -> jax.Array:
            return 0.5 * jnp.mean((y - X @ w) ** 2)

        return minimize(loss, jnp.zeros(6), L1(strength)).params

    def fits(*parts: Any) -> Any:
        return fit(*(part[0] for part in parts))[None]

    def sharded(**options: Any) -> Any:
        split = PartitionSpec("data")
        within = jax.shard_map(
            fits, mesh=mesh, in_specs=(split,) * 3, out_specs=split, **options
        )
        return jax.jit(within)(*data, strengths)

    try:
        sharded()
        notes = []
    except (TypeError, ValueError) as error:
        notes = error.__notes__
    many, one = sharded(check_vma=False), jax.vmap(fit)(*data, strengths)
    return {"difference": largest_difference(many, one), "notes": notes}


if __name__ == "__main__":
    # An old JAX has no explicit sharding.
    kinds = ["Auto", "Explicit"] if hasattr(jax, "set_mesh") else ["Auto"]
    print(
        json.dumps(
            {"devices": jax.device_count()}
            | (
                {"shard_map": within_shard_map(), "solvers": solved_within_shard_map()}
                if hasattr(jax, "shard_map")
                else {}
            )
            | {
                kind: {name: try_to_look(name, kind) for name in OPTIMIZERS}
                for kind in kinds
            },
            indent=1,
        )
    )
