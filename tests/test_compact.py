"""`compact`: Flax models compute the same from the smaller arrays."""

import functools
import itertools
from typing import Any

import flax.core
import flax.linen as nn
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sklearn.datasets
from flax import nnx

import laws  # noqa: F401 The profile of Hypothesis.
from optareg import GroupLasso, by_path, compact, joined, masked, proximal

DENSE = ("Dense_0", "Dense_1", "Dense_2")
CONVS = ("Conv_0", "Conv_1", "Dense_0", "Dense_1")
NORMED = ("Conv_0", "BatchNorm_0", "Conv_1", "BatchNorm_1", "Dense_0", "Dense_1")


class Net(nn.Module):
    """Conv layers, then Dense layers, with all that may be between."""

    widths: tuple[int, ...]
    window: tuple[int, ...] = ()
    norm: str | None = None
    without: str | None = None
    pool: str | None = None
    use_bias: bool = True
    activation: Any = nn.relu
    conv: Any = nn.Conv
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train=False):
        options = {"dtype": self.dtype, "param_dtype": self.dtype}
        norm = functools.partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            **options,
            **({f"use_{self.without}": False} if self.without else {}),
        )
        convs = self.widths[:-2] if self.window else ()
        for width in convs:
            x = self.conv(width, self.window, use_bias=self.use_bias, **options)(x)
            x = norm()(x) if self.norm == "before" else x
            x = self.activation(x)
            x = norm()(x) if self.norm == "behind" else x
            window = (2,) * len(self.window)
            if self.pool in ("max", "avg"):
                pool = nn.max_pool if self.pool == "max" else nn.avg_pool
                x = pool(x, window, strides=window, padding="SAME")
        if self.pool == "global":
            x = x.mean(tuple(range(1, x.ndim - 1)))
        x = x.reshape(len(x), -1)
        x = norm()(x) if self.norm == "flat" else x
        for width in self.widths[len(convs) : -1]:
            x = nn.Dense(width, use_bias=self.use_bias, **options)(x)
            x = norm()(x) if self.norm == "dense" else x
            x = self.activation(x)
        return nn.Dense(self.widths[-1], use_bias=self.use_bias, **options)(x)


WAYS, PAIR = ("silence", "ignore"), ("dense", "max-pool")
IMAGE, NARROW = (4, 4, 2), (6, 5, 7, 3)
# A net, the shape of what goes in, and the chain of its layers.
CASES = {
    "dense": (Net(NARROW), (5,), ("Dense_0", "Dense_1", "Dense_2", "Dense_3")),
    "dense-gelu": (Net((6, 5, 3), activation=nn.gelu), (5,), DENSE),
    "dense-silu": (Net((6, 5, 3), activation=nn.silu), (5,), DENSE),
    "dense-tanh": (Net((6, 5, 3), activation=jnp.tanh), (5,), DENSE),
    "no-bias": (Net(NARROW, (3, 3), use_bias=False), IMAGE, CONVS),
    "conv-1d": (Net(NARROW, (3,)), (6, 2), CONVS),
    "conv-3d": (Net(NARROW, (2, 2, 2), norm="before"), (3, 3, 3, 1), NORMED),
    "transposed": (
        Net(NARROW, (3, 3), conv=nn.ConvTranspose),
        IMAGE,
        ("ConvTranspose_0", "ConvTranspose_1", "Dense_0", "Dense_1"),
    ),
    "max-pool": (Net(NARROW, (3, 3), norm="before", pool="max"), IMAGE, NORMED),
    "avg-pool": (Net(NARROW, (3, 3), norm="behind", pool="avg"), IMAGE, NORMED),
    "global-pool": (Net(NARROW, (3, 3), norm="before", pool="global"), IMAGE, NORMED),
    "norm-of-flat": (
        Net(NARROW, (3, 3), norm="flat"),
        IMAGE,
        ("Conv_0", "Conv_1", "BatchNorm_0", "Dense_0", "Dense_1"),
    ),
    "norm-of-dense": (
        Net((6, 5, 3), norm="dense"),
        (5,),
        ("Dense_0", "BatchNorm_0", "Dense_1", "BatchNorm_1", "Dense_2"),
    ),
    "norm-without-scale": (
        Net(NARROW, (3, 3), norm="before", without="scale"),
        IMAGE,
        NORMED,
    ),
    "norm-without-bias": (
        Net(NARROW, (3, 3), norm="before", without="bias"),
        IMAGE,
        NORMED,
    ),
}


