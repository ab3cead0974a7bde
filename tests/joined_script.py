"""What `test_joined.py` runs with eight devices: prints what it finds as JSON."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from optareg import GroupLasso, SparseGroupLasso, joined, proximal

SHAPES = {
    "up": {"kernel": (16, 8), "bias": (8,)},
    "down": {"kernel": (8, 4), "bias": (4,)},
    "stack": {"kernel": (4, 3, 8), "bias": (4, 8)},
}
SPECS = {
    "up": {"kernel": PartitionSpec("data", "model"), "bias": PartitionSpec("model")},
    "down": {"kernel": PartitionSpec("data"), "bias": PartitionSpec()},
    "stack": {
        "kernel": PartitionSpec("data", None, "model"),
        "bias": PartitionSpec("data"),
    },
}
HIDDEN = {"up": 0, "down": {"kernel": 0, "bias": None}, "stack": None}
PENALTIES = {
    "units": joined(GroupLasso(1.0, axis=1), "up"),
    "sparse units": joined(SparseGroupLasso(0.5, 0.5, axis=1), "up"),
    "two layers": joined(GroupLasso(1.0, axis=1), HIDDEN, axis={"down": 0}),
    "stacked layers": joined(GroupLasso(1.0, axis=1), "stack", axis=(0, -1)),
    "one unit": joined(SparseGroupLasso(0.5, 0.5, axis=1), "down", axis=()),
}


def is_shape(x: Any) -> bool:
    return isinstance(x, tuple)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference, for a largest entry of 1 or less."""
    return float(np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1))


def measure(penalty: Any) -> dict[str, Any]:
    """Each way to use it, eager and compiled, beside one device."""
    generator = np.random.default_rng(0)
    one = jax.tree.map(
        lambda shape: generator.normal(size=shape).astype(np.float32),
        SHAPES,
        is_leaf=is_shape,
    )
    mesh = jax.make_mesh((4, 2), ("data", "model"))
    optimizer = proximal(optax.adam(0.1), penalty)

    def train(w: Any) -> Any:
        state = optimizer.init(w)
        for _ in range(2):
            updates, state = optimizer.update(w, state, w)
            w = optax.apply_updates(w, updates)
        return w

    calls = {
        "value": penalty.value,
        "gradient": penalty.gradient,
        "prox": lambda w: penalty.prox(w, 1.0),
        "gradient by JAX, jit": jax.jit(jax.grad(penalty.value)),
        "prox, jit": jax.jit(lambda w: penalty.prox(w, 1.0)),
        "training, jit": jax.jit(train),
    }
    expected = {name: call(one) for name, call in calls.items()}
    otherwise, difference = [], 0.0
    with jax.set_mesh(mesh):
        many = jax.tree.map(
            lambda w, spec: jax.device_put(w, NamedSharding(mesh, spec)), one, SPECS
        )
        for name, call in calls.items():
            found = call(many)
            types = jax.tree.map(jax.typeof, (found, many))
            if name != "value" and types[0] != types[1]:
                otherwise.append(f"{name}: {types[0]}")
            leaves = jax.tree.leaves(found), jax.tree.leaves(expected[name])
            for a, b in zip(*leaves, strict=True):
                difference = max(difference, relative(np.asarray(a), np.asarray(b)))
    zeros = sum(int(jnp.sum(x == 0)) for x in jax.tree.leaves(expected["prox"]))
    return {"sharded otherwise": otherwise, "difference": difference, "zeros": zeros}


if __name__ == "__main__":
    found = {name: measure(penalty) for name, penalty in PENALTIES.items()}
    print(json.dumps({"devices": jax.device_count()} | found, indent=1))
