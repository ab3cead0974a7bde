"""`joined`: the leaves of a unit are penalised as one row, by hand and in networks."""

import json
import re

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from devices import printed_by
from optareg import (
    L1,
    MCP,
    ElasticNet,
    GroupLasso,
    SparseGroupLasso,
    add_penalty_gradient,
    by_path,
    joined,
    masked,
    max_strength,
    minimize,
    partition,
    path,
    proximal,
    proximal_step,
    stationarity,
)
from references import accelerated_descent, adam, diabetes, nearest_to
from references import train as train_by_hand
from training import assert_same, wine

UNITS = r"(?:Dense|LayerNorm)_([01])"


def network(seed: int = 0, dtype=jnp.float32):
    """Two hidden layers of 4 and 2 units with norms, and a head."""
    rng = np.random.default_rng(seed)

    def leaf(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype)

    return {
        "Dense_0": {"kernel": leaf(3, 4), "bias": leaf(4)},
        "LayerNorm_0": {"scale": leaf(4), "bias": leaf(4)},
        "Dense_1": {"kernel": leaf(4, 2), "bias": leaf(2)},
        "LayerNorm_1": {"scale": leaf(2), "bias": leaf(2)},
        "Dense_2": {"kernel": leaf(2, 1), "bias": leaf(1)},
    }


def join(params):
    """A row for each unit, by hand; what is left out stays as it is."""
    joined = {"Dense_2": params["Dense_2"]}
    for k in "01":
        dense, norm = params[f"Dense_{k}"], params[f"LayerNorm_{k}"]
        columns = [dense["bias"], *dense["kernel"], norm["bias"], norm["scale"]]
        joined[k] = jnp.stack(columns, axis=1)
    return joined


def untie(joined):
    """The inverse of `join`."""
    params = {"Dense_2": joined["Dense_2"]}
    for k in "01":
        bias, *kernel, norm_bias, scale = joined[k].T
        params[f"Dense_{k}"] = {"kernel": jnp.stack(kernel), "bias": bias}
        params[f"LayerNorm_{k}"] = {"scale": scale, "bias": norm_bias}
    return params


def rows(penalty):
    """`penalty` on the joined arrays."""
    return masked(penalty, {"0": True, "1": True, "Dense_2": False})


def assert_near(a, b, atol=1e-12):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=atol), a, b)


def test_joining_by_hand_and_back_is_nothing():
    assert_same(untie(join(network())), network())


PENALTIES = {
    "GroupLasso": GroupLasso(0.8, axis=1),
    "not scaled": GroupLasso(2.0, axis=-1, size_scaled=False),
    "SparseGroupLasso": SparseGroupLasso(0.2, 0.6, axis=1),
    "MCP": MCP(0.4),
    "positive": ElasticNet(0.4, 0.1, positive=True),
}
every_penalty = pytest.mark.parametrize(
    "penalty", PENALTIES.values(), ids=PENALTIES.keys()
)


@jax.jit
def look(penalty, w):
    """Value, gradient, the gradient by JAX, and prox."""
    by_jax = jax.grad(penalty.value)(w)
    return penalty.value(w), penalty.gradient(w), by_jax, penalty.prox(w, 1.0)


@pytest.mark.usefixtures("x64")
@every_penalty
class TestJoined:
    """All of it is the penalty of the arrays joined by hand."""

    def test_value_gradient_and_prox(self, penalty, strict):
        w = network(dtype=jnp.float64)
        value, gradient, by_jax, x = look(joined(penalty, UNITS), w)
        expected = look(rows(penalty), join(w))
        np.testing.assert_allclose(value, expected[0], rtol=1e-14)
        assert_near(gradient, untie(expected[1]))
        assert_near(x, untie(expected[3]))
        if penalty is not PENALTIES["positive"]:  # There the value is infinite.
            assert_near(by_jax, gradient)
        _, zero, by_jax, _ = look(
            joined(penalty, UNITS), jax.tree.map(jnp.zeros_like, w)
        )
        assert not any(jnp.any(g) for g in jax.tree.leaves((zero, by_jax)))

    def test_stationarity(self, penalty):
        w, g = network(dtype=jnp.float64), network(1, jnp.float64)
        w = look(joined(penalty, UNITS), w)[-1]
        found = jax.jit(stationarity)(joined(penalty, UNITS), w, g)
        by_hand = jax.jit(stationarity)(rows(penalty), join(w), join(g))
        np.testing.assert_allclose(found, by_hand, rtol=1e-14)


@pytest.mark.to_the_bit
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["GroupLasso", "SparseGroupLasso", "positive"])
def test_training_step_by_step(name):
    penalty = PENALTIES[name]
    goal, start = network(1, jnp.float64), network(2, jnp.float64)
    loss, joined_loss = nearest_to(goal), nearest_to(join(goal))
    a = proximal(optax.adam(0.1), joined(penalty, UNITS))
    b = proximal(optax.adam(0.1), rows(penalty))
    w, v = start, join(start)
    state, hand_state = jax.jit(a.init)(w), jax.jit(b.init)(v)
    update_a, update_b = jax.jit(a.update), jax.jit(b.update)
    for _ in range(60):
        move, state = update_a(jax.grad(loss)(w), state, w)
        w = optax.apply_updates(w, move)
        move, hand_state = update_b(jax.grad(joined_loss)(v), hand_state, v)
        v = optax.apply_updates(v, move)
    assert_near(w, untie(v), atol=1e-9)
    s = state.subgradient["Dense_0"]["kernel"]
    np.testing.assert_allclose(s.T, hand_state.subgradient["0"][:, 1:4], atol=1e-9)
    assert state.subgradient["LayerNorm_1"]["scale"].shape == (2,)
    assert isinstance(state.subgradient["Dense_2"]["kernel"], optax.MaskedNode)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("way", ["gradient", "step", "proximal"])
def test_every_way_ends_at_the_prox(way):
    ties = joined(GroupLasso(0.9, axis=1), UNITS)
    optimizer = {
        "gradient": optax.chain(add_penalty_gradient(ties), optax.sgd(0.1)),
        "step": optax.chain(optax.sgd(0.1), proximal_step(ties, 0.1)),
        "proximal": proximal(adam(0.2, 1000), ties),
    }[way]
    goal = network(1, jnp.float64)
    w = train_by_hand(optimizer, nearest_to(goal), network(2, jnp.float64), 1000)
    expected = untie(rows(GroupLasso(0.9, axis=1)).prox(join(goal), 1.0))
    assert_near(w, expected, atol=1e-6 if way != "gradient" else 0.4)
    if way != "gradient":
        gone = jax.tree.map(lambda x: np.asarray(x == 0).tolist(), (w, expected))
        assert gone[0] == gone[1]
        assert any(jnp.any(x == 0) for x in jax.tree.leaves(w))


class TestSolving:
    """A regression whose coefficients stand in two arrays."""

    def losses(self):
        X, y = map(jnp.asarray, diabetes())

        def joined(w):  # Five units of two coefficients each.
            return 0.5 * jnp.mean((y - X @ w.reshape(-1)) ** 2)

        def loss(params):
            both = [params["bias"], params["kernel"][0]]
            return joined(jnp.stack(both, axis=1))

        start = {"kernel": jnp.zeros((1, 5)), "bias": jnp.zeros(5)}
        return loss, joined, start

    def make(self, c):
        return joined(GroupLasso(c, axis=1), lambda p: {"kernel": 0, "bias": 0})

    def test_minimize_max_strength_and_path(self, x64):
        loss, joined, start = self.losses()
        largest = max_strength(loss, start, self.make(1.0))
        at_zero = jax.grad(joined)(jnp.zeros((5, 2)))
        by_hand = np.linalg.norm(at_zero, axis=1).max() / np.sqrt(2)
        np.testing.assert_allclose(largest, by_hand, rtol=1e-14)

        strengths = np.array([1.01, 0.99, 0.3]) * float(largest)
        found = path(loss, start, self.make(strengths))
        assert np.all(found.converged)
        assert found.params["kernel"].shape == (3, 1, 5)
        assert not np.any(found.params["bias"][0])
        assert np.any(found.params["bias"][1])
        assert 0 < np.sum(found.params["bias"][2] == 0) < 5

        def prox(w, step):  # Of the groups by hand; their weight is √2.
            rows = w.reshape(5, 2)
            length = np.linalg.norm(rows, axis=1, keepdims=True)
            kept = 1 - step * strengths[2] * np.sqrt(2) / np.maximum(length, 1e-30)
            return np.ravel(rows * np.maximum(kept, 0))

        expected = accelerated_descent(diabetes(), prox).reshape(5, 2)
        for row, name in enumerate(("bias", "kernel")):
            w = np.ravel(found.params[name][2])
            np.testing.assert_allclose(w, expected[:, row], rtol=0, atol=1e-9)
            np.testing.assert_array_equal(w == 0, expected[:, row] == 0)

        one = minimize(loss, start, self.make(strengths[2]))
        assert one.converged
        np.testing.assert_allclose(
            one.params["bias"], found.params["bias"][2], rtol=0, atol=1e-9
        )
        g = jax.grad(loss)(one.params)
        assert stationarity(self.make(strengths[2]), one.params, g) < 1e-9


# Networks.


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.relu(nn.LayerNorm()(nn.Dense(16)(x)))
        return nn.Dense(3)(x)


