"""Does it all hold on an accelerator, and how long does it take there?

    pip install -e ".[benchmark,test]" "jax[cuda12]" && python benchmarks/gpu.py

In this order, each a part that `--only` chooses:

- tests: those of the suite that say something about a device: formulas, updates,
  solutions, derivatives, sweeps. Products of matrices have all digits of float32.
- steps: bytes of a step by its compiled program (as `compiled.py`), then the times
  (`step.py`).
- sweeps: 1 to 1,024 strengths at once by `vmap`, of training and of `minimize`.
- path: 100 strengths by `path`, in float32 and float64.

`--platform cpu --quick` tries the script where there is no accelerator. Times are the
least of several runs, after one that compiles. Prints Markdown.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

HERE = pathlib.Path(__file__).parent
# What is about files, plots, documents, other packages or a CPU's compiler is left out.
TESTS = [
    *("textbook", "penalties", "subgradients", "product", "threshold", "dtypes"),
    *("stationarity", "optimum", "minimize", "path", "centered", "total_variation"),
]
QUICK_TESTS = ["textbook"]
PARTS = ("tests", "steps", "sweeps", "path")
STRENGTHS = (1, 4, 16, 64, 256, 1024)


def run(*command: str, **variables: str) -> bool:
    """Runs it within the repository, and says what and whether it succeeded."""
    print(f"\n$ {' '.join(command)}", flush=True)
    done = subprocess.run(
        [sys.executable, *command],
        cwd=HERE.parent,
        env=os.environ | variables,
        check=False,
    )
    return done.returncode == 0


def seconds(function: Callable[[], Any], times: int) -> tuple[float, float]:
    """To compile and run it, and to run it: the least of some times."""
    import jax

    taken = []
    for _ in range(times + 1):
        start = time.perf_counter()
        jax.block_until_ready(function())
        taken.append(time.perf_counter() - start)
    return taken[0], min(taken[1:])


def test(quick: bool) -> bool:
    """The suite's core."""
    files = [f"tests/test_{name}.py" for name in (QUICK_TESTS if quick else TESTS)]
    # Most of it is compiling, on the host.
    workers = str(min(8, os.cpu_count() or 1))
    return run(
        *("-m", "pytest", "-q", "-n", workers, "-p", "no:cacheprovider", *files),
        JAX_DEFAULT_MATMUL_PRECISION="highest",
    )


def time_steps(quick: bool) -> bool:
    """Bytes and times of a step."""
    from compiled import OPTIMIZERS, byte_rows
    from report import print_table

    names = ["sgd"] if quick else list(OPTIMIZERS)
    # "cpu" is the device that is here.
    print_table(
        "Bytes a parameter and step, by the compiled program",
        ["penalty", "threshold", *names],
        byte_rows("cpu", names),
    )
    if quick:
        return run("benchmarks/step.py", "--quick", "--optimizers", "sgd")
    sizes = ["--sizes", "1000000", "10000000", "100000000"]
    return run("benchmarks/step.py", *sizes, "--leaves", "1", "100")


def data(rows: int, columns: int, dtype: Any) -> tuple[Any, Any]:
    """A regression of which 20 columns matter."""
    import jax.numpy as jnp
    import numpy as np

    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, columns))
    y = X[:, :20] @ rng.normal(size=20) + rng.normal(size=rows)
    return jnp.asarray(X, dtype), jnp.asarray(y, dtype)


def sweep_rows(quick: bool) -> Iterable[Sequence[str]]:
    """A row for each number of strengths."""
    import jax
    import jax.numpy as jnp
    import optax

    from optareg import L1, max_strength, minimize, proximal, strength_grid

    X, y = data(*((200, 50) if quick else (2_000, 1_000)), jnp.float32)
    steps = 20 if quick else 500

    def loss(w: jax.Array) -> jax.Array:
        return 0.5 * jnp.mean((y - X @ w) ** 2)

    start = jnp.zeros(X.shape[1])
    most = max_strength(loss, start, L1(1.0))

    def trained(strength: jax.Array) -> jax.Array:
        optimizer = proximal(optax.adam(1e-2), L1(strength))

        def step(carry: Any, _: None) -> Any:
            w, state = carry
            updates, state = optimizer.update(jax.grad(loss)(w), state, w)
            return (optax.apply_updates(w, updates), state), None

        return jax.lax.scan(step, (start, optimizer.init(start)), length=steps)[0][0]

    def solved(strength: jax.Array) -> Any:
        return minimize(loss, start, L1(strength))

    train, solve = (jax.jit(jax.vmap(f)) for f in (trained, solved))
    for n in STRENGTHS[:3] if quick else STRENGTHS:
        grid = strength_grid(most, n)
        times = [seconds(lambda f=f, x=grid: f(x), 3) for f in (train, solve)]
        found = solve(grid)
        cells = [f"{1e3 * t:.3g}" for pair in times for t in (pair[1], pair[1] / n)]
        yield [f"{n:,}", *cells, f"{int(found.converged.sum()):,}"]


def path_rows(quick: bool) -> Iterable[Sequence[str]]:
    """A row for each shape and precision."""
    import jax
    import jax.numpy as jnp

    from optareg import L1, max_strength, path, strength_grid

    shapes = [(200, 50)] if quick else [(5_000, 500), (1_000, 5_000)]
    for rows, columns in shapes:
        for dtype in (jnp.float32, jnp.float64):
            jax.config.update("jax_enable_x64", dtype == jnp.float64)
            X, y = data(rows, columns, dtype)

            def loss(w: jax.Array, X: Any = X, y: Any = y) -> jax.Array:
                return 0.5 * jnp.mean((y - X @ w) ** 2)

            start = jnp.zeros(columns, dtype)
            grid = strength_grid(max_strength(loss, start, L1(1.0)))
            solve = jax.jit(lambda g, f=loss, w=start: path(f, w, L1(g)))
            first, later = seconds(lambda f=solve, g=grid: f(g), 3)
            found = solve(grid)
            yield [
                f"{rows:,} × {columns:,}",
                X.dtype.name,
                f"{first:.2f}",
                f"{later:.3f}",
                f"{int(found.converged.sum())} of {len(grid)}",
            ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--platform", default="cuda", help="as JAX_PLATFORMS has it")
    parser.add_argument(
        "--quick", action="store_true", help="small, for minutes on a CPU"
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    # Before JAX is imported, for the processes that are started too.
    os.environ["JAX_PLATFORMS"] = f"{options.platform},cpu"  # Callbacks need it.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # They share the memory.

    import jax
    from report import print_table

    import optareg

    device = jax.devices()[0]
    print(
        f"optareg {optareg.__version__}, jax {jax.__version__}, {device.device_kind}."
    )
    passed = True
    if "tests" in options.only:
        passed &= test(options.quick)
    if "steps" in options.only:
        passed &= time_steps(options.quick)
    if "sweeps" in options.only:
        heads = [
            f"{job}: {unit}"
            for job in ("training", "`minimize`")
            for unit in ("ms", "ms a strength")
        ]
        print_table(
            "Strengths at once, by `vmap`",
            ["strengths", *heads, "converged"],
            sweep_rows(options.quick),
        )
    if "path" in options.only:
        print_table(
            "A path of 100 strengths",
            ["data", "numbers", "first call, s", "later, s", "converged"],
            path_rows(options.quick),
        )
    sys.exit(not passed)


if __name__ == "__main__":
    main()
