"""Feature selection: a group lasso on a network's inputs, and what others would do.

    pip install -e ".[benchmark]" && python benchmarks/features.py

scikit-learn's breast cancer (30 features) and digits (64 pixels, of which some are
seldom on and are left out) get twice as many noise features: copies of their columns,
each with its rows shuffled, so that no number of a single column tells them apart. All
columns are standardised. Half of the rows are for training, a quarter for validation, a
quarter for the test.

- group lasso: a network with 32 hidden units; `proximal` with `GroupLasso(λ, axis=1)`
  on the first kernel, so that an input's weights are one group. Tuned: trained on
  without a penalty, with zeros fixed, for as many steps again.
- scikit-learn's logistic regression with L1; a feature is selected if any class has it.
- random forest: the k most important features, and a forest on these.
- LassoNet, with 32 hidden units, if it is installed (`pip install lassonet`); its path
  has steps of 15 %, of at most 30 epochs each, where its own defaults take far longer.

Each has a grid of strengths, or of k. Of those whose validation accuracy is within one
standard error of the best, the one with the fewest features is chosen, for each seed.
Found are features of the data, false are noise. Prints Markdown, means and standard
deviations over seeds; progress goes to stderr.
"""

import argparse
import importlib.util
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import sklearn.datasets
from digits import Images, dense, layers, steps_of, train
from report import print_table, spread
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from optareg import GroupLasso, by_path, freeze_zeros, masked, proximal

PyTree = Any

HIDDEN, RATE = 32, 0.01


class Problem(NamedTuple):
    """Standardised columns, and classes: for training, validation and test.

    Attributes:
      x, y: three of each.
      real: the number of features that are no noise; they are the first.
    """

    x: list[np.ndarray]
    y: list[np.ndarray]
    real: int


class Fit(NamedTuple):
    """One strength's: what is selected, and classes for validation and test."""

    selected: np.ndarray
    valid: np.ndarray
    test: np.ndarray


