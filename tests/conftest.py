"""How the suite runs, and fixtures that every test may use."""

import os
from collections.abc import Iterator
from typing import Any

import hypothesis
import jax
import pytest

# There is no public way to give an option to all that is compiled.
from jax._src import compiler

from optareg.solve._programs import QUICKER

# The same examples in each run; `pytest --hypothesis-profile=search` looks at others.
hypothesis.settings.register_profile(
    "laws", deadline=None, max_examples=12, derandomize=True
)
hypothesis.settings.register_profile("search", deadline=None, max_examples=50)
# To find out whether a law can fail at all: few examples, none of them made smaller.
hypothesis.settings.register_profile(
    "quick",
    deadline=None,
    max_examples=5,
    derandomize=True,
    phases=[hypothesis.Phase.generate],
    database=None,
)
hypothesis.settings.load_profile("laws")

# Half of the time that skglm takes is Numba optimizing what runs for an instant.
os.environ.setdefault("NUMBA_OPT", "0")

# Most of the time goes into compiling, and half of that into optimizations. Only those
# need them that read what the compiler made, or take many steps; and what is marked
# `to_the_bit`.
OPTIMIZED = {
    "test_ahead_of_time",
    "test_checkpoint",
    "test_compiled",
    "test_long_runs",
    "test_threshold",
}


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """The whole suite takes two cores, if pytest-xdist is there; `-n 0` is one."""
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    # A worker runs this hook too, and must not start workers; a debugger needs one.
    alone = hasattr(config, "workerinput") or config.getoption("usepdb")
    if whole and not alone and getattr(config.option, "numprocesses", 0) is None:
        config.option.numprocesses = 2
        # Modules share compiled functions.
        config.option.dist = "loadfile"


@pytest.fixture(autouse=True, scope="module")
def quick_to_compile(request: pytest.FixtureRequest) -> Iterator[None]:
    """No optimizations where that is quicker; and no program outlives its module."""
    on_cpu = jax.default_backend() == "cpu"
    quick = on_cpu and request.module.__name__ not in OPTIMIZED
    jax.config.update("jax_disable_most_optimizations", quick)
    with pytest.MonkeyPatch.context() as patch:
        if quick:
            patch.setattr(compiler, "get_compile_options", with_older_kernels)
        yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()


@pytest.fixture(autouse=True)
def to_the_bit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests marked so, the kernels that users have."""
    if request.node.get_closest_marker("to_the_bit"):
        monkeypatch.setattr(compiler, "get_compile_options", options_of_jax)


options_of_jax = compiler.get_compile_options


def with_older_kernels(*args: Any, **kwargs: Any) -> Any:
    """The options, and the older of XLA's two ways to make kernels on a CPU.

    Without optimizations it takes a fourth of the time.
    """
    given = kwargs.pop("env_options_overrides", None) or {}
    quicker = {**QUICKER, **given}
    return options_of_jax(*args, env_options_overrides=quicker, **kwargs)


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision for one test."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def strict() -> Iterator[None]:
    """No silent promotion of dtypes or ranks for one test."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield
