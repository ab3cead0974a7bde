"""What the package must not do: run text, load objects, reach out, write anywhere."""

import ast
import pathlib
import re
import sys
import tomllib
import zipfile

import pytest

import optareg

PACKAGE = pathlib.Path(optareg.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# Modules that load objects, start programs, or reach the network.
FORBIDDEN_MODULES = {
    *("pickle", "cPickle", "_pickle", "shelve", "marshal", "dill", "cloudpickle"),
    *("socket", "ssl", "http", "urllib", "urllib3", "requests", "ftplib", "smtplib"),
    *("asyncio", "xmlrpc", "telnetlib", "webbrowser", "aiohttp", "httpx"),
    *("subprocess", "multiprocessing", "ctypes", "pty", "code", "codeop", "runpy"),
    "joblib",
}
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "input", "breakpoint"),
    *("os.system", "os.popen", "os.remove", "os.unlink", "os.rmdir", "os.environ"),
    *("importlib.import_module", "np.load", "numpy.load", "jnp.load"),
}
# The demo writes into the folder given by `--out`: `test_demo` watches it do so.
MAY_WRITE = {"demo"}
# These need an extra: `demo` or `plot`.
EXTRA = {"demo", "plot.py"}
WRITES = {
    *("open", "write_text", "write_bytes", "mkdir", "touch", "unlink", "rename"),
    *("NamedTemporaryFile", "TemporaryFile", "mkstemp", "mkdtemp"),
    *("save", "savez", "savez_compressed", "savefig", "savetxt", "tofile", "dump"),
}


def is_extra(file: pathlib.Path) -> bool:
    return file.relative_to(PACKAGE).parts[0] in EXTRA


def name_of(node: ast.expr) -> str:
    """A dotted name, as far as it is one."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return ""


def offences(source: str, may_write: bool = False) -> list[str]:
    """What a file imports or calls that it must not."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
            if modules == ["shutil"]:  # By its full name only, to be seen below.
                found += modules
        else:
            modules = []
        found += [m for m in modules if m.split(".")[0] in FORBIDDEN_MODULES]
        if isinstance(node, ast.Call):
            name = name_of(node.func)
            if name in FORBIDDEN_CALLS:
                found.append(name)
            if name.split(".")[-1] in WRITES and not may_write:
                found.append(name)
            if any(keyword.arg == "allow_pickle" for keyword in node.keywords):
                found.append("allow_pickle")
        elif isinstance(node, ast.Attribute):
            name = name_of(node)
            copies = name.startswith("shutil.") and name != "shutil.get_terminal_size"
            if name in FORBIDDEN_CALLS or copies:
                found.append(name)
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_no_file_loads_objects_runs_text_reaches_out_or_writes(file):
    may_write = file.relative_to(PACKAGE).parts[0] in MAY_WRITE
    assert offences(file.read_text(encoding="utf-8"), may_write) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from urllib import request",
        "import os; os.system('ls')",
        "eval('1')",
        "import numpy as np; np.load('x')",
        "open('x', 'w')",
        "import pathlib; pathlib.Path('x').write_text('')",
        "load(x, allow_pickle=True)",
        "import shutil; shutil.rmtree('x')",
        "from shutil import rmtree",
    ],
)
def test_an_offence_would_be_found(source):
    assert offences(source)


def test_the_package_has_files_and_no_programs_beside_them():
    assert len(FILES) > 30
    kinds = {f.suffix for f in PACKAGE.rglob("*") if f.is_file()}
    assert kinds <= {".py", ".pyc", ".typed", ".md", ""}


def imported(file: pathlib.Path) -> set[str]:
    """The packages of others that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").split(".")[0])
    return names - set(sys.stdlib_module_names) - {"optareg"}


def test_the_package_imports_what_it_depends_on_and_nothing_else():
    packages = [imported(f) for f in FILES if not is_extra(f)]
    assert set.union(*packages) == {"jax", "optax", "numpy"}


def test_every_dependency_has_its_reason_and_licence():
    root = PACKAGE.parent
    if not (root / "CONTRIBUTING.md").exists():
        pytest.skip("not in a clone")
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = project["dependencies"] + extras["demo"] + extras["plot"]
    text = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split("## Dependencies")[1].split("\n## ")[0]
    listed = set(re.findall(r"[\w-]+", "".join(re.findall(r"^\|.*", section, re.M))))
    assert {re.split("[>=<]", name)[0] for name in needed} <= listed


def test_the_wheel_has_the_package_and_nothing_else(tmp_path):
    """Where `build` and its backend are at hand, so that nothing is downloaded."""
    build = pytest.importorskip("build")
    pytest.importorskip("hatchling")
    pytest.importorskip("hatch_fancy_pypi_readme")
    root = PACKAGE.parent
    if not (root / "pyproject.toml").exists():
        pytest.skip("not in a clone")
    wheel = build.ProjectBuilder(root).build("wheel", tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    inside = {name for name in names if name.startswith("optareg/")}
    assert inside == {
        f.relative_to(root).as_posix()
        for f in PACKAGE.rglob("*")
        if f.is_file() and "__pycache__" not in f.parts
    }
    about = {name.split("/", 1)[1] for name in set(names) - inside}
    assert about <= {
        *("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
    }
