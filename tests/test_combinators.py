"""`masked`, `partition` and `by_path`: penalties themselves, on the chosen leaves."""

import dataclasses
import re
from typing import Any

import flax.struct
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optareg import (
    L1,
    L2,
    ElasticNet,
    GroupLasso,
    add_penalty_gradient,
    by_path,
    joined,
    masked,
    partition,
    proximal,
    proximal_step,
    stationarity,
    target_sparsity,
)
from training import BARE_WAYS

PARAMS = {
    "Dense_0": {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.full(3, 2.0)},
    "norm": {"scale": jnp.full(3, 2.0)},
    "Dense_1": {"kernel": jnp.full((3, 1), -2.0), "bias": jnp.full(1, -2.0)},
}
KERNELS = {
    "Dense_0": {"kernel": True, "bias": False},
    "norm": False,
    "Dense_1": {"kernel": True, "bias": False},
}


def chosen(gradient):
    """Which leaves of a gradient are not zero."""
    return jax.tree.map(lambda g: bool(jnp.any(g != 0)), gradient)


MASKS = {
    "tree": KERNELS,
    "function": lambda params: jax.tree.map(lambda x: x.ndim == 2, params),
    "path": by_path("kernel"),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_masked_is_the_penalty_of_the_chosen_leaves(mask):
    penalty = masked(ElasticNet(0.3, 0.1), mask)
    kernels = [PARAMS["Dense_0"]["kernel"], PARAMS["Dense_1"]["kernel"]]
    np.testing.assert_allclose(
        penalty.value(PARAMS), ElasticNet(0.3, 0.1).value(kernels), rtol=1e-6
    )
    expected = by_path("kernel")(PARAMS)
    assert chosen(penalty.gradient(PARAMS)) == expected
    moved = jax.tree.map(lambda x, y: x - y, penalty.prox(PARAMS, 1.0), PARAMS)
    assert chosen(moved) == expected


def test_partition_is_the_sum_of_its_parts():
    labels = {"Dense_0": "sparse", "norm": "free", "Dense_1": "small"}
    penalty = partition({"sparse": L1(0.5), "small": L2(0.25), "free": None}, labels)
    gradient = penalty.gradient(PARAMS)
    np.testing.assert_array_equal(gradient["Dense_0"]["bias"], np.full(3, 0.5))
    np.testing.assert_array_equal(gradient["norm"]["scale"], np.zeros(3))
    np.testing.assert_array_equal(gradient["Dense_1"]["kernel"], np.full((3, 1), -1.0))
    assert penalty.value(PARAMS) == 0.5 * 18 + 0.25 * 16


def test_partition_takes_a_function_and_any_labels():
    def labels(params):
        return jax.tree.map(lambda x: x.ndim + 1000, params)  # Equal, not identical.

    penalty = partition({1001: L2(1.0), 1002: L1(1.0)}, labels)
    by_hand = masked(L1(1.0), MASKS["function"]).value(PARAMS) + masked(
        L2(1.0), lambda p: jax.tree.map(lambda x: x.ndim == 1, p)
    ).value(PARAMS)
    assert penalty.value(PARAMS) == by_hand


def test_combinators_nest():
    inner = masked(L1(1.0), by_path("Dense"))
    both = masked(inner, by_path("kernel|scale"))
    assert chosen(both.gradient(PARAMS)) == by_path("Dense.*kernel")(PARAMS)
    parts = partition({True: both, False: L2(1.0)}, by_path("kernel|scale"))
    assert chosen(parts.gradient(PARAMS)) == by_path("kernel|bias")(PARAMS)


def test_a_strength_tree_may_leave_nothing_out():
    strength = {"Dense_0": {"kernel": 1.0, "bias": 9.0}, "norm": 9.0, "Dense_1": 3.0}
    gradient = masked(L1(strength), by_path("kernel")).gradient(PARAMS)
    np.testing.assert_array_equal(gradient["Dense_0"]["kernel"], np.ones((2, 3)))
    np.testing.assert_array_equal(gradient["Dense_0"]["bias"], np.zeros(3))
    np.testing.assert_array_equal(gradient["Dense_1"]["kernel"], np.full((3, 1), -3.0))


def test_unpenalised_integer_leaves_are_left_alone():
    params = {"kernel": jnp.ones(3), "steps": jnp.arange(3)}
    x = masked(L1(0.5), by_path("kernel")).prox(params, 1.0)
    np.testing.assert_array_equal(x["steps"], params["steps"])
    assert x["steps"].dtype == params["steps"].dtype


def test_combinators_pass_through_jit_and_vmap_without_a_second_trace():
    traces = 0

    @jax.jit
    def value(penalty):
        nonlocal traces
        traces += 1
        return penalty.value(PARAMS)

    def penalty(strength):
        return partition(
            {"a": masked(L1(strength), by_path("kernel")), "b": L2(strength)},
            {"Dense_0": "a", "norm": "b", "Dense_1": "a"},
        )

    assert value(penalty(1.0)) == 18 + 12
    assert value(penalty(2.0)) == 36 + 24
    assert traces == 1
    swept = jax.vmap(value)(penalty(jnp.array([1.0, 2.0, 3.0])))
    np.testing.assert_array_equal(swept, [30, 60, 90])


def test_nothing_is_stored_for_leaves_left_out():
    optimizer = proximal(optax.sgd(0.1), masked(L1(0.1), by_path("kernel")))
    state = optimizer.init(PARAMS)
    shapes = [x.shape for x in jax.tree.leaves(state.subgradient)]
    assert shapes == [(2, 3), (3, 1)]
    assert (
        jax.tree.leaves(proximal(optax.sgd(0.1), L2(0.1)).init(PARAMS).subgradient)
        == []
    )


@pytest.mark.filterwarnings("ignore:Possible set:FutureWarning")  # By `re.compile`.
@hypothesis.given(st.from_regex(r"[a-zA-Z0-9_\[\]'.|]{1,6}"))
def test_by_path_is_a_search_in_the_key_path(regex):
    try:
        re.compile(regex)
    except re.error:
        with pytest.raises(ValueError, match="not valid"):
            by_path(regex)
        return
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(PARAMS)]
    found = [re.search(regex, jax.tree_util.keystr(path)) is not None for path in paths]
    if any(found):
        assert jax.tree.leaves(by_path(regex)(PARAMS)) == found
    else:
        with pytest.raises(ValueError, match="found in no key path"):
            by_path(regex)(PARAMS)