def inputs(shape, n=8):
    return jnp.asarray(np.random.default_rng(0).normal(size=(n, *shape)), jnp.float32)


def variables_of(net, shape):
    """Variables of a net, as if trained: no entry is zero."""
    rng = np.random.default_rng(1)

    def entries(x):
        sign = rng.choice([-1, 1], x.shape) if len(x.shape) > 1 else 1
        return (sign * rng.uniform(0.1, 1, x.shape)).astype(x.dtype)

    shapes = jax.eval_shape(net.init, jax.random.key(0), inputs(shape, 1))
    return jax.tree.map(entries, shapes)


@functools.cache
def compiled(net, train=False):
    if not train:
        return jax.jit(net.apply)
    return jax.jit(lambda v, x: net.apply(v, x, True, mutable=["batch_stats"]))


def silence(variables, chain, name, units):
    """Makes units of the layer `name` zero: weights and bias, and those of its norm."""
    size = variables["params"][name]["kernel"].shape[-1]
    for module in (name, *norms_behind(chain, name)):
        for arrays in (c[module] for c in variables.values() if module in c):
            for key in {"kernel", "bias", "scale"} & set(arrays):
                arrays[key].reshape(-1, size)[:, units] = 0
            # A norm without a scale gives zeros for zeros only if its mean is zero.
            if module != name and "scale" not in variables["params"].get(module, {}):
                arrays.get("mean", np.empty((0, size)))[..., units] = 0


def ignore(variables, chain, name, units):
    """Makes the weights zero by which the next layer reads units of `name`."""
    size = variables["params"][name]["kernel"].shape[-1]
    layers = [layer for layer in chain if "Norm" not in layer]
    kernel = variables["params"][layers[layers.index(name) + 1]]["kernel"]
    # Rows: window, places, units, and outputs.
    outputs = kernel.shape[-1]
    view = kernel.reshape(-1, size, outputs)
    view[:, units] = 0


def norms_behind(chain, name):
    rest = chain[chain.index(name) + 1 :]
    return list(itertools.takewhile(lambda layer: "Norm" in layer, rest))


def widths_of(variables, chain):
    params = variables.get("params", variables)
    return tuple(params[n]["kernel"].shape[-1] for n in chain if "Norm" not in n)


def assert_same_outputs(net, before, after, chain, shape, tracked=True):
    """In use and in training, for a net of the widths that are left."""
    small = net.clone(widths=widths_of(after, chain))
    x = inputs(shape).astype(net.dtype)
    expected = compiled(net)(before, x)
    scale = float(jnp.max(jnp.abs(expected)))
    assert scale > 0
    limit = {"rtol": 0, "atol": 1e-5 * scale}
    np.testing.assert_allclose(compiled(small)(after, x), expected, **limit)
    if "batch_stats" in before:
        expected, stats = compiled(net, True)(before, x)
        scale = float(jnp.max(jnp.abs(expected)))
        result, small_stats = compiled(small, True)(after, x)
        limit["atol"] = 1e-4 * scale
        np.testing.assert_allclose(result, expected, **limit)
        # What a norm tracks, it tracks alike.
        left = compact(before | stats, chain)["batch_stats"]
        assert jax.tree.map(jnp.shape, small_stats["batch_stats"]) == jax.tree.map(
            jnp.shape, left
        )
        pairs = zip(jax.tree.leaves(small_stats), jax.tree.leaves(left), strict=True)
        for a, b in pairs if tracked else ():
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