class NNX(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(13, 16, rngs=rngs)
        self.norm = nnx.LayerNorm(16, rngs=rngs)
        self.out = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.norm(self.hidden(x))))


def cross_entropy(logits):
    return jnp.mean(optax.softmax_cross_entropy(logits, jnp.asarray(wine()[1])))


def accuracy(logits):
    return np.mean(np.argmax(logits, -1) == np.argmax(wine()[1], -1))


def gone_together(dense, norm) -> int:
    """How many units vanished; each is zero in all of its entries or in none."""
    leaves = [*dense["kernel"], dense["bias"], norm["scale"], norm["bias"]]
    zeros = np.stack([np.asarray(leaf) == 0 for leaf in leaves])
    np.testing.assert_array_equal(zeros.any(axis=0), zeros.all(axis=0))
    return int(zeros.all(axis=0).sum())


def test_units_of_a_linen_network_vanish_as_one():
    X = jnp.asarray(wine()[0])
    model = Linen()
    params = model.init(jax.random.key(0), X[:1])["params"]

    def loss(params):
        return cross_entropy(model.apply({"params": params}, X))

    penalty = joined(GroupLasso(0.02, axis=1), UNITS)
    w = train_by_hand(proximal(adam(0.02, 600), penalty), loss, params, 600)
    for k in "01":
        count = gone_together(w[f"Dense_{k}"], w[f"LayerNorm_{k}"])
        assert 0 < count < 16
    assert not jnp.any(w["Dense_2"]["kernel"] == 0)
    assert accuracy(model.apply({"params": w}, X)) > 0.95
    # A wider tree, as of `init` whole, is found by the same expression.
    np.testing.assert_allclose(penalty.value({"params": w}), penalty.value(w))


@pytest.mark.skipif(
    tuple(map(int, flax.__version__.split(".")[:2])) < (0, 11),
    reason="`nnx.Optimizer` had another interface",
)
def test_units_of_an_nnx_network_vanish_as_one():
    model = NNX(nnx.Rngs(0))
    X = jnp.asarray(wine()[0])
    penalty = joined(GroupLasso(0.02, axis=1), lambda params: labels(params))

    def labels(params):
        return jax.tree_util.tree_map_with_path(
            lambda at, _: None if "out" in jax.tree_util.keystr(at) else "hidden units",
            params,
        )

    optimizer = nnx.Optimizer(model, proximal(adam(0.02, 400), penalty), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        gradient = nnx.grad(lambda model: cross_entropy(model(X)))(model)
        optimizer.update(model, gradient)

    for _ in range(400):
        step(model, optimizer)
    w = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    assert 0 < gone_together(w["hidden"], w["norm"]) < 16
    assert accuracy(model(X)) > 0.95


def test_an_expression_finds_the_layers_of_an_nnx_state():
    state = nnx.state(NNX(nnx.Rngs(0)), nnx.Param)
    pure = nnx.to_pure_dict(state)
    ties = joined(GroupLasso(1.0, axis=1), "hidden|norm")
    # The matches differ, so the layer and its norm are units of their own.
    hidden = np.vstack([pure["hidden"]["kernel"], pure["hidden"]["bias"]])
    norm = np.vstack([pure["norm"]["scale"], pure["norm"]["bias"]])
    expected = sum(
        np.sqrt(len(w)) * np.linalg.norm(w, axis=0).sum() for w in (hidden, norm)
    )
    np.testing.assert_allclose(ties.value(state), expected, rtol=1e-5)


def test_heads_of_attention():
    model = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=6)
    x = jnp.ones((1, 3, 5))
    params = {"layer": model.init(jax.random.key(0), x)["params"]}
    params = jax.tree.map(lambda w: w + 0.1, params)
    heads = joined(
        GroupLasso(1.0, axis=1, size_scaled=False),
        r"(layer)'\]\['(?:query|key|value)",
        axis=-2,
    )
    lengths = [
        np.sqrt(
            sum(
                np.sum(params["layer"][part]["kernel"][:, head] ** 2)
                + np.sum(params["layer"][part]["bias"][head] ** 2)
                for part in ("query", "key", "value")
            )
        )
        for head in range(2)
    ]
    np.testing.assert_allclose(heads.value(params), sum(lengths), rtol=1e-6)
    x = heads.prox(params, (lengths[0] + lengths[1]) / 2)["layer"]
    weaker = int(np.argmin(lengths))
    for part in ("query", "key", "value"):
        assert not jnp.any(x[part]["kernel"][:, weaker])
        assert not jnp.any(x[part]["bias"][weaker])
        assert jnp.all(x[part]["kernel"][:, 1 - weaker] != 0)
    assert_same(x["out"], params["layer"]["out"])


# Units along several axes, and along other axes in other leaves.


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


NOT_SCALED = GroupLasso(1.0, axis=1, size_scaled=False)


