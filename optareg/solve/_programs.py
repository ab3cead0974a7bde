"""Compiled programs of calls outside of `jit`, kept for the next call like this one.

Each such call traces its loss anew, as only the loss knows what it closes over. The
program of the solver is looked up by the text of the loss and its derivatives, and all
else that it depends on (`key_of`); where that is not known, as of a penalty of the
user's own, by its own text, for which the whole solver is traced. So data may change,
and closures too: nothing stale is ever served.
"""

import collections
import hashlib
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr
from jax.sharding import PartitionSpec

from optareg._precision import all_digits
from optareg._sharding import has_explicit_axes, has_manual_axes, placed
from optareg.penalties._base import Penalty
from optareg.solve._heads import evaluate
from optareg.solve._solution import Outcome

__all__ = ["Reads", "clear_programs", "one_program"]

# How many programs are kept, and how much text they may have together. Those used
# least recently go first.
MOST, MOST_BYTES = 64, 16 * 2**20
# XLA's CPU compiler has two ways to make its kernels. The older one takes two thirds of
# the time; solves of some milliseconds take up to twice as long. It may go one day.
QUICKER = {"xla_cpu_use_fusion_emitters": False}
# Without LLVM's optimizations it takes half of that again. Products of matrices are as
# fast, all else is slower: so only where a loss computes little, so many numbers at
# most, and compiling would take longer than solving.
QUICKEST, LITTLE = QUICKER | {"xla_backend_optimization_level": 0}, 2**18
# Of settings whose texts say all.
KNOWN = (int, type(None), tuple)


class Kept(NamedTuple):
    """A compiled program, and the length of its text."""

    program: Any
    size: int


KEPT: "collections.OrderedDict[Any, Kept]" = collections.OrderedDict()
LOCK = threading.Lock()


class Reads(NamedTuple):
    """What a function to compile depends on, beside the loss and its arguments.

    Attributes:
      settings: numbers or None, if their texts say all; else nothing is known.
      penalties: those it is for, of its arguments but the loss's constants.
    """

    settings: tuple[Any, ...]
    penalties: Callable[..., tuple[Penalty, ...]]


@all_digits
def one_program(
    f: Callable[..., Any], reads: Reads, loss: ClosedJaxpr, *arguments: Any
) -> Any:
    """The function of the loss's constants and the arguments, compiled as a whole.

    The last argument is the leaves to start at. Within `jit`, `vmap` or a derivative
    the caller compiles, under `jax.disable_jit` nobody; and a program that calls back
    to Python, or runs on several devices, is compiled anew. Products of matrices have
    all digits.
    """
    numbers, structure = jax.tree.flatten((loss.consts, *arguments))

    @jax.jit
    def program(xs: Any) -> Any:
        return on_automatic_axes(f, *jax.tree.unflatten(structure, xs))

    if jax.config.values["jax_disable_jit"] or not all(map(is_plain, numbers)):
        return noted(program, numbers)
    key = key_of(f, reads, loss, *arguments)
    kept = KEPT.get(key)
    if kept is None:
        traced = program.trace(numbers)
        # In a rule for a derivative, for instance.
        if closes_over_tracers(traced, numbers):
            return program(numbers)
        lowered = traced.lower()
        text = lowered.as_text()
        if "callback" in text:  # It names a function of this call.
            return compiled(lowered, options_for(loss))(numbers)
        key = key or key_by(lowered, text)
        kept = KEPT.get(key)
        if kept is None:
            kept = Kept(compiled(lowered, options_for(loss)), len(text))
    keep(key, kept)
    return kept.program(numbers)


def noted(program: Callable[..., Any], numbers: Any) -> Any:
    """What a program returns; its errors say what is different in `shard_map`."""
    try:
        return program(numbers)
    except (TypeError, ValueError) as error:
        if has_manual_axes():
            error.add_note(
                "Within `jax.shard_map`, a solver whose numbers differ from shard to "
                "shard needs `jax.shard_map(..., check_vma=False)`."
            )
        raise


def keep(key: Any, kept: Kept) -> None:
    """Puts a program at the end of the table, and drops what is too much."""
    with LOCK:
        KEPT.pop(key, None)
        KEPT[key] = kept
        while len(KEPT) > 1 and (
            len(KEPT) > MOST or sum(one.size for one in KEPT.values()) > MOST_BYTES
        ):
            KEPT.popitem(last=False)


def key_of(
    f: Callable[..., Any], reads: Reads, loss: ClosedJaxpr, *arguments: Any
) -> Any:
    """What tells the program from others, without tracing the solver.

    That is the text of the loss, of its first and second derivative, and of the
    penalties. None where that does not say all.
    """
    settings = reads.settings
    if has_explicit_axes() or not all(isinstance(x, KNOWN) for x in settings):
        return None

    def parts(consts: Any, *arguments: Any) -> Any:
        w = arguments[-1]
        numbers = tuple(range(len(w)))

        def value(*w: Any) -> Any:
            return evaluate(ClosedJaxpr(loss.jaxpr, consts), w)

        bent = jax.jvp(jax.value_and_grad(value, numbers), w, w)
        # The value once more: a rule for a derivative may say another one.
        return value(*w), bent, reads.penalties(*arguments)

    try:
        traced = jax.jit(parts, keep_unused=True).trace(loss.consts, *arguments)
    except Exception:  # There may be no such derivative; the solver asks if it must.
        return None
    # What a function does under `vmap` may be a rule of its own, which is not here.
    ruled = "custom_vmap" in str(traced.jaxpr)
    if ruled or closes_over_tracers(traced, loss.consts, arguments):
        return None
    lowered = traced.lower()
    text, penalties = lowered.as_text(), jax.tree.structure(lowered.out_info[-1])
    if "callback" in text or not self_contained(penalties):
        return None
    name = f"{f.__module__}.{f.__qualname__}{settings}"
    # Types are compared, not their texts: two classes may have one name.
    types = penalties, jax.tree.structure(arguments)
    return key_by(lowered, f"{name}{text}"), types


