"""`python -m optareg`: trains by all methods, prints the table, draws the pictures.

Everything heavy is imported late, after the options and the extra are checked.
"""

import argparse
import importlib.util
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import optareg
from optareg._ctrl_c import INTERRUPTED

__all__ = ["INTERRUPTED", "main"]

EXTRA = ("flax", "matplotlib", "sklearn", "tqdm")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demonstration.

    Args:
      arguments: of the command line; those of the process if None.

    Returns:
      The exit status: 0; 1 if something outside is missing or fails;
      `INTERRUPTED`.
    """
    parser = Parser(
        prog="python -m optareg",
        description="Trains a network on scikit-learn's digits: with no penalty; with "
        "L2, L1 and the elastic net, applied in several ways; with weights cut and "
        "pruned. Prints what was measured, and writes it to a folder with pictures.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--out",
        type=folder,
        default=Path("optareg-demo"),
        metavar="DIR",
        help="where results.json and the pictures go (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=seed,
        default=0,
        metavar="N",
        help="a whole number from 0 to 2^32 - 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a smaller network and training set, fewer methods, strengths, seeds, "
        "steps and pictures",
    )
    parser.add_argument(
        "--version", action="version", version=f"optareg {optareg.__version__}"
    )
    options = parser.parse_args(arguments)
    try:
        missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
        if missing:
            raise DemoError(
                f"{', '.join(missing)} not found; the demonstration needs an extra: "
                'pip install "optareg[demo]"'
            )
        check_folder(options.out)
        demonstrate(options.out, options.seed, options.quick)
    except DemoError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{parser.prog}: interrupted", file=sys.stderr, flush=True)
        return INTERRUPTED
    return 0


class DemoError(Exception):
    """What went wrong outside of the program, in one line for people."""


def seed(text: str) -> int:
    """A seed from the command line."""
    if not text.isdecimal() or not int(text) < 2**32:
        raise argparse.ArgumentTypeError(
            f"must be a whole number from 0 to 2^32 - 1, got {text!r}"
        )
    return int(text)


def folder(text: str) -> Path:
    """A folder from the command line."""
    if not text:
        raise argparse.ArgumentTypeError("must name a folder, got ''")
    return Path(text)


def check_folder(out: Path) -> None:
    """Makes the folder; raises now, not after training, if it cannot be written to."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except FileExistsError:
        raise DemoError(f"--out {out} is a file, not a folder") from None
    except OSError as error:
        raise DemoError(f"cannot write to --out {out}: {error.strerror}") from None


def demonstrate(out: Path, seed: int, quick: bool) -> None:
    """Trains with a progress bar, prints the table, writes everything to `out`."""
    import dataclasses

    from matplotlib.figure import Figure
    from tqdm import tqdm

    from optareg.demo.coefficients import draw_coefficients
    from optareg.demo.curves import draw_curves
    from optareg.demo.geometry import draw_geometry
    from optareg.demo.methods import METHODS, QUICK_METHODS
    from optareg.demo.report import results_json, table
    from optareg.demo.trade_off import draw_trade_off
    from optareg.demo.train import FULL, QUICK, Result, plan, run
    from optareg.demo.weights import draw_weights

    setting = dataclasses.replace(QUICK if quick else FULL, seed=seed)
    methods = QUICK_METHODS if quick else METHODS
    results: tuple[Result, ...] = ()
    pictures: dict[str, Callable[[], Figure]] = {
        "learning-curves.png": lambda: draw_curves(results, setting),
        "weights.png": lambda: draw_weights(results),
        "accuracy-against-sparsity.png": lambda: draw_trade_off(results),
    }
    if not quick:  # These are the same for every training.
        pictures["geometry.png"] = draw_geometry
        pictures["coefficient-paths.png"] = draw_coefficients
    stages: list[str] = []
    stages_of_training = 2 * len(plan(methods))
    with tqdm(
        total=stages_of_training + len(pictures),
        leave=False,
        unit="",
        dynamic_ncols=True,
        bar_format="{desc}{n_fmt}/{total_fmt} [{elapsed}]",
    ) as bar:

        def progress(stage: str) -> None:
            is_new = stage not in stages
            if is_new:
                stages.append(stage)
            # The running clock is for terminals; a log gets a line a stage.
            if is_new or sys.stderr.isatty():
                bar.set_description(stage, refresh=False)
                bar.n = len(stages) - 1
                bar.refresh()

        results = run(setting, methods, progress)
        try:
            text = json.dumps(results_json(results, setting), indent=2)
            (out / "results.json").write_text(text + "\n", encoding="utf-8")
            for name, draw in pictures.items():
                progress(f"drawing {name}")
                draw().savefig(out / name)
        except OSError as error:
            raise DemoError(f"cannot write to --out {out}: {error.strerror}") from None
    print(table(results, setting).text(shutil.get_terminal_size().columns))
    print(
        "\nWritten:",
        *(out / name for name in ("results.json", *pictures)),
        sep="\n  ",
    )
