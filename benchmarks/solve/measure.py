"""The measurement: the loosest tolerance that the judge passes, then times in turns."""

import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from judge import relative_gap
from report import installed
from solvers import SOLVERS
from task import Task
from workers import Ready, Worker

from problems import Row

Array = np.ndarray

TOLERANCES = [10.0**-i for i in range(1, 13)]
# Seconds for what is no solve: imports, loading, compiling.
PATIENCE = 180.0


class Result(NamedTuple):
    """What came of a solver on a task.

    Attributes:
      seconds: the median time at the loosest tolerance that passes; None if none does.
      failure: why there is no time.
      tol: that tolerance.
      coefs: what it found.
      compile_seconds: of a JAX program.
      temporaries: bytes of a JAX program beside its arguments and results.
      cold: seconds of the first call outside of `jit`, which compiles.
      warm: seconds of the second one.
      memory: bytes by which the peak of the process rose.
    """

    seconds: float | None = None
    failure: str = ""
    tol: float = 0.0
    coefs: Array | None = None
    compile_seconds: float | None = None
    temporaries: int | None = None
    cold: float | None = None
    warm: float | None = None
    memory: float | None = None


class Settings(NamedTuple):
    """How long, and what.

    Attributes:
      limit: seconds that a solve may take.
      repeats: how often each is timed.
      budget: seconds after which a solver is not timed again.
      solvers: their names.
      platform: where JAX computes.
    """

    limit: float
    repeats: int
    budget: float
    solvers: Sequence[str]
    platform: str

    def workers(self) -> dict[str, Worker]:
        """One for each solver that is installed."""
        return {
            name: Worker(name, self.platform)
            for name in self.solvers
            if installed(SOLVERS[name].package)
        }


def measure(
    row: Row, workers: dict[str, Worker], settings: Settings
) -> dict[str, Result]:
    """The results of all solvers that know the family, timed in turns."""
    task = row.make()
    with tempfile.TemporaryDirectory() as name:
        task.save(Path(name))
        results = {
            solver: climb(worker, task, Path(name), row.gap, settings.limit)
            for solver, worker in workers.items()
            if task.family in SOLVERS[solver].families
        }
    for solver, result in results.items():
        if result.seconds is not None:
            more = workers[solver].ask(PATIENCE, "memory")
            results[solver] = result._replace(memory=more)
    for solver, seconds in times_in_turns(results, workers, settings).items():
        results[solver] = results[solver]._replace(seconds=seconds)
    if results.get("optareg", Result()).seconds is not None:
        ours = results["optareg"]
        both = workers["optareg"].ask(PATIENCE, "eager", ours.tol)
        if both is not None:
            results["optareg"] = ours._replace(cold=both[0], warm=both[1])
    return results


def climb(worker: Worker, task: Task, folder: Path, gap: float, limit: float) -> Result:
    """Finds the loosest tolerance that passes."""
    best, ready = np.inf, Ready(None, None)
    try:
        ready = worker.ask(PATIENCE, "prepare", folder)
        for tol in TOLERANCES:
            # The time to send the result is not the solver's.
            seconds, coefs = worker.ask(limit + 1, "solve", tol)
            if seconds > limit:
                raise TimeoutError
            here = relative_gap(task, coefs)
            print(
                f"    {worker.name}: tol {tol:.0e}, gap {here:.1e}, {seconds:.3g} s",
                file=sys.stderr,
            )
            if here <= gap:
                return Result(seconds, "", tol, coefs, *ready)
            best = min(best, here)
    except TimeoutError:
        failure = f"> {limit:g} s"
    except Exception as error:
        print(f"    {worker.name}: {error!r}", file=sys.stderr)
        failure = type(error).__name__
    else:
        failure = f"gap {best:.0e}"
    return Result(None, failure, 0.0, None, *ready)


def times_in_turns(
    results: dict[str, Result], workers: dict[str, Worker], settings: Settings
) -> dict[str, float]:
    """The median of each solver that passes."""
    passing = {s: r.seconds for s, r in results.items() if r.seconds is not None}
    # A solver that takes long has been timed well enough by the climb.
    times = {s: [x] if x > settings.budget else [] for s, x in passing.items()}
    for turn in range(settings.repeats):
        # Backwards every second time, so that no one always follows the same other.
        for solver in list(passing)[:: (-1) ** turn]:
            if times[solver] and sum(times[solver]) > settings.budget:
                continue
            often = max(1, round(0.005 / passing[solver]))
            tol = results[solver].tol
            times[solver].append(workers[solver].ask(PATIENCE, "seconds", tol, often))
    return {solver: statistics.median(found) for solver, found in times.items()}
