"""Optax's own tests, with every optimizer wrapped: run by `test_optax.py`.

The tests are those of the installed wheel, imported and copied nowhere. Where they make
an optimizer, by its name or by its function in `optax`, they get it within `proximal`,
with a strength of zero or small, or with everything masked out: all that holds of the
optimizer must still hold.

Run as `python optax_tests.py MODULE KIND [PART OF A NAME]`; prints JSON.
"""

import functools
import importlib
import inspect
import io
import json
import sys
import unittest
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax._src import alias

from optareg import L1, Penalty, masked, proximal

PENALTIES: dict[str, Penalty] = {
    "zero": L1(0.0),
    "small": L1(1e-4),
    "masked": masked(L1(0.1), False),
}


def wrap(optimizer: optax.GradientTransformation, kind: str) -> Any:
    """`proximal` around it, with parameters of zero where a test gives none."""
    if kind == "bare":
        return optimizer
    inner = proximal(optimizer, PENALTIES[kind])

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        if params is None:
            params = jax.tree.map(jnp.zeros_like, updates)
        return inner.update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(inner.init, update)


# The function of a module that finds an optimizer by its name, which is its last
# argument. Other modules call the functions of `optax`.
FINDERS = {
    "optax._src.alias_test": "_get_opt",
    "optax.contrib._common_test": "_get_opt_factory",
}
LINE_SEARCH = {"lbfgs"}  # Which `proximal` refuses.


def wrapped(factory: Callable, kind: str) -> Callable:
    """The factory, of optimizers that are wrapped."""

    @functools.wraps(factory)
    def make(*args: Any, **kwargs: Any) -> Any:
        return wrap(factory(*args, **kwargs), kind)

    return make


def finding_wrapped(find: Callable, kind: str) -> Callable:
    """The finder, of factories whose optimizers are wrapped."""

    @functools.wraps(find)
    def found(*arguments: Any) -> Callable:
        return wrapped(find(*arguments), kind)

    return found


def wrap_all_of_optax(kind: str) -> None:
    """Replaces all optimizers of Optax."""
    for name, factory in inspect.getmembers(alias, inspect.isfunction):
        made = inspect.signature(factory).return_annotation
        if "GradientTransformation" in str(made) and name not in LINE_SEARCH:
            for module in (alias, optax):
                if hasattr(module, name):
                    setattr(module, name, wrapped(factory, kind))


def each(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from each(test)
        else:
            yield test


def main(name: str, kind: str, part: str = "") -> None:
    if name in FINDERS:
        module = importlib.import_module(name)
        finder = FINDERS[name]
        found = finding_wrapped(getattr(module, finder), kind)
        setattr(module, finder, found)
    else:
        wrap_all_of_optax(kind)
        if jax.__version_info__ >= (0, 10):
            jax.__version__ = "0.9"  # They compare it as text, in which 0.10 is old.
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:  # An older Optax.
            module = importlib.import_module("optax")
    tests = [
        test
        for test in each(unittest.defaultTestLoader.loadTestsFromModule(module))
        if part in test.id()
    ]
    runner = unittest.TextTestRunner(stream=io.StringIO())
    result = runner.run(unittest.TestSuite(tests))
    bad = [*result.failures, *result.errors]
    print(
        json.dumps(
            {
                "run": result.testsRun,
                "skipped": len(result.skipped),
                "failed": {test.id().split(".")[-1]: why[-400:] for test, why in bad},
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
