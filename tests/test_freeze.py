"""`freeze_zeros`: zeros stay, and the rest moves as if they were not there."""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optareg import L1, by_path, centered, proximal, proximal_step
from optareg.transforms._freeze import freeze_zeros
from problems import regression_data, squared_error
from test_compiled import (
    ONE_LEAF,
    OPTIMIZERS,
    SCALARS,
    bare,
    bytes_accessed,
    lower,
    program_size,
    state_bytes,
    temporary_bytes,
)
from training import (
    RATE,
    assert_close,
    assert_no_negative_zeros,
    assert_same,
    batches,
    loss,
    number_of_zeros,
    start,
    step,
    train,
)

ROUNDING = 1e-5  # Steps of Adam, which divides by small gradients' size.
ALPHA = 0.05  # Lasso on diabetes has six of ten coefficients.


def cosine(rate, steps):
    return optax.cosine_decay_schedule(rate, steps)


def squared(X, y):
    """½ mean (y − Xw)² as a function of w."""
    X, y = jnp.asarray(X), jnp.asarray(y)
    return lambda w: 0.5 * jnp.mean((y - X @ w) ** 2)


def follow(optimizer, loss, w, steps, poison=None):
    """All iterates and the final state; `poison` replaces gradients at zeros."""

    def one(carry, _):
        w, state = carry
        value, g = jax.value_and_grad(loss)(w)
        if poison is not None:
            g = jnp.where(w == 0, poison, g)
        updates, state = optimizer.update(
            g, state, w, value=value, grad=g, value_fn=loss
        )
        w = optax.apply_updates(w, updates)
        return (w, state), w

    def run(w):
        (_, state), path = jax.lax.scan(one, (w, optimizer.init(w)), length=steps)
        return path, state

    return jax.jit(run)(jnp.asarray(w))


# Debiasing: the support by L1, the coefficients by least squares.

STEPS = 3000
DEBIASERS = {
    "momentum": optax.sgd(0.1, momentum=0.9),
    "adam": optax.adam(cosine(0.02, STEPS)),
    "clipped": optax.chain(optax.clip_by_global_norm(0.01), optax.sgd(0.5)),
    "lbfgs": optax.lbfgs(),
}


@functools.cache
def l1_solution():
    optimizer = proximal(optax.adam(cosine(0.02, STEPS)), L1.from_sklearn(ALPHA))
    loss = squared(*regression_data("diabetes"))
    return np.asarray(follow(optimizer, loss, np.zeros(10), STEPS)[0][-1])


@pytest.mark.parametrize("name", DEBIASERS)
@pytest.mark.usefixtures("x64")
def test_debiasing_ends_at_least_squares_on_the_support(name):
    X, y = regression_data("diabetes")
    w = l1_solution()
    support = squared_error("diabetes", ALPHA).solution != 0
    np.testing.assert_array_equal(w != 0, support)
    assert 0 < support.sum() < 10

    steps = 100 if name == "lbfgs" else STEPS
    path, _ = follow(freeze_zeros(DEBIASERS[name]), squared(X, y), w, steps)
    expected = np.zeros(10)
    expected[support] = np.linalg.lstsq(X[:, support], y)[0]
    np.testing.assert_allclose(path[-1], expected, rtol=0, atol=1e-8)
    assert not path[:, ~support].any()
    # L1 had biased the coefficients by much more.
    assert np.abs(expected - w).max() > 0.01


# The restricted problem: columns deleted.

RESTRICTED = {
    "momentum": optax.sgd(0.05, momentum=0.9),
    "adam": optax.adam(RATE),
    "adamw": optax.adamw(cosine(RATE, 30), weight_decay=0.1),
    "lion": optax.lion(RATE),
    # These take a norm over the entries, so that every frozen one would count.
    "clip": optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1, momentum=0.9)),
    "lamb": optax.lamb(RATE),
}
NORMS = ["clip", "lamb"]


@functools.cache
def restricted_problem():
    """The problem, its start, and the same without the zeros of the start."""
    X, y = regression_data("diabetes")
    w = np.random.default_rng(0).normal(size=10)
    w[[1, 4, 5, 9]] = 0.0
    return X, y, w, w != 0