@pytest.mark.parametrize(
    ("case", "how"),
    [*((case, "both") for case in CASES), *itertools.product(PAIR, WAYS)],
)
def test_a_model_computes_the_same_from_smaller_arrays(case, how):
    net, shape, chain = CASES[case]
    before = variables_of(net, shape)
    hidden = [layer for layer in chain if "Norm" not in layer][:-1]
    expected = list(net.widths)
    for i, name in enumerate(hidden):
        if how in ("silence", "both"):
            silence(before, chain, name, [0, 2])
        if how in ("ignore", "both"):
            ignore(before, chain, name, [1, 2])
        expected[i] -= 3 if how == "both" else 2
    after = compact(before, chain)
    assert widths_of(after, chain) == tuple(expected)
    assert_same_outputs(net, before, after, chain, shape)


def test_the_right_units_stay():
    """Not only as many: distinct entries show which."""
    net, shape, chain = CASES["max-pool"]
    before = variables_of(net, shape)
    silence(before, chain, "Conv_1", [1, 3])
    after = compact(before, chain)
    stay = [0, 2, 4]
    p, q = before["params"], after["params"]
    np.testing.assert_array_equal(
        q["Conv_1"]["kernel"], p["Conv_1"]["kernel"][..., stay]
    )
    np.testing.assert_array_equal(q["Conv_1"]["bias"], p["Conv_1"]["bias"][stay])
    for key in ("scale", "bias"):
        np.testing.assert_array_equal(
            q["BatchNorm_1"][key], p["BatchNorm_1"][key][stay]
        )
    for key in ("mean", "var"):
        np.testing.assert_array_equal(
            after["batch_stats"]["BatchNorm_1"][key],
            before["batch_stats"]["BatchNorm_1"][key][stay],
        )
    # One place is left by the pools, so five rows for one place each.
    np.testing.assert_array_equal(q["Dense_0"]["kernel"], p["Dense_0"]["kernel"][stay])


@pytest.mark.parametrize("case", CASES)
def test_without_dead_units_nothing_changes(case):
    net, shape, chain = CASES[case]
    before = variables_of(net, shape)
    after = compact(before, chain)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert a is b


# Which units are dead.


def dense(*kernels, **biases):
    """Parameters of Dense layers from lists; biases by the number of the layer."""
    return {
        f"Dense_{i}": {
            "kernel": np.asarray(kernel, np.float32),
            "bias": np.asarray(
                biases.get(f"b{i}", np.zeros(np.shape(kernel)[1])), np.float32
            ),
        }
        for i, kernel in enumerate(kernels)
    }


def widths(params):
    return widths_of(compact(params, list(params)), list(params))


def test_a_unit_that_reads_dead_units_alone_is_dead():
    first = [[1, 0], [1, 0]]
    second, third = [[1, 0, 1], [1, 1, 0]], [[1, 0], [1, 1], [1, 0]]
    # The unit 1 of the first layer goes, so 1 of the second, so 1 of the third.
    assert widths(dense(first, second, third, np.ones((2, 3)))) == (1, 2, 1, 3)


def test_a_unit_read_by_dead_units_alone_is_dead():
    first = np.ones((2, 2))
    second, third = [[1, 1], [0, 1]], [[1, 1, 0], [0, 0, 0]]
    # The unit 1 of the second layer goes, and with it the reader of 1 of the first.
    last = [[1], [1], [0]]
    assert widths(dense(first, second, third, last)) == (1, 1, 2, 1)


def test_a_unit_of_constant_value_stays():
    params = dense([[1, 0, 0]], np.ones((3, 2)), b0=[0, 1, 0])
    assert widths(params) == (2, 2)


def test_inputs_of_the_first_and_outputs_of_the_last_layer_stay():
    params = dense([[0, 0], [1, 1]], [[0, 1], [0, 1]])
    after = compact(params, list(params))
    assert after["Dense_0"]["kernel"].shape == (2, 2)
    assert after["Dense_1"]["kernel"].shape == (2, 2)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_of_a_layer_that_does_nothing_one_unit_stays(layer):
    net, shape, chain = CASES["max-pool"]
    before = variables_of(net, shape)
    name = CONVS[layer]
    silence(before, chain, name, slice(None))
    after = compact(before, chain)
    # What feeds it goes too, and what it feeds is constant by its biases.
    assert widths_of(after, chain) == (1,) * (layer + 1) + net.widths[layer + 1 :]
    # Of the units that stay for the shape alone, none is fed as it was.
    assert_same_outputs(net, before, after, chain, shape, tracked=False)
    again = compact(after, chain)
    assert jax.tree.map(np.shape, again) == jax.tree.map(np.shape, after)


