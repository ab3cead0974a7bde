"""What a step moves on a GPU and a TPU, compiled for them on any machine."""

import functools
import importlib.util
import itertools
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import pytest

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"
if not BENCHMARKS.exists():
    pytest.skip("benchmarks are not in the package", allow_module_level=True)
sys.path.append(str(BENCHMARKS))

import hlo  # noqa: E402

SIZE = 2**20


def cost_of(function: Any, arguments: int = 1, donated: tuple[int, ...] = ()) -> Any:
    """Bytes for each of `SIZE` entries, and copies, on this machine."""
    x = jax.ShapeDtypeStruct((1024, 1024), jnp.float32)
    lowered = jax.jit(function, donate_argnums=donated).lower(*[x] * arguments)
    cost = hlo.traffic(lowered.compile().as_text(), SIZE)
    return pytest.approx(cost.bytes / SIZE, abs=0.05), cost.copies


# The counter, on programs whose bytes are known: those read, and those written.


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of the CPU's compiler")
@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    [
        (lambda x: x + 1, 1, (4 + 4, 0)),
        (lambda x, y: jnp.sin(x) * y, 2, (8 + 4, 0)),
        (lambda x: jnp.sum(x), 1, (4, 0)),
        (lambda x: x[::32, ::32] * 2, 1, (0, 0)),
        (lambda x: jnp.sum(x[::32, ::32] ** 2), 1, (0, 0)),
        (lambda x, y: jnp.sum((x * y)[:2]), 2, (0, 0)),
        (lambda x: x + jnp.sum(x[0]), 1, (4 + 4, 0)),
        (lambda x: x, 1, (4 + 4, 1)),
        (lambda x: x.at[3].set(2.0), 1, (4 + 4, 1)),
    ],
)
def test_bytes_of_known_programs(
    function: Any, arguments: int, expected: tuple[float, int]
) -> None:
    assert cost_of(function, arguments) == expected


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of the CPU's compiler")
def test_an_update_in_place_moves_only_what_changes() -> None:
    assert cost_of(lambda x: x.at[3].set(2.0), donated=(0,)) == (0, 0)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of the CPU's compiler")
def test_a_loop_counts_as_often_as_it_runs() -> None:
    def halved(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 10, lambda i, x: jnp.sin(x) / (i + 2), x)

    assert cost_of(halved, donated=(0,)) == (10 * (4 + 4), 0)


# The cost of a penalty: one more array, read and written, wherever t comes from.

WHEELS = {"cuda": "jax_cuda12_plugin", "tpu": "libtpu"}
OPTIMIZERS = ["sgd", "adam"]
PENALTIES = ["L1", "ElasticNet", "MCP"]
MEASURE = """
import json, sys, compiled
platform, *rows = json.loads(sys.argv[1])
where = compiled.device(platform)
print(json.dumps([compiled.measure(compiled.transformation(*r), where) for r in rows]))
"""


@functools.cache
def steps(platform: str) -> dict[tuple[str, ...], dict[str, float]]:
    """All steps that are compared, compiled for `platform`.

    In a process of its own: JAX looks for plugins once, and on this machine there may
    be no device for them.
    """
    if importlib.util.find_spec(WHEELS[platform]) is None:
        pytest.skip(f"{WHEELS[platform]} is not installed")
    kinds = [("none", ""), *itertools.product(PENALTIES, ("given", "found"))]
    rows = [(optimizer, *kind) for optimizer in OPTIMIZERS for kind in kinds]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps([platform, *rows])],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        cwd=BENCHMARKS,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return dict(zip(rows, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("platform", WHEELS)
def test_a_penalty_on_entries_reads_and_writes_one_array(
    platform: str, optimizer: str, penalty: str
) -> None:
    bare = steps(platform)[optimizer, "none", ""]
    for threshold in ("given", "found"):
        cost = steps(platform)[optimizer, penalty, threshold]
        assert cost["bytes"] == pytest.approx(bare["bytes"] + 4 + 4, abs=0.1)
        assert cost["copies"] == 0
        assert cost["temporary"] < 0.1