def key_by(lowered: Any, text: str) -> bytes:
    """By the text, the types of numbers, and what JAX is set to."""
    names = sorted(jax.config.values)
    config = [getattr(jax.config, name, None) for name in names]
    about = jax.tree.structure(lowered.out_info), lowered.in_avals, config
    device = default_device()
    return hashlib.sha256(f"{text}{about}{device}".encode()).digest()


def closes_over_tracers(traced: Any, *arguments: Any) -> bool:
    """Whether a function traced with these arguments reads tracers beside them.

    JAX makes them inputs of the program.
    """
    return len(traced.jaxpr.in_avals) > len(jax.tree.leaves(arguments))


def self_contained(penalties: Any) -> bool:
    """Whether all of a tree is of this package, and calls no function of a user.

    Given is its structure.
    """
    node = penalties.node_data()
    if node is None:
        return True
    plain = node[0] in (tuple, type(None)) or node[0].__module__.startswith("optareg.")
    return plain and all(map(self_contained, penalties.children()))


def on_automatic_axes(f: Callable[..., Any], *arguments: Any) -> Any:
    """Returns f(*arguments), on a mesh of explicit axes too.

    The solver runs where XLA chooses how arrays are sharded, the loss as it was traced.
    What is found, `Outcome.w`, is sharded as the last argument, the start.
    """
    if not has_explicit_axes():
        return f(*arguments)
    anywhere = PartitionSpec()  # type: ignore[no-untyped-call]

    def as_start(x: Any, start: Any) -> PartitionSpec:
        many = [None] * (x.ndim - start.ndim)  # Of a path.
        return PartitionSpec(*many, *jax.typeof(start).sharding.spec)  # type: ignore[no-untyped-call]

    def specs(result: Any) -> Any:
        if not isinstance(result, Outcome):
            return anywhere
        where: Any = jax.tree.map(lambda _: anywhere, result)
        return where._replace(w=tuple(map(as_start, result.w, arguments[-1])))

    results = jax.eval_shape(placed(f, anywhere), *arguments)
    where = jax.tree.map(specs, results, is_leaf=lambda x: isinstance(x, Outcome))
    return placed(f, where)(*arguments)


def compiled(lowered: Any, options: dict[str, Any]) -> Any:
    """The program, with those of the compiler's options that it knows."""
    try:
        return lowered.compile(compiler_options=options)
    except RuntimeError as error:
        if "No such compile option" not in str(error):
            raise
    return lowered.compile()


def options_for(loss: ClosedJaxpr) -> dict[str, Any]:
    """For the compiler of the default device."""
    if default_device().platform != "cpu":
        return {}
    return QUICKEST if computed(loss.jaxpr) <= LITTLE else QUICKER


def computed(jaxpr: Any) -> float:
    """About how many numbers a function computes from how many; ∞ if it may loop on."""
    total = float(sum(math.prod(v.aval.shape) for v in jaxpr.invars))
    for equation in jaxpr.eqns:
        trips = equation.params.get("length", 1)
        parts = [computed(inner) for inner in inner_programs(equation)]
        if equation.primitive.name == "while":
            trips = math.inf
        own = sum(math.prod(v.aval.shape) for v in equation.outvars)
        total += max(trips * sum(parts), own)
    return total


def inner_programs(equation: Any) -> Iterator[Any]:
    """The functions that an equation calls: branches, the body of a loop."""
    for value in equation.params.values():
        for one in value if isinstance(value, tuple) else (value,):
            jaxpr = getattr(one, "jaxpr", one)
            if hasattr(jaxpr, "eqns"):
                yield jaxpr


def clear_programs() -> None:
    """Forgets the programs that calls outside of `jit` have compiled.

    `minimize`, `path` and `max_strength` keep at most 64 of them, and 16 MiB of their
    text; compiled they are larger. A program is found by the text of the loss and its
    derivatives, in which data are arguments, and by the penalty: other data, another
    fold for instance, use it again without tracing the solver, and nothing stale is
    served. With a penalty that is not of this package, or a `constraint`, the solver is
    traced in each call, and compiled where its text is new. Programs with a callback
    are not kept.

    >>> import jax.numpy as jnp
    >>> from optareg import L1, clear_programs, minimize
    >>> for target in (3.0, 4.0):  # The second one compiles nothing.
    ...     data = jnp.full(2, target)
    ...     found = minimize(lambda w: jnp.sum((w - data) ** 2), jnp.zeros(2), L1(1.0))
    >>> clear_programs()
    """
    KEPT.clear()


def is_plain(x: Any) -> bool:
    """Whether x is a number of the default device, and known."""
    if isinstance(x, jax.core.Tracer):
        return False
    here = jax.sharding.SingleDeviceSharding(default_device())
    return bool(getattr(x, "sharding", here) == here)


def default_device() -> Any:
    """The device that programs run on by default."""
    chosen: Any = getattr(jax.config, "jax_default_device", None)
    if chosen is None:
        return jax.devices()[0]
    return jax.devices(chosen)[0] if isinstance(chosen, str) else chosen