@pytest.mark.parametrize("zero", ["kernel", "norm", "shift"])
def test_a_batch_norm_decides_what_a_filter_gives(zero):
    """Zero weights but a running mean or a shift: constant, and so it stays."""
    net, shape, chain = CASES["max-pool"]
    before = variables_of(net, shape)
    conv, norm = before["params"]["Conv_0"], before["params"]["BatchNorm_0"]
    if zero == "norm":
        norm["scale"][2], norm["bias"][2] = 0, 0
    else:
        conv["kernel"][..., 2], conv["bias"][2] = 0, 0
        norm["scale" if zero == "shift" else "bias"][2] = 0
    after = compact(before, chain)
    assert widths_of(after, chain)[0] == (5 if zero == "norm" else 6)
    assert_same_outputs(net, before, after, chain, shape)


def test_a_filter_behind_a_flatten_stays_while_one_place_is_read():
    net, shape, chain = CASES["conv-1d"]
    before = variables_of(net, shape)
    kernel = before["params"]["Dense_0"]["kernel"].reshape(6, 5, 7)
    kernel[:, 3] = 0
    kernel[:5, 1] = 0
    after = compact(before, chain)
    assert widths_of(after, chain) == (6, 4, 7, 3)
    assert after["params"]["Dense_0"]["kernel"].shape == (6 * 4, 7)
    assert_same_outputs(net, before, after, chain, shape)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision(dtype):
    net, shape, chain = CASES["max-pool"]
    net = net.clone(dtype=dtype)
    before = jax.tree.map(lambda x: jnp.asarray(x, dtype), variables_of(net, shape))
    kernel = before["params"]["Dense_0"]["kernel"]
    before["params"]["Dense_0"]["kernel"] = kernel.at[1].set(0)
    after = compact(before, chain)
    assert widths_of(after, chain) == (6, 4, 7, 3)
    assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {jnp.dtype(dtype)}
    x = inputs(shape).astype(dtype)
    expected = compiled(net)(before, x).astype(np.float32)
    result = compiled(net.clone(widths=(6, 4, 7, 3)))(after, x)
    np.testing.assert_allclose(
        result.astype(np.float32), expected, rtol=0.02, atol=0.02 * abs(expected).max()
    )


def naive(kernels, biases):
    """One unit at a time, by the definition, until there is none to cut."""
    kernels, biases = [k.copy() for k in kernels], [b.copy() for b in biases]
    while True:
        hidden = [(i, j) for i, k in enumerate(kernels[:-1]) for j in range(k.shape[1])]
        for i, j in hidden:
            silent = not kernels[i][:, j].any() and biases[i][j] == 0
            if silent or not kernels[i + 1][j].any():
                kernels[i] = np.delete(kernels[i], j, axis=1)
                biases[i] = np.delete(biases[i], j)
                kernels[i + 1] = np.delete(kernels[i + 1], j, axis=0)
                break
        else:
            return [max(1, k.shape[1]) for k in kernels]


@hypothesis.given(
    st.lists(st.integers(1, 5), min_size=2, max_size=6),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.2, 0.5, 0.8, 0.95]),
)
def test_any_chain_is_cut_to_the_end_and_computes_the_same(sizes, seed, zeros):
    rng = np.random.default_rng(seed)

    def array(*shape):
        # Integers, so that no order of summation makes a difference.
        return rng.integers(1, 4, shape) * (rng.random(shape) > zeros) * 1.0

    kernels = [array(*shape) for shape in itertools.pairwise(sizes)]
    biases = [array(n) * (rng.random() < 0.5) for n in sizes[1:]]
    signs = [rng.choice([-1.0, 1.0], k.shape) for k in kernels]
    params = {
        str(i): {"kernel": k * s, "bias": b}
        for i, (k, s, b) in enumerate(zip(kernels, signs, biases, strict=True))
    }
    small = compact(params, list(params))
    assert list(widths_of(small, list(params))) == naive(kernels, biases)

    def outputs(params, x):
        for name in params:
            x = x @ params[name]["kernel"] + params[name]["bias"]
            x = np.maximum(x, 0) if name != list(params)[-1] else x
        return x

    x = rng.integers(-5, 6, (20, sizes[0])) * 1.0
    np.testing.assert_array_equal(outputs(small, x), outputs(params, x))
    again = compact(small, list(params))
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(small), strict=True):
        assert a is b


