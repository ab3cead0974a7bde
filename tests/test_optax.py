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
# Of these a part: `test_optimization` and `test_gradient_accumulation` train for
# minutes and ask of the optimizer alone. `proximal` refuses the line search of L-BFGS.
PARTS = [
    (ALIAS, "accept_extra_args"),
    (ALIAS, "preserve_dtype"),
    (ALIAS, "state_shape_dtype"),
    (CONTRIB, "inject_hyperparams"),
]
# Where the strength is zero, or all is masked out.
MODULES = [
    "optax._src.float64_test",
    "optax._src.lookahead_test",
    "optax._src.sharding_test",
    "optax.contrib._sam_test",
    "optax.contrib._schedule_free_test",
    "optax.experimental._aggregating_test",
    "optax.transforms._accumulation_test",
    "optax.transforms._combining_test",
    "optax.transforms._conditionality_test",
    "optax.transforms._freezing_test",
    "optax.transforms._masking_test",
    "optax.transforms._monitoring_test",
    "optax.tree_utils._state_utils_test",
]
# With a small strength: other modules ask for updates to the last bit.
WITH_STRENGTH = [
    "optax._src.float64_test",
    "optax._src.lookahead_test",
    "optax._src.sharding_test",
    "optax.contrib._sam_test",
    "optax.experimental._aggregating_test",
    "optax.transforms._combining_test",
    "optax.transforms._monitoring_test",
]
RUNS = [
    *((kind, *part) for kind in ("zero", "masked") for part in PARTS),
    *((kind, module, "") for kind in ("zero", "masked") for module in MODULES),
    *(("small", module, "") for module in WITH_STRENGTH),
]
IN_THE_DEFAULT_RUN = {
    ("masked", "optax.transforms._combining_test", ""),
    ("small", "optax._src.lookahead_test", ""),
}
# What does not apply, and why.
OTHER_STATE = "it looks into the optimizer's state, which is within that of `proximal`"
BARE = "it fails without `proximal` too, with this JAX"
EXPECTED = {
    "test_adam": OTHER_STATE,
    "test_inject_hparams": OTHER_STATE,
    "test_map_non_params_to_none": OTHER_STATE,
    "test_map_params_to_none": OTHER_STATE,
    "test_masked_state_structure": OTHER_STATE,
    "test_tree_set": OTHER_STATE,
    "test_extra_args": "its parameters are integers, which a penalty refuses",
    "test_bad_structure_raises": BARE,
    "test_selective_bad_structure": BARE,
    "test_state_sharding_type_init_match_update_lbfgs": BARE,
    "test_state_sharding_type_preserved_with_jit_lbfgs": BARE,
}


@pytest.mark.parametrize(
    ("kind", "module", "part"),
    [
        pytest.param(*run, marks=[] if run in IN_THE_DEFAULT_RUN else pytest.mark.long)
        for run in RUNS
    ],
)
def test_optax_keeps_its_own_tests_when_wrapped(kind, module, part):
    done = subprocess.run(
        [sys.executable, SCRIPT, module, kind, part],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result = json.loads(done.stdout.splitlines()[-1])
    if result["run"] == 0:
        pytest.skip("this Optax has no such tests")
    assert result["run"] - result["skipped"] > 1
    failed = {
        name: why
        for name, why in result["failed"].items()
        if name.split()[0] not in EXPECTED
    }
    assert failed == {}
