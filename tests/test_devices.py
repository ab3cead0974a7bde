"""On eight devices in a (4, 2) mesh: states are sharded as the parameters are, the
penalties add no communication, and the numbers are those of one device, up to rounding.

`devices_script.py` measures, and the tests here read what it found.
"""

import json
import re
from typing import Any

import pytest

from devices import printed_by

KINDS = ["Auto", "Explicit"]
WAYS = [
    "add_penalty_gradient",
    "proximal_step",
    "proximal L1",
    "proximal L2",
    "proximal elastic net",
    "proximal masked",
    "proximal adaptive",
    "proximal scheduled",
]


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    """What `devices_script.py` prints."""
    return json.loads(printed_by("devices_script.py"))


@pytest.fixture(params=KINDS)
def found(request: pytest.FixtureRequest, measured: dict[str, Any]) -> dict[str, Any]:
    """The measurements by way, on a mesh whose axes are of one kind."""
    if request.param not in measured:
        pytest.skip("this JAX has no explicit sharding")
    return measured[request.param]


def results(found: dict[str, Any], way: str) -> dict[str, Any]:
    assert "error" not in found[way], found[way]["error"]
    return found[way]


def test_all_ways_ran_on_eight_devices(
    measured: dict[str, Any], found: dict[str, Any]
) -> None:
    assert measured["devices"] == 8
    assert set(found) == {"bare", *WAYS}


@pytest.mark.parametrize("way", WAYS)
def test_the_first_state_is_sharded_as_the_parameters(
    found: dict[str, Any], way: str
) -> None:
    # Adam has two moments of three parameters.
    assert results(found, way)["leaves like a parameter"] >= 6
    assert results(found, way)["eager init, sharded otherwise"] == []
    # The zeros of Adam's moments depend on no input, so with automatic axes `jit`
    # leaves them unsharded, those of bare Adam too. All else must be right.
    moments = re.compile(r"\.(mu|nu)\[")
    free = bool(results(found, "bare")["jit init, sharded otherwise"])
    otherwise = results(found, way)["jit init, sharded otherwise"]
    assert [leaf for leaf in otherwise if not (free and moments.search(leaf))] == []


@pytest.mark.parametrize("way", WAYS)
def test_states_stay_sharded_as_the_parameters(found: dict[str, Any], way: str) -> None:
    assert results(found, way)["training, sharded otherwise"] == []


@pytest.mark.parametrize("way", WAYS)
def test_no_communication_is_added_to_the_step(found: dict[str, Any], way: str) -> None:
    assert results(found, "bare")["collectives"] == []
    assert results(found, way)["collectives"] == []


@pytest.mark.parametrize("way", [way for way in WAYS if way != "proximal adaptive"])
def test_each_device_computes_what_one_device_computes_on_its_shard(
    found: dict[str, Any], way: str
) -> None:
    assert results(found, way)["difference of shards"] == 0


@pytest.mark.parametrize("way", WAYS)
def test_the_parameters_are_those_of_one_device_up_to_rounding(
    found: dict[str, Any], way: str
) -> None:
    # After 20 steps of 0.01. Not to the last bit: for another shape of the arrays the
    # compiler may contract another multiplication and addition into one operation.
    assert results(found, way)["difference"] <= 1e-6
    if way.startswith("proximal") and way != "proximal L2":
        assert results(found, way)["zeros"] > 0


def test_within_shard_map_the_threshold_is_found_over_all_shards(
    measured: dict[str, Any],
) -> None:
    if "shard_map" not in measured:
        pytest.skip("this JAX has no `jax.shard_map`")
    assert set(measured["shard_map"]) == {"sgd", "adam"}
    assert max(measured["shard_map"].values()) < 1e-6


def test_within_shard_map_each_shard_may_have_its_own_problem(
    measured: dict[str, Any],
) -> None:
    if "solvers" not in measured:
        pytest.skip("this JAX has no `jax.shard_map`")
    assert measured["solvers"]["difference"] < 1e-5
    # Where JAX follows what differs between shards, its error says what to do.
    assert any("check_vma=False" in note for note in measured["solvers"]["notes"])
