"""What `test_sharding.py` runs with eight devices: prints what it finds as JSON.

Its argument has the cells to look at: lists of a kind of mesh, a layout of the
parameters, a penalty and a way to use it.
"""

import contextlib
import functools
import json
import math
import re
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from devices_script import (
    COLLECTIVES,
    largest_difference,
    parameter_of,
    sharded_otherwise,
)
from optareg import (
    L1,
    L2,
    MCP,
    SCAD,
    ElasticNet,
    GroupLasso,
    NuclearNorm,
    SparseGroupLasso,
    TotalVariation,
    add_penalty_gradient,
    by_path,
    centered,
    constraint,
    freeze_zeros,
    joined,
    masked,
    max_strength,
    minimize,
    partition,
    path,
    proximal,
    proximal_step,
    target_sparsity,
)
from optareg.penalties._base import map_strengths
from optareg.solve._programs import QUICKEST, compiled

PyTree = Any

STEPS, RATE, THRESHOLD = 3, 0.05, 0.2
SHAPES = {"up": (64, 32), "down": (32, 64), "bias": (32,)}
P = PartitionSpec
# How the parameters are sharded over the axes "data", 4, and "model", 2.
LAYOUTS = {
    "data parallel": {"up": P(), "down": P(), "bias": P()},
    "fsdp": {"up": P("data"), "down": P("data"), "bias": P("data")},
    "tensor parallel": {"up": P(None, "model"), "down": P("model"), "bias": P("model")},
    "both": {
        "up": P("data", "model"),
        "down": P("model", "data"),
        "bias": P(("data", "model")),
    },
}


def random_tree(seed: int, scale: float = 1.0, zeros: float = 0.0) -> PyTree:
    """Parameters or gradients; entries below `zeros` are zero."""
    generator = np.random.default_rng(seed)
    tree = {name: scale * generator.normal(size=s) for name, s in SHAPES.items()}
    return {
        name: np.where(np.abs(x) < zeros, 0, x).astype(np.float32)
        for name, x in tree.items()
    }


def labels(scattered: bool) -> PyTree:
    """Labels of groups of 64, that follow one another or not."""
    generator = np.random.default_rng(0)

    def of(shape: tuple[int, ...]) -> np.ndarray:
        rising = np.arange(math.prod(shape)) // 64
        return (generator.permutation(rising) if scattered else rising).reshape(shape)

    return {name: of(shape) for name, shape in SHAPES.items()}


def onto_simplex(x: jax.Array) -> jax.Array:
    return optax.projections.projection_simplex(x)


def onto_box(x: jax.Array) -> jax.Array:
    return jnp.clip(x, -0.3, 0.3)


KERNELS = by_path("up|down")
STRENGTHS = {"up": np.full((64, 32), 0.5, np.float32), "down": 0.5, "bias": 0}
ENTRYWISE = {
    "L1": L1(0.5),
    "L1 positive": L1(0.5, positive=True),
    "L2": L2(0.5),
    "ElasticNet": ElasticNet(0.5, 0.2),
    "MCP": MCP(0.5),
    "SCAD": SCAD(0.5),
    "adaptive": L1(STRENGTHS),
    "masked": masked(L1(0.5), KERNELS),
    "centered": centered(L1(0.5), random_tree(9, 0.1)),
    "box": constraint(onto_box),
}
IN_GROUPS = {
    "GroupLasso of columns": GroupLasso(0.3, axis=0),
    "GroupLasso of rows": GroupLasso(0.3, axis=-1),
    "GroupLasso of leaves": GroupLasso(0.1),
    "GroupLasso of labels": GroupLasso(0.1, groups=labels(False)),
    "GroupLasso of scattered labels": GroupLasso(0.1, groups=labels(True)),
    "SparseGroupLasso": SparseGroupLasso(0.1, 0.2, axis=0),
    "SparseGroupLasso of scattered labels": SparseGroupLasso(
        0.1, 0.1, groups=labels(True)
    ),
    "partition": partition(
        {"each": L1(0.5), "columns": GroupLasso(0.3, axis=0)},
        {"up": "columns", "down": "each", "bias": "each"},
    ),
}
WHOLE = {
    "TotalVariation": TotalVariation(0.5, axis=0),
    "NuclearNorm": masked(NuclearNorm(1.0), KERNELS),
    "simplex": constraint(onto_simplex),
    "joined": joined(GroupLasso(0.3, axis=1), {"up": "u", "bias": "u", "down": None}),
}
PENALTIES = {**ENTRYWISE, **IN_GROUPS, **WHOLE}

