"""The code in the documentation runs as it stands there."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
BLOCKS = [
    (name, i, block)
    for name in ("README.md", "CONTRIBUTING.md")
    for i, block in enumerate(
        re.findall(
            r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL
        )
    )
]


@pytest.mark.parametrize(
    ("name", "block"),
    [(name, block) for name, _, block in BLOCKS],
    ids=[f"{name}-{i}" for name, i, _ in BLOCKS],
)
def test_code_in_the_documentation_runs(name, block, capsys):
    exec(compile(block, name, "exec"), {"__name__": "example"})
    # What a comment behind a `print` promises is what it prints.
    promised = re.findall(r"^ *print\(.*\)  # (.*)$", block, re.MULTILINE)
    if promised:
        assert capsys.readouterr().out.splitlines() == promised


def test_links_within_the_repository_lead_somewhere():
    pages = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "benchmarks/README.md",
    ]
    for page in pages:
        for target in re.findall(
            r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")
        ):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
