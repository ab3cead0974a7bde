"""The tables: of times, of compiling and calls outside of `jit`, and of memory."""

import sys
from collections.abc import Iterator, Sequence

import numpy as np
from measure import Result, Settings, measure
from report import installed, print_table
from solvers import COLUMNS, SOLVERS
from workers import Worker

from problems import TITLES, Row

NONE = "—"
Results = dict[str, Result]


def print_tables(rows: Sequence[Row], settings: Settings) -> None:
    """All tables that have rows."""
    workers = settings.workers()
    for table, title in TITLES.items():
        here = [row for row in rows if row.table == table]
        if here:
            print_results(title, here, workers, settings)


def print_results(
    title: str, rows: Sequence[Row], workers: dict[str, Worker], settings: Settings
) -> None:
    """The times, row by row as they come, and then what else was measured."""
    found: list[tuple[Row, Results]] = []

    def times() -> Iterator[list[str]]:
        for row in rows:
            print(row.name, file=sys.stderr)
            # What an earlier row left would hide what this one takes.
            if row.table == "growth":
                for worker in workers.values():
                    worker.stop()
            results = measure(row, workers, settings)
            found.append((row, results))
            yield [row.problem, row.strength, *time_cells(row, results, settings)]

    head = ["problem", "strength", "nonzero", *COLUMNS, "ratio"]
    print_table(f"{title}: ms", head, times())
    head = ["problem", "strength", "compile, s", "in jit, ms", "cold, s", "warm, ms"]
    print_table(
        f"{title}: compiling, and calls outside of jit",
        [*head, "JAXopt compiles, s"],
        ([r.problem, r.strength, *call_cells(r, results)] for r, results in found),
    )
    if rows[0].table == "growth":
        print_table(
            f"{title}: memory beside the data, MB",
            ["columns", "data", "program", *COLUMNS],
            ([row.problem, *memory_cells(row, results)] for row, results in found),
        )


# Cells.


def best_of(results: Results, column: str) -> tuple[str, Result] | None:
    """The fastest of the solvers that share a column."""
    mine = [(s, r) for s, r in results.items() if SOLVERS[s].column == column]
    return min(mine, key=lambda pair: pair[1].seconds or np.inf, default=None)


def time_cells(row: Row, results: Results, settings: Settings) -> Iterator[str]:
    """Nonzeros, milliseconds of each column, and the ratio to the fastest peer."""
    passing = [r.coefs for r in results.values() if r.coefs is not None]
    yield f"{np.count_nonzero(passing[0][-1]):,}" if passing else NONE
    for column in COLUMNS:
        yield time_cell(row, results, column, settings)
    yield ratio_cell(results, settings.limit)


def time_cell(row: Row, results: Results, column: str, settings: Settings) -> str:
    mine = {name for name, solver in SOLVERS.items() if solver.column == column}
    if not all(installed(SOLVERS[name].package) for name in mine):
        return "missing"
    found = best_of(results, column)
    if found is None:
        return NONE if mine & set(settings.solvers) else "not run"
    result = found[1]
    if result.seconds is None:
        return result.failure
    return milliseconds(result.seconds / row.size)


def ratio_cell(results: Results, limit: float) -> str:
    """The time of optareg over that of the fastest peer, and who that is."""
    ours = results.get("optareg", Result()).seconds
    peers = [
        (result.seconds, name)
        for name, result in results.items()
        if name != "optareg" and result.seconds is not None
    ]
    if ours is None:
        return NONE
    if not peers:
        slow = any(result.failure.startswith(">") for result in results.values())
        return f"< {significant(ours / limit)}" if slow else NONE
    seconds, name = min(peers)
    return f"{significant(ours / seconds)} {name}"


def call_cells(row: Row, results: Results) -> Iterator[str]:
    ours = results.get("optareg", Result())
    theirs = results.get("JAXopt", Result())
    yield decimal(ours.compile_seconds)
    yield NONE if ours.seconds is None else milliseconds(ours.seconds / row.size)
    yield decimal(ours.cold)
    yield NONE if ours.warm is None else milliseconds(ours.warm)
    yield decimal(theirs.compile_seconds)


def memory_cells(row: Row, results: Results) -> Iterator[str]:
    """The data, the program's temporaries, and by what each process grew."""
    yield megabytes(row.make().X.nbytes)
    yield megabytes(results.get("optareg", Result()).temporaries)
    for column in COLUMNS:
        found = best_of(results, column)
        yield NONE if found is None else megabytes(found[1].memory)


def milliseconds(seconds: float) -> str:
    digits = 0 if seconds >= 0.1 else 1 if seconds >= 0.01 else 2
    return f"{1e3 * seconds:,.{digits}f}"


def significant(value: float) -> str:
    return f"{value:,.0f} ×" if value >= 10 else f"{value:.2g} ×"


def decimal(seconds: float | None) -> str:
    return NONE if seconds is None else f"{seconds:.1f}"


def megabytes(size: float | None) -> str:
    return NONE if size is None else f"{size / 1e6:,.0f}"
