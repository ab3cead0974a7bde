"""Random trees, dtypes, penalties and nestings of Optax's wrappers.

Whatever Hypothesis puts together, a training either is refused, by an error of a
documented kind that names the leaf, or keeps what the package promises. By default few
examples are tried; `OPTAREG_FUZZ=10000 pytest tests/test_fuzz.py` tries so many.
"""

import os
import re
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax

from optareg import (
    L1,
    L2,
    MCP,
    SCAD,
    ElasticNet,
    GroupLasso,
    NuclearNorm,
    Penalty,
    SparseGroupLasso,
    TotalVariation,
    add_penalty_gradient,
    centered,
    constraint,
    freeze_zeros,
    masked,
    partition,
    proximal,
    proximal_step,
    sparsity,
    stationarity,
)

MANY = int(os.environ.get("OPTAREG_FUZZ", "0"))
RATE = 0.1

# Trees. Few shapes, so that what is computed outside of `jit` is compiled once.

SHAPES = [(), (3,), (2, 3), (0,), (1, 1), (2, 1, 3)]
DTYPES = ["float32"] * 4 + ["bfloat16", "float16", "complex64"]
shapes, dtypes = st.sampled_from(SHAPES), st.sampled_from(DTYPES)
numbers = st.sampled_from([0.0, -0.0, 0.5, -0.3, 1e-3, 2.0, 1e-30])


@st.composite
def leaves(draw: Any, dtypes: Any = dtypes) -> jax.Array:
    shape, dtype = draw(shapes), draw(dtypes)
    x = np.resize(draw(st.lists(numbers, min_size=1, max_size=4)), shape)
    return jnp.asarray(x * (1 + 0.5j) if dtype == "complex64" else x, dtype)


holes = st.sampled_from([None, optax.MaskedNode()])
keys = st.sampled_from(["kernel", "bias", "a", "b"])
trees = st.recursive(
    leaves() | leaves() | leaves() | holes,
    lambda inner: st.one_of(
        st.dictionaries(keys, inner, max_size=3),
        st.lists(inner, max_size=2),
        st.tuples(inner),
    ),
    max_leaves=4,
)
odd = leaves(st.sampled_from(["int32", "bool", "float32"]))


# Penalties.

strengths = st.sampled_from([0.0, 0.05, 0.3, 5.0])


def onto_box(x: jax.Array) -> jax.Array:
    return jnp.clip(x.real, -1, 1).astype(x.dtype)


@st.composite
def bare_penalties(draw: Any) -> Penalty:
    c, b = draw(strengths), draw(strengths)
    axis = draw(st.sampled_from([None, 0, -1]))
    return draw(
        st.sampled_from(
            [
                L1(c),
                L1(c, positive=True),
                L2(c),
                ElasticNet(c, b),
                MCP(c, 3.0),
                SCAD(c, 3.7),
                GroupLasso(c, axis=axis),
                SparseGroupLasso(c, b, axis=axis),
                TotalVariation(c),
                NuclearNorm(c),
                constraint(onto_box),
            ]
        )
    )