def problem(name: str, seed: int) -> Problem:
    load = getattr(sklearn.datasets, f"load_{name}")
    x, y = load(return_X_y=True)
    rng = np.random.default_rng(seed)
    x = x[:, (x != 0).mean(0) > 0.05]
    noise = [rng.permuted(x, axis=0) for _ in range(2)]
    everything = np.concatenate([x, *noise], axis=1)
    everything = (everything - everything.mean(0)) / everything.std(0)
    n = len(y)
    rows = np.split(rng.permutation(n), [n // 2, 3 * n // 4])
    xs = [everything[some].astype(np.float32) for some in rows]
    return Problem(xs, [y[some] for some in rows], x.shape[1])


# Methods: each gives fits of one problem.


def group_lasso(problems: list[Problem], tuned: bool, epochs: int) -> list[list[Fit]]:
    """Of all problems and strengths, by one compiled program."""
    classes = int(problems[0].y[0].max()) + 1
    widths = (problems[0].x[0].shape[1], HIDDEN, classes)
    strengths = jnp.geomspace(3e-3, 0.5, 16)
    first = by_path(r"^\[0\]\[0\]")

    def one(x: list[jax.Array], y: jax.Array, key: jax.Array, strength: Any) -> Any:
        data = Images(x[0], y)
        start, *keys = jax.random.split(key, 3)
        rate = optax.cosine_decay_schedule(RATE, steps_of(data, epochs))
        adam = optax.adam(rate)
        penalty = masked(GroupLasso(strength, axis=1, size_scaled=False), first)
        optimizer = proximal(adam, penalty)
        p, _ = train(layers, optimizer, dense(start, widths), data, keys[0], epochs)
        if tuned:
            parts = {True: freeze_zeros(adam), False: adam}
            optimizer = optax.partition(parts, first)
            p, _ = train(layers, optimizer, p, data, keys[1], epochs)
        selected = (p[0][0] != 0).any(1)
        return selected, *(layers(p, some).argmax(-1) for some in x[1:])

    over_strengths = jax.vmap(one, in_axes=(None, None, None, 0))
    fit = jax.jit(jax.vmap(over_strengths, in_axes=(0, 0, 0, None)))
    x = [jnp.stack([p.x[i] for p in problems]) for i in range(3)]
    y = jnp.stack([p.y[0] for p in problems])
    keys = jax.random.split(jax.random.key(0), len(problems))
    result = [np.asarray(some) for some in fit(x, y, keys, strengths)]
    return [
        [Fit(*(some[i, j] for some in result)) for j in range(len(strengths))]
        for i in range(len(problems))
    ]


def logistic(problem: Problem, seed: int) -> Iterator[Fit]:
    for c in np.geomspace(3e-3, 3, 16):
        model = LogisticRegression(
            C=c, l1_ratio=1, solver="saga", max_iter=200, random_state=seed
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Not converged to the last digit.
            model.fit(problem.x[0], problem.y[0])
        selected = (model.coef_ != 0).any(0)
        yield Fit(selected, *(model.predict(x) for x in problem.x[1:]))


def forest(problem: Problem, seed: int) -> Iterator[Fit]:
    def fitted(x: np.ndarray) -> RandomForestClassifier:
        return RandomForestClassifier(200, random_state=seed).fit(x, problem.y[0])

    order = np.argsort(-fitted(problem.x[0]).feature_importances_)
    counts = np.unique(np.geomspace(2, len(order), 16).round().astype(int))
    for k in counts:
        some = order[:k]
        model = fitted(problem.x[0][:, some])
        selected = np.isin(np.arange(len(order)), some)
        yield Fit(selected, *(model.predict(x[:, some]) for x in problem.x[1:]))


def lassonet(problem: Problem, seed: int) -> Iterator[Fit]:
    import torch
    from lassonet import LassoNetClassifier

    torch.set_num_threads(1)  # Else they wait for each other on a busy machine.
    model = LassoNetClassifier(
        hidden_dims=(HIDDEN,),
        n_iters=(300, 30),
        path_multiplier=1.15,
        verbose=0,
        random_state=seed,
        torch_seed=seed,
    )
    x, y = problem.x, problem.y
    for item in model.path(x[0], y[0], X_val=x[1], y_val=y[1], return_state_dicts=True):
        model.load(item.state_dict)
        selected = np.asarray(item.selected)
        yield Fit(selected, *(np.asarray(model.predict(some)) for some in x[1:]))


# What is chosen, and how good it is.


def scores(problem: Problem, fits: list[Fit]) -> tuple[float, float, float]:
    """Features found, noise features, and test accuracy in percent, of the chosen."""
    right = np.array([np.mean(fit.valid == problem.y[1]) for fit in fits])
    best = right.max()
    least = best - np.sqrt(best * (1 - best) / len(problem.y[1]))
    sizes = np.array([fit.selected.sum() for fit in fits])
    # Fewest features, then the best.
    fit = fits[
        np.lexsort((-right, np.where(right >= least, sizes, sizes.max() + 1)))[0]
    ]
    found, false = fit.selected[: problem.real], fit.selected[problem.real :]
    accuracy = 100 * np.mean(fit.test == problem.y[2])
    return float(found.sum()), float(false.sum()), float(accuracy)


def rows(name: str, options: argparse.Namespace) -> Iterator[list[str]]:
    problems = [problem(name, seed) for seed in range(options.seeds)]
    shape = problems[0].x[0].shape
    print(f"{name}: {shape[0]} rows, {problems[0].real} real", file=sys.stderr)
    ways: dict[str, Any] = {
        "group lasso": lambda: group_lasso(problems, False, options.epochs),
        "group lasso, tuned": lambda: group_lasso(problems, True, options.epochs),
    }
    others = {"logistic regression, L1": logistic, "random forest": forest}
    if importlib.util.find_spec("lassonet"):
        others["LassoNet"] = lassonet
    for title, method in others.items():
        ways[title] = lambda method=method: [
            list(method(p, seed)) for seed, p in enumerate(problems)
        ]
    for title, way in ways.items():
        begin = time.perf_counter()
        everything = [scores(p, f) for p, f in zip(problems, way(), strict=True)]
        seconds = time.perf_counter() - begin
        cells = [spread(column) for column in zip(*everything, strict=True)]
        real = problems[0].real
        yield [f"{name}, {real} + {2 * real}", title, *cells, f"{seconds:.0f} s"]
    if "LassoNet" not in ways:
        yield [name, "LassoNet", *["not installed"] * 3, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=["breast_cancer", "digits"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="one seed, few epochs")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.epochs = 1, 30
    names = [options.only] if options.only else ["breast_cancer", "digits"]
    print_table(
        "Features selected among real and noise features",
        ["data", "method", "found", "false", "test accuracy, %", "time, all seeds"],
        (row for name in names for row in rows(name, options)),
    )


if __name__ == "__main__":
    main()
