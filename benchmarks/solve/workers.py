"""Each solver has a process of its own, so that one that takes long can be stopped.

`Worker` is this process's side, `Desk` the other side's.
"""

import contextlib
import multiprocessing
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax_solvers import eager_seconds, use
from peers import one_by_one
from solvers import SOLVERS
from task import Task

from problems import small

Array = np.ndarray


class Ready(NamedTuple):
    """What is known before a solve: see `Prepared`."""

    compile_seconds: float | None
    temporaries: int | None


class Desk:
    """What a process does with a solver, when told to."""

    def __init__(self, name: str, platform: str):
        self.solver = SOLVERS[name]
        self.device = use(platform if self.solver.in_jax else "cpu")
        self.warm: set[Any] = set()

    def name_of_device(self) -> str:
        return self.device

    def prepare(self, folder: Path) -> Ready:
        """Loads a task and makes all ready."""
        task = Task.load(folder, self.solver.order)
        jax.config.update("jax_enable_x64", task.X.dtype == np.float64)  # type: ignore[no-untyped-call]
        prepare = self.solver.prepare
        if not self.solver.in_jax:
            prepare = one_by_one(prepare)
            kind = task.family, task.path, task.X.dtype
            if kind not in self.warm:  # Numba compiles at the first call.
                prepare(small(task)).run(0.1)
                self.warm.add(kind)
        self.prepared = prepare(task)
        del task
        with contextlib.suppress(OSError):  # Forgets the peak so far, on Linux.
            Path("/proc/self/clear_refs").write_text("5")
        self.before = peak_memory()
        return Ready(self.prepared.compile_seconds, self.prepared.temporaries)

    def solve(self, tol: float) -> tuple[float, Array]:
        """The seconds, and the coefficients."""
        start = time.perf_counter()
        coefs = self.prepared.run(tol)
        return time.perf_counter() - start, coefs

    def seconds(self, tol: float, times: int) -> float:
        """The seconds for each of many times."""
        start = time.perf_counter()
        for _ in range(times):
            self.prepared.run(tol)
        return (time.perf_counter() - start) / times

    def eager(self, tol: float) -> tuple[float, float] | None:
        """The seconds of two calls outside of `jit`, the first of which compiles."""
        return eager_seconds(self.prepared, tol)

    def memory(self) -> float:
        """By how many bytes the peak rose since all was ready."""
        return peak_memory() - self.before


def peak_memory() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def serve(connection: Any, name: str, platform: str) -> None:
    """Obeys until there is nobody any more."""
    warnings.simplefilter("ignore")
    sys.stdout = sys.stderr
    desk = Desk(name, platform)
    with contextlib.suppress(EOFError):
        while True:
            order, *arguments = connection.recv()
            try:
                reply = getattr(desk, order)(*arguments)
            except Exception as error:
                reply = error
            connection.send(reply)


class Worker:
    """A solver in a process of its own, which the first order starts."""

    def __init__(self, name: str, platform: str):
        self.name, self.platform = name, platform
        self.process: Any = None

    def ask(self, patience: float, order: str, *arguments: Any) -> Any:
        """Sends an order; TimeoutError, and the end of the process, after a while."""
        if self.process is None:
            context = multiprocessing.get_context("spawn")
            self.line, other = context.Pipe()
            self.process = context.Process(
                target=serve, args=(other, self.name, self.platform), daemon=True
            )
            self.process.start()
            other.close()
        try:
            self.line.send((order, *arguments))
            if not self.line.poll(patience):
                raise TimeoutError
            reply = self.line.recv()
        except EOFError:
            self.stop()
            raise ConnectionError(f"the process of {self.name} has ended") from None
        except OSError:  # TimeoutError is one.
            self.stop()
            raise
        if isinstance(reply, Exception):
            raise reply
        return reply

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.line.close()
            self.process = None
