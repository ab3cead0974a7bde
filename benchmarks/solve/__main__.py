"""How long to the optimum? Time to a relative duality gap, against the peers.

    pip install -e ".[benchmark]"
    pip install --no-deps adelie && pip install "ipython<9" matplotlib
    python benchmarks/solve

Every solver minimises loss + penalty without intercept, on standardised columns, in
float64 where nothing else is said. `judge.py` gives the formulas. The solvers are:

- optareg: `minimize` and `path`, in one compiled program of the data and strengths.
- JAXopt: `ProximalGradient` with acceleration, compiled too.
- scikit-learn: its estimators and paths; for the logistic loss the faster one of
  liblinear and saga.
- skglm, celer, adelie: their estimators, and their paths where they have one. adelie
  asks for numpy<2, which JAX does not; it runs with newer ones.

They stop by rules of their own, so none of these is trusted: the judge computes the gap
for all. Each runs at the loosest tolerance of 1e-1, 1e-2, … that gets below 1e-6 (1e-4
in float32), on a path at each strength. At that tolerance it is timed, in turns with
the others. λ/10 is a tenth of the strength at which all is zero; a path has 100
strengths from there to a hundredth.

Compiling is not in these times. The tables beside them have it, and calls of `minimize`
and `path` outside of `jax.jit`: a cold one, which compiles, and a warm one after it.

`--platform gpu` moves optareg and JAXopt to the GPU, the batches of up to 1,000
problems too. The data are there before the clock starts; the coefficients come back to
the host before it stops. The peers stay on the CPU.

Prints Markdown; progress goes to stderr.
"""

import argparse
import os
import platform
import re
import sys
from pathlib import Path

# For `python -m benchmarks.solve`, and for `report.py` beside this folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from judge import check_judge
from measure import PATIENCE, Settings
from report import installed
from solvers import SOLVERS
from tables import print_tables
from workers import Worker

from problems import GAP, all_rows

LEGEND = """
The ratio is optareg's time over that of the fastest peer: below 1 optareg is faster.
"—": not a problem of this solver. "missing": not installed. "not run": left out by
`--solvers`. "> 60 s": did not end in time. "gap 1e-05": the best that any of its
tolerances gives. Other words are the name of an error.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--only", default="", help="a regular expression for names of rows"
    )
    parser.add_argument("--list", action="store_true", help="print names of rows")
    parser.add_argument("--solvers", nargs="+", default=list(SOLVERS), choices=SOLVERS)
    parser.add_argument("--platform", default="cpu", choices=["cpu", "gpu"])
    parser.add_argument("--limit", type=float, default=60.0, help="seconds a solve")
    parser.add_argument("--repeats", type=int, default=7, help="of the timing")
    parser.add_argument("--quick", action="store_true", help="a small part, fast")
    options = parser.parse_args()
    rows = [row for row in all_rows() if re.search(options.only, row.name)]
    limit, repeats, budget = options.limit, options.repeats, 2.0
    if options.quick:
        rows = [row for row in rows if row.quick]
        limit, repeats, budget = min(limit, 2.0), 3, 0.5
    if options.list:
        print("\n".join(row.name for row in rows))
        return
    check_judge()
    # The processes of optareg and JAXopt share the GPU's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    print(about(options.platform))
    print(LEGEND)
    print_tables(
        rows, Settings(limit, repeats, budget, options.solvers, options.platform)
    )


def about(where: str) -> str:
    """Versions, devices, and what is measured."""
    packages = dict.fromkeys(solver.package for solver in SOLVERS.values())
    versions = (f"{name} {installed(name) or 'missing'}" for name in ("jax", *packages))
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    device = f"CPU, {cores} cores"
    if where != "cpu":
        worker = Worker("optareg", where)  # Only its process touches the device.
        try:
            name = worker.ask(PATIENCE, "name_of_device")
        except OSError:
            raise SystemExit(f"JAX finds no {where} here; why, stands above.") from None
        worker.stop()
        device = f"JAX on {name}, the others on {device}"
    return (
        f"{', '.join(versions)}; Python {platform.python_version()}.\n"
        f"{device}. Time to a relative duality gap of {GAP:.0e}."
    )


if __name__ == "__main__":
    main()
