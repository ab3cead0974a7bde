"""Draws the tables of accuracy against sparsity, as `benchmarks/README.md` has them.

python benchmarks/pruning/picture.py
"""

import itertools
import re
from pathlib import Path

import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[2]
TITLE = re.compile(
    r"\*\*(mlp|cnn|text), .* weights.*: test (accuracy, %|bits[^*]*)\*\*"
)
STYLES = {
    "`target_sparsity`, L1": ("C0", "-"),
    "`target_sparsity`, L1, tuned": ("C0", "--"),
    "`proximal`, L1": ("C2", "-"),
    "textbook L1, cut": ("C1", "-"),
    "textbook L1, cut, tuned": ("C1", "--"),
    "gradual magnitude": ("C3", "-"),
    "one-shot magnitude, tuned": ("C4", "--"),
    "dense, fewer units": ("0.6", "-"),
}


def tables(text: str) -> dict[str, tuple[str, dict[str, list[str]]]]:
    """For each network what is measured, and the cells of each method."""
    result: dict[str, tuple[str, dict[str, list[str]]]] = {}
    for found in TITLE.finditer(text):
        lines = text[text.index("\n|", found.end()) + 1 :].splitlines()
        table = itertools.takewhile(lambda line: line.startswith("|"), lines)
        rows = [line.strip("| ").split(" | ") for line in table]
        methods = {row[0]: row[1:] for row in rows[2:]}
        result.setdefault(found[1], (found[2], methods))
    return result


def main() -> None:
    found = tables((ROOT / "benchmarks/README.md").read_text(encoding="utf-8"))
    figure, axes = plt.subplots(
        1, len(found), figsize=(4.2 * len(found), 3.6), layout="constrained"
    )
    shares = ["50", "80", "90", "95", "98", "99"]
    for axis, (name, (what, methods)) in zip(axes, found.items(), strict=True):
        for method, (color, line) in STYLES.items():
            if method not in methods:
                continue
            cells = [c.partition(" ± ") for c in methods[method]]
            some = [(i, c) for i, c in enumerate(cells) if c[1]]
            axis.errorbar(
                [i for i, _ in some],
                [float(c[0]) for _, c in some],
                [float(c[2]) for _, c in some],
                color=color,
                linestyle=line,
                marker=".",
                capsize=2,
                label=method.replace("`", ""),
            )
        axis.set(title=name, xlabel="weights that are zero, %", ylabel=f"test {what}")
        axis.set_xticks(range(len(shares)), shares)
        axis.grid(alpha=0.3)
        if "accuracy" in what:
            axis.set_ylim(55, 98)
    axes[0].legend(fontsize=7, loc="lower left")
    figure.savefig(ROOT / "docs/images/pruning.png", dpi=120)


if __name__ == "__main__":
    main()