# A real training.


def test_a_network_that_lost_its_units_in_training():
    data = sklearn.datasets.load_digits()
    x = jnp.asarray(data.images[:200, ..., None] / 16, jnp.float32)
    y = jnp.asarray(data.target[:200])
    net = Net((16, 24, 32, 10), (3, 3), norm="before", pool="max")
    rng = np.random.default_rng(0)

    def first(path, x):
        # As linen's own, which takes long to compile.
        if x.ndim > 1:
            return rng.normal(size=x.shape, scale=np.prod(x.shape[:-1]) ** -0.5)
        return np.full(x.shape, float(path[-1].key in ("scale", "var")))

    shapes = jax.eval_shape(net.init, jax.random.key(0), x[:1])
    variables = jax.tree_util.tree_map_with_path(first, shapes)
    variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), variables)
    group = GroupLasso(0.03, axis=1, size_scaled=False)
    penalty = joined(group, r"BatchNorm_([01])|(Dense_0)")
    optimizer = proximal(optax.adam(0.04), penalty, threshold=0.2)

    def loss(params, stats):
        logits, new = net.apply(
            {"params": params, "batch_stats": stats}, x, True, mutable=["batch_stats"]
        )
        error = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return error.mean(), new["batch_stats"]

    @jax.jit
    def step(params, stats, state):
        grads, stats = jax.grad(loss, has_aux=True)(params, stats)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), stats, state

    params, stats = variables["params"], variables["batch_stats"]
    carry = params, stats, jax.jit(optimizer.init)(params)
    for _ in range(120):
        carry = step(*carry)
    before = {"params": carry[0], "batch_stats": carry[1]}
    after = compact(before, NORMED)
    left = widths_of(after, NORMED)
    assert all(1 < a < b for a, b in zip(left[:3], net.widths[:3], strict=True)), left
    accuracy = jnp.mean(jnp.argmax(compiled(net)(before, x), -1) == y)
    assert accuracy > 0.9
    assert_same_outputs(net, before, after, NORMED, (8, 8, 1))


def test_a_penalty_on_kernels_alone_leaves_constant_units():
    """As the documentation says."""
    params = dense([[1, 1], [1, 1]], [[1], [1]], b0=[1, 1])
    small = masked(GroupLasso(9.0, axis=0), by_path("Dense_0.*kernel")).prox(params, 1)
    assert not np.any(small["Dense_0"]["kernel"])
    assert widths(small) == (2, 1)


# Trees and names.


class NNX(nnx.Module):
    def __init__(self, widths, rngs):
        a, b, c = widths
        self.conv = nnx.Conv(1, a, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(a, rngs=rngs)
        self.head = nnx.Sequential(
            nnx.Linear(16 * a, b, rngs=rngs), nnx.relu, nnx.Linear(b, c, rngs=rngs)
        )

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x)))
        return self.head(x.reshape(len(x), -1))


