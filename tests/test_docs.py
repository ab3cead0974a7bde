"""The code in the documentation runs as it stands there."""

import json
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


NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_notebooks_are_numbered_and_on_the_site():
    names = [path.stem for path in NOTEBOOKS]
    assert [name[:2] for name in names] == [f"{i + 1:02d}" for i in range(len(names))]
    site = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    listed = re.findall(r"^notebooks/(.*)$", site, re.MULTILINE)
    assert listed == names
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\(notebooks/(.*?)\.ipynb\)", readme) == names


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_picture_of_a_notebook_has_a_text(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    pictures = [
        cell
        for cell in cells
        if any("image/png" in out.get("data", {}) for out in cell.get("outputs", []))
    ]
    assert pictures
    for cell in pictures:
        assert len(cell["metadata"]["mystnb"]["image"]["alt"]) > 50
    for cell in cells:  # No warnings, and none of them failed.
        for out in cell.get("outputs", []):
            assert out["output_type"] != "error" and out.get("name") != "stderr"
