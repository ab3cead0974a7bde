"""The package as a whole: its public names, its imports, its independence."""

import ast
import inspect
import pathlib
import subprocess
import sys

import pytest

import optareg

PACKAGE = pathlib.Path(optareg.__file__).parent


@pytest.mark.parametrize("name", optareg.penalties.__all__)
def test_every_name_for_authors_of_penalties_is_documented(name):
    assert inspect.getdoc(getattr(optareg.penalties, name))


@pytest.mark.parametrize("name", optareg.__all__)
def test_every_public_name_is_documented(name):
    thing = getattr(optareg, name)
    assert inspect.getdoc(thing)
    if inspect.isfunction(thing):
        doc = inspect.getdoc(thing)
        assert ">>>" in doc
        if inspect.signature(thing).parameters:
            assert "Args:" in doc and "Returns:" in doc


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, optareg;"
        "print([m for m in ('flax', 'sklearn', 'matplotlib', 'tqdm', 'scipy.optimize')"
        " if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def imports_of(folder: str) -> set[str]:
    """The modules of the package that a folder of it imports."""
    found = set()
    for file in (PACKAGE / folder).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module)
    return {name for name in found if name.startswith("optareg")}


def test_imports_go_one_way():
    assert not any("transforms" in name for name in imports_of("penalties"))
    transforms = imports_of("transforms")
    assert not any(name.endswith(("elementwise", "demo")) for name in transforms)
    inner = [name for name in imports_of("demo") if not name.startswith("optareg.demo")]
    # The main job is written with the public package, as a user's is; the status of
    # Ctrl-C is the command line's own, shared with what runs while it imports.
    assert set(inner) <= {"optareg", "optareg._ctrl_c"}
