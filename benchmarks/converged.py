"""Is `converged=True` ever false? Random problems whose columns have any scale.

    pip install -e ".[test]" && python benchmarks/converged.py

Losses × penalties × precisions, each on random data. The columns are multiplied by
powers of ten: all by the same, one by another, or each by its own. The strengths are in
units of the columns, or (half of those with one other) one number for all. Half start
at zero, the others at weights up to ten thousand times those of the solution; a column
is zero in a third of both.

The judge has another way to each optimum: the same problem with columns of variance one
and strengths to match, solved in float64; NumPy checks that the optimality conditions
hold there. The table has the share of problems that end with `converged=False`, how
many of these began at zero, and how many are near enough all the same; of the others
the largest gap P(w) − P*, in float64, relative to the loss of the null model (of
counts: its deviance); and how many are beyond 1e-6 (float32: 1e-4). Prints Markdown.
"""

import argparse
import functools
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from report import print_table

from optareg import L1, ElasticNet, GroupLasso, Penalty, by_path, masked, minimize

# As many samples for each column.
SAMPLES, COLUMNS, CLASSES = 5, 12, 3
LIMIT = {"float64": 1e-6, "float32": 1e-4}
# Decimal exponents of the scales.
RANGE = {"float64": (-16, 16), "float32": (-6, 8)}

Array = Any


def least_squares(z: Array, y: Array) -> Array:
    return 0.5 * jnp.mean((y - z) ** 2)


def huber(z: Array, y: Array) -> Array:
    r = jnp.abs(y - z)
    return jnp.mean(jnp.where(r < 1, 0.5 * r**2, r - 0.5))


def logistic(z: Array, y: Array) -> Array:
    sign = jnp.where(y > jnp.median(y), 1, -1)
    return jnp.mean(jnp.logaddexp(0, -sign * z))


def poisson(z: Array, y: Array) -> Array:
    return jnp.mean(jnp.exp(z) - jnp.floor(jnp.exp(y)) * z)


def multinomial(z: Array, y: Array) -> Array:
    label = jnp.searchsorted(jnp.quantile(y, jnp.array([0.3, 0.7], y.dtype)), y)
    of_label = jnp.take_along_axis(z, label[:, None], 1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(z, axis=1) - of_label)


def cox(z: Array, y: Array) -> Array:
    """The partial likelihood; y orders the times, and all events are seen."""
    z = z[jnp.argsort(-y)]
    return jnp.mean(jax.lax.cumlogsumexp(z) - z)


class Model(NamedTuple):
    """A loss of X w (+ an intercept), and the shape of w behind the columns."""

    loss: Callable[[Array, Array], Array]
    intercept: bool
    outputs: tuple[int, ...] = ()


MODELS = {
    "least squares": Model(least_squares, False),
    "least squares, intercept": Model(least_squares, True),
    "Huber": Model(huber, True),
    "logistic": Model(logistic, True),
    "Poisson": Model(poisson, True),
    "multinomial": Model(multinomial, True, (CLASSES,)),
    "Cox": Model(cox, False),
}
PENALTIES: dict[str, Callable[[Array], Penalty]] = {
    "L1": L1,
    "L1, positive": lambda a: L1(a, positive=True),
    "elastic net": lambda a: ElasticNet(a, a**2),
    "groups of 3": lambda a: GroupLasso(
        a,
        groups=np.broadcast_to(
            groups_of(len(a)).reshape(-1, *[1] * (a.ndim - 1)), a.shape
        ),
    ),
}


def groups_of(columns: int) -> Array:
    """The group that each column is in."""
    return np.arange(columns) // 3


class Data(NamedTuple):
    """Many problems: columns of variance one, their scales, strengths beside them.

    Starts too are in units of these columns.
    """

    X: Array
    y: Array
    scales: Array
    strengths: Array
    starts: Array


def random_data(model: str, penalty: str, precision: str, n: int, columns: int) -> Data:
    samples, groups = SAMPLES * columns, groups_of(columns)
    rng = np.random.default_rng(zlib.crc32(f"{model}{penalty}{precision}".encode()))
    rows = []
    for i in range(n):
        common = rng.choice([0, 1]) * rng.normal(size=(samples, 1))
        X = rng.normal(size=(samples, columns)) + common
        # About as many in use, however many there are.
        true = rng.normal(size=columns) * (rng.random(columns) < 4.8 / columns)
        y = X @ true / 2 + rng.normal(size=samples) * rng.choice([0.1, 1])
        X = (X - X.mean(0)) / X.std(0)
        X[:, rng.integers(columns)] *= rng.random() < 2 / 3
        y = (y - y.mean()) / y.std() + rng.choice([0, 5])
        powers = rng.uniform(*RANGE[precision], columns)
        if penalty == "groups of 3":  # Within a group scales are another model.
            powers = powers[groups]
        if i % 3 == 0:
            powers[:] = powers[0]
        if i % 3 == 1:
            powers[3 if penalty == "groups of 3" else 1 :] = 0
        a = np.full(columns, 10.0 ** rng.uniform(-3, -0.5))
        scales = 10.0**powers
        far = rng.choice([0, 1]) * 10.0 ** rng.uniform(-1, 4)
        start = far * rng.normal(size=columns)
        rows.append(Data(X, y, scales, a / scales if i % 6 == 1 else a, start))
    X, y, scales, strengths, starts = map(np.stack, zip(*rows, strict=True))
    # As single precision has it.
    scaled = (X * scales[:, None]).astype(precision).astype(float)
    return Data(
        scaled / scales[:, None],
        y.astype(precision).astype(float),
        scales,
        strengths,
        starts,
    )