@pytest.mark.parametrize("kind", ["state", "pure dict"])
def test_nnx(kind):
    rng = np.random.default_rng(0)

    def split(widths):
        return nnx.split(nnx.eval_shape(lambda: NNX(widths, nnx.Rngs(0))))

    @functools.partial(jax.jit, static_argnums=0)
    def outputs(graph, state, x):
        model = nnx.merge(graph, state)
        model.eval()
        return model(x)

    graph, state = split((6, 5, 3))
    pure = jax.tree.map(
        lambda x: rng.uniform(0.1, 1, x.shape).astype(x.dtype), nnx.to_pure_dict(state)
    )
    for arrays in pure["conv"], pure["norm"]:
        for key in {"kernel", "bias", "scale"} & set(arrays):
            arrays[key][..., :2] = 0
    pure["head"]["layers"][2]["kernel"][4] = 0
    nnx.replace_by_pure_dict(state, pure)

    chain = ["conv", "norm", "head/layers/0", ("head", "layers", 2)]
    small = compact(state if kind == "state" else pure, chain)
    narrow, target = split((4, 4, 3))
    if kind == "state":
        assert isinstance(small, nnx.State)
    else:
        nnx.replace_by_pure_dict(target, small)
        small = target
    x = inputs((4, 4, 1))
    np.testing.assert_allclose(
        outputs(narrow, small, x), outputs(graph, state, x), rtol=1e-5
    )


def test_a_frozen_dict_stays_one():
    net, shape, chain = CASES["max-pool"]
    before = variables_of(net, shape)
    silence(before, chain, "Conv_0", [1])
    after = compact(flax.core.freeze(before), chain)
    assert isinstance(after, flax.core.FrozenDict)
    assert widths_of(after, chain)[0] == 5


def test_boxed_parameters_stay_boxed():
    kernel = nn.Partitioned(jnp.asarray([[1.0, 0.0]]), names=(None, "model"))
    params = {"a": {"kernel": kernel}, "b": {"kernel": jnp.ones((2, 1))}}
    after = compact({"params": params}, ["a", "b"])["params"]["a"]["kernel"]
    assert isinstance(after, nn.Partitioned)
    assert after.names == (None, "model") and after.value.shape == (1, 1)


def test_arrays_of_jax_and_of_numpy_stay_what_they_are():
    params = dense([[1, 0]], [[1], [1]])
    params["Dense_0"] = jax.tree.map(jnp.asarray, params["Dense_0"])
    after = compact(params, ["Dense_0", "Dense_1"])
    assert all(isinstance(x, jax.Array) for x in after["Dense_0"].values())
    assert isinstance(after["Dense_1"]["kernel"], np.ndarray)


def test_other_leaves_are_the_same_objects_and_the_input_is_untouched():
    params = dense([[1, 0]], [[1], [1]])
    key, text = jax.random.key(0), "any leaf"
    others = {
        "Dense_01": {"kernel": np.zeros((2, 2))},
        "key": key,
        "x": text,
        "n": None,
    }
    variables = {"params": params | others, "cache": {"Dense_0": {"a": np.zeros(2)}}}
    after = compact(variables, ["Dense_0", "Dense_1"])
    assert params["Dense_0"]["kernel"].shape == (1, 2)
    assert after["params"]["Dense_0"]["kernel"].shape == (1, 1)
    for name in ("key", "x", "n"):
        assert after["params"][name] is others[name]
    assert after["params"]["Dense_01"]["kernel"] is others["Dense_01"]["kernel"]
    assert after["cache"]["Dense_0"]["a"] is variables["cache"]["Dense_0"]["a"]


def test_names_may_be_nested_and_parameters_bare():
    params = dense([[1, 0]], [[1], [1]])
    names = ["net/0/Dense_0", ("net", 0, "Dense_1")]
    after = compact({"net": [params]}, names)
    assert after["net"][0]["Dense_1"]["kernel"].shape == (1, 1)


class Residual(nn.Module):
    """What is not handled, around what is."""

    hidden: tuple[int, int]

    @nn.compact
    def __call__(self, x):
        for width in self.hidden:
            y = nn.gelu(nn.Dense(width)(nn.LayerNorm()(x)))
            x = x + nn.Dense(x.shape[-1])(y)
        return x


def test_the_layers_inside_of_residual_blocks_are_chains():
    net = Residual((6, 5))
    before = variables_of(net, (4,))
    before["params"]["Dense_0"]["kernel"][:, 1] = 0
    before["params"]["Dense_0"]["bias"][1] = 0
    before["params"]["Dense_3"]["kernel"][2] = 0
    after = before
    for chain in (["Dense_0", "Dense_1"], ["Dense_2", "Dense_3"]):
        after = compact(after, chain)
    x = inputs((4,))
    np.testing.assert_allclose(
        compiled(Residual((5, 4)))(after, x), compiled(net)(before, x), rtol=1e-5
    )


