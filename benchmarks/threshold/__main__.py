"""Does `proximal` reach the optimum with nothing tuned but the optimizer's rate?

    pip install -e ".[benchmark]" && python benchmarks/threshold

Problems × optimizers × scales of the target (and columns of different scales) × cosine
or constant rate × zero or random start, in float64. Rates of Adam, Muon and Lion are in
units of the weights, so they are multiplied by the target's scale. Each cell is the
worse of two starts: the relative error, and `!` where the zeros (for a box the bounds,
for total variation the ties, for the nuclear norm the rank) are not the solution's.

A run passes with the right pattern and an error of at most 1e-9 with a cosine schedule
(Lion 1e-5), and at a constant rate 1e-9 for SGD and 1e-3 for the others; or ten times
what the bare optimizer has on the same smooth problem without the penalty. That error
stands in the first row, so that what is inherent shows. Where it is above 1e-3, the
pattern is not asked for.

Prints Markdown; progress goes to stderr.
"""

import argparse
import sys
import time
from collections.abc import Sequence

import jax
from tables import (
    OPTIMIZERS,
    SCALES,
    SCHEDULES,
    Case,
    Result,
    Wrap,
    bare,
    cases,
    least_squares,
    meets,
    passes,
    results,
    with_threshold,
)

from problems import Problem, problems


def cell(found: Sequence[Result]) -> str:
    worst = max((r.error for r in found), default=0.0)
    return f"{worst:.0e}" + ("" if all(r.right for r in found) else " !")


def row(name: str, runs: Sequence[Case], found: Sequence[Result]) -> str:
    cells = []
    for schedule in SCHEDULES:
        for scale in SCALES:
            here = [
                r
                for run, r in zip(runs, found, strict=True)
                if (run.scale, run.schedule) == (scale, schedule)
            ]
            cells.append(cell(here) if here else "")
    return f"| {name} | " + " | ".join(cells) + " |"


def table(
    name: str, rows: Sequence[Problem], runs: Sequence[Case], wrap: Wrap
) -> tuple[int, int, list[str]]:
    """Prints a table; returns how many runs, how many meet the goal, and failures."""
    optimizer = OPTIMIZERS[name]
    heads = [f"{schedule} {scale}" for schedule in SCHEDULES for scale in SCALES]
    print(f"\n**{name}**\n\n|  | " + " | ".join(heads) + " |")
    print("|---" * (len(heads) + 1) + "|")
    own, failed, met = {}, [], 0
    for shape, targets in {(p.shape, p.targets): None for p in rows}:
        smooth = least_squares(targets, shape)
        own[shape] = results(smooth, optimizer, runs, bare)
        print(row(f"bare, {shape}, no penalty", runs, own[shape]).replace(" !", ""))
    for problem in rows:
        begin = time.perf_counter()
        found = results(problem, optimizer, runs, wrap)
        print(row(problem.name, runs, found), flush=True)
        seconds = time.perf_counter() - begin
        print(f"{name}, {problem.name}: {seconds:.1f} s", file=sys.stderr)
        for run, result, alone in zip(runs, found, own[problem.shape], strict=True):
            met += meets(optimizer, run, result)
            if not passes(optimizer, run, result, alone.error):
                failed.append(
                    f"{name}, {problem.name}, {', '.join(run)}: {result.error:.1e}"
                    f"{'' if result.right else ', wrong pattern'}"
                    f" (bare {alone.error:.0e})"
                )
    return len(rows) * len(runs), met, failed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
    )
    parser.add_argument("--quick", action="store_true", help="three runs of each pair")
    parser.add_argument("--optimizers", nargs="+", default=list(OPTIMIZERS))
    parser.add_argument("--problems", nargs="+", help="by name; all where none is")
    parser.add_argument("--threshold", type=float, help="a fixed one, to compare")
    chosen = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rows = [p for p in problems() if not chosen.problems or p.name in chosen.problems]
    wrap = with_threshold(chosen.threshold)
    count, met, failed = 0, 0, []
    for name in chosen.optimizers:
        here, good, wrong = table(name, rows, cases(chosen.quick), wrap)
        count, met, failed = count + here, met + good, failed + wrong
    near = count - len(failed)
    print(f"\n{met} of {count} runs meet the goal, {near} it or 10 × bare.\n")
    for line in failed:
        print(f"- {line}")


if __name__ == "__main__":
    main()