@pytest.mark.parametrize("name", RESTRICTED)
@pytest.mark.usefixtures("x64")
def test_the_support_moves_as_if_the_other_columns_were_deleted(name):
    X, y, w, support = restricted_problem()
    inner = RESTRICTED[name]
    whole, _ = follow(freeze_zeros(inner), squared(X, y), w, 30)
    part, _ = follow(inner, squared(X[:, support], y), w[support], 30)
    np.testing.assert_allclose(whole[:, support], part, rtol=0, atol=1e-10)
    assert not whole[:, ~support].any()
    assert np.abs(part[-1] - w[support]).max() > 1e-3


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.usefixtures("x64")
def test_zeroing_the_updates_alone_would_not_do(name):
    """So the test above can fail: frozen gradients change these optimizers' steps."""
    X, y, w, support = restricted_problem()
    inner = RESTRICTED[name]

    def update(updates, state, params, **extra_args):
        updates, state = inner.update(updates, state, params, **extra_args)
        return jnp.where(params == 0, 0, updates), state

    naive = optax.GradientTransformationExtraArgs(inner.init, update)
    whole, _ = follow(naive, squared(X, y), w, 5)
    part, _ = follow(inner, squared(X[:, support], y), w[support], 5)
    assert np.abs(whole[-1, support] - part[-1]).max() > 1e-8


@pytest.mark.parametrize("name", ["adam", *NORMS])
@pytest.mark.usefixtures("x64")
def test_a_bad_gradient_at_a_zero_changes_no_bit(name):
    X, y, w, _ = restricted_problem()

    @jax.jit
    def run(poison):
        return follow(freeze_zeros(RESTRICTED[name]), squared(X, y), w, 10, poison)

    path, state = run(1.0)
    assert np.isfinite(path).all()
    for poison in (np.nan, np.inf, -np.inf):
        poisoned_path, poisoned_state = run(poison)
        np.testing.assert_array_equal(poisoned_path, path)
        assert_same(poisoned_state, state)


def test_apply_if_finite_within_does_not_skip_for_a_zero():
    optimizer = freeze_zeros(optax.apply_if_finite(optax.sgd(0.5), 3))
    update = jax.jit(optimizer.update)
    w = jnp.array([0.0, 1.0])
    updates, state = update(jnp.array([np.nan, 1.0]), optimizer.init(w), w)
    np.testing.assert_array_equal(updates, [0, -0.5])
    assert state.total_notfinite == 0
    _, state = update(jnp.array([1.0, np.nan]), state, w)
    assert state.total_notfinite == 1


# State that comes from elsewhere.


def pruned(params):
    """Half of the kernel set to zero."""
    kernel = params["kernel"]
    at = jnp.abs(kernel) < jnp.median(jnp.abs(kernel))
    return {**params, "kernel": jnp.where(at, 0.0, kernel)}


MOMENTA = {
    "momentum": optax.sgd(RATE, momentum=0.9),
    "adam": optax.adam(RATE),
    "lion": optax.lion(RATE),
}


@pytest.mark.parametrize("name", MOMENTA)
def test_momentum_from_before_the_pruning_moves_no_zero(name):
    inner = MOMENTA[name]
    params, state = train(inner)
    params = pruned(params)
    zeros = params["kernel"] == 0
    gradient = jax.jit(jax.grad(loss))(params, batches(1)[0])
    expected, _ = inner.update(gradient, state, params)
    assert (np.asarray(expected["kernel"])[zeros] != 0).all()  # It would move them.

    updates, _ = freeze_zeros(inner).update(gradient, state, params)
    assert not np.asarray(updates["kernel"])[zeros].any()
    np.testing.assert_array_equal(
        np.asarray(updates["kernel"])[~zeros], np.asarray(expected["kernel"])[~zeros]
    )
    np.testing.assert_array_equal(updates["bias"], expected["bias"])

    tuned, _ = train(freeze_zeros(inner), params=params, state=state)
    np.testing.assert_array_equal(tuned["kernel"] == 0, zeros)
    assert_no_negative_zeros(tuned)
    assert np.abs(tuned["kernel"] - params["kernel"]).max() > 1e-3


@pytest.mark.parametrize("name", MOMENTA)
def test_bad_numbers_in_the_state_of_a_zero_stay_there(name):
    params = pruned(start())
    zeros = np.asarray(params["kernel"] == 0)
    optimizer = freeze_zeros(MOMENTA[name])

    @jax.jit
    def end(poison):
        def poisoned(leaf):
            return jnp.where(zeros, poison, leaf) if leaf.shape == zeros.shape else leaf

        state = jax.tree.map(poisoned, optimizer.init(params))
        return train(optimizer, 10, params, state=state)[0]

    assert number_of_zeros(end(0.0)) == zeros.sum()
    for poison in (np.nan, np.inf):
        assert_same(end(poison), end(0.0))


def test_momentum_of_a_zero_fades():
    optimizer = freeze_zeros(optax.sgd(0.1, momentum=0.5))
    w = jnp.array([0.0, 1.0])
    state = optax.sgd(0.1, momentum=0.5).init(w)
    state = jax.tree.map(jnp.ones_like, state)
    for _ in range(3):
        _, state = optimizer.update(jnp.ones(2), state, w)
    np.testing.assert_allclose(optax.tree.get(state, "trace"), [0.125, 1.875])


def test_the_state_is_that_of_the_optimizer():
    inner = optax.adam(RATE)
    assert_same(freeze_zeros(inner).init(start()), inner.init(start()))


# What is frozen is read from the parameters.


def test_what_lands_on_zero_stays_and_what_is_set_moves_again():
    optimizer = freeze_zeros(optax.sgd(0.5, momentum=0.9))
    w = jnp.array([0.5, 2.0])
    state = optimizer.init(w)
    for expected in ([0.0, 1.5], [0.0, 0.55]):
        updates, state = optimizer.update(jnp.ones(2), state, w)
        w = optax.apply_updates(w, updates)
        np.testing.assert_allclose(w, expected, rtol=1e-6)
    w = w.at[0].set(1.0)
    updates, _ = optimizer.update(jnp.ones(2), state, w)
    assert updates[0] < 0


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda inner: freeze_zeros(proximal(inner, L1(0.3))),
        lambda inner: proximal(freeze_zeros(inner), L1(0.3)),
        lambda inner: optax.chain(freeze_zeros(inner), proximal_step(L1(0.3), RATE)),
    ],
    ids=["around", "within", "before"],
)
def test_a_penalty_only_prunes_more(wrapped):
    optimizer = wrapped(optax.adam(RATE))
    params, state, counts = start(), optimizer.init(start()), []
    one = jax.jit(functools.partial(step, optimizer))
    for rows in batches(50):
        before = params
        params, state = one(params, state, rows)
        for old, new in zip(*map(jax.tree.leaves, (before, params)), strict=True):
            assert not np.asarray(new)[np.asarray(old == 0)].any()
        counts.append(number_of_zeros(params))
    assert number_of_zeros(start()) < counts[20] < counts[-1]
    assert_no_negative_zeros(params)


def test_the_recipe_for_biases_that_start_at_zero():
    """As in the docstring: every leaf but the kernels moves freely."""
    assert 'freeze_zeros(adam), False: adam}, by_path("kernel")' in inspect.getdoc(
        freeze_zeros
    )
    adam = optax.adam(RATE)
    kernels = by_path("kernel")
    optimizer = optax.partition({True: freeze_zeros(adam), False: adam}, kernels)
    params = {**start(), "bias": jnp.zeros(3)}
    stuck, _ = train(freeze_zeros(adam), params=params)
    np.testing.assert_array_equal(stuck["bias"], 0)
    tuned, _ = train(optimizer, params=params)
    assert (tuned["bias"] != 0).all()
    np.testing.assert_array_equal(tuned["kernel"] == 0, params["kernel"] == 0)
    assert number_of_zeros(params["kernel"]) > 0


# Optax: wrappers, trees, extra arguments.

ADAM = freeze_zeros(optax.adam(RATE))


@functools.cache
def plain():
    return train(ADAM)[0]


def test_multi_steps_around_and_within_agree():
    around, _ = train(optax.MultiSteps(ADAM, 2), 20)
    within, _ = train(freeze_zeros(optax.MultiSteps(optax.adam(RATE), 2)), 20)
    assert_close(around, within, atol=ROUNDING)
    assert number_of_zeros(around) == number_of_zeros(start()) > 0


def test_injected_hyperparams_equal_direct_ones():
    @optax.inject_hyperparams
    def injected(learning_rate):
        return freeze_zeros(optax.adam(learning_rate))

    params, state = train(injected(learning_rate=RATE))
    assert_close(params, plain(), atol=ROUNDING)
    np.testing.assert_allclose(state.hyperparams["learning_rate"], RATE)


def test_in_a_chain_it_changes_nothing():
    chain = optax.chain(optax.identity(), ADAM, optax.identity())
    assert_same(train(chain)[0], plain())


def test_the_zeros_stay_in_training_and_the_rest_moves():
    for before, after in zip(*map(jax.tree.leaves, (start(), plain())), strict=True):
        np.testing.assert_array_equal(before == 0, after == 0)
        assert (np.asarray(before != after) == (before != 0)).all()


