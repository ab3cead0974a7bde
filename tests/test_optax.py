"""Optax's own tests hold for its optimizers when they are wrapped by `proximal`.

`optax_tests.py` runs them in a process of its own, as they set JAX's configuration.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("absl.testing")
SCRIPT = pathlib.Path(__file__).with_name("optax_tests.py")
ALIAS, CONTRIB = "optax._src.alias_test", "optax.contrib._common_test"
# Not run: `test_optimization` and `test_gradient_accumulation`, which train for minutes
# and ask of the optimizer alone; L-BFGS, as `proximal` refuses a line search.
PARTS = [
    (ALIAS, "accept_extra_args"),
    (ALIAS, "preserve_dtype"),
    (ALIAS, "state_shape_dtype"),
    (CONTRIB, "inject_hyperparams"),
]
# What does not apply, and why.
EXPECTED: dict[str, str] = {}


@pytest.mark.long
@pytest.mark.parametrize("kind", ["zero", "masked"])
@pytest.mark.parametrize(("module", "part"), PARTS)
def test_optax_keeps_its_own_tests_when_wrapped(module, part, kind):
    done = subprocess.run(
        [sys.executable, SCRIPT, module, kind, part],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["run"] > 10
    failed = {
        name: why for name, why in result["failed"].items() if name not in EXPECTED
    }
    assert failed == {}