# What is not handled.


def arrays(**shapes):
    return {key: np.ones(shape, np.float32) for key, shape in shapes.items()}


FIRST = arrays(kernel=(3, 3, 2, 4), bias=(4,))
LAST = arrays(kernel=(4, 2))
BAD = {
    "depthwise": (arrays(kernel=(3, 3, 1, 4)), r"`b` has 1 inputs, but `a` .* gives 4"),
    "grouped": (arrays(kernel=(3, 3, 2, 4)), r"`b` has 2 inputs, but `a` .* gives 4"),
    "concatenated": (arrays(kernel=(3, 3, 8, 4)), r"`b` has 8 inputs, but `a`"),
    "no multiple": (arrays(kernel=(9, 4)), r"`b` has 9 inputs, but `a` .* each place"),
    "norm of another width": (
        arrays(scale=3, bias=3, mean=3, var=3),
        r"`b` has 3 inputs, but `a` before it gives 4",
    ),
    "layer norm": (arrays(scale=4, bias=4), r"`b` is a norm without running `mean`"),
    "rms norm": (arrays(scale=4), r"`b` is a norm without running `mean`"),
    "attention": (
        arrays(kernel=(4, 2, 4), bias=(2, 4)),
        r"`b/bias` must have shape \(4,\)",
    ),
    "norm of two axes": (arrays(mean=(2, 4), var=(2, 4)), r"`b/mean` must have shape"),
    "vector": (arrays(kernel=4), r"`b/kernel` must have shape \(in, out\)"),
    "scalar": (arrays(kernel=(), bias=()), r"`b/kernel` must have shape \(in, out\)"),
    "empty": (arrays(kernel=(4, 0)), r"`b/kernel` must .* not be empty"),
    "embedding": (arrays(embedding=(4, 4)), r"`b` has `embedding`"),
    "adapter": (
        {"kernel": np.ones((4, 4)), "lora": {"a": np.ones((4, 1))}},
        r"`b` has `lora/a`",
    ),
    "nan": ({"kernel": np.full((4, 4), np.nan)}, r"`b/kernel` is not finite"),
    "infinite": ({"kernel": np.full((4, 4), np.inf)}, r"`b/kernel` is not finite"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_not_handled_is_named(case):
    module, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        compact({"a": FIRST, "b": module, "c": LAST}, ["a", "b", "c"])


def test_two_dense_layers_do_not_pass_for_a_flatten():
    params = {"a": arrays(kernel=(2, 4)), "b": arrays(kernel=(8, 4))}
    with pytest.raises(ValueError, match="`b` has 8 inputs, but `a` before it gives 4"):
        compact(params, ["a", "b"])


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ("a", TypeError, "must be a list of names"),
        (None, TypeError, "must be a list of names"),
        ([], ValueError, "at least one Dense or Conv"),
        (["a", "c", "a"], ValueError, "`a` is in `layers` twice"),
        (["a", "z"], ValueError, "no `z` in the variables; there are `a`, `c`"),
        (["a", "c/kernel"], ValueError, "no `c/kernel` in the variables"),
    ],
)
def test_bad_layers_are_named(layers, error, message):
    with pytest.raises(error, match=message):
        compact({"a": FIRST, "c": LAST}, layers)


def test_a_batch_norm_needs_its_statistics():
    net, shape, chain = CASES["max-pool"]
    params = variables_of(net, shape)["params"]
    with pytest.raises(ValueError, match=r"`BatchNorm_0` .* give all variables"):
        compact(params, chain)


def test_traced_leaves_and_what_is_no_array():
    names = ["Dense_0", "Dense_1"]
    params = dense([[1, 0]], [[1], [1]])
    with pytest.raises(TypeError, match="`Dense_0/kernel` is traced"):
        jax.jit(lambda params: compact(params, names))(params)
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, params))
    with pytest.raises(TypeError, match="`Dense_0/kernel` must be an array"):
        compact(shapes, names)