def test_masks_see_holes_as_optax_makes_them():
    """Within `optax.masked` the parameters have holes; the mask function sees them."""
    inner = proximal(optax.sgd(0.5), masked(L1(1.0), by_path("kernel")))
    optimizer = optax.masked(inner, by_path("Dense_0"))
    state = optimizer.init(PARAMS)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = optimizer.update(zeros, state, PARAMS)
    assert chosen(updates) == by_path("Dense_0.*kernel")(PARAMS)


def raises(error, *words):
    """Expects `error` whose message has all of `words`."""
    found = "".join(f"(?=(?s:.*){re.escape(word)})" for word in words)
    return pytest.raises(error, match=found)


# What is a function, and what is a tree that can be called.


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Module:
    """A model as Equinox has them: a pytree with a `__call__`."""

    weight: Any
    bias: Any

    def __call__(self, x):
        return self.weight @ x + self.bias


@flax.struct.dataclass
class Struct:
    weight: Any
    bias: Any

    def __call__(self, x):
        return self.weight @ x + self.bias


@pytest.mark.parametrize("make", [Module, Struct])
class TestCallableTrees:
    def test_a_module_of_bools_is_a_mask(self, make):
        params = make(jnp.full((2, 3), 2.0), jnp.full(2, 5.0))
        assert masked(L1(1.0), make(True, False)).value(params) == 12
        assert masked(L1(1.0), make(False, True)).value(params) == 10
        assert masked(L1(1.0), lambda p: make(False, True)).value(params) == 10

    def test_a_module_of_labels_is_a_tree_of_labels(self, make):
        params = make(jnp.full((2, 3), 2.0), jnp.full(2, 5.0))
        parts = partition({"a": L1(1.0), "b": L2(1.0)}, make("a", "b"))
        assert parts.value(params) == 12 + 50
        units = joined(L1(1.0), make(None, "unit"))
        assert units.value(params) == 10

    def test_where_a_module_is_masked(self, make):
        params = make(jnp.full((2, 3), 2.0), None)
        for mask in (make(True, None), make(True, optax.MaskedNode())):
            assert masked(L1(1.0), mask).value(params) == 12