def test_a_vmapped_ensemble_is_its_members():
    @jax.jit
    def end(params):
        return train(ADAM, 3, params)[0]

    # Each member of an ensemble has its own zeros.
    keep = jnp.arange(13)[:, None] % jnp.array([2, 3])[:, None, None] > 0
    ensemble = {"kernel": keep * start()["kernel"], "bias": jnp.ones((2, 3))}
    ends = jax.vmap(end)(ensemble)
    for i in range(2):
        params = jax.tree.map(lambda x, i=i: x[i], ensemble)
        alone = jax.tree.map(lambda x, i=i: x[i], ends)
        assert_close(alone, end(params), atol=ROUNDING)


def test_tree_map_params_reaches_the_state():
    optimizer = optax.chain(freeze_zeros(optax.adam(RATE)), optax.trace(0.9))
    state = optimizer.init(start())
    mapped = optax.tree_utils.tree_map_params(
        optimizer,
        lambda _, name: name,
        state,
        {"kernel": "like kernel", "bias": "like bias"},
        transform_non_params=lambda _: "else",
    )
    assert jax.tree.structure(mapped) == jax.tree.structure(state)
    like = {(13, 3): "like kernel", (3,): "like bias", (): "else"}
    assert jax.tree.leaves(mapped) == [like[x.shape] for x in jax.tree.leaves(state)]


def test_holes_in_the_parameters_pass_through():
    def with_holes(tree):
        return {**tree, "none": None, "masked": {"kernel": optax.MaskedNode()}}

    params, state = train(ADAM, params=with_holes(start()))
    assert_same(params, with_holes(plain()))
    assert jax.tree.structure(state) == jax.tree.structure(ADAM.init(params))


@pytest.mark.parametrize("hole", [None, optax.MaskedNode()], ids=["None", "MaskedNode"])
def test_a_parameter_without_a_gradient_passes_through(hole):
    optimizer = freeze_zeros(optax.sgd(0.5))
    params = {"a": jnp.array([0.0, 1.0]), "b": jnp.array([0.0, 1.0])}
    updates, _ = optimizer.update(
        {"a": jnp.ones(2), "b": hole}, optimizer.init(params), params
    )
    assert updates["b"] == hole
    np.testing.assert_array_equal(updates["a"], [0, -0.5])


def test_extra_arguments_arrive():
    def update(updates, state, params=None, *, factor, **extra_args):
        return jax.tree.map(lambda g: factor * g, updates), state

    spy = optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)
    w = jnp.array([0.0, 1.0])
    updates, _ = freeze_zeros(spy).update(jnp.ones(2), spy.init(w), w, factor=3)
    np.testing.assert_array_equal(updates, [0, 3])
    plain_sgd = optax.GradientTransformation(*optax.sgd(0.5))  # Takes none of them.
    updates, _ = freeze_zeros(plain_sgd).update(
        jnp.ones(2), plain_sgd.init(w), w, factor=3
    )
    np.testing.assert_array_equal(updates, [0, -0.5])


# Dtypes.


@pytest.mark.parametrize(
    ("dtype", "gradient_dtype"),
    [
        ("float32", "float32"),
        ("bfloat16", "bfloat16"),
        ("float32", "bfloat16"),
        ("bfloat16", "float32"),
        ("complex64", "complex64"),
    ],
)
@pytest.mark.usefixtures("strict")
def test_updates_have_the_dtypes_of_the_optimizer(dtype, gradient_dtype):
    inner = optax.chain(optax.trace(0.9), optax.scale(-0.5))
    w = jnp.asarray([0.0, -0.0, 1.0], dtype)
    g = jnp.asarray([np.nan, 1.0, 1.0], gradient_dtype)
    expected, _ = inner.update(g, inner.init(g), w)
    updates, _ = jax.jit(freeze_zeros(inner).update)(g, inner.init(g), w)
    assert updates.dtype == expected.dtype
    with jax.numpy_dtype_promotion("standard"):  # Optax adds the two as they are.
        moved = optax.apply_updates(w, updates)
    assert moved.dtype == dtype
    np.testing.assert_array_equal(np.asarray(moved, complex), [0, 0, 0.5])
    assert_no_negative_zeros(moved)


def test_a_complex_zero_has_two_zero_parts():
    optimizer = freeze_zeros(optax.sgd(1.0))
    w = jnp.array([0, 1j, 1, 1 + 1j], "complex64")
    updates, _ = optimizer.update(jnp.full(4, 1 + 1j), optimizer.init(w), w)
    np.testing.assert_array_equal(updates, -(1 + 1j) * np.array([0, 1, 1, 1]))