@functools.cache
def functions(model: str, penalty: str) -> tuple[Any, Any]:
    """Compiled for many problems: the solution, and (objective, gradient)."""
    of, intercept, outputs = MODELS[model]

    def parts(X: Array, y: Array, a: Array) -> Any:
        def loss(p: Any) -> Array:
            z = X @ p["w"]
            return of(z + p["b"] if intercept else z, y)

        shape = len(a), *outputs
        each = jnp.broadcast_to(a.reshape(-1, *[1] * len(outputs)), shape)
        return loss, masked(PENALTIES[penalty](each), by_path("w"))

    def solve(X: Array, y: Array, a: Array, first: Array) -> Any:
        loss, whole = parts(X, y, a)
        each = first.reshape(-1, *[1] * len(outputs))
        start = {"w": jnp.broadcast_to(each, (len(a), *outputs))}
        if intercept:
            start["b"] = jnp.zeros(outputs, X.dtype)
        return minimize(loss, start, whole)

    def objective(X: Array, y: Array, a: Array, params: Any) -> Any:
        loss, whole = parts(X, y, a)
        return loss(params) + whole.value(params), jax.grad(loss)(params)

    return jax.jit(jax.vmap(solve)), jax.jit(jax.vmap(objective))


def residual(penalty: str, a: Array, w: Array, g: Array) -> Array:
    """How far the optimality conditions are from holding, for each problem."""
    a = a.reshape(*a.shape, *[1] * (w.ndim - 2))
    if penalty == "elastic net":
        g = g + 2 * a**2 * w
    if penalty == "groups of 3":
        size = np.sqrt(3 * np.prod(w.shape[2:]))

        def norms(x: Array) -> Array:
            squares = (x**2).sum(tuple(range(2, x.ndim)))
            return np.sqrt(
                np.add.reduceat(squares, np.arange(0, a.shape[1], 3), axis=1)
            )

        length = norms(w).repeat(3, 1).reshape(a.shape)
        inner = norms(g + size * a * w / np.where(length > 0, length, 1))
        outer = np.maximum(norms(g) - size * a[:, ::3].reshape(len(a), -1), 0)
        return np.where(norms(w) > 0, inner, outer).max(1)
    lack = np.where(w == 0, np.maximum(np.abs(g) - a, 0), np.abs(g + a * np.sign(w)))
    if penalty == "L1, positive":
        lack = np.where(w == 0, np.maximum(-g - a, 0), lack)
    return lack.reshape(len(w), -1).max(1)


def judged(
    model: str, penalty: str, precision: str, n: int, columns: int
) -> tuple[Array, Array, Array]:
    """Whether each problem converged, its relative gap, whether it began at zero."""
    X, y, scales, a, starts = random_data(model, penalty, precision, n, columns)
    solve, objective = functions(model, penalty)
    scaled = X * scales[:, None]
    with jax.enable_x64(precision == "float64"):
        given = (scaled, y, a * scales, starts / scales)
        found = solve(*(jnp.asarray(x, precision) for x in given))
        found = jax.tree.map(np.asarray, found)
    with jax.enable_x64(True):
        zero = np.zeros_like(a)
        best = jax.tree.map(np.asarray, solve(X, y, a, zero))
        least, grads = objective(X, y, a, best.params)
        g = np.asarray(grads["w"])
        lack = residual(penalty, a, best.params["w"], g)
        null = solve(X, y, 1e4 * np.ones_like(a), zero).params
        most, _ = objective(X, y, a, null)
        assert np.all(lack < 1e-8 * np.maximum(1, np.abs(most))), (model, penalty)
        params = {name: x.astype(float) for name, x in found.params.items()}
        each = scales.reshape(*scales.shape, *[1] * (params["w"].ndim - 2))
        params["w"] = params["w"] * each
        here, _ = objective(X, y, a, params)
        saturated = np.zeros(n)
        if model == "Poisson":
            counts = np.floor(np.exp(y))
            saturated = np.mean(counts - counts * np.log(np.maximum(counts, 1)), 1)
    gap = np.asarray(here - least) / (np.asarray(most) - saturated)
    return found.converged, gap, ~starts.any(axis=1)


def rows(n: int, columns: int, precisions: list[str]) -> Iterator[list[str]]:
    total = unsolved = beyond = of_zero = 0
    for precision in precisions:
        for model in MODELS:
            for penalty in PENALTIES:
                found = judged(model, penalty, precision, n, columns)
                converged, gap, at_zero = found
                worst = np.max(gap[converged], initial=0)
                false = int(np.sum(converged & ~(gap <= LIMIT[precision])))
                unsaid = int(np.sum(~converged & (gap <= LIMIT[precision])))
                from_zero = int(np.sum(~converged & at_zero))
                total, unsolved = total + n, unsolved + int(np.sum(~converged))
                beyond, of_zero = beyond + false, of_zero + from_zero
                yield [
                    precision,
                    model,
                    penalty,
                    f"{np.mean(~converged):.0%}",
                    str(from_zero),
                    str(unsaid),
                    f"{worst:.0e}",
                    str(false),
                ]
    share = f"{unsolved / total:.1%}, {unsolved}"
    yield ["all", f"{total:,} problems", "", share, str(of_zero), "", "", str(beyond)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--problems", type=int, default=48, help="of each row")
    parser.add_argument("--columns", type=int, default=COLUMNS, help="multiple of 3")
    parser.add_argument("--precision", nargs="*", default=["float64", "float32"])
    chosen = parser.parse_args()
    head = ["precision", "loss", "penalty", "not converged", "of these from zero"]
    head += ["near enough", "largest gap of the others", "beyond the limit"]
    print_table(
        "Converged", head, rows(chosen.problems, chosen.columns, chosen.precision)
    )


if __name__ == "__main__":
    main()