def test_masks_of_equinox_modules():
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(2, 3, 4, 1, key=jax.random.key(0))
    params = eqx.filter(model, eqx.is_inexact_array)
    mask = jax.tree.map(lambda w: w.ndim == 2, params)
    expected = sum(np.abs(layer.weight).sum() for layer in model.layers)
    for choice in (mask, lambda p: mask, by_path("weight")):
        value = masked(L1(1.0), choice).value(params)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
    units = joined(GroupLasso(1.0, axis=1, size_scaled=False), "layers.0", axis=0)
    first = np.column_stack([model.layers[0].weight, model.layers[0].bias])
    expected = np.linalg.norm(first, axis=1).sum()
    np.testing.assert_allclose(units.value(params), expected, rtol=1e-6)


def test_a_function_that_is_a_pytree_is_refused_with_a_way_out():
    @jax.tree_util.register_pytree_node_class
    class Kernels:
        def __call__(self, params):
            return KERNELS

        def tree_flatten(self):
            return (), None

        @classmethod
        def tree_unflatten(cls, aux, children):
            return cls()

    with raises(TypeError, "the mask", "without leaves", "lambda params: mask(params)"):
        masked(L1(1.0), Kernels())
    choice = Kernels()
    by_hand = masked(L1(1.0), KERNELS).value(PARAMS)
    assert masked(L1(1.0), lambda params: choice(params)).value(PARAMS) == by_hand
    partial = jax.tree_util.Partial(lambda n, params: KERNELS, 2)
    with raises(TypeError, "the mask", "True or False", "got 2"):
        masked(L1(1.0), partial)
    with raises(TypeError, "['norm']", "lambda params: mask(params)"):
        masked(L1(1.0), {**KERNELS, "norm": by_path("norm")})


# Masked leaves in strengths, masks and labels.


@pytest.mark.parametrize("hole", [None, optax.MaskedNode()])
class TestMaskedLeaves:
    def test_trees_may_have_them_where_the_parameters_do(self, hole):
        params = {"a": jnp.ones(2), "b": hole}
        assert L1({"a": 1.0, "b": None}).value(params) == 2
        assert L1({"a": 1.0, "b": optax.MaskedNode()}).value(params) == 2
        assert ElasticNet(1.0, {"a": 1.0, "b": None}).value(params) == 4
        assert masked(L1(1.0), {"a": True, "b": None}).value(params) == 2
        assert partition({"x": L1(1.0)}, {"a": "x", "b": None}).value(params) == 2
        assert joined(L1(1.0), {"a": "x", "b": None}).value(params) == 2
        assert joined(L1(1.0), {"a": "x", "b": "x"}).value(params) == 2
        optimizer = proximal(optax.sgd(0.5), L1({"a": 1.0, "b": None}))
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        assert jnp.all(updates["a"] < 0)
        assert updates["b"] == hole

    def test_a_masked_branch_may_stand_above_what_a_tree_has_there(self, hole):
        """As `optax.masked` makes it, of a mask that is a prefix."""
        params = {"a": jnp.ones(2), "b": hole}
        deep = {"a": 1.0, "b": {"kernel": 3.0, "bias": {"x": 4.0}}}
        assert L1(deep).value(params) == 2
        mask = jax.tree.map(lambda x: x == 1, deep)
        assert masked(L1(1.0), mask).value(params) == 2

    def test_a_strength_that_lacks_where_there_is_a_parameter_is_named(self, hole):
        params = {"a": jnp.ones(2), "b": {"c": jnp.ones(2), "d": jnp.ones(2)}}
        for strength in ({"a": 1.0, "b": hole}, {"a": 1.0, "b": {"c": hole, "d": 1.0}}):
            with raises(TypeError, "`strength` of L1", "['b']['c']", "number"):
                L1(strength).value(params)
            with raises(TypeError, "`strength` of L1", "['b']['c']", "number"):
                proximal(optax.sgd(0.1), L1(strength)).init(params)
        some = masked(L1({"a": 1.0, "b": hole}), {"a": True, "b": False})
        assert some.value(params) == 2


