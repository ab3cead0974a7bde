"""Which optimizers reach the optimum under `proximal`, and which reach one at all?

    pip install -e ".[benchmark]" && python benchmarks/optimizers.py

Every optimizer of `optax` and `optax.contrib` that takes a learning rate, on the lasso
on scikit-learn's diabetes (λ = .05, target of unit variance, weights of shape (5, 2),
zero start, float64, full batches, 20,000 steps of a cosine schedule). Weight decay is
switched off. The rate is the best of ten from 1e-4 to 3, the only thing chosen. Beside
the error of `proximal` stands the bare optimizer's own on the same problem without the
penalty, at its own best rate: what is inherent shows.

Errors are max |w − solution| / max |solution|, with scikit-learn's or NumPy's solution.
Prints Markdown; progress goes to stderr.
"""

import argparse
import inspect
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import sklearn.datasets
import sklearn.linear_model

from optareg import L1, proximal

Make = Callable[[Any], optax.GradientTransformation]

STRENGTH = 0.05
RATES = np.geomspace(1e-4, 10**0.5, 10)

# Not in the table, and why.
EXCLUDED = {
    "lbfgs": "a line search evaluates the loss itself",
    "polyak_sgd": "takes no learning rate, and evaluates the loss",
    "dpsgd": "adds noise for each example, and needs gradients of each",
    "sophia": "needs the loss function for its Hessian, not a rate alone",
    "schedule_free": "wraps another; its SGD and AdamW are in the table",
}
CONSTANT = ("optimistic_adam", "rprop", "sm3")  # They take no schedule.
OPTIONS = {
    "noisy_sgd": {"seed": 0},
    "galore": {"rank": 1, "update_proj_gap": 20},
}
WRAPPERS: dict[str, Make] = {
    "mechanize(sgd)": lambda rate: optax.contrib.mechanize(
        optax.sgd(rate), weight_decay=0.0
    ),
    "mechanize(adam)": lambda rate: optax.contrib.mechanize(
        optax.adam(rate), weight_decay=0.0
    ),
    "sgd, momentum": lambda rate: optax.sgd(rate, 0.9),
}


class Score(NamedTuple):
    """The best run over the rates."""

    rate: float
    error: float
    right: bool


def optimizers() -> Iterator[tuple[str, Make]]:
    """Every public optimizer by its name, from a rate."""
    yield from WRAPPERS.items()
    for module in (optax, optax.contrib):
        for name in sorted(set(dir(module)) - set(EXCLUDED)):
            function = getattr(module, name) if name.islower() else None
            if name.startswith(("_", "scale_by_")) or not inspect.isfunction(function):
                continue
            parameters = inspect.signature(function).parameters
            if next(iter(parameters), None) == "learning_rate":
                options: dict[str, Any] = dict(OPTIONS.get(name, {}))
                for decay in {"weight_decay", "adam_weight_decay"} & set(parameters):
                    options[decay] = 0.0
                yield name, _with(function, options)


def _with(function: Callable[..., Any], options: dict[str, Any]) -> Make:
    return lambda rate: function(rate, **options)


def regression() -> tuple[np.ndarray, np.ndarray]:
    X, y = sklearn.datasets.load_diabetes(return_X_y=True)
    return (X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std()


def train(name: str, make: Make, penalised: bool, steps: int) -> np.ndarray:
    """The last weights at each rate, shape (rates, 5, 2)."""
    X, y = (jnp.asarray(x) for x in regression())
    gram, pull = X.T @ X / len(y), X.T @ y / len(y)

    def loss(w: jax.Array) -> jax.Array:
        w = w.ravel()
        return 0.5 * (w @ gram @ w + jnp.mean(y**2)) - pull @ w

    def one(rate: jax.Array) -> jax.Array:
        def schedule(count: Any) -> Any:
            return rate * 0.5 * (1 + jnp.cos(jnp.pi * count / steps))

        tx = make(rate if name in CONSTANT else schedule)
        tx = optax.with_extra_args_support(tx)
        if penalised:
            tx = proximal(tx, L1(STRENGTH))

        def step(carry: Any, _: None) -> tuple[Any, None]:
            w, state = carry
            value, slope = jax.value_and_grad(loss)(w)
            updates, state = tx.update(slope, state, w, value=value)
            return (optax.apply_updates(w, updates), state), None

        w = jnp.zeros((5, 2))
        (w, _), _ = jax.lax.scan(step, (w, tx.init(w)), length=steps)
        return w

    return np.asarray(jax.jit(jax.vmap(one))(jnp.asarray(RATES)))


def score(
    name: str, make: Make, penalised: bool, solution: np.ndarray, steps: int
) -> Score:
    """The best rate's error and support."""
    ends = train(name, make, penalised, steps).reshape(len(RATES), -1)
    errors = np.nan_to_num(np.abs(ends - solution).max(1), nan=np.inf)
    best = int(np.argmin(errors))
    right = bool(np.array_equal(ends[best] != 0, solution != 0))
    return Score(RATES[best], errors[best] / np.abs(solution).max(), right)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="2,000 steps")
    parser.add_argument("--optimizers", nargs="+", help="by name; all where none is")
    chosen = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    steps = 2_000 if chosen.quick else 20_000
    X, y = regression()
    lasso = sklearn.linear_model.Lasso(
        STRENGTH, fit_intercept=False, tol=1e-14, max_iter=10**6
    )
    sparse, dense = lasso.fit(X, y).coef_, np.linalg.lstsq(X, y)[0]
    print("| optimizer | rate | error | support | bare optimizer: rate | error |")
    print("|---|---|---|---|---|---|")
    for name, make in optimizers():
        if chosen.optimizers and name not in chosen.optimizers:
            continue
        begin = time.perf_counter()
        try:
            ours = score(name, make, True, sparse, steps)
            own = score(name, make, False, dense, steps)
        except (TypeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            print(f"| {name} | raises {type(error).__name__}: {reason} | | | | |")
            continue
        print(
            f"| {name} | {ours.rate:.0e} | {ours.error:.0e} |"
            f" {'right' if ours.right else 'wrong'} | {own.rate:.0e} |"
            f" {own.error:.0e} |",
            flush=True,
        )
        print(f"{name}: {time.perf_counter() - begin:.1f} s", file=sys.stderr)
    print("\nNot in the table:\n")
    for name, reason in EXCLUDED.items():
        print(f"- {name}: {reason}.")


if __name__ == "__main__":
    main()