def choice(params: Any, seed: int) -> Any:
    """A mask: of the structure of the parameters, holes too."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda _: bool(rng.random() < 0.6), params)


@st.composite
def penalties(draw: Any, params: Any) -> Penalty:
    penalty = draw(bare_penalties())
    seed = draw(st.integers(0, 3))
    kind = draw(
        st.sampled_from(["bare", "masked", "function", "partition", "centered", "tree"])
    )
    if kind == "masked":
        return masked(penalty, choice(params, seed))
    if kind == "function":
        return masked(penalty, lambda tree: choice(tree, seed))
    if kind == "partition":
        labels = jax.tree.map(lambda x: "ab"[x], choice(params, seed))
        return partition({"a": penalty, "b": draw(bare_penalties())}, labels)
    if kind == "centered":
        return centered(penalty, params)
    if kind == "tree" and jax.tree.leaves(params):  # `L1(None)` is refused at once.
        return L1(jax.tree.map(lambda _: 0.1 * seed, params))
    return penalty


# Transformations, and what goes around and within them.

OPTIMIZERS = {
    "sgd": lambda: optax.sgd(RATE),
    "momentum": lambda: optax.sgd(RATE, momentum=0.9),
    "adam": lambda: optax.adam(RATE),
    "clipped": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(RATE)),
    "injected": lambda: optax.inject_hyperparams(optax.sgd)(learning_rate=RATE),
    "masked": lambda: optax.masked(optax.sgd(RATE), lambda p: choice(p, 1)),
    "identity": lambda: optax.identity(),
}
WAYS = {
    "gradient": lambda o, p: optax.chain(add_penalty_gradient(p), o),
    "step": lambda o, p: optax.chain(o, proximal_step(p, RATE)),
    "found": proximal,
    "given": lambda o, p: proximal(o, p, threshold=RATE),
    "scheduled": lambda o, p: proximal(o, lambda step: p, threshold=lambda step: RATE),
}
AROUND = {
    "nothing": lambda t: t,
    "MultiSteps": lambda t: optax.MultiSteps(t, 2).gradient_transformation(),
    "apply_if_finite": lambda t: optax.apply_if_finite(t, 3),
    "chain": lambda t: optax.chain(optax.identity(), optax.chain(t)),
    "named_chain": lambda t: optax.named_chain(("only", t)),
    "masked": lambda t: optax.masked(t, lambda p: jax.tree.map(lambda _: True, p)),
    "partition": lambda t: optax.partition(
        {"x": t}, lambda p: jax.tree.map(lambda _: "x", p)
    ),
    "frozen": freeze_zeros,
}


@st.composite
def cases(draw: Any) -> Any:
    params = draw(trees | trees | trees | st.tuples(trees, odd))
    penalty = draw(penalties(params))
    inner, way = draw(st.sampled_from([*OPTIMIZERS])), draw(st.sampled_from([*WAYS]))
    around = draw(st.lists(st.sampled_from([*AROUND]), max_size=2))
    optimizer = WAYS[way](OPTIMIZERS[inner](), penalty)
    for name in around:
        optimizer = AROUND[name](optimizer)
    return params, penalty, optimizer, (inner, way, *around)


PATH = re.compile(r"\[|the root|leaf|`params`|strength|parameter")


def alike(a: Any, b: Any) -> bool:
    """Of the same structure, shapes and dtypes."""
    kinds = [
        jax.tree.map(lambda x: (np.shape(x), jnp.asarray(x).dtype), t) for t in (a, b)
    ]
    return kinds[0] == kinds[1]


def gradients(params: Any, step: int) -> Any:
    """Some above every strength, some below, and with signs that change."""

    def of_leaf(x: jax.Array) -> jax.Array:
        g = (1 - 0.5 * step) * np.resize([0.2, -8.0, 0.01, 0.0], x.shape)
        return jnp.asarray(g, x.dtype)

    return jax.tree.map(of_leaf, params)


def all_finite(tree: Any) -> bool:
    return all(
        np.all(np.isfinite(np.asarray(x, complex))) for x in jax.tree.leaves(tree)
    )


def works_without(params: Any, names: tuple[str, ...]) -> bool:
    """Whether Optax alone takes these parameters, so that an error would be ours."""
    inner, _, *around = names
    optimizer = OPTIMIZERS[inner]()
    for name in around:
        optimizer = AROUND[name](optimizer)
    try:
        first = state = optimizer.init(params)
        for step in range(2):
            updates, state = optimizer.update(gradients(params, step), state, params)
            optax.apply_updates(params, updates)
        return alike(first, state) and all_finite((updates, state))
    except (TypeError, ValueError, DeprecationWarning, AttributeError):
        return False


def parts(tree: Any) -> np.ndarray:
    """All real and imaginary parts, one after the other."""
    flat = [np.ravel(np.asarray(x, np.complex128)) for x in jax.tree.leaves(tree)]
    joined = np.concatenate([*flat, np.zeros(0, complex)])
    return np.concatenate([joined.real, joined.imag])


def look(params: Any, penalty: Penalty, optimizer: Any, names: Any) -> None:
    """Three steps, and what holds after each."""
    value = penalty.value(params)
    assert np.shape(value) == () and np.asarray(value).dtype.kind == "f"
    assert alike(penalty.gradient(params), params)
    assert alike(penalty.prox(params, 0.1), params)
    assert stationarity(penalty, params, gradients(params, 0)) >= 0
    state = optimizer.init(params)
    for step in range(3):
        updates, new = optimizer.update(gradients(params, step), state, params)
        moved = optax.apply_updates(params, updates)
        assert alike(moved, params), "another dtype or structure"
        assert alike(new, state), "the state is not stable"
        assert all_finite(moved) and all_finite(new)
        before, after = parts(params), parts(moved)
        if not re.search("NuclearNorm|Centered", repr(penalty)):
            nearly = (after != 0) & (np.abs(after) < 1e-9)
            assert not np.any(nearly & (np.abs(before) >= 1e-9)), "a zero is not exact"
        if names == ("sgd", "step") and step == 0:
            check_prox(params, penalty, moved)
        params, state = moved, new
    sparsity(params)


def check_prox(params: Any, penalty: Penalty, moved: Any) -> None:
    """SGD and a proximal step are ISTA."""

    # (`apply_updates`: it takes leaves of bools too, which a mask leaves out.)
    steps = jax.tree.map(lambda g: -RATE * g, gradients(params, 0))
    expected = penalty.prox(optax.apply_updates(params, steps), RATE)
    wide = all(x.dtype.itemsize >= 4 for x in jax.tree.leaves(params))
    if wide and "NuclearNorm" not in repr(penalty):
        np.testing.assert_allclose(parts(moved), parts(expected), rtol=0, atol=1e-5)
        np.testing.assert_array_equal(parts(moved) == 0, parts(expected) == 0)


def attempt(params: Any, penalty: Penalty, optimizer: Any, names: Any) -> bool:
    """Whether it was taken; if not, the error is of a documented kind."""
    if not works_without(params, names):
        return False
    try:
        look(params, penalty, optimizer, names)
    except (TypeError, ValueError) as error:
        if type(error) not in (TypeError, ValueError) or not PATH.search(str(error)):
            raise
        return False
    return True


taken = []


@hypothesis.settings(max_examples=MANY or 15, derandomize=not MANY, database=None)
@hypothesis.given(case=cases())
def test_what_is_taken_keeps_what_is_promised(case):
    taken.append(attempt(*case))


def test_most_was_taken():
    """So that the test above is not passed by refusing all."""
    if not taken:
        test_what_is_taken_keeps_what_is_promised()
    assert np.mean(taken) > 0.4
