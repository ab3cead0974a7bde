"""Two processes, that talk to one another, end where one process does."""

import itertools
import json
import socket
import subprocess
from typing import Any

import numpy as np
import pytest

from devices import command, environment
from processes_script import LAYOUTS, OPTIMIZERS, PENALTIES

DEVICES = 4
SOME = [
    ("data parallel", "train", "L1, found"),
    ("data parallel", "solve", "GroupLasso"),
    ("fsdp", "train", "L1, given"),
    ("fsdp", "train", "GroupLasso, found"),
    ("fsdp", "solve", "L1"),
]
ALL = [
    *itertools.product(LAYOUTS, ["train"], OPTIMIZERS),
    *itertools.product(LAYOUTS, ["solve"], PENALTIES),
]
MISSING = "Multiprocess computations aren't implemented"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def run(processes: int, jobs: Any) -> list[Any]:
    """What each of the processes prints; none of them outlives this call."""
    port, own = free_port(), environment(DEVICES // processes)
    running = [
        subprocess.Popen(
            command("processes_script.py", port, i, processes, json.dumps(jobs)),
            env=own,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(processes)
    ]
    try:
        outputs = [process.communicate(timeout=300) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    for process, (_, errors) in zip(running, outputs, strict=True):
        if MISSING in errors:
            pytest.skip("this JAX has no collectives between processes on a CPU")
        assert process.returncode == 0, errors
    return [json.loads(printed.splitlines()[-1]) for printed, _ in outputs]


@pytest.mark.parametrize(
    "jobs", [SOME, pytest.param(ALL, marks=pytest.mark.long)], ids=["some", "all"]
)
def test_two_processes_end_where_one_does(jobs):
    ((_, devices, expected),) = run(1, jobs)
    assert devices == DEVICES
    for processes, mine, found in run(2, jobs):
        assert (processes, mine) == (2, DEVICES // 2)
        assert found.keys() == expected.keys() == set(map(", ".join, jobs))
        for name, one in expected.items():
            assert found[name]["stays"], name
            w, w_of_one = np.array(found[name]["end"]), np.array(one["end"])
            np.testing.assert_allclose(w, w_of_one, rtol=0, atol=1e-5, err_msg=name)
            np.testing.assert_array_equal(w == 0, w_of_one == 0, err_msg=name)
            if "solve" in name or "L1" in name:
                assert 0 < np.sum(w == 0) < w.size, name