# A large ε: else a gradient near zero makes a large step out of its rounding.
ADAM = optax.adam(RATE, eps=0.01)
TRAINING = {
    "add_penalty_gradient": lambda p: optax.chain(add_penalty_gradient(p), ADAM),
    "proximal_step": lambda p: optax.chain(ADAM, proximal_step(p, RATE)),
    "proximal, given": lambda p: proximal(ADAM, p, threshold=THRESHOLD),
    "proximal, found": lambda p: proximal(ADAM, p),
    "target_sparsity": lambda p: target_sparsity(ADAM, p, 0.5),
    "freeze_zeros": lambda p: freeze_zeros(proximal(ADAM, p, threshold=THRESHOLD)),
}


def collectives(program: str) -> list[tuple[str, int]]:
    """The kinds of those in a compiled program, with the entries of their results."""
    found = re.findall(rf" = (.*?) ({COLLECTIVES})(?:-start)?\(", program)
    return [
        (
            kind,
            sum(
                math.prod(map(int, filter(None, sizes.split(","))))
                for sizes in re.findall(r"\w+\[([\d,]*)\]", result)
            ),
        )
        for result, kind in found
    ]


@contextlib.contextmanager
def mesh_of(kind: str) -> Any:
    """A mesh of eight devices; it is the context if its axes are explicit."""
    axes = AxisType.Explicit if kind == "Explicit" else AxisType.Auto
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axes, axes))
    with jax.set_mesh(mesh) if kind == "Explicit" else contextlib.nullcontext():
        yield mesh


def place(tree: PyTree, mesh: Mesh, specs: PyTree) -> PyTree:
    return {
        k: jax.device_put(x, NamedSharding(mesh, specs[k])) for k, x in tree.items()
    }


def specs_of(state: PyTree, specs: PyTree) -> PyTree:
    """Where the parts of a state lie: as their parameters, the rest everywhere."""
    return jax.tree_util.tree_map_with_path(
        lambda at, leaf: specs.get(parameter_of(at), P()), state
    )


def step_of(penalty: str, way: str) -> tuple[Any, Any]:
    """The optimizer, and a step of training with given gradients."""
    optimizer = TRAINING[way](PENALTIES[penalty])

    def step(params: PyTree, state: PyTree, grads: PyTree) -> tuple[PyTree, PyTree]:
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return optimizer, step


def run(
    optimizer: Any, step: Any, put: Any, where: Any = None
) -> tuple[PyTree, PyTree, str]:
    """Parameters and state after some steps, and the text of the program."""
    params = put(random_tree(0, 0.3, zeros=0.1))
    init = optimizer.init
    if where is not None:
        init = jax.jit(init, out_shardings=where[1])
    state = init(params)
    jitted = jax.jit(step, out_shardings=where)
    program = compiled(jitted.lower(params, state, params), QUICKEST)
    for seed in range(1, STEPS + 1):
        params, state = program(params, state, put(random_tree(seed)))
    return params, state, program.as_text()


@functools.cache
def on_one_device(penalty: str, way: str) -> PyTree:
    """The parameters after the same steps on one device."""
    put = functools.partial(jax.tree.map, jnp.asarray)
    return run(*step_of(penalty, way), put)[0]


def train(kind: str, layout: str, penalty: str, way: str) -> dict[str, Any]:
    """Some steps on eight devices, beside one."""
    (optimizer, step), specs = step_of(penalty, way), LAYOUTS[layout]
    one = on_one_device(penalty, way)
    of_state = specs_of(jax.eval_shape(optimizer.init, random_tree(0)), specs)
    with mesh_of(kind) as mesh:
        if kind == "shard_map":
            parts = (specs, of_state, specs), (specs, of_state)
            step = jax.shard_map(step, mesh=mesh, in_specs=parts[0], out_specs=parts[1])
        where = None
        if kind == "Auto" and penalty in WHOLE:  # There XLA would choose.
            where = jax.tree.map(
                lambda spec: NamedSharding(mesh, spec),
                (specs, of_state),
                is_leaf=lambda x: isinstance(x, P),
            )
        put = functools.partial(place, mesh=mesh, specs=specs)
        many, state, program = run(optimizer, step, put, where)
    shardings = {name: NamedSharding(mesh, spec) for name, spec in specs.items()}
    zeros = [
        sum(int(np.sum(np.asarray(x) == 0)) for x in t.values()) for t in (one, many)
    ]
    return {
        "sharded otherwise": sharded_otherwise((many, state), shardings),
        "difference": largest_difference(many, one),
        "zeros": zeros,
        "collectives": collectives(program),
    }


