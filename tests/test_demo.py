"""The demonstration: what it measures, writes and prints, and how it refuses."""

import dataclasses
import errno
import functools
import importlib.util
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest

import optareg
from optareg import plot
from optareg.demo import cli, coefficients, geometry, style
from optareg.demo import train as train_module
from optareg.demo.data import load_digits
from optareg.demo.methods import METHODS
from optareg.demo.report import table
from optareg.demo.trade_off import draw_trade_off
from optareg.demo.train import (
    CUTS,
    Setting,
    draw_batches,
    first_params,
    flat_kernels,
    largest,
    run,
    train,
)
from optareg.demo.weights import draw_weights

NAMES = [method.name for method in METHODS]
QUICK_NAMES = [name for name in NAMES if name != "l1 decoupled"]
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


def test_results_have_the_methods_in_order(quick):
    _, _, results = quick
    assert [method["method"] for method in results["methods"]] == QUICK_NAMES
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
        assert method["test_accuracy"] > 0.7  # Of ten digits: it has learned.
        assert method["objective"] >= method["train_loss"]


def test_results_show_what_the_penalties_do(quick):
    _, _, results = quick
    of = {method["method"]: method for method in results["methods"]}
    assert of["none"]["zeros"] == of["l2"]["zeros"] == 0
    assert of["l1 gradient"]["zeros"] < 0.001 < 0.3 < of["l1 gradient"]["near_zeros"]
    assert of["l1"]["zeros"] > 0.5 > 0.05 > of["l1"]["near_zeros"]
    assert of["elastic net"]["zeros"] > 0.2
    assert of["none"]["train_accuracy"] > of["none"]["test_accuracy"] + 0.05
    for name in ("l2", "l1 gradient", "l1", "elastic net"):
        assert of[name]["test_loss"] < of["none"]["test_loss"]
        assert of[name]["norm"] < of["none"]["norm"]


def test_a_cut_comes_as_far_where_it_is_chosen_on_validation(quick):
    """What the README says of the table: zeros and losses of both are level."""
    _, _, results = quick
    of = {method["method"]: method for method in results["methods"]}
    for cut, exact in [
        ("l1 gradient, cut", "l1"),
        ("cut, constant rate", "l1, constant rate"),
    ]:
        assert of[cut]["cut"] in CUTS
        assert of[cut]["strength"] in of[exact]["sweep"]["strength"]
        assert abs(of[cut]["test_loss"] - of[exact]["test_loss"]) < 0.05
        assert of[cut]["near_zeros"] < 0.1 < 0.5 < of[cut]["zeros"]
    same = of["l1 gradient, cut"]["sweep"]["norm"]
    np.testing.assert_allclose(same, of["l1 gradient"]["sweep"]["norm"], rtol=0.1)


def test_pruning_leaves_the_zeros_that_l1_found(quick):
    _, _, results = quick
    of = {method["method"]: method for method in results["methods"]}
    np.testing.assert_allclose(
        of["l2, pruned"]["sweep"]["zeros"], of["l1"]["zeros"], atol=1e-3
    )


def test_strengths_are_chosen_on_validation(quick):
    _, _, results = quick
    for method in results["methods"]:
        losses = method["sweep"]["validation_loss"]
        best = int(np.argmin(losses))
        assert method["strength"] == method["sweep"]["strength"][best]
        assert method["validation_loss"] == pytest.approx(losses[best])
        assert method["zeros"] == pytest.approx(method["sweep"]["zeros"][best])
        assert len(losses) == (1 if method["method"] == "none" else 4)
        if method["cut"]:
            assert method["cut"] == method["sweep"]["cut"][best]


