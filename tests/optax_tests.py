"""Optax's own tests, with every optimizer wrapped: run by `test_optax.py`.

The tests are those of the installed wheel, imported and copied nowhere. Where they make
an optimizer by its name, they get it within `proximal`, with a strength of zero or with
everything masked out: all that holds of the optimizer must still hold.

Run as `python optax_tests.py MODULE KIND [PART OF A NAME]`; prints JSON.
"""

import functools
import importlib
import io
import json
import sys
import unittest
from collections.abc import Callable, Iterator
from typing import Any

from optareg import L1, masked, proximal

WRAPPED: dict[str, Callable] = {
    "zero": lambda optimizer: proximal(optimizer, L1(0.0)),
    "masked": lambda optimizer: proximal(optimizer, masked(L1(0.1), False)),
    "bare": lambda optimizer: optimizer,
}
# The function of a module that finds an optimizer by its name, which is its last
# argument.
FINDERS = {
    "optax._src.alias_test": "_get_opt",
    "optax.contrib._common_test": "_get_opt_factory",
}


def wrapped(find: Callable, wrap: Callable) -> Callable:
    """The finder, of factories whose optimizers are wrapped."""

    @functools.wraps(find)
    def found(*arguments: Any) -> Callable:
        factory = find(*arguments)

        @functools.wraps(factory)
        def make(*args: Any, **kwargs: Any) -> Any:
            return wrap(factory(*args, **kwargs))

        return make

    return found


def each(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from each(test)
        else:
            yield test


def main(name: str, kind: str, part: str = "") -> None:
    module = importlib.import_module(name)
    finder = FINDERS[name]
    setattr(module, finder, wrapped(getattr(module, finder), WRAPPED[kind]))
    classes = {"AliasTest", "ContribTest"}
    tests = [
        test
        for test in each(unittest.defaultTestLoader.loadTestsFromModule(module))
        if type(test).__name__ in classes and part in test.id()
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