class TestStackedLayers:
    def test_each_layer_has_units_of_its_own(self):
        params = {"layers": {"kernel": jnp.ones((3, 4, 5)), "bias": jnp.ones((3, 5))}}
        as_one = joined(NOT_SCALED, "layers").value(params)
        apart = joined(NOT_SCALED, "layers", axis=(0, -1)).value(params)
        np.testing.assert_allclose(as_one, 5 * 15**0.5, rtol=1e-6)  # 19.365
        np.testing.assert_allclose(apart, 15 * 5**0.5, rtol=1e-6)  # 33.541

    @every_penalty
    def test_they_are_the_layers_one_by_one(self, penalty):
        params = {"layers": {"kernel": normal(3, 4, 5), "bias": normal(3, 5, seed=1)}}
        single = {
            f"layer_{k}": jax.tree.map(lambda w, k=k: w[k], params["layers"])
            for k in range(3)
        }
        stack = joined(penalty, "layers", axis=(0, -1))
        value, gradient, _, x = look(stack, params)
        expected = look(joined(penalty, r"layer_\d"), single)
        np.testing.assert_allclose(value, expected[0], rtol=1e-6)
        for found, by_layer in ((gradient, expected[1]), (x, expected[3])):
            rows = [by_layer[f"layer_{k}"] for k in range(3)]
            stacked = jax.tree.map(lambda *w: jnp.stack(w), *rows)
            assert_near(found["layers"], stacked, atol=1e-6)

    def test_the_order_of_axes_is_that_of_units(self):
        """A strength for each unit, as a column: those of layer 0 first."""
        params = {"kernel": normal(3, 4, 2)}
        strength = np.zeros((6, 1))
        strength[1] = 99.0
        group = GroupLasso({"units": strength}, axis=1)
        labels = {"kernel": "units"}
        gone = joined(group, labels, axis=(0, -1)).prox(params, 1.0)["kernel"] == 0
        np.testing.assert_array_equal(np.argwhere(gone.all(axis=1)), [[0, 1]])
        gone = joined(group, labels, axis=(-1, 0)).prox(params, 1.0)["kernel"] == 0
        np.testing.assert_array_equal(np.argwhere(gone.all(axis=1)), [[1, 0]])


def test_heads_of_a_scanned_transformer_whole():
    """Query, key, value and output of each head of each layer, in one line."""
    layers, inputs, heads, dim = 3, 5, 4, 2
    names = ("query", "key", "value")
    attention = {
        name: {
            "kernel": normal(layers, inputs, heads, dim, seed=seed),
            "bias": normal(layers, heads, dim, seed=seed + 9),
        }
        for seed, name in enumerate(names)
    }
    attention["out"] = {
        "kernel": normal(layers, heads, dim, inputs, seed=3),
        "bias": normal(layers, inputs, seed=4),
    }
    params = {"layers": {"attention": attention}, "head": normal(5, 2)}
    penalty = joined(
        NOT_SCALED,
        r"(layers).*(?:query|key|value|out'\]\['kernel)",
        axis={"out": (0, 1), "query|key|value": (0, -2)},
    )
    squares = np.zeros((layers, heads))
    for name in names:
        squares += np.sum(np.square(attention[name]["kernel"]), axis=(1, 3))
        squares += np.sum(np.square(attention[name]["bias"]), axis=2)
    squares += np.sum(np.square(attention["out"]["kernel"]), axis=(2, 3))
    lengths = np.sqrt(squares)
    np.testing.assert_allclose(penalty.value(params), lengths.sum(), rtol=1e-6)

    cut = float(np.median(lengths))
    x = penalty.prox(params, cut)
    kept = np.maximum(1 - cut / lengths, 0)
    found = x["layers"]["attention"]
    for name in names:
        kernel, bias = attention[name]["kernel"], attention[name]["bias"]
        by_hand = {
            "kernel": kernel * kept[:, None, :, None],
            "bias": bias * kept[:, :, None],
        }
        assert_near(found[name], by_hand, atol=1e-6)
    by_hand = attention["out"]["kernel"] * kept[:, :, None, None]
    assert_near(found["out"]["kernel"], by_hand, atol=1e-6)
    assert_same(found["out"]["bias"], attention["out"]["bias"])
    assert_same(x["head"], params["head"])
    assert 0 < np.sum(kept == 0) < kept.size