def test_an_adaptive_lasso_on_an_equinox_module():
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(2, 3, 4, 1, key=jax.random.key(0))
    params = eqx.filter(model, eqx.is_inexact_array)
    penalty = L1(jax.tree.map(lambda w: 1 / jnp.abs(w), params))
    size = sum(w.size for w in jax.tree.leaves(params))
    np.testing.assert_allclose(penalty.value(params), size, rtol=1e-5)
    x = penalty.prox(params, 0.01)
    w = np.asarray(params.layers[0].weight)
    expected = np.sign(w) * np.maximum(np.abs(w) - 0.01 / np.abs(w), 0)
    np.testing.assert_allclose(x.layers[0].weight, expected, atol=1e-7)
    assert x.activation is None


# Patterns that match nothing.

USES = {
    "masked": lambda regex: masked(L1(0.1), by_path(regex)),
    "masked twice": lambda regex: masked(masked(L1(0.1), by_path(regex)), True),
    "partition": lambda regex: partition({True: L1(0.1), False: None}, by_path(regex)),
    "joined": lambda regex: joined(GroupLasso(0.1, axis=1), regex),
    "joined by axis": lambda regex: joined(L1(0.1), "Dense_0", axis={regex: 0}),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_a_pattern_that_matches_no_leaf_is_refused_with_the_key_paths(use):
    penalty = use("kernal")
    words = "'kernal'", "no key path", "['Dense_0']['kernel']", "['norm']['scale']"
    for call in (
        penalty.value,
        penalty.gradient,
        jax.jit(lambda w: penalty.prox(w, 1.0)),
        lambda w: stationarity(penalty, w, w),
        proximal(optax.sgd(0.1), penalty).init,
        add_penalty_gradient(penalty).init,
        proximal_step(penalty, 0.1).init,
        target_sparsity(optax.sgd(0.1), penalty, 0.5).init,
    ):
        with raises(ValueError, *words):
            call(PARAMS)


def test_a_mask_function_says_what_it_was_searched_in():
    with raises(ValueError, "'kernel'", "There are the root."):
        by_path("kernel")(jnp.ones(3))
    many = [jnp.ones(1)] * 30
    with raises(ValueError, "There are [0], [1],", "[9], and 20 more."):
        by_path("kernel")(many)
    with pytest.raises(ValueError) as error:
        by_path("kernel")(many)
    assert "[10]" not in str(error.value)


def test_an_explicit_choice_of_nothing_passes():
    nowhere = jax.tree.map(lambda _: False, PARAMS)
    for penalty in (
        masked(L1(0.1), False),
        masked(L1(0.1), nowhere),
        masked(L1(0.1), lambda params: nowhere),
        partition({"a": L1(0.1)}, None),
        partition({"a": None}, "a"),
        joined(L1(0.1), None),
    ):
        assert penalty.value(PARAMS) == 0
        assert not any(jax.tree.leaves(chosen(penalty.gradient(PARAMS))))


class TestPatternsBeneathMasks:
    """What another mask leaves out is found, though it is not penalised."""

    def test_within_masked_and_partition(self):
        biases = masked(masked(L1(1.0), by_path("kernel")), by_path("bias"))
        assert biases.value(PARAMS) == 0
        labels = {"Dense_0": "a", "norm": "b", "Dense_1": None}
        parts = {
            "a": masked(L1(1.0), by_path("scale|kernel")),
            "b": masked(L2(1.0), by_path("kernel")),
        }
        for penalty in (
            partition(parts, labels),
            masked(partition(parts, labels), by_path("Dense_0")),
        ):
            assert penalty.value(PARAMS) == 12
        both = partition({True: joined(L1(1.0), "Dense_0"), False: None}, by_path("_1"))
        assert both.value(PARAMS) == 0

    def test_within_the_masks_of_optax(self):
        inner = proximal(optax.sgd(0.5), masked(L1(1.0), by_path("kernel")))
        for mask in (by_path("bias"), False, jax.tree.map(lambda _: False, PARAMS)):
            optax.masked(inner, mask).init(PARAMS)
        optimizer = optax.partition(
            {"a": inner, "b": optax.sgd(0.1)},
            {"Dense_0": "a", "norm": "b", "Dense_1": "b"},
        )
        zeros = jax.tree.map(jnp.zeros_like, PARAMS)
        updates, _ = optimizer.update(zeros, optimizer.init(PARAMS), PARAMS)
        assert chosen(updates) == by_path("Dense_0.*kernel")(PARAMS)

    def test_placeholders_match_nothing_and_need_not(self):
        optimizer = proximal(optax.adam(0.5), masked(L1(1.0), by_path("kernel")))
        state = optimizer.init(PARAMS)
        doubled = optax.tree_utils.tree_map_params(optimizer, lambda x: 2 * x, state)
        assert jax.tree.structure(doubled) == jax.tree.structure(state)
        assert masked(L1(1.0), by_path("kernel")).value({}) == 0
        assert masked(L1(1.0), by_path("kernel")).value({"a": None}) == 0


# Labels of any kind.

LABELS = {"Dense_0": "x", "norm": None, "Dense_1": 1}
MIXED = {
    "none said nothing of": {"x": L1(0.5), 1: L2(0.25)},
    "none said to be none": {1: L2(0.25), None: None, "x": L1(0.5)},
}
WAYS = {
    **BARE_WAYS,
    "target_sparsity": lambda penalty: target_sparsity(optax.sgd(0.1), penalty, 0.5),
}


@pytest.mark.parametrize("penalties", MIXED.values(), ids=MIXED.keys())
class TestLabelsThatCannotBeSorted:
    def test_a_label_none_is_no_penalty(self, penalties):
        for labels in (
            LABELS,
            lambda params: LABELS,
            {**LABELS, "norm": {"scale": None}},
        ):
            penalty = partition(penalties, labels)
            assert penalty.value(PARAMS) == 0.5 * 18 + 0.25 * 16
            gradient = penalty.gradient(PARAMS)
            assert not jnp.any(gradient["norm"]["scale"])
            assert jnp.all(gradient["Dense_0"]["bias"] == 0.5)

    @pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
    def test_in_every_way(self, way, penalties):
        transformation = way(partition(penalties, LABELS))
        state = jax.jit(transformation.init)(PARAMS)
        zeros = jax.tree.map(jnp.zeros_like, PARAMS)
        updates, _ = jax.jit(transformation.update)(zeros, state, PARAMS)
        assert not jnp.any(updates["norm"]["scale"])
        with_labels = way(
            partition(
                {"x": L1(0.5), "y": L2(0.25), "z": None},
                {"Dense_0": "x", "norm": "z", "Dense_1": "y"},
            )
        )
        expected, _ = jax.jit(with_labels.update)(
            zeros, jax.jit(with_labels.init)(PARAMS), PARAMS
        )
        jax.tree.map(np.testing.assert_array_equal, updates, expected)

    def test_under_vmap(self, penalties):
        def value(strength):
            scaled = jax.tree.map(lambda s: strength * s, partition(penalties, LABELS))
            return scaled.value(PARAMS)

        strengths = jnp.array([0.0, 1.0, 2.0])
        np.testing.assert_array_equal(jax.vmap(value)(strengths), [0, 13, 26])
        stacked = jax.tree.map(lambda s: s * strengths, partition(penalties, LABELS))
        found = jax.vmap(lambda penalty: penalty.value(PARAMS))(stacked)
        np.testing.assert_array_equal(found, [0, 13, 26])


def test_a_penalty_for_the_label_none_is_that():
    penalty = partition({"x": L1(0.5), None: L2(1.0), 1: None}, LABELS)
    assert penalty.value(PARAMS) == 0.5 * 18 + 12


def test_the_order_of_penalties_makes_no_difference():
    one = partition({"x": L1(0.5), "y": L2(0.5)}, {"a": "x", "b": "y"})
    other = partition({"y": L2(0.5), "x": L1(0.5)}, {"a": "x", "b": "y"})
    assert jax.tree.structure(one) == jax.tree.structure(other)
    assert one == other


def test_joined_labels_that_cannot_be_sorted():
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones((2, 3)), "c": jnp.ones(3)}
    penalty = joined(
        GroupLasso(1.0, axis=1, size_scaled=False), {"a": "x", "b": 1, "c": 1}
    )
    expected = 3 * 2**0.5 + 3 * 3**0.5
    np.testing.assert_allclose(penalty.value(params), expected, rtol=1e-6)
