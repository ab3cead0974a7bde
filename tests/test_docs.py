"""The code in the documentation runs as it stands there."""

import pathlib
import re

import pytest

import optareg

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


def test_promises_name_tests_that_exist():
    page = (ROOT / "docs/promises.md").read_text(encoding="utf-8")
    names = re.findall(r"`(test_\w+\.py)::(test_\w+)`", page)
    assert len(names) > 30
    for file, name in names:
        code = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert re.search(rf"^ *def {name}\(", code, re.MULTILINE), f"{file}::{name}"


def test_every_public_name_is_in_the_reference():
    pages = (ROOT / "docs/api").glob("*.md")
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    found = set(re.findall(r"auto(?:class|function):: optareg\.(\w+)$", text, re.M))
    assert found == set(optareg.__all__) - {"penalties"}
