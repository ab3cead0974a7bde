"""Bad input: a clear error before anything is computed, and good input gives none."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optareg import (
    L1,
    L2,
    ElasticNet,
    by_path,
    masked,
    partition,
    proximal,
    proximal_step,
    sparsity,
    summarize,
)
from training import BARE_WAYS as WAYS

PARAMS = {"Dense_0": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}
GRADIENT = jax.tree.map(jnp.ones_like, PARAMS)
KERNEL = re.escape("['Dense_0']['kernel']")
BIAS = re.escape("['Dense_0']['bias']")
NAN, INF = float("nan"), float("inf")

every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())


def with_leaf(**leaves):
    return {"Dense_0": {**PARAMS["Dense_0"], **leaves}}


def raises(error, *words):
    """Expects `error` whose message has all of the regular expressions `words`."""
    return pytest.raises(error, match="".join(f"(?=(?s:.*){word})" for word in words))


# Strengths: by the constructors.

BAD_NUMBERS = {
    "negative": (-0.5, ValueError, "-0.5"),
    "negative-int": (-1, ValueError, "-1"),
    "negative-array": (jnp.array([0.5, -2.0]), ValueError, "-2.0"),
    "negative-numpy": (np.float32(-0.5), ValueError, "-0.5"),
    "nan": (NAN, ValueError, "nan"),
    "nan-array": (np.array([1.0, NAN]), ValueError, "nan"),
    "infinite": (INF, ValueError, "inf"),
    "string": ("0.1", TypeError, "'0.1'"),
    "none": (None, TypeError, "None"),
    "bool": (True, TypeError, "True"),
    "bool-array": (np.array([True]), TypeError, "True"),
    "complex": (1j, TypeError, "1j"),
    "complex-array": (jnp.array([1j]), TypeError, "complex"),
    "strings": (np.array(["a", "b"]), TypeError, "'a'"),
    "object": (object(), TypeError, "object"),
    "schedule": (optax.constant_schedule(0.1), TypeError, "function"),
}
bad_numbers = pytest.mark.parametrize(
    ("value", "error", "given"), BAD_NUMBERS.values(), ids=BAD_NUMBERS.keys()
)

CONSTRUCTORS = {
    "L1": (L1, "`strength` of L1"),
    "L2": (L2, "`strength` of L2"),
    "ElasticNet-l1": (lambda x: ElasticNet(x, 0.1), "`l1` of ElasticNet"),
    "ElasticNet-l2": (lambda x: ElasticNet(0.1, l2=x), "`l2` of ElasticNet"),
    "L1.from_sklearn": (L1.from_sklearn, "L1"),
    "L2.from_weight_decay": (L2.from_weight_decay, "`weight_decay`"),
    "from_sklearn-alpha": (lambda x: ElasticNet.from_sklearn(x, 0.5), "`alpha`"),
    "from_sklearn-ratio": (lambda x: ElasticNet.from_sklearn(1, x), "`l1_ratio`"),
    "from_glmnet-lambda": (lambda x: ElasticNet.from_glmnet(x, 0.5), "`lambda_`"),
    "from_glmnet-alpha": (lambda x: ElasticNet.from_glmnet(1, x), "`alpha`"),
    "from_jaxopt-lam": (lambda x: ElasticNet.from_jaxopt(x, 0.5), "`lam`"),
    "from_jaxopt-gamma": (lambda x: ElasticNet.from_jaxopt(1, x), "`gamma`"),
}


@bad_numbers
@pytest.mark.parametrize(
    ("make", "name"), CONSTRUCTORS.values(), ids=CONSTRUCTORS.keys()
)
def test_a_bad_strength_is_refused_by_name(make, name, value, error, given):
    expected = "must be finite and at least 0" if error is ValueError else "real number"
    with raises(error, re.escape(name), expected, re.escape(given)):
        make(value)


@bad_numbers
@pytest.mark.parametrize("penalty", [L1, L2, lambda x: ElasticNet(x, 0.1)])
def test_a_bad_strength_in_a_tree_is_refused_with_its_path(
    penalty, value, error, given
):
    with raises(error, BIAS, re.escape(given)):
        made = penalty({"Dense_0": {"kernel": 0.1, "bias": value}})
        # None is a masked leaf, if the parameters have one there.
        made.value({"Dense_0": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}})


@pytest.mark.parametrize("ratio", [1.1, 2, np.array([0.5, 1.5])])
def test_a_ratio_above_one_is_refused(ratio):
    with raises(ValueError, "`l1_ratio`", "at most 1"):
        ElasticNet.from_sklearn(1.0, ratio)
    with raises(ValueError, "`alpha`", "at most 1"):
        ElasticNet.from_glmnet(1.0, ratio)


def test_a_bad_strength_in_a_list_is_refused_with_its_index():
    with raises(TypeError, re.escape("[1]"), "'b'", "real number"):
        L1([0.1, "b"])


# Trees that do not fit: at `value`, `gradient`, `prox`, and at `init` of every way.

TREES = {
    "missing key": (L1({"Dense_0": {"kernel": 0.1}}), "`strength` of L1", BIAS),
    "extra key": (
        L1({"Dense_0": {"kernel": 0.1, "bias": 0.1, "scale": 0.1}}),
        "`strength` of L1",
        re.escape("['Dense_0']['scale']"),
    ),
    "misspelt key": (L2({"Dense_1": 0.1}), "`strength` of L2", "Dense_1"),
    "list for dict": (L1([0.1, 0.2]), "`strength` of L1", re.escape("[0]")),
    "deeper than the parameters": (
        ElasticNet({"Dense_0": {"kernel": {"a": 0.1}, "bias": 0.1}}, 0.1),
        "`l1` of ElasticNet",
        KERNEL,
    ),
    "second field": (
        ElasticNet(0.1, {"Dense_0": {"bias": 0.1}}),
        "`l2` of ElasticNet",
        KERNEL,
    ),
    "wrong shape": (
        L1({"Dense_0": {"kernel": np.ones((3, 2)), "bias": 0.1}}),
        re.escape("(3, 2)"),
        re.escape("(2, 3)"),
        KERNEL,
    ),
    "sweep without vmap": (
        L1(jnp.ones(32)),
        re.escape("(32,)"),
        "jax.vmap",
        BIAS,
    ),
    "larger than the leaf": (
        ElasticNet(0.1, {"Dense_0": {"kernel": 0.1, "bias": np.ones((2, 3))}}),
        "`l2` of ElasticNet",
        re.escape("(2, 3)"),
        re.escape("(3,)"),
        BIAS,
    ),
    "mask with a missing key": (masked(L1(0.1), {"Dense_0": {"bias": True}}), KERNEL),
    "mask with an extra key": (
        masked(L1(0.1), {"Dense_0": True, "Dense_1": False}),
        "the mask",
        "Dense_1",
    ),
    "mask of another container": (masked(L1(0.1), (True,)), "the mask"),
    "mask function of another tree": (
        masked(L1(0.1), lambda _: {"Dense_1": True}),
        "the mask",
        "Dense_1",
    ),
    "labels with a missing key": (
        partition({"a": L1(0.1)}, {"Dense_0": {"kernel": "a"}}),
        "the labels",
        BIAS,
    ),
    "labels of another container": (
        partition({"a": L1(0.1)}, ["a"]),
        "the labels",
    ),
    "label function without a penalty": (
        partition({"a": L1(0.1)}, lambda p: jax.tree.map(lambda _: "b", p)),
        "'b'",
        "no penalty",
        "'a'",
        BIAS,
    ),
}


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("method", ["value", "gradient", "prox"])
def test_a_tree_that_does_not_fit_is_refused_by_the_penalty(method, name):
    penalty, *words = TREES[name]
    more = (0.1,) if method == "prox" else ()
    with raises(ValueError, *words):
        getattr(penalty, method)(PARAMS, *more)
    with raises(ValueError, *words):
        jax.jit(getattr(penalty, method))(PARAMS, *more)


@pytest.mark.parametrize("scheduled", [False, True], ids=["", "schedule"])
@pytest.mark.parametrize("name", TREES)
@every_way
def test_a_tree_that_does_not_fit_is_refused_at_init(way, name, scheduled):
    penalty, *words = TREES[name]
    transformation = way((lambda step: penalty) if scheduled else penalty)
    with raises(ValueError, *words):
        transformation.init(PARAMS)
    with raises(ValueError, *words):
        jax.jit(transformation.init)(PARAMS)


@pytest.mark.parametrize("name", TREES)
@every_way
def test_a_tree_that_does_not_fit_is_refused_at_update(way, name):
    """Where the state came from another run, so that `init` had no say."""
    penalty, *words = TREES[name]
    state = way(L1(0.1)).init(PARAMS)
    for update in (way(penalty).update, jax.jit(way(penalty).update)):
        with raises(ValueError, *words):
            update(GRADIENT, state, PARAMS)


# Masks, labels, regular expressions: at construction where that can be seen.


@pytest.mark.parametrize(
    ("entry", "given"),
    [
        (1, "1"),
        (0.0, "0.0"),
        ("kernel", "'kernel'"),
        (jnp.array(True), "Array"),
        (np.array([True, False, True]), "array"),
    ],
    ids=["int", "float", "string", "scalar-array", "array"],
)
def test_a_mask_that_is_not_of_bools_is_refused(entry, given):
    mask = {"Dense_0": {"kernel": True, "bias": entry}}
    with raises(TypeError, "the mask", "True or False", BIAS, re.escape(given)):
        masked(L1(0.1), mask)
    by_function = masked(L1(0.1), lambda _: mask)
    for way in WAYS.values():
        with raises(TypeError, "the mask", "True or False", BIAS, re.escape(given)):
            way(by_function).init(PARAMS)


@pytest.mark.parametrize("hole", [None, optax.MaskedNode()])
@every_way
def test_a_mask_with_none_at_a_parameter_is_refused(way, hole):
    mask = {"Dense_0": {"kernel": True, "bias": hole}}
    with raises(TypeError, "the mask", "True or False", BIAS):
        way(masked(L1(0.1), mask)).init(PARAMS)


def test_a_label_without_a_penalty_is_refused():
    with raises(ValueError, "'b'", "no penalty", "'a'", BIAS, "None"):
        partition({"a": L1(0.1)}, {"Dense_0": {"kernel": "a", "bias": "b"}})


def test_an_unhashable_label_is_refused():
    with raises(TypeError, "not hashable", BIAS):
        partition({"a": L1(0.1)}, {"Dense_0": {"kernel": "a", "bias": {1}}})
    labels = {"Dense_0": {"kernel": "a", "bias": {1}}}
    with raises(TypeError, "not hashable", BIAS):
        partition({"a": L1(0.1)}, lambda _: labels).value(PARAMS)


@pytest.mark.parametrize(
    ("penalties", "words"),
    [
        ([L1(0.1)], ["`partition`", "mapping", "L1"]),
        (L1(0.1), ["`partition`", "mapping", "L1"]),
        ({"a": 0.1}, ["`partition`", "`a`", "penalty", "0.1"]),
        ({"a": L1}, ["`partition`", "`a`", "penalty", "L1\\("]),
        ({"a": optax.sgd(0.1)}, ["`partition`", "`a`", "penalty"]),
        ({"a": lambda step: L1(step)}, ["`partition`", "`a`", "schedule"]),
    ],
    ids=["list", "penalty", "number", "class", "optimizer", "schedule"],
)
def test_partition_refuses_what_is_no_mapping_to_penalties(penalties, words):
    with raises(TypeError, *words):
        partition(penalties, "a")


@pytest.mark.parametrize("regex", ["(", "[a", "*", "(?P<n>a)(?P<n>b)"])
def test_an_invalid_regex_is_refused(regex):
    with raises(ValueError, "`regex` is not valid", re.escape(repr(regex))):
        by_path(regex)


@pytest.mark.parametrize("regex", [None, 3, ["kernel"], b"kernel", re.compile("a")])
def test_a_regex_that_is_no_string_is_refused(regex):
    with raises(TypeError, "`regex` must be a string", re.escape(repr(regex))):
        by_path(regex)


# Arguments of the wrong kind.

NOT_PENALTIES = {
    "number": (0.1, ["0.1", r"L1\(1e-3\)"]),
    "array": (jnp.ones(3), [r"L1\(1e-3\)"]),
    "none": (None, ["None"]),
    "string": ("l1", ["'l1'"]),
    "class": (L1, [r"`L1\(1e-3\)`"]),
    "class-ElasticNet": (ElasticNet, ["ElasticNet"]),
    "optimizer": (optax.sgd(0.1), ["swapped"]),
    "dict": ({"kernel": L1(0.1)}, ["kernel"]),
}


@pytest.mark.parametrize(
    ("thing", "words"), NOT_PENALTIES.values(), ids=NOT_PENALTIES.keys()
)
@pytest.mark.parametrize("where", [*WAYS, "masked"])
def test_what_is_no_penalty_is_refused(where, thing, words):
    make = {**WAYS, "masked": lambda penalty: masked(penalty, True)}[where]
    with raises(TypeError, f"`{where}` needs a penalty", *words):
        make(thing)


def test_a_schedule_within_masked_is_refused_with_a_way_out():
    with raises(TypeError, "`masked` needs a penalty", "lambda step: masked"):
        masked(lambda step: L1(0.1), True)


@pytest.mark.parametrize(
    "schedule",
    [
        optax.constant_schedule(0.1),
        lambda step: None,
        lambda step: L1,
        lambda step: optax.sgd(0.1),
    ],
    ids=["float", "None", "class", "optimizer"],
)
@every_way
def test_a_schedule_that_gives_no_penalty_is_refused_at_init(way, schedule):
    with raises(TypeError, "penalty schedule", "step -> penalty", "got"):
        way(schedule).init(PARAMS)


@every_way
def test_a_schedule_that_gives_a_bad_strength_is_refused(way):
    with raises(ValueError, "`strength` of L1", "-0.5"):
        way(lambda step: L1(-0.5)).init(PARAMS)


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        (optax.adam, ["Call it first", "adam"]),
        (L1(0.1), ["swapped"]),
        (None, ["None"]),
        (0.1, ["0.1"]),
        ("adam", ["'adam'"]),
        (optax.constant_schedule(0.1), ["Call it first|schedule"]),
        (optax.sgd(0.1).init(PARAMS), ["EmptyState"]),
    ],
    ids=["factory", "penalty", "None", "number", "string", "schedule", "state"],
)
def test_what_is_no_optimizer_is_refused(thing, words):
    penalty = L1(0.1)
    with raises(TypeError, "`proximal` needs an optimizer", "first argument", *words):
        proximal(thing, penalty)


def test_swapped_arguments_are_named():
    with raises(TypeError, "`proximal` needs an optimizer", "swapped"):
        proximal(L1(0.1), optax.sgd(0.1))
    with raises(TypeError, "`proximal_step` needs a penalty"):
        proximal_step(0.1, L1(0.1))
    with raises(TypeError, "`learning_rate`", "real number"):
        proximal_step(L1(0.1), optax.sgd(0.1))


def test_the_threshold_is_given_by_name():
    with raises(TypeError, "positional"):
        proximal(optax.sgd(0.1), L1(0.1), 0.01)


POSITIVE = {
    "zero": (0, ValueError, "above 0"),
    "zero-float": (0.0, ValueError, "above 0"),
    "zero-array": (jnp.zeros(()), ValueError, "above 0"),
    "vector": (jnp.ones(3), ValueError, re.escape("(3,)")),
    **{
        name: (value, error, re.escape(given))
        for name, (value, error, given) in BAD_NUMBERS.items()
        if "array" not in name and name not in ("strings", "schedule", "none")
    },
}


@pytest.mark.parametrize(
    ("value", "error", "words"), POSITIVE.values(), ids=POSITIVE.keys()
)
def test_a_bad_threshold_is_refused(value, error, words):
    with raises(error, "`threshold`", words):
        proximal(optax.sgd(0.1), L1(0.1), threshold=value)


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [case for name, case in POSITIVE.items() if not name.startswith("zero")],
    ids=[name for name in POSITIVE if not name.startswith("zero")],
)
def test_a_bad_learning_rate_is_refused(value, error, words):
    with raises(error, "`learning_rate`", words):
        proximal_step(L1(0.1), value)
    with raises(error, "`step`", words):
        L1(0.1).prox(PARAMS, value)


@pytest.mark.parametrize("value", [-1.0, NAN, INF, jnp.ones(2), "a", None])
def test_a_schedule_of_bad_numbers_is_refused_at_its_step(value):
    error = TypeError if isinstance(value, str | None) else ValueError
    step = proximal_step(L1(0.1), lambda step: value)
    with raises(error, "`learning_rate` at step 0"):
        step.update(GRADIENT, step.init(PARAMS), PARAMS)
    whole = proximal(optax.sgd(0.1), L1(0.1), threshold=lambda step: value)
    with raises(error, "`threshold` at step 0"):
        whole.update(GRADIENT, whole.init(PARAMS), PARAMS)


@pytest.mark.parametrize("value", [jnp.ones(2), "a", None], ids=["vector", "str", "-"])
def test_a_schedule_of_no_scalars_is_refused_under_jit_too(value):
    error = TypeError if isinstance(value, str | None) else ValueError
    step = proximal_step(L1(0.1), lambda step: value)
    with raises(error, "`learning_rate`"):
        jax.jit(step.update)(GRADIENT, step.init(PARAMS), PARAMS)
    whole = proximal(optax.sgd(0.1), L1(0.1), threshold=lambda step: value)
    with raises(error, "`threshold`"):
        jax.jit(whole.update)(GRADIENT, whole.init(PARAMS), PARAMS)


# Parameters and updates.


@pytest.mark.parametrize(
    "leaf",
    [jnp.arange(3), jnp.ones(3, bool), jnp.ones(3, jnp.uint8), 3, True],
    ids=["int", "bool", "uint8", "python-int", "python-bool"],
)
@every_way
def test_an_integer_or_bool_parameter_is_refused_with_its_path(way, leaf):
    params = with_leaf(bias=leaf)
    dtype = str(jnp.asarray(leaf).dtype)
    with raises(TypeError, BIAS, dtype, "floating", "`masked`"):
        way(L1(0.1)).init(params)
    with raises(TypeError, BIAS, dtype, "floating", "`masked`"):
        L2(0.1).value(params)
    # Left out by a mask it is no one's business.
    state = way(masked(L1(0.1), by_path("kernel"))).init(params)
    update = jax.jit(way(masked(L1(0.1), by_path("kernel"))).update)
    gradient = {"Dense_0": {**GRADIENT["Dense_0"], "bias": jnp.zeros(jnp.shape(leaf))}}
    updates, _ = update(gradient, state, params)
    assert updates["Dense_0"]["kernel"].dtype == jnp.float32


@every_way
def test_updates_of_another_shape_are_refused(way):
    transformation = way(L1(0.1))
    updates = {"Dense_0": {**GRADIENT["Dense_0"], "bias": jnp.zeros((3, 1))}}
    with raises(ValueError, BIAS, "`updates`", r"\(3, 1\)", r"\(3,\)"):
        transformation.update(updates, transformation.init(PARAMS), PARAMS)


def test_a_string_as_a_mask_is_told_of_by_path():
    with raises(TypeError, "'kernel'", "by_path"):
        masked(L1(0.1), "kernel")


@pytest.mark.parametrize(
    "leaf", ["weights", object(), {1.0}], ids=["str", "obj", "set"]
)
@every_way
def test_a_parameter_that_is_no_array_is_refused_with_its_path(way, leaf):
    with raises(TypeError, BIAS, "must be an array"):
        way(L1(0.1)).init(with_leaf(bias=leaf))


@pytest.mark.parametrize("name", WAYS)
def test_missing_parameters_are_asked_for(name):
    transformation = WAYS[name](L1(0.1))
    state = transformation.init(PARAMS)
    message = f"`{name}` needs the parameters", re.escape("(updates, state, params)")
    with raises(ValueError, *message):
        transformation.update(GRADIENT, state)
    with raises(ValueError, *message):
        jax.jit(transformation.update)(GRADIENT, state)
    # Within a chain too.
    chain = optax.chain(transformation, optax.scale(1.0))
    with raises(ValueError, *message):
        chain.update(GRADIENT, chain.init(PARAMS))


UPDATES = {
    "missing key": ({"Dense_0": {"kernel": jnp.ones((2, 3))}}, BIAS),
    "extra key": (with_leaf(scale=jnp.ones(3)), "scale"),
    "other key": ({"Dense_1": GRADIENT["Dense_0"]}, "Dense_1"),
    "list": ([jnp.ones((2, 3)), jnp.ones(3)], re.escape("[0]")),
    "array": (jnp.ones(3), "the root"),
    "branch": ({"Dense_0": jnp.ones(3)}, re.escape("['Dense_0'] of")),
    "tuple": ((GRADIENT,), re.escape("[0]")),
}


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("name", UPDATES)
@every_way
def test_updates_of_another_structure_are_refused(way, name, jit):
    updates, path = UPDATES[name]
    transformation = way(L1(0.1))
    update = jax.jit(transformation.update) if jit else transformation.update
    state = transformation.init(PARAMS)
    with raises(ValueError, "`updates`", "structure of the parameters", path):
        update(updates, state, PARAMS)


def test_a_state_of_other_parameters_is_refused():
    optimizer = proximal(optax.sgd(0.1), L1(0.1))
    state = optimizer.init({"Dense_1": jnp.ones(3)})
    for update in (optimizer.update, jax.jit(optimizer.update)):
        with raises(ValueError, "state of `proximal`", "Dense_1"):
            update(GRADIENT, state, PARAMS)


def test_summarize_refuses_traced_parameters():
    with raises(TypeError, "`summarize`", "concrete", "`sparsity`"):
        jax.jit(lambda params: summarize(params).total.zeros)(PARAMS)
    assert jax.jit(sparsity)(PARAMS) == 0


# Good input: none of these raises.

GOOD_STRENGTHS = {
    "zero": 0,
    "int": 2,
    "float": 0.5,
    "numpy-float32": np.float32(0.5),
    "numpy-float64": np.float64(0.5),
    "numpy-int": np.int64(1),
    "numpy-0d": np.array(0.5),
    "jax-0d": jnp.array(0.5),
    "jax-int": jnp.array(1),
    "bfloat16": jnp.array(0.5, jnp.bfloat16),
    "broadcast": jnp.ones(3),
    "broadcast-ones": np.ones((1,)),
    "prefix": {"Dense_0": 0.5},
    "tree": {"Dense_0": {"kernel": np.ones((2, 1)), "bias": jnp.zeros(3)}},
    "none": {"Dense_0": {"kernel": 0, "bias": 0}},
}


@pytest.mark.parametrize("name", GOOD_STRENGTHS)
@every_way
def test_every_kind_of_strength_is_taken(way, name):
    strength = GOOD_STRENGTHS[name]
    for penalty in (L1(strength), L2(strength), ElasticNet(strength, 0.1)):
        transformation = way(penalty)
        state = transformation.init(PARAMS)
        updates, _ = transformation.update(GRADIENT, state, PARAMS)
        assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, PARAMS)
        assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(updates))


@every_way
def test_traced_strengths_are_not_checked(way):
    """Bad ones too: under `jit` their values are not known."""

    @functools.partial(jax.jit, static_argnames="make")
    def value(make, x):
        penalty = make(x)
        transformation = way(penalty)
        updates, _ = transformation.update(
            GRADIENT, transformation.init(PARAMS), PARAMS
        )
        return penalty.value(PARAMS), updates

    for make in (L1, L2, lambda x: ElasticNet(x, x), L2.from_weight_decay):
        for x in (0.5, 0.0, -0.5, NAN):
            value(make, x)


@pytest.mark.parametrize("value", [1e-6, 1, np.float32(0.1), jnp.array(0.1)])
def test_good_thresholds_and_learning_rates_are_taken(value):
    proximal(optax.sgd(0.1), L1(0.1), threshold=value).init(PARAMS)
    proximal_step(L1(0.1), value).init(PARAMS)
    jax.jit(lambda t: proximal(optax.sgd(0.1), L1(0.1), threshold=t).init(PARAMS))(
        value
    )


@pytest.mark.parametrize("value", [0, 0.0, jnp.array(0.0), lambda step: 0.0])
def test_a_learning_rate_of_zero_is_taken(value):
    """Warm-ups start there."""
    step = proximal_step(L1(0.1), value)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = step.update(zeros, step.init(PARAMS), PARAMS)
    assert not any(jnp.any(u) for u in jax.tree.leaves(updates))


@pytest.mark.parametrize("params", [{}, None, {"a": None}, (), jnp.ones((0, 3))])
@pytest.mark.parametrize("penalty", [L1(0.1), ElasticNet(0.1, 0.1)])
@every_way
def test_nothing_to_penalise_is_fine(way, penalty, params):
    assert penalty.value(params) == 0
    if params is not None:
        transformation = way(penalty)
        state = transformation.init(params)
        updates, _ = transformation.update(params, state, params)
        assert jax.tree.structure(updates) == jax.tree.structure(params)