def test_leaves_that_are_no_floats_pass_through():
    """A counter among the parameters may begin at zero."""
    counter = optax.stateless(lambda updates, params: updates)
    optimizer = optax.partition(
        {"w": optax.sgd(0.5), "n": counter}, {"w": "w", "n": "n", "on": "n"}
    )
    params = {"w": jnp.array([0.0, 1.0]), "n": jnp.array(0), "on": jnp.array(False)}
    ones = {"w": jnp.ones(2), "n": jnp.array(1), "on": jnp.array(True)}
    state = optimizer.init(params)
    updates, _ = freeze_zeros(optimizer).update(ones, state, params)
    assert_same(updates, {**ones, "w": jnp.array([0.0, -0.5])})


# Errors, and cost.


def test_what_is_no_optimizer_is_refused():
    with pytest.raises(TypeError, match=r"`freeze_zeros` needs an optimizer.*0\.1"):
        freeze_zeros(0.1)
    with pytest.raises(TypeError, match="Call it first"):
        freeze_zeros(optax.adam)


def test_what_does_not_fit_is_refused():
    optimizer = freeze_zeros(optax.sgd(0.1))
    w = {"w": jnp.ones(2)}
    state = optimizer.init(w)
    with pytest.raises(ValueError, match="`freeze_zeros` needs the parameters"):
        optimizer.update(w, state)
    with pytest.raises(ValueError, match=r"`updates` has shape \(3,\)"):
        optimizer.update({"w": jnp.ones(3)}, state, w)
    with pytest.raises(ValueError, match=r"\['v'\] of `updates`"):
        optimizer.update({"v": jnp.ones(2)}, state, w)


on_cpu = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="the bounds are those of the CPU compiler"
)


@on_cpu
@pytest.mark.parametrize(
    ("name", "bound"), [("sgd", 1.0), ("adam", 1.2), ("lion", 4 / 3)]
)
def test_a_step_reads_the_parameters_and_writes_nothing_more(name, bound):
    """Adam and Lion read the parameters once more for each moment."""
    inner = OPTIMIZERS[name]
    program = lower(lambda: freeze_zeros(inner), ONE_LEAF).compile()
    reference = bare(name)
    assert bytes_accessed(program) <= bound * bytes_accessed(reference) + SCALARS
    if name != "lion":  # Lion itself has temporaries, as it reads its old moment.
        assert temporary_bytes(program) <= temporary_bytes(reference) + SCALARS
    assert state_bytes(freeze_zeros(inner), ONE_LEAF) == state_bytes(inner, ONE_LEAF)


@on_cpu
def test_the_program_of_many_leaves_stays_small():
    def growth(optimizer):
        few, many = program_size(optimizer, 10), program_size(optimizer, 30)
        return many[0] - few[0], many[1] - few[1]

    ours, theirs = growth(freeze_zeros(optax.adam(RATE))), growth(optax.adam(RATE))
    assert ours[0] <= 1.3 * theirs[0]
    assert ours[1] <= 1.3 * theirs[1]


def test_with_at_what_equals_it_stays_and_zeros_move() -> None:
    at = {"w": jnp.array([0.5, 0.0, -1.0]), "b": optax.MaskedNode()}
    params = {"w": jnp.array([0.5, 0.1, 0.0]), "b": jnp.zeros(1)}
    optimizer = freeze_zeros(optax.sgd(1.0), at=at)
    gradients = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    np.testing.assert_array_equal(updates["w"], [0.0, -1.0, -1.0])
    np.testing.assert_array_equal(updates["b"], [-1.0])


def test_with_at_of_another_shape_it_says_which_leaf() -> None:
    optimizer = freeze_zeros(optax.sgd(1.0), at={"w": jnp.zeros(2)})
    params = {"w": jnp.zeros(3)}
    with pytest.raises(ValueError, match=r"'w'.*`at` of `freeze_zeros`.*\(2,\)"):
        optimizer.update(params, optimizer.init(params), params)


def test_what_centered_kept_stays_bit_for_bit() -> None:
    """Trained on without the penalty, from where `centered` ended."""
    pretrained = jnp.array([1.0, -2.0, 0.3, 0.0])
    target = jnp.array([1.1, -2.0, 2.0, 1.5])

    def run(optimizer: Any, w: Any, steps: int) -> Any:
        state = optimizer.init(w)
        for _ in range(steps):
            updates, state = optimizer.update(w - target, state, w)
            w = optax.apply_updates(w, updates)
        return w

    penalty = centered(L1(0.5), at=pretrained)
    w = run(proximal(optax.sgd(0.5), penalty), pretrained, 60)
    kept = w == pretrained
    np.testing.assert_array_equal(kept, [True, True, False, False])
    w = run(freeze_zeros(optax.sgd(0.5), at=pretrained), w, 60)
    np.testing.assert_array_equal(w == pretrained, kept)
    np.testing.assert_allclose(w[2:], target[2:], rtol=1e-6)
