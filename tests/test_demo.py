"""The demonstration: what it measures, writes and prints, and how it refuses."""

import dataclasses
import errno
import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.image
import numpy as np
import pytest

import optareg
from optareg.demo import cli, coefficients, geometry, style
from optareg.demo import train as train_module
from optareg.demo.data import load_digits
from optareg.demo.methods import METHODS
from optareg.demo.train import Setting, draw_batches, first_params, run, train

NAMES = ["none", "l2", "l1 gradient", "l1 decoupled", "l1", "elastic net"]
MEASURED = [
    "zeros",
    "near_zeros",
    "norm",
    "train_accuracy",
    "test_accuracy",
    "train_loss",
    "test_loss",
    "objective",
]


def call(*arguments: str, code: str = "", **options) -> subprocess.CompletedProcess:
    """Runs `python -m optareg`, or `code` instead, in a process of its own."""
    start = ["-c", code] if code else ["-m", "optareg"]
    root = str(Path(__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-W", "error", *start, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
        check=False,
        env=os.environ | {"PYTHONPATH": root, "PYTHONIOENCODING": "utf-8"},
        **options,
    )


# Runs the demo, and leaves a list of the files that it opened to write.
WATCHED = """
import json, os, runpy, sys
files, to_write = set(), os.O_WRONLY | os.O_RDWR | os.O_CREAT

def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and arguments[2] & to_write:
        files.add(os.path.abspath(arguments[0]))

sys.addaudithook(watch)
log = sys.argv.pop(1)
try:
    runpy.run_module("optareg", run_name="__main__", alter_sys=True)
finally:
    found = sorted(files)
    with open(log, "w") as file:
        json.dump(found, file)
"""


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """One quick run: the process, its folder, and the methods of its results.json."""
    folder = tmp_path_factory.mktemp("demo") / "new" / "folder"
    log = folder.parents[1] / "written.json"
    arguments = str(log), "--quick", "--seed", "3", "--out", str(folder)
    process = call(*arguments, code=WATCHED)
    assert process.returncode == 0, process.stderr
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return process, folder, results


def test_nothing_is_written_outside_of_out(quick):
    """As Python itself saw it; but for caches of bytecode and of fonts."""
    _, folder, _ = quick
    written = json.loads((folder.parents[1] / "written.json").read_text("utf-8"))
    files = [Path(name) for name in written]
    assert folder / "results.json" in files
    cache = Path(matplotlib.get_cachedir())
    elsewhere = [
        file
        for file in files
        if folder not in (file, *file.parents)
        and cache not in file.parents
        and "__pycache__" not in file.parts
        and file.parts[1] != "dev"
    ]
    assert elsewhere == []


def test_results_have_the_six_methods_in_order(quick):
    _, _, results = quick
    assert [method["method"] for method in results["methods"]] == NAMES
    assert results["settings"]["seed"] == 3
    assert results["settings"]["seeds"] >= 3
    assert results["versions"]["jax"] == jax.__version__


def test_results_are_means_and_spreads_in_range(quick):
    _, _, results = quick
    for method in results["methods"]:
        assert all(np.isfinite(method[m]) for m in MEASURED)
        assert all(method[f"{m}_spread"] >= 0 for m in MEASURED)
        assert method["test_accuracy_spread"] > 0  # The seeds differ.
        for share in ("zeros", "near_zeros", "train_accuracy", "test_accuracy"):
            assert 0 <= method[share] <= 1
        assert method["test_accuracy"] > 0.8  # Of ten digits: it has learned.
        assert method["seconds"] > 0
        assert method["objective"] >= method["train_loss"]


def test_results_show_what_the_penalties_do(quick):
    _, _, results = quick
    of = {method["method"]: method for method in results["methods"]}
    assert of["none"]["zeros"] == of["l2"]["zeros"] == 0
    assert of["l1 gradient"]["zeros"] < 0.001 < 0.3 < of["l1 gradient"]["near_zeros"]
    assert of["l1"]["zeros"] > 0.5 > 0.05 > of["l1"]["near_zeros"]
    assert of["elastic net"]["zeros"] > 0.3
    assert of["l1 decoupled"]["zeros"] > 0.01
    assert of["none"]["train_accuracy"] > of["none"]["test_accuracy"] + 0.05
    for name in NAMES[1:]:  # Every penalty cures some of the overfitting.
        assert of[name]["test_loss"] < of["none"]["test_loss"]
        assert of[name]["norm"] < of["none"]["norm"]


def test_strengths_are_chosen_on_validation(quick):
    _, _, results = quick
    for method in results["methods"]:
        losses = method["sweep"]["validation_loss"]
        best = int(np.argmin(losses))
        assert method["strength"] == method["sweep"]["strength"][best]
        assert method["validation_loss"] == pytest.approx(losses[best])
        assert method["zeros"] == pytest.approx(method["sweep"]["zeros"][best])
        assert len(losses) == (1 if method["method"] == "none" else 5)


def test_pictures_decode_and_are_not_blank(quick):
    _, folder, _ = quick
    pictures = sorted(folder.glob("*.png"))
    assert [picture.stem for picture in pictures] == [
        "accuracy-against-sparsity",
        "coefficient-paths",
        "geometry",
        "learning-curves",
        "weights",
    ]
    for picture in pictures:
        pixels = matplotlib.image.imread(picture)
        height, width, _ = pixels.shape
        assert 700 < height < 3000
        assert 1500 < width < 3000
        ink = np.mean(pixels[..., :3].min(axis=-1) < 0.9)
        assert 0.01 < ink < 0.6, picture.name


def test_table_has_a_row_for_each_method(quick):
    process, folder, results = quick
    lines = process.stdout.splitlines()
    rows = [next(x for x in lines if re.match(rf"{name} {{2,}}", x)) for name in NAMES]
    for row, method in zip(rows, results["methods"], strict=True):
        zeros = f"{100 * method['zeros']:.1f} ± {100 * method['zeros_spread']:.1f}"
        accuracy = f"{100 * method['test_accuracy']:.1f} ± "
        assert zeros in row
        assert accuracy in row
        assert f"{method['test_loss']:.3f} ± {method['test_loss_spread']:.3f}" in row
    assert all(str(folder / x.name) in process.stdout for x in folder.iterdir())
    assert "100%" not in process.stdout  # The progress bar is on the other stream.
    assert "elastic net" in process.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--seed", "-1"], "'-1'"),
        (["--seed", "1.5"], "'1.5'"),
        (["--seed", "4294967296"], "4294967296"),
        (["--seed"], "--seed"),
        (["--speed", "1"], "--speed"),
        (["--quic"], "--quic"),
        (["--out", "file"], "is a file"),
        (["--out", "file/below"], "Not a directory"),
        (["--out", "x" * 300], "too long"),
        (["--out", "/proc/optareg"], "--out /proc/optareg"),
        (["--out", ""], "--out"),
        (["extra"], "extra"),
    ],
    ids=lambda value: " ".join(value)[:20] if isinstance(value, list) else "",
)
def test_bad_options_give_one_clear_line(
    arguments, says, tmp_path, monkeypatch, capsys
):
    def never(*_):
        raise AssertionError("the demonstration has started")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "demonstrate", never)
    (tmp_path / "file").write_text("precious")
    try:
        status = cli.main([*arguments, "--quick"])
    except SystemExit as exit:
        status = exit.code
    out, err = capsys.readouterr()
    assert status not in (0, None)
    assert err.count("\n") == 1
    assert err.startswith("python -m optareg: ")
    assert says in err
    assert out == ""
    assert [x.name for x in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "precious"


def test_a_bad_option_ends_the_process_without_a_traceback(tmp_path):
    (tmp_path / "file").write_text("precious")
    process = call("--out", "file", cwd=tmp_path)
    assert process.returncode == 1
    assert process.stderr == "python -m optareg: --out file is a file, not a folder\n"
    assert process.stdout == ""


@pytest.mark.parametrize("missing", ["flax", "sklearn", "matplotlib", "tqdm"])
def test_a_missing_extra_is_named(missing, tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == missing else find(name),
    )
    assert cli.main(["--quick"]) == 1
    _, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert missing in err
    assert 'pip install "optareg[demo]"' in err
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_clear_line(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(train_module, "run", lambda *_, **__: ())
    monkeypatch.setattr(Path, "write_text", full)
    assert cli.main(["--out", str(tmp_path)]) == 1
    _, err = capsys.readouterr()
    assert err.splitlines()[-1].endswith(f"--out {tmp_path}: No space left on device")


def test_an_interrupt_leaves_no_traceback(tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(train_module, "run", interrupted)
    assert cli.main(["--out", str(tmp_path)]) == 130
    _, err = capsys.readouterr()
    assert err.splitlines()[-1] == "python -m optareg: interrupted"


def test_the_package_imports_no_extra():
    code = """
import sys, optareg
heavy = {"flax", "sklearn", "matplotlib", "tqdm", "optareg.demo"} & set(sys.modules)
assert not heavy, heavy
"""
    process = call(code=code)
    assert process.returncode == 0, process.stderr


TINY = Setting(seed=1, seeds=2, strengths=2, steps=4, points=2, batch=8, hidden=(5,))


@pytest.fixture(scope="module")
def tiny():
    """One sweep with `l1`, and the method."""
    method = METHODS[NAMES.index("l1")]
    (result,) = run(TINY, methods=[method])
    return result, method


def test_the_same_seed_gives_the_same_numbers(tiny):
    first, method = tiny
    (again,) = run(TINY, methods=[method])
    jax.tree.map(np.testing.assert_array_equal, first.sweep, again.sweep)
    np.testing.assert_array_equal(first.test_loss, again.test_loss)


def test_another_seed_gives_other_numbers():
    other = dataclasses.replace(TINY, seed=2)
    for draw in (first_params, draw_batches):
        pairs = zip(*map(jax.tree.leaves, (draw(TINY), draw(other))), strict=True)
        assert any(not np.array_equal(a, b) for a, b in pairs)


def test_a_sweep_equals_single_runs(tiny):
    result, method = tiny
    data = load_digits(TINY.seed, TINY.seeds, train=TINY.train, wrong=TINY.wrong)
    parts = first_params(TINY), data.train, data.validation, draw_batches(TINY)
    single = jax.jit(functools.partial(train, method=method, setting=TINY))
    for i, strength in enumerate(result.strengths):
        for k in range(TINY.seeds):
            alone = single(strength, *jax.tree.map(lambda x, k=k: x[k], parts))
            swept = jax.tree.map(lambda x, i=i, k=k: x[i, k], result.sweep)
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
                alone,
                swept,
            )


def test_no_digit_is_in_two_parts():
    data = load_digits(0, 2, train=300, wrong=0.1)
    assert data.train.images.shape == (2, 300, 64)
    for k in range(2):
        parts = data.train.images[k], data.validation.images[k], data.test.images
        rows = np.concatenate([np.asarray(part) for part in parts])
        assert len(np.unique(rows, axis=0)) == len(rows)
    assert not np.array_equal(data.train.images[0], data.train.images[1])


def test_the_share_of_wrong_labels_is_the_asked_one():
    right = load_digits(0, 2, train=300, wrong=0.0)
    noisy = load_digits(0, 2, train=300, wrong=0.1)
    np.testing.assert_array_equal(right.train.images, noisy.train.images)
    wrong = np.mean(right.train.labels != noisy.train.labels, axis=1)
    np.testing.assert_allclose(wrong, 0.1)
    np.testing.assert_array_equal(right.validation.labels, noisy.validation.labels)


@pytest.mark.parametrize("name", ["lasso", "ridge", "elastic net"])
def test_coefficient_paths_are_those_of_scikit_learn(name):
    paths = coefficients.coefficient_paths(name, strengths=12)
    assert np.max(np.abs(paths.coefficients - paths.reference)) < 5e-5
    if name == "ridge":
        assert np.all(paths.coefficients != 0)
    else:
        np.testing.assert_array_equal(paths.coefficients == 0, paths.reference == 0)
        assert np.all(paths.coefficients[0] == 0)


@pytest.mark.parametrize("name", ["l2", "l1", "elastic net"])
def test_the_geometry_shows_the_optimum(name):
    penalty, _ = geometry.PENALTIES[name]
    end = geometry.solution_path(penalty)[-1]
    axis = np.linspace(-1, 2, 3001)
    grid = jnp.asarray(np.stack(np.meshgrid(axis, axis), axis=-1), jnp.float32)
    values = geometry.loss(grid) + jax.vmap(jax.vmap(penalty.value))(grid)
    best = np.unravel_index(np.argmin(values), values.shape)
    np.testing.assert_allclose(end, grid[best], atol=2e-3)
    assert (end[0] == 0) == (name != "l2")


def test_labels_are_spread_out_in_order():
    placed = style.spread_out([0.5, 0.1, 0.52, 0.51, 0.9], gap=0.1)
    np.testing.assert_allclose(placed, [0.41, 0.1, 0.61, 0.51, 0.9])
    crowd = style.spread_out(np.zeros(9), gap=0.1)
    np.testing.assert_allclose(np.diff(np.sort(crowd)), 0.1)


def test_drawing_leaves_the_users_matplotlib_alone():
    before = dict(matplotlib.rcParams)
    geometry.draw_geometry()
    assert dict(matplotlib.rcParams) == before


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"optareg {optareg.__version__}\n"