@pytest.mark.usefixtures("x64")
def test_columns_of_a_layer_with_the_rows_of_the_next():
    """Trained to the end: the units that vanish do so in both layers."""
    up, down = normal(3, 6), normal(6, 2, seed=1)
    params = {
        "up": {"kernel": up, "bias": normal(6, seed=2)},
        "down": {"kernel": down, "bias": normal(2, seed=3)},
    }
    params = jax.tree.map(lambda w: w.astype(jnp.float64), params)
    labels = {"up": 0, "down": {"kernel": 0, "bias": None}}
    penalty = joined(NOT_SCALED, labels, axis={"down": 0})
    rows = np.column_stack([params["up"]["bias"], up.T, down])
    lengths = np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(penalty.value(params), lengths.sum(), rtol=1e-6)
    stronger = GroupLasso(2.0, axis=1, size_scaled=False)
    units = joined(stronger, labels, axis={"down": 0})
    optimizer = proximal(adam(0.2, 600), units)
    w = train_by_hand(optimizer, nearest_to(params), params, 600)
    kept = np.maximum(1 - 2.0 / lengths, 0)
    assert_near(w["up"]["kernel"], params["up"]["kernel"] * kept, atol=1e-6)
    assert_near(
        w["down"]["kernel"], params["down"]["kernel"] * kept[:, None], atol=1e-6
    )
    assert_near(w["down"]["bias"], params["down"]["bias"], atol=1e-6)
    np.testing.assert_array_equal(np.asarray(w["up"]["bias"]) == 0, kept == 0)
    assert 0 < np.sum(kept == 0) < 6


class TestAxes:
    def test_no_axis_takes_all_leaves_as_one_unit(self):
        """Of any shapes: what couples the entries of a whole tree needs that."""
        params = {"a": normal(3, 4), "b": normal(5, seed=1), "c": jnp.array(2.0)}
        flat = np.concatenate([np.ravel(w) for w in jax.tree.leaves(params)])
        for labels in ("", 0, lambda params: "all"):
            whole = joined(NOT_SCALED, labels, axis=())
            length = np.linalg.norm(flat)
            np.testing.assert_allclose(whole.value(params), length, rtol=1e-6)
            half = jax.tree.map(lambda w: w / 2, params)
            assert_near(whole.prox(params, length / 2), half, atol=1e-6)

    def test_the_first_expression_that_is_found_counts(self):
        params = {"a": {"kernel": normal(3, 4)}, "b": {"kernel": normal(4, 3)}}
        length = np.linalg.norm(params["a"]["kernel"], axis=0).sum()
        rows = np.linalg.norm(params["b"]["kernel"], axis=1).sum()
        labels = {"a": 0, "b": 1}
        for axis in (
            {"b": 0},
            {"b": 0, "": 1},
            {"a": [1], "": 0},
            {"b": -2, "a|b": -1},
        ):
            value = joined(NOT_SCALED, labels, axis=axis).value(params)
            np.testing.assert_allclose(value, length + rows, rtol=1e-6)

    def test_whole_numbers_of_numpy_are_axes(self):
        params = {"a": normal(3, 4)}
        expected = np.linalg.norm(params["a"], axis=1).sum()
        for axis in (np.int64(0), (np.int32(0),)):
            value = joined(NOT_SCALED, "a", axis=axis).value(params)
            np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("axis", [0, -1, (0, 1), ()])
@pytest.mark.parametrize("shape", [(3, 0), (0, 3), (0, 0)])
def test_leaves_without_entries(shape, axis):
    params = {"w": jnp.zeros(shape)}
    for penalty in (GroupLasso(0.1, axis=1), L1(0.1)):
        units = joined(penalty, "w", axis=axis)
        assert units.value(params) == 0
        assert_same(units.prox(params, 0.1), params)
        assert_same(units.gradient(params), params)
        optimizer = proximal(optax.adam(0.1), units)
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        assert_same(updates, params)


def test_a_leaf_without_entries_beside_others():
    """Units with an empty kernel still have a bias."""
    params = {"kernel": jnp.zeros((0, 2)), "bias": jnp.array([3.0, -1.0])}
    units = joined(NOT_SCALED, {"kernel": 0, "bias": 0})
    assert units.value(params) == 4
    x = units.prox(params, 2.0)
    np.testing.assert_array_equal(x["bias"], [1, 0])
    assert x["kernel"].shape == (0, 2)


@pytest.mark.long  # `test_sharding` has one of them.
def test_leaves_sharded_explicitly():
    """On eight devices the numbers and the shardings are as for the parameters."""
    if not hasattr(jax, "set_mesh"):
        pytest.skip("this JAX has no explicit sharding")
    found = json.loads(printed_by("joined_script.py"))
    assert found.pop("devices") == 8
    assert len(found) == 5
    for name, measured in found.items():
        assert measured["sharded otherwise"] == [], name
        assert measured["difference"] < 1e-6, name
        assert measured["zeros"] > 0, name


# Labels, strengths, and what is around.