# Solving: a regression with three layouts of X, and of the parameters.

SOLVING = {
    "data parallel": (P(), P("data"), P("data")),
    "fsdp": (P("data"), P("data"), P("data")),
    "tensor parallel": (P(None, "model"), P("data"), P("data", "model")),
}
FITTED = {
    "L1": L1(0.05),
    "GroupLasso of columns": GroupLasso(0.02, axis=0),
    "GroupLasso of rows": GroupLasso(0.05, axis=1),
    "GroupLasso of scattered labels": GroupLasso(
        0.02, groups=np.random.default_rng(0).permutation(128).reshape(16, 8) // 8
    ),
    "TotalVariation": TotalVariation(0.05, axis=0),
    "NuclearNorm": NuclearNorm(0.1),
}


def strengths(penalty: Any) -> Any:
    """The penalty with three strengths."""
    return map_strengths(lambda s: s * np.array([4, 2, 1], np.float32), penalty)


SOLVERS = {
    "minimize": lambda loss, w, p: minimize(loss, w, p)[::3],
    "minimize by Adam": lambda loss, w, p: minimize(
        loss, w, p, optimizer=optax.adam(0.02), max_steps=3000
    )[::3],
    "minimize within jit": lambda loss, w, p: jax.jit(
        lambda w: minimize(loss, w, p)[::3]
    )(w),
    "derivative": lambda loss, w, p: (
        jax.jit(
            jax.grad(
                lambda w0: jnp.sum(
                    minimize(lambda w: loss(w) + jnp.sum(w * w0), w, p).params ** 2
                )
            )
        )(w),
        True,
    ),
    "path": lambda loss, w, p: path(loss, w, strengths(p))[::3],
    "max_strength": lambda loss, w, p: (max_strength(loss, w, p), True),
}


def solve(kind: str, layout: str, penalty: str, way: str) -> dict[str, Any]:
    """The optimum on eight devices, beside one."""
    generator = np.random.default_rng(0)
    X = generator.normal(size=(64, 16))
    B = generator.normal(size=(16, 8)) * (generator.random((16, 8)) < 0.4)
    Y = X @ B + 0.1 * generator.normal(size=(64, 8))

    def run(put: Any) -> Any:
        w, X_, Y_ = put([np.zeros((16, 8)), X, Y])

        def loss(w: jax.Array) -> jax.Array:
            return 0.5 * jnp.mean(jnp.sum((X_ @ w - Y_) ** 2, axis=1))

        return w, SOLVERS[way](loss, w, FITTED[penalty])

    _, one = run(lambda arrays: [jnp.asarray(x, jnp.float32) for x in arrays])
    with mesh_of(kind) as mesh:
        w, many = run(
            lambda arrays: [
                jax.device_put(x.astype(np.float32), NamedSharding(mesh, spec))
                for x, spec in zip(arrays, SOLVING[layout], strict=True)
            ]
        )
    spec = (None,) * (many[0].ndim - 2) + (*w.sharding.spec, None, None)[:2]
    same = NamedSharding(mesh, P(*spec[: many[0].ndim]))
    return {
        "sharded otherwise": []
        if many[0].sharding.is_equivalent_to(same, many[0].ndim) or not many[0].ndim
        else [str(many[0].sharding)],
        # For a largest entry of 1 or less.
        "difference": largest_difference(many[0], one[0])
        / max(1, float(jnp.max(jnp.abs(one[0])))),
        "converged": bool(np.all(one[1]) and np.all(many[1])),
        "nonzero": int(np.sum(np.asarray(one[0]) != 0)),
    }


def look(cell: list[str]) -> dict[str, Any]:
    """What is found, or the error, so that one cell cannot hide the others."""
    try:
        return (train if cell[3] in TRAINING else solve)(*cell)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    cells = json.loads(sys.argv[1])
    print(json.dumps([jax.device_count(), [look(cell) for cell in cells]]))