def test_pictures_decode_and_are_not_blank(quick):
    _, folder, _ = quick
    pictures = sorted(folder.glob("*.png"))
    assert [picture.stem for picture in pictures] == [
        "accuracy-against-sparsity",
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
    assert max(len(line) for line in lines if str(folder) not in line) <= 80
    for method in results["methods"]:
        # What does not fit beside is below, behind the name again.
        rows = [x for x in lines if re.match(rf"{method['method']} {{2,}}", x)]
        assert len(rows) == 2
        row = "".join(rows)
        zeros = f"{100 * method['zeros']:.1f} ± {100 * method['zeros_spread']:.1f}"
        accuracy = f"{100 * method['test_accuracy']:.1f} ± "
        assert zeros in row
        assert accuracy in row
        assert f"{method['test_loss']:.3f} ± {method['test_loss_spread']:.3f}" in row
    assert all(str(folder / x.name) in process.stdout for x in folder.iterdir())
    assert "100%" not in process.stdout  # The progress bar is on the other stream.
    assert "training by proximal" in process.stderr


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


@pytest.mark.parametrize(
    "module", ["optareg._ctrl_c", "jax", "optareg", "optareg.demo.cli", "flax"]
)
def test_an_interrupt_while_importing_is_one_line(module, tmp_path):
    """Ctrl-C as soon as Python reports that `module` has been imported."""
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "optareg", "--quick"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    ) as process:
        for line in process.stderr:
            if (
                line.startswith("import time:")
                and line.split("|")[-1].strip() == module
            ):
                process.send_signal(signal.SIGINT)
                break
        rest = [x for x in process.stderr if "import time:" not in x and x.strip()]
    assert process.returncode == cli.INTERRUPTED
    assert rest == ["python -m optareg: interrupted\n"]


def test_an_import_leaves_the_signals_alone():
    code = """
import signal
before = signal.getsignal(signal.SIGINT)
import optareg
assert signal.getsignal(signal.SIGINT) is before
"""
    process = call(code=code)
    assert process.returncode == 0, process.stderr


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


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_the_table_fits_any_terminal(tiny, width):
    result, _ = tiny
    lines = table([result], TINY).text(width).splitlines()
    assert max(map(len, lines)) <= width
    cells = [word for line in lines[:3] for word in line.split()]
    assert {"method", "strength", "cut", "l1"} <= set(cells)


def test_a_cut_is_the_best_of_all_by_the_definition():
    method = METHODS[NAMES.index("l1 gradient, cut")]
    plain = METHODS[NAMES.index("l1 gradient")]
    result, uncut = run(TINY, methods=[method, plain])
    data = load_digits(TINY.seed, TINY.seeds, train=TINY.train, wrong=TINY.wrong)
    losses = np.empty((len(CUTS), TINY.strengths, TINY.seeds))
    for c, i, k in np.ndindex(*losses.shape):
        params = jax.tree.map(lambda x, i=i, k=k: np.array(x[i, k]), uncut.sweep.params)
        x = np.asarray(data.validation.images[k], np.float64)
        for name in ("Dense_0", "Dense_1"):
            w, b = params["params"][name]["kernel"], params["params"][name]["bias"]
            x = np.maximum(x, 0) @ np.where(np.abs(w) < CUTS[c], 0, w) + b
        right = np.take_along_axis(x, data.validation.labels[k][:, None], 1)[:, 0]
        losses[c, i, k] = np.mean(np.log(np.sum(np.exp(x), axis=1)) - right)
    np.testing.assert_allclose(result.tried["validation_loss"], losses, rtol=1e-4)
    chosen = np.searchsorted(-CUTS, -result.cuts)
    best = losses.mean(axis=2)
    at = best[chosen, np.arange(TINY.strengths)]
    np.testing.assert_allclose(at, best.min(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(result.sweep.train_curve, uncut.sweep.train_curve)


def test_pruning_keeps_the_largest_weights():
    method = METHODS[NAMES.index("l2, pruned")]
    _, lasso = tiny_pair = [method, METHODS[NAMES.index("l1")]]
    pruned, l1 = run(TINY, methods=tiny_pair)
    assert l1.method is lasso
    share = l1.of_chosen("zeros")
    np.testing.assert_allclose(pruned.sweep.zeros, np.stack([share] * 2), atol=2e-3)
    start = jax.tree.map(lambda x: x[0], first_params(TINY))
    kept = largest(start, jnp.float32(0.25))
    sizes = np.abs(flat_kernels(start))
    flags = np.asarray(flat_kernels(kept))
    assert sizes[flags == 1].min() > sizes[flags == 0].max()
    assert np.mean(flags) == pytest.approx(0.25, abs=2e-3)
    assert all(np.all(x["bias"] == 1) for x in kept["params"].values())


def test_another_seed_gives_other_numbers():
    other = dataclasses.replace(TINY, seed=2)
    for draw in (first_params, draw_batches):
        pairs = zip(*map(jax.tree.leaves, (draw(TINY), draw(other))), strict=True)
        assert any(not np.array_equal(a, b) for a, b in pairs)


def test_a_sweep_equals_single_runs(tiny):
    result, method = tiny
    data = load_digits(TINY.seed, TINY.seeds, train=TINY.train, wrong=TINY.wrong)
    parts = first_params(TINY), data.train, data.validation, draw_batches(TINY)
    single = jax.jit(functools.partial(train, optimizer=method.optimizer, setting=TINY))
    for i, strength in enumerate(result.strengths):
        for k in range(TINY.seeds):
            penalty = method.penalty(strength)
            parts_of_k = jax.tree.map(lambda x, k=k: x[k], parts)
            alone = single(penalty, method.last_rate, None, *parts_of_k)
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


# What the colour-blind see of linear RGB, by Machado, Oliveira & Fernandes (2009), at
# full severity; and a grey print.
VISIONS = {
    "full": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
    "grey": [[0.2126, 0.7152, 0.0722]] * 3,
}


def seen(color, vision):
    """A colour in CIELAB, as someone sees it."""
    srgb = np.array(matplotlib.colors.to_rgb(color))
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(VISIONS[vision]) @ linear, 0, 1)
    to_xyz = np.array(
        [
            [0.4124, 0.3576, 0.1805],
            [0.2126, 0.7152, 0.0722],
            [0.0193, 0.1192, 0.9505],
        ]
    )
    x, y, z = np.cbrt(np.maximum(to_xyz @ linear / [0.9505, 1, 1.089], 1e-3))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISIONS)
