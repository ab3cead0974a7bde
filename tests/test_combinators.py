"""`masked`, `partition` and `by_path`: penalties themselves, on the chosen leaves."""

import re

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optareg import L1, L2, ElasticNet, by_path, masked, partition, proximal

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
        return jax.tree.map(lambda x: x.ndim, params)

    penalty = partition({1: L2(1.0), 2: L1(1.0)}, labels)
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
    shapes = [x.shape for x in jax.tree.leaves(state.z)]
    assert shapes == [(2, 3), (3, 1)]
    assert jax.tree.leaves(proximal(optax.sgd(0.1), L2(0.1)).init(PARAMS).z) == []


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