PARTS = {"a": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}, "b": jnp.ones((4, 5))}
LABELS = {
    "expression": r"\['(a)'\]",
    "whole match": r"\['a'\]",
    "tree": {"a": "units", "b": None},
    "function": lambda params: {"a": {"kernel": 1.5, "bias": 1.5}, "b": None},
    "deep tree": {"a": {"kernel": 7, "bias": 7}, "b": optax.MaskedNode()},
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
def test_labels_may_be_an_expression_a_tree_or_a_function(labels):
    penalty = joined(GroupLasso(1.0, axis=1), labels)
    np.testing.assert_allclose(penalty.value(PARTS), 3 * 3, rtol=1e-6)
    x = penalty.prox(PARTS, 0.5)
    np.testing.assert_allclose(x["a"]["bias"], np.full(3, 0.5), rtol=1e-6)
    assert_same(x["b"], PARTS["b"])
    assert not jnp.any(penalty.gradient(PARTS)["b"])


def test_a_hole_needs_no_other_label():
    holes = {**PARTS, "b": optax.MaskedNode()}
    penalty = joined(GroupLasso(1.0, axis=1), {"a": "units", "b": "units"})
    np.testing.assert_allclose(penalty.value(holes), 3 * 3, rtol=1e-6)
    assert penalty.prox(holes, 0.5)["b"] == optax.MaskedNode()


def test_where_no_leaf_has_a_label_there_is_no_penalty():
    for labels in (None, {"a": None, "b": None}, lambda params: None):
        penalty = joined(GroupLasso(1.0, axis=1), labels)
        assert penalty.value(PARTS) == 0
        assert_same(penalty.prox(PARTS, 1.0), PARTS)
    assert joined(GroupLasso(1.0, axis=1), "Conv").value({}) == 0


def test_two_groups_of_an_expression_make_one_label():
    params = {
        "block_0": {"up": jnp.ones((2, 3)), "scale": jnp.ones(3)},
        "block_1": {"up": jnp.ones((2, 4)), "scale": jnp.ones(4)},
    }
    penalty = joined(GroupLasso(1.0, axis=1), r"(block)_(\d)")
    np.testing.assert_allclose(penalty.value(params), 3 * 3 + 3 * 4, rtol=1e-6)


def test_labels_need_not_stand_in_their_order():
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    penalty = joined(L1({"y": 1.0, "z": 5.0}), {"a": "z", "b": "y"})
    assert penalty.value(params) == 5 * 2 + 3
    np.testing.assert_array_equal(penalty.gradient(params)["a"], np.full(2, 5.0))


def test_strengths_and_parts_go_by_label():
    w = network()
    each = joined(GroupLasso({"0": 0.2, "1": 0.0}, axis=1), UNITS)
    lengths = np.linalg.norm(join(w)["0"], axis=1)
    np.testing.assert_allclose(each.value(w), 0.2 * 6**0.5 * sum(lengths), rtol=1e-6)
    assert_same(each.prox(w, 9.0)["Dense_1"], w["Dense_1"])
    parts = joined(partition({"x": L1(1.0), "y": None}, {"0": "x", "1": "y"}), UNITS)
    expected = np.abs(join(w)["0"]).sum()
    np.testing.assert_allclose(parts.value(w), expected, rtol=1e-6)
    some = joined(masked(L1(1.0), {"0": True, "1": False}), UNITS)
    np.testing.assert_allclose(some.value(w), expected, rtol=1e-6)
    # A strength for each unit, as a column.
    units = joined(
        GroupLasso({"0": np.array([[9.0], [0], [0], [0]]), "1": 0.0}, axis=1), UNITS
    )
    x = units.prox(w, 1.0)
    assert gone_together(x["Dense_0"], x["LayerNorm_0"]) == 1
    assert not jnp.any(x["Dense_0"]["kernel"][:, 0])


def test_tied_within_masked_and_partition():
    w = network()
    whole = joined(GroupLasso(1.0, axis=1), UNITS)
    kernels = masked(whole, by_path("kernel"))
    expected = sum(
        np.sqrt(n) * np.linalg.norm(w[layer]["kernel"], axis=0).sum()
        for layer, n in (("Dense_0", 3), ("Dense_1", 4))
    )
    np.testing.assert_allclose(kernels.value(w), expected, rtol=1e-6)
    both = partition(
        {True: whole, False: L1(1.0)},
        {k: not k.endswith("2") for k in w},
    )
    head = sum(np.abs(x).sum() for x in w["Dense_2"].values())
    np.testing.assert_allclose(both.value(w), whole.value(w) + head, rtol=1e-6)


def test_single_weights_need_no_ties():
    w = network()
    dense = masked(L1(0.3), by_path("Dense_[01]|Norm"))
    ties = joined(L1(0.3), UNITS)
    np.testing.assert_allclose(ties.value(w), dense.value(w), rtol=1e-6)
    assert_same(ties.prox(w, 1.0), dense.prox(w, 1.0))
    assert_same(ties.gradient(w), dense.gradient(w))


def test_under_jit_and_vmap():
    w, traces = network(), 0

    @jax.jit
    def prox(penalty, w):
        nonlocal traces
        traces += 1
        return penalty.prox(w, 1.0)

    for c in (0.1, 0.5):
        expected = joined(GroupLasso(c, axis=1), UNITS).prox(w, 1.0)
        found = prox(joined(GroupLasso(c, axis=1), UNITS), w)
        assert_near(found, expected, atol=1e-6)
    assert traces == 1
    strengths = jnp.array([0.0, 0.1, 0.5])
    ties = joined(GroupLasso(strengths, axis=1), UNITS)
    swept = jax.vmap(lambda p: p.prox(w, 1.0))(ties)
    for i, c in enumerate(strengths):
        expected = joined(GroupLasso(c, axis=1), UNITS).prox(w, 1.0)
        assert_near(jax.tree.map(lambda x, i=i: x[i], swept), expected, atol=1e-6)

    def end(penalty):
        return train_by_hand(proximal(optax.adam(0.1), penalty), nearest_to(w), w, 20)

    trained = jax.vmap(end)(ties)
    one = end(joined(GroupLasso(0.5, axis=1), UNITS))
    assert_near(jax.tree.map(lambda x: x[2], trained), one, atol=1e-5)


def test_the_state_survives_a_round_trip():
    w = network()
    optimizer = proximal(optax.adam(0.1), joined(GroupLasso(0.1, axis=1), UNITS))
    state = optimizer.init(w)
    _, state = jax.jit(optimizer.update)(w, state, w)
    doubled = optax.tree_utils.tree_map_params(optimizer, lambda x: 2 * x, state)
    halved = optax.tree_utils.tree_map_params(optimizer, lambda x: x / 2, doubled)
    assert_same(halved, state)
    np.testing.assert_array_equal(
        doubled.subgradient["Dense_0"]["bias"], 2 * state.subgradient["Dense_0"]["bias"]
    )
    shapes = jax.tree.map(lambda s: s.shape, state.subgradient["LayerNorm_0"])
    assert shapes == {"scale": (4,), "bias": (4,)}


@pytest.mark.parametrize("dtype", [jnp.bfloat16])
def test_half_precision_leaves_vanish_as_one(dtype):
    w = network(dtype=dtype)
    penalty = joined(GroupLasso(0.9, axis=1), UNITS)
    value, _, _, x = look(penalty, w)
    assert value.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(x)} == {jnp.dtype(dtype)}
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), w)
    expected = jax.tree.map(lambda y: y.astype(dtype), look(penalty, single)[-1])
    assert_same(x, expected)
    optimizer = proximal(optax.adam(0.05), penalty)
    end = train_by_hand(optimizer, nearest_to(w), w, 100)
    assert gone_together(end["Dense_0"], end["LayerNorm_0"]) > 0


