"""Odd trees: keys and functions as leaves, and what errors say of what differs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from optareg import (
    L1,
    L2,
    GroupLasso,
    add_penalty_gradient,
    by_path,
    masked,
    partition,
    sparsity,
    stationarity,
    summarize,
)


class Network(nnx.Module):
    """With a dropout, whose state is a PRNG key and a count."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(2, 3, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)


def raises(error, *words):
    """Expects `error` whose message has all of `words`; gives the message."""

    def check(call):
        with pytest.raises(error) as info:
            call()
        message = str(info.value)
        assert all(word in message for word in words), message
        return message

    return check


# What only looking passes over.


def test_looking_passes_over_keys():
    state = nnx.state(Network(nnx.Rngs(0)))

    # The bias, and the count of the dropout, which older versions of Flax have raised.
    def of_dropout(tree):
        rngs = nnx.to_pure_dict(tree)["dropout"]["rngs"]
        return rngs.get("default", rngs)  # As older versions have it.

    count = int(of_dropout(state)["count"])
    share = (3 + (count == 0)) / (3 + 1 + 6)
    np.testing.assert_allclose(sparsity(state), share, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(sparsity)(state), share, rtol=1e-6)
    each = nnx.to_pure_dict(sparsity(state, per_leaf=True))
    assert each["linear"]["bias"] == 1
    assert of_dropout(sparsity(state, per_leaf=True))["key"] is None
    table = summarize(state, masked(GroupLasso(1.0, axis=0), by_path("kernel")))
    assert [row.size for row in table.leaves] == [1, 3, 6]
    assert table.total.groups == 3
    keys = {"one": jax.random.key(0), "many": jax.random.split(jax.random.key(0), 3)}
    assert sparsity({"w": jnp.array([0.0, 1.0]), **keys}) == 0.5
    assert len(summarize({"w": jnp.ones(3), **keys}).leaves) == 1
    assert jnp.isnan(sparsity(keys))


def test_looking_passes_over_functions_and_gradients_of_whole_numbers():
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(2, 3, 4, 1, key=jax.random.key(0))
    model = eqx.tree_at(lambda m: m.layers[0].bias, model, jnp.zeros(4))
    size = 2 * 4 + 4 + 4 * 3 + 3
    np.testing.assert_allclose(sparsity(model), 4 / size, rtol=1e-6)
    assert summarize(model).total.size == size
    assert sparsity(model, per_leaf=True).activation is None
    whole = jax.grad(lambda w: w["x"], allow_int=True)({"x": 1.0, "n": jnp.arange(3)})
    assert sparsity(whole) == 0


def test_what_is_no_array_is_refused_with_a_way_out():
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(2, 3, 4, 1, key=jax.random.key(0))
    words = ".activation", "must be an array", "eqx.filter(model, eqx.is_inexact_array)"
    for call in (
        lambda: L1(0.1).value(model),
        lambda: add_penalty_gradient(L1(0.1)).init(model),
        lambda: stationarity(L1(0.1), model, model),
    ):
        raises(TypeError, *words)(call)
    raises(TypeError, "['a']", "must be an array", "'x'")(lambda: sparsity({"a": "x"}))


# Trees that do not fit.


def update(updates, params):
    transformation = add_penalty_gradient(masked(L1(0.1), False))
    return lambda: transformation.update(updates, optax.EmptyState(), params)


def test_containers_that_differ_are_named_at_their_place():
    many = {f"layer_{k}": jnp.ones(2) for k in range(100)}
    params = {**many, "pair": (jnp.ones(2), (jnp.ones(3), jnp.ones(4)))}
    updates = {**many, "pair": (jnp.ones(2), [jnp.ones(3), jnp.ones(4)])}
    message = raises(
        ValueError, "`updates`", "['pair'][1]", "has a `list`", "parameters a `tuple`"
    )(update(updates, params))
    assert len(message) < 200
    message = raises(ValueError, "at the root", "a `list`", "a `tuple`")(
        update([jnp.ones(2)], (jnp.ones(2),))
    )
    message = raises(ValueError, "the mask", "['pair'][1]", "`list`", "`tuple`")(
        lambda: masked(L1(0.1), jax.tree.map(lambda _: True, updates)).value(params)
    )
    assert len(message) < 250
    raises(ValueError, "`strength` of L1", "at the root", "`list`", "`tuple`")(
        lambda: L1([0.1]).value((jnp.ones(2),))
    )


def test_modules_that_differ_in_static_fields():
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(2, 3, 4, 1, key=jax.random.key(0))
    one = eqx.filter(model, eqx.is_array)
    other = eqx.tree_at(lambda m: m.layers[0], one, one.layers[1])
    words = "`updates`", "at .layers[0]", "`Linear`", "static fields"
    raises(ValueError, *words)(update(other, one))


def test_a_state_of_nnx_beside_a_dictionary():
    state = nnx.state(Network(nnx.Rngs(0)), nnx.Param)
    pure = nnx.to_pure_dict(state)
    for pair in ((state, pure), (pure, state)):
        raises(ValueError, "`updates`", "`nnx.as_pure`", "`nnx.to_pure_dict`")(
            update(*pair)
        )
    message = raises(ValueError, "['a']['bias']")(update({"a": pure["linear"]}, pure))
    assert "nnx" not in message


def test_parameters_and_state_that_are_swapped():
    params = {"kernel": jnp.ones(3)}
    for optimizer in (
        optax.adam(0.1),
        optax.chain(optax.clip(1.0), optax.sgd(0.1, 0.9)),
    ):
        state = optimizer.init(params)
        raises(ValueError, "`updates`", "state and the parameters swapped")(
            update(params, state)
        )
        raises(ValueError, "`updates`", "state and the parameters swapped")(
            update(state, params)
        )


@pytest.mark.parametrize("several", [[L1(0.1), L2(0.1)], (L1(0.1),), {L1(0.1)}])
def test_several_penalties_are_told_of_the_ways_to_combine_them(several):
    words = "needs a penalty", "`partition`", "`ElasticNet`", "`SparseGroupLasso`"
    raises(TypeError, *words)(lambda: add_penalty_gradient(several))
    raises(TypeError, *words)(lambda: masked(several, True))
    raises(TypeError, "`partition` for label `a`", *words)(
        lambda: partition({"a": several}, "a")
    )
    raises(TypeError, "needs a penalty", "use `partition`")(
        lambda: masked({"a": L1(0.1)}, True)
    )
