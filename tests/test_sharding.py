"""Every penalty, every way to apply it and the solvers, on eight devices in a (4, 2)
mesh: with automatic and explicit axes, and within `shard_map`; data parallel, FSDP and
tensor parallel. Parameters and states stay where they are, the numbers are those of one
device, and communication is bounded.

`sharded_script.py` measures. A cell is a kind of mesh, a layout, a penalty and a way.
Here a part of them is looked at that has each penalty, each way with each kind and each
layout; the rest is `long`.
"""

import itertools
import json
from typing import Any

import jax
import pytest

from devices import printed_by
from sharded_script import (
    ENTRYWISE,
    FITTED,
    LAYOUTS,
    PENALTIES,
    SOLVERS,
    SOLVING,
    TRAINING,
    WHOLE,
)

Cell = tuple[str, str, str, str]

KINDS = ["Auto", "Explicit"]
# A kernel has 2048 entries, and its shard 256 or more.
MOST_ENTRIES = 200
GROUPS = 32  # By labels, of a kernel.


def exists(cell: Cell) -> bool:
    """Whether there is something to look at."""
    kind, layout, penalty, way = cell
    if way == "target_sparsity" and penalty in ("L2", "box", "simplex"):
        return False  # They give no zeros to count.
    if way == "max_strength" and penalty == "TotalVariation":
        return False  # It leaves the means of lines free.
    if kind != "shard_map":
        return True
    if way in SOLVERS or layout in ("tensor parallel", "both"):
        return False
    # What a penalty couples is a shard's own there, and strengths are a whole leaf's.
    own = penalty in ENTRYWISE and penalty not in ("adaptive", "centered")
    return layout == "data parallel" or own


def some_training() -> list[Cell]:
    """Each penalty, with what else changes from one to the next."""
    kinds = ["Explicit", "Auto", "Explicit", "shard_map", "Auto"]
    layouts = ["both", "fsdp", "tensor parallel", "data parallel"]
    cycles = map(itertools.cycle, (kinds, layouts, TRAINING))
    turns = zip(PENALTIES, *cycles, strict=False)
    cells = [(kind, layout, penalty, way) for penalty, kind, layout, way in turns]
    return list(filter(exists, cells))


SOME = [
    *some_training(),
    *(
        ("Explicit", layout, penalty, way)
        for layout, penalty, way in [
            ("both", "L1", "proximal, given"),
            ("both", "centered", "proximal_step"),
            ("tensor parallel", "GroupLasso of labels", "proximal_step"),
            ("both", "GroupLasso of scattered labels", "proximal, given"),
            ("fsdp", "TotalVariation", "proximal_step"),
            ("fsdp", "NuclearNorm", "proximal_step"),
        ]
    ),
]
SOME_SOLVING = [
    ("Explicit", "tensor parallel", "GroupLasso of rows", "path"),
    ("Explicit", "data parallel", "GroupLasso of columns", "max_strength"),
    ("Explicit", "fsdp", "L1", "derivative"),
    ("Auto", "tensor parallel", "L1", "minimize"),
]
ALL = list(
    filter(
        exists, itertools.product([*KINDS, "shard_map"], LAYOUTS, PENALTIES, TRAINING)
    )
)
ALL_SOLVING = list(filter(exists, itertools.product(KINDS, SOLVING, FITTED, SOLVERS)))


def is_there(kind: str) -> bool:
    """Whether this JAX has such meshes."""
    names = {"Explicit": "set_mesh", "shard_map": "shard_map"}
    return kind not in names or hasattr(jax, names[kind])


def run(cells: list[Cell]) -> dict[Cell, dict[str, Any]]:
    """What `sharded_script.py` finds."""
    cells = [cell for cell in cells if is_there(cell[0])]
    printed = printed_by("sharded_script.py", json.dumps(cells), timeout=1200)
    devices, found = json.loads(printed)
    assert devices == 8
    return dict(zip(cells, found, strict=True))


@pytest.fixture(scope="module")
def measured() -> dict[Cell, dict[str, Any]]:
    return run([*SOME, *SOME_SOLVING])


def found_in(measured: dict[Cell, Any], cell: Cell) -> dict[str, Any]:
    if not is_there(cell[0]):
        pytest.skip(f"this JAX has no meshes for {cell[0]}")
    assert "error" not in measured[cell], (cell, measured[cell])
    return measured[cell]


def check_places(cell: Cell, found: dict[str, Any]) -> None:
    assert found["sharded otherwise"] == [], cell


def check_numbers(cell: Cell, found: dict[str, Any]) -> None:
    # After three steps of 0.05. Singular values have fewer digits.
    most = 1e-5 if cell[2] == "NuclearNorm" else 1e-6
    assert found["difference"] <= most, (cell, found)
    one, many = found["zeros"]
    assert one == many, cell


def check_collectives(cell: Cell, found: dict[str, Any]) -> None:
    _, _, penalty, way = cell
    given = way not in ("proximal, found", "target_sparsity")
    if penalty in WHOLE:
        return  # Said in the documentation: such a leaf is put together.
    if penalty in ENTRYWISE and given:
        assert found["collectives"] == [], cell
    if "scattered" in penalty and not is_there("Explicit"):
        return  # The partitioner of older versions puts leaves together in loops.
    for kind, entries in found["collectives"]:
        small = kind == "all-gather" and entries <= GROUPS
        assert kind == "all-reduce" or small, (cell, found["collectives"])
        assert entries <= MOST_ENTRIES, (cell, found["collectives"])


def check_solution(cell: Cell, found: dict[str, Any]) -> None:
    check_places(cell, found)
    assert found["converged"], cell
    assert found["nonzero"], cell
    assert found["difference"] <= 2e-5, (cell, found)


def cells(some: list[Cell]) -> Any:
    return pytest.mark.parametrize("cell", some, ids=["-".join(c) for c in some])


@cells(SOME)
def test_parameters_and_states_stay_sharded_as_they_were(measured, cell):
    check_places(cell, found_in(measured, cell))


@cells(SOME)
def test_the_numbers_and_zeros_are_those_of_one_device(measured, cell):
    check_numbers(cell, found_in(measured, cell))


@cells(SOME)
def test_there_are_only_small_sums_over_devices(measured, cell):
    check_collectives(cell, found_in(measured, cell))


@cells(SOME_SOLVING)
def test_solvers_find_what_one_device_finds(measured, cell):
    check_solution(cell, found_in(measured, cell))


def test_the_part_has_each_penalty_and_each_way_with_each_kind():
    assert {cell[2] for cell in SOME} == set(PENALTIES)
    assert {cell[1] for cell in SOME} == set(LAYOUTS)
    for kind in KINDS:
        assert {cell[3] for cell in SOME if cell[0] == kind} == set(TRAINING), kind


@pytest.mark.long
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("kind", [*KINDS, "shard_map"])
def test_every_layout_and_way(kind, penalty):
    mine = [cell for cell in ALL if (cell[0], cell[2]) == (kind, penalty)]
    measured = run(mine)
    for cell in mine:
        found = found_in(measured, cell)
        check_places(cell, found)
        check_numbers(cell, found)
        check_collectives(cell, found)


@pytest.mark.long
@pytest.mark.parametrize("penalty", FITTED)
@pytest.mark.parametrize("kind", KINDS)
def test_every_layout_and_solver(kind, penalty):
    mine = [cell for cell in ALL_SOLVING if (cell[0], cell[2]) == (kind, penalty)]
    measured = run(mine)
    for cell in mine:
        check_solution(cell, found_in(measured, cell))