def test_complex_leaves_are_tied():
    w = {"kernel": jnp.array([[3.0 + 0j, 0.1]]), "bias": jnp.array([4j, 0.1j])}
    ties = joined(GroupLasso(1.0, axis=1, size_scaled=False), {"kernel": 0, "bias": 0})
    np.testing.assert_allclose(ties.value(w), 5 + 0.02**0.5, rtol=1e-6)
    x = ties.prox(w, 2.5)
    np.testing.assert_allclose(x["kernel"], [[1.5, 0]], rtol=1e-6)
    np.testing.assert_allclose(x["bias"], [2j, 0], rtol=1e-6)


def test_optax_masks_around_whole_units():
    w = network()
    inner = proximal(optax.sgd(0.1), joined(GroupLasso(9.0, axis=1), UNITS))
    optimizer = optax.masked(inner, by_path("_0"))
    zeros = jax.tree.map(jnp.zeros_like, w)
    updates, _ = optimizer.update(zeros, optimizer.init(w), w)
    assert jnp.any(updates["Dense_0"]["kernel"])
    assert not jnp.any(updates["Dense_1"]["kernel"])


# Bad input.


def raises(error, *words):
    """Expects `error` whose message has all of the regular expressions `words`."""
    return pytest.raises(error, match="".join(f"(?=(?s:.*){word})" for word in words))


def make(labels, **kwargs):
    return joined(GroupLasso(0.1, axis=1), labels, **kwargs)