def test_methods_are_told_apart_in_every_vision(vision):
    for one, other in itertools.combinations(style.COLORS, 2):
        apart = np.linalg.norm(
            seen(style.COLORS[one], vision) - seen(style.COLORS[other], vision)
        )
        same_dashes = style.DASHES[one] == style.DASHES[other]
        same_markers = style.MARKERS[one] == style.MARKERS[other]
        # Lines without markers need other dashes, marks without lines other markers.
        if same_dashes or same_markers:
            assert apart > 25, (one, other)
    for name, color in style.COLORS.items():  # And all of them from white paper.
        assert np.linalg.norm(seen(color, vision) - seen("white", vision)) > 25, name


@pytest.mark.parametrize("vision", VISIONS)
def test_what_plot_draws_in_one_dash_is_told_apart_by_colour(vision):
    first, second, *_, last = (seen(color, vision) for color in plot.COLORS)
    assert np.linalg.norm(first - last) > 25  # Bars, and the bar of zeros.
    assert np.linalg.norm(second - last) > 25


def test_a_mark_stands_at_its_value():
    results = run(TINY, methods=METHODS)
    left, right = draw_trade_off(results).axes[:2]
    for axes, measure, factor in [
        (left, "validation_accuracy", 100),
        (right, "validation_loss", 1),
    ]:
        lines = {line.get_label(): line for line in axes.lines}
        for result in results:
            if result.method.name not in style.COLORS:
                continue
            values = getattr(result.sweep, measure)
            x, y = lines[result.method.name].get_data()
            np.testing.assert_allclose(x, 1 - np.mean(result.sweep.zeros, axis=1))
            np.testing.assert_allclose(y, factor * np.mean(values, axis=1), rtol=1e-5)
        assert axes.get_xlim()[0] > 1  # 0 % is within the axes.


def test_panels_of_weights_say_the_share_of_zeros():
    results = run(TINY, methods=METHODS)
    figure = draw_weights(results)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    shown = [r for r in results if r.method.name in style.COLORS]
    for title, result in zip(titles, shown, strict=True):
        share = np.mean(flat_kernels(jax.tree.map(lambda x: x[0], result.params)) == 0)
        assert title.startswith(f"{result.method.name}: ")
        assert title.endswith(f"{share:.1%} exactly zero")


def test_drawing_leaves_the_users_matplotlib_alone():
    before = dict(matplotlib.rcParams)
    geometry.draw_geometry()
    assert dict(matplotlib.rcParams) == before


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"optareg {optareg.__version__}\n"