HALF = PARTS["a"] | {"bias": jnp.ones(3, jnp.bfloat16)}
MISFITS = {
    "unequal units": (
        make({"a": 1, "b": 1}),
        PARTS,
        [re.escape("['b']"), "5 units", re.escape("['a']"), "3", "label 1"],
    ),
    "units that come in another order": (
        make({"a": 1, "b": 1}, axis=(0, 1)),
        {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 2, 4))},
        [re.escape("['b']"), "3 × 2 units along axes", "2 × 3", "label 1"],
    ),
    "unequal units along other axes": (
        make({"a": 1, "b": 1}, axis={"b": 0}),
        {"a": jnp.ones((2, 3)), "b": jnp.ones((2, 4))},
        [re.escape("['b']"), "2 units along axis 0", "3 along axis -1", "label 1"],
    ),
    "one axis twice": (
        make("a", axis=(0, -1)),
        PARTS,
        [re.escape("['a']['bias']"), re.escape("axes (0, -1)"), "different"],
    ),
    "an axis for no leaf": (
        make("a", axis={"kernal": 0}),
        PARTS,
        ["'kernal'", "no key path", re.escape("['a']['kernel']")],
    ),
    "no match": (make("Conv"), PARTS, ["'Conv'", "no key path", re.escape("['b']")]),
    "unequal units along another axis": (
        joined(GroupLasso(0.1, axis=1), r"\['[ab]'\]()", axis=0),
        PARTS,
        [re.escape("['a']['kernel']"), "2 units", "3", "axis 0"],
    ),
    "no such axis": (
        make("a", axis=-2),
        PARTS,
        [re.escape("['a']['bias']"), re.escape("(3,)"), "axis -2", "label"],
    ),
    "a scalar": (make("a"), {"a": jnp.ones(())}, [re.escape("['a']"), "axis -1"]),
    "dtypes that differ": (
        make("a"),
        {"a": HALF},
        ["float32", "bfloat16", re.escape("['a']['kernel']"), "Cast"],
    ),
    "labels of another tree": (make({"a": 1, "c": 1}), PARTS, ["labels", "c"]),
    "labels missing": (make({"a": 1}), PARTS, ["labels", re.escape("['b']")]),
    "joined within joined": (
        joined(make(r"\w+"), "a"),
        {"a": jnp.ones((2, 3))},
        ["within"],
    ),
    "strengths of other labels": (
        joined(GroupLasso({"x": 0.1}, axis=1), "(a)"),
        PARTS,
        ["`strength`", "x"],
    ),
    "an axis that rows lack": (
        joined(GroupLasso(0.1, axis=2), "(a)"),
        PARTS,
        ["axis 2"],
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_is_refused_by_name(name):
    penalty, params, words = MISFITS[name]
    for call in (
        penalty.value,
        jax.jit(penalty.gradient),
        lambda w: penalty.prox(w, 0.1),
        proximal(optax.sgd(0.1), penalty).init,
        lambda w: stationarity(penalty, w, w),
    ):
        with raises(ValueError, *words):
            call(params)


def test_integer_leaves_are_refused_unless_left_out():
    params = {"a": jnp.ones((2, 3)), "b": jnp.arange(3)}
    with raises(TypeError, "int32", "floating"):
        make({"a": None, "b": 1}).value(params)
    assert make({"a": 1, "b": None}).value(params) > 0


@pytest.mark.parametrize("regex", ["(", "[a", "*"])
def test_an_invalid_regex_is_refused(regex):
    with raises(ValueError, "not valid", re.escape(repr(regex))):
        make(regex)


def test_an_invalid_regex_for_an_axis_is_refused():
    with raises(ValueError, "`axis` is not valid", re.escape("'('")):
        make("a", axis={"(": 0})
    with raises(TypeError, "`axis` must be a string", "0"):
        make("a", axis={0: 0})


@pytest.mark.parametrize("thing", [0.1, None, GroupLasso, optax.sgd(0.1), {"a": L1(1)}])
def test_what_is_no_penalty_is_refused(thing):
    with raises(TypeError, "`joined` needs a penalty"):
        joined(thing, "a")


@pytest.mark.parametrize("axis", [None, 0.5, "0", True, (0, 1.0), {"a": None}, {0, 1}])
def test_an_axis_that_is_no_integer_is_refused(axis):
    given = axis["a"] if isinstance(axis, dict) else axis
    with raises(TypeError, "`axis` of `joined`", "integer", re.escape(repr(given))):
        make("a", axis=axis)


def test_an_unhashable_label_is_refused():
    with raises(TypeError, "not hashable", re.escape("['a']")):
        make({"a": np.zeros(3)})
    with raises(TypeError, "not hashable", re.escape("['a']")):
        make(lambda params: {"a": {1}, "b": None}).value(PARTS)


def test_updates_of_some_leaves_of_a_unit_are_refused():
    w = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    optimizer = proximal(optax.sgd(0.1), make({"kernel": 0, "bias": 0}))
    state = optimizer.init(w)
    with raises(ValueError, "joined", "some have an update"):
        optimizer.update({"kernel": w["kernel"], "bias": None}, state, w)
