"""The three ways within Optax: its wrappers, its trees, its extra arguments."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from optareg import (
    L1,
    L2,
    ElasticNet,
    add_penalty_gradient,
    by_path,
    masked,
    proximal,
    proximal_step,
)
from training import (
    PAIRS,
    PENALTIES,
    RATE,
    WAYS,
    assert_close,
    assert_no_negative_zeros,
    assert_same,
    bare,
    batches,
    loss,
    makes_zeros,
    number_of_zeros,
    plain,
    start,
    step,
    train,
)

every_way = pytest.mark.parametrize("way", WAYS)
every_pair = pytest.mark.parametrize(("way", "penalty"), PAIRS)
ROUNDING = 1e-5  # Fifty steps of Adam, which divides by small gradients' size.


@every_pair
def test_multi_steps_is_a_run_on_averaged_gradients(way, penalty):
    optimizer = WAYS[way](PENALTIES[penalty])
    rows = batches(100)
    accumulated, _ = train(optax.MultiSteps(optimizer, 2), rows=rows)

    def step_on_two(optimizer, params, state, pair):
        gradients = jax.vmap(jax.grad(loss), (None, 0))(params, pair)
        gradient = jax.tree.map(lambda g: jnp.mean(g, axis=0), gradients)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    averaged, _ = train(optimizer, rows=rows.reshape(50, 2, -1), step=step_on_two)
    # The textbook L1 is discontinuous: a rounding at zero may become a step.
    assert_close(accumulated, averaged, atol=ROUNDING)
    assert (number_of_zeros(accumulated) > 0) == makes_zeros(way, penalty)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@every_pair
def test_apply_if_finite_skips_a_bad_gradient(way, penalty, poison):
    optimizer = optax.apply_if_finite(WAYS[way](PENALTIES[penalty]), 3)
    rows = batches(11)

    def poisoned(optimizer, params, state, x):
        rows, bad = x
        gradient = jax.grad(loss)(params, rows)
        gradient["kernel"] = gradient["kernel"].at[3, 1].add(jnp.where(bad, poison, 0))
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    @jax.jit
    def one(carry, x):
        return poisoned(optimizer, *carry, x)

    def run(bad):
        carry = start(), optimizer.init(start())
        for i, row in enumerate(rows):
            if i != 4 or bad:
                carry = one(carry, (row, i == 4))
        return carry

    (params, state), (skipped, skipped_state) = run(bad=False), run(bad=True)
    assert skipped_state.total_notfinite == 1
    assert_same(skipped, params)
    assert_same(skipped_state.inner_state, state.inner_state)


@pytest.mark.parametrize("wrapper", [optax.partition, optax.multi_transform])
@every_way
def test_optax_partition_gives_each_part_its_own(wrapper, way):
    labels = {"kernel": "sparse", "bias": "free"}
    parts = {"sparse": WAYS[way](ElasticNet(0.3, 0.1)), "free": optax.adam(RATE)}
    apart, _ = train(wrapper(parts, labels))
    assert_close(apart, plain(way, "masked")[0], atol=ROUNDING)
    frozen, _ = train(wrapper({**parts, "free": optax.set_to_zero()}, labels))
    assert_same(frozen["bias"], start()["bias"])


@pytest.mark.parametrize(
    "mask", [by_path("kernel"), {"kernel": True, "bias": False}], ids=["path", "tree"]
)
@every_way
def test_optax_masked_is_our_masked(way, mask):
    penalty = ElasticNet(0.3, 0.1)
    theirs = {
        "add_penalty_gradient": lambda: optax.chain(
            optax.masked(add_penalty_gradient(penalty), mask), optax.adam(RATE)
        ),
        "proximal_step": lambda: optax.chain(
            optax.adam(RATE), optax.masked(proximal_step(penalty, RATE), mask)
        ),
        # What the mask leaves out is not updated by the inner optimizer at all.
        "proximal": lambda: optax.chain(
            optax.masked(proximal(optax.adam(RATE), penalty), mask),
            optax.masked(optax.adam(RATE), by_path("bias")),
        ),
    }[way]()
    assert_close(train(theirs)[0], plain(way, "masked")[0], atol=ROUNDING)


# Small factories, as users write them for `inject_hyperparams`.


def gradient_factory(strength, learning_rate):
    return optax.chain(add_penalty_gradient(L1(strength)), optax.adam(learning_rate))


def step_factory(strength, learning_rate):
    return optax.chain(
        optax.adam(learning_rate), proximal_step(L1(strength), learning_rate)
    )


def proximal_factory(strength, learning_rate, threshold):
    return proximal(optax.adam(learning_rate), L1(strength), threshold=threshold)


FACTORIES = {
    "add_penalty_gradient": (gradient_factory, {}),
    "proximal_step": (step_factory, {}),
    "proximal": (proximal_factory, {"threshold": 0.05}),
}


@every_way
def test_injected_hyperparams_equal_direct_ones(way):
    factory, more = FACTORIES[way]
    values = {"strength": 0.3, "learning_rate": RATE, **more}
    injected, state = train(optax.inject_hyperparams(factory)(**values))
    direct, _ = train(factory(**values))
    assert_close(injected, direct, atol=ROUNDING)
    for name, value in values.items():
        np.testing.assert_allclose(state.hyperparams[name], value, rtol=1e-7)


@every_way
def test_an_injected_strength_can_be_changed_in_the_state(way):
    factory, more = FACTORIES[way]
    optimizer = optax.inject_hyperparams(factory)(
        strength=0.02, learning_rate=RATE, **more
    )
    rows = batches(50)
    params, state = train(optimizer, rows=rows[:20])
    before = number_of_zeros(params)
    state.hyperparams["strength"] = jnp.asarray(0.5)
    params, state = train(optimizer, params=params, state=state, rows=rows[20:])
    scheduled = {
        "add_penalty_gradient": WAYS[way],
        "proximal_step": WAYS[way],
        "proximal": lambda p: proximal(optax.adam(RATE), p, threshold=0.05),
    }[way](lambda step: L1(jnp.where(step < 20, 0.02, 0.5)))
    assert_close(params, train(scheduled, rows=rows)[0], atol=ROUNDING)
    if way != "add_penalty_gradient":
        assert number_of_zeros(params) > before


def test_inject_hyperparams_takes_proximal_itself():
    """Without a factory: the threshold is then in the state, and the strength too."""
    strength = optax.linear_schedule(0.0, 0.5, 30)
    arguments = optax.adam(RATE), lambda step: L1(strength(step))
    injected = optax.inject_hyperparams(proximal)(*arguments, threshold=0.05)
    params, state = train(injected)
    direct, _ = train(proximal(*arguments, threshold=0.05))
    assert_close(params, direct, atol=ROUNDING)
    np.testing.assert_allclose(state.hyperparams["threshold"], 0.05, rtol=1e-7)
    np.testing.assert_allclose(state.hyperparams["penalty"].strength, 0.5, rtol=1e-6)


def test_injected_hyperparams_may_be_schedules():
    injected = optax.inject_hyperparams(proximal_factory)(
        strength=optax.linear_schedule(0.0, 0.5, 30),
        learning_rate=optax.cosine_decay_schedule(RATE, 60),
        threshold=optax.linear_schedule(0.1, 0.01, 30),
    )
    strength = optax.linear_schedule(0.0, 0.5, 30)
    direct = proximal(
        optax.adam(optax.cosine_decay_schedule(RATE, 60)),
        lambda step: L1(strength(step)),
        threshold=optax.linear_schedule(0.1, 0.01, 30),
    )
    params, state = train(injected)
    assert_close(params, train(direct)[0], atol=ROUNDING)
    # The last of 50 updates was number 49, past the end of the schedule.
    np.testing.assert_allclose(state.hyperparams["strength"], 0.5, rtol=1e-6)


# What a user's mask function may do, which no placeholder survives.
STRICT_MASKS = {
    "keys": lambda params: {"kernel": params["kernel"].ndim == 2, "bias": False},
    "path": by_path("kernel"),
    "tree": {"kernel": True, "bias": False},
}
MAPPED = {
    **PENALTIES,
    **{f"masked-{k}": masked(L1(0.3), m) for k, m in STRICT_MASKS.items()},
    "strength-tree": L1({"kernel": 0.3, "bias": jnp.zeros(3)}),
    "schedule": lambda step: masked(L1(0.3), STRICT_MASKS["keys"]),
}


@pytest.mark.parametrize("penalty", MAPPED)
@every_way
def test_tree_map_params_maps_what_is_like_the_parameters(way, penalty):
    optimizer = optax.chain(WAYS[way](MAPPED[penalty]), optax.trace(0.9))
    params = start()
    state = optimizer.init(params)

    def mark(leaf, name):
        return leaf if isinstance(leaf, optax.MaskedNode) else name

    marked = optax.tree_utils.tree_map_params(
        optimizer,
        mark,
        state,
        {"kernel": "like kernel", "bias": "like bias"},
        transform_non_params=lambda _: "else",
        is_leaf=lambda x: isinstance(x, optax.MaskedNode),
    )
    assert jax.tree.structure(marked) == jax.tree.structure(state)
    like = {(13, 3): "like kernel", (3,): "like bias"}
    expected = [like.get(x.shape, "else") for x in jax.tree.leaves(state)]
    assert jax.tree.leaves(marked) == expected


@every_way
def test_tree_map_params_reaches_into_optax_wrappers(way):
    inner = WAYS[way](masked(L1(0.3), STRICT_MASKS["path"]))
    optimizer = optax.MultiSteps(
        optax.masked(inner, {"kernel": True, "bias": False}), 2
    ).gradient_transformation()
    state = optimizer.init(start())
    doubled = optax.tree.map_params(optimizer, lambda x: x + 1, state)
    assert jax.tree.structure(doubled) == jax.tree.structure(state)
    for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(doubled), strict=True):
        np.testing.assert_array_equal(y, x + (x.shape in [(13, 3), (3,)]))


def test_the_state_of_a_wrapped_optimizer_is_found_by_name():
    optimizer = proximal(optax.adam(RATE), L1(0.3))
    params, state = train(optimizer, steps=5)
    assert optax.tree.get(state, "mu")["kernel"].shape == params["kernel"].shape
    s = optax.tree.get(state, "subgradient")
    assert jax.tree.map(jnp.shape, s) == jax.tree.map(jnp.shape, params)


@every_pair
def test_holes_in_the_parameters_pass_through(way, penalty):
    def with_holes(tree):
        return {**tree, "none": None, "masked": {"kernel": optax.MaskedNode()}}

    optimizer = WAYS[way](PENALTIES[penalty])
    params, state = train(optimizer, params=with_holes(start()))
    assert_same(params, with_holes(plain(way, penalty)[0]))
    init = optimizer.init(with_holes(start()))
    assert jax.tree.structure(state) == jax.tree.structure(init)


@pytest.mark.parametrize("hole", [None, optax.MaskedNode()], ids=["None", "MaskedNode"])
@every_pair
def test_a_parameter_without_a_gradient_stays_and_disturbs_no_other(way, penalty, hole):
    """As when a part of a model is frozen by filtering its gradients."""
    sgd = {
        "add_penalty_gradient": lambda p: optax.chain(
            add_penalty_gradient(p), optax.sgd(RATE)
        ),
        "proximal_step": lambda p: optax.chain(optax.sgd(RATE), proximal_step(p, RATE)),
        "proximal": lambda p: proximal(optax.sgd(RATE), p),
    }[way](PENALTIES[penalty])
    params = start()
    gradient = jax.grad(loss)(params, batches(1)[0])
    state = sgd.init(params)
    full, _ = sgd.update(gradient, state, params)
    some, new_state = sgd.update({**gradient, "bias": hole}, state, params)
    assert some["bias"] == hole
    assert type(some["bias"]) is type(hole)
    assert_same(some["kernel"], full["kernel"])
    assert jax.tree.structure(new_state) == jax.tree.structure(state)
    if way == "proximal":
        assert_same(new_state.subgradient["bias"], state.subgradient["bias"])


def test_extra_arguments_reach_the_wrapped_optimizer():
    seen = []

    def update(updates, state, params=None, *, value, **others):
        seen.append((params, value, others))
        return updates, state

    inner = optax.GradientTransformationExtraArgs(
        lambda params: optax.EmptyState(), update
    )
    optimizer = optax.chain(proximal(inner, L1(0.1)), optax.scale(-1.0))
    params = jnp.ones(3)
    state = optimizer.init(params)
    optimizer.update(params, state, params, value=2.0, step_size=3.0)
    # The value is that of the whole objective.
    (given, value, others), *rest = seen
    assert given is params and others == {"step_size": 3.0} and not rest
    np.testing.assert_allclose(value, 2.0 + 0.1 * 3, rtol=1e-6)


def test_an_optimizer_that_follows_the_loss_does_so_when_wrapped():
    """`reduce_on_plateau` needs `value`; at this rate the loss stops falling."""
    inner = optax.chain(
        optax.adam(RATE), optax.contrib.reduce_on_plateau(factor=0.5, patience=2)
    )
    optimizer = proximal(inner, L1(0.3))

    def step_with_value(optimizer, params, state, rows):
        value, gradient = jax.value_and_grad(loss)(params, rows)
        updates, state = optimizer.update(gradient, state, params, value=value)
        return optax.apply_updates(params, updates), state

    params, state = train(optimizer, steps=100, step=step_with_value)
    assert optax.tree.get(state, "scale") < 1
    assert number_of_zeros(params) > number_of_zeros(start())


@every_pair
def test_unknown_extra_arguments_do_no_harm(way, penalty):
    """`optax.chain` hands everything to everyone."""

    def step_with_more(optimizer, params, state, rows):
        value, gradient = jax.value_and_grad(loss)(params, rows)
        updates, state = optimizer.update(
            gradient, state, params, value=value, value_fn=loss, grad=gradient
        )
        return optax.apply_updates(params, updates), state

    optimizer = WAYS[way](PENALTIES[penalty])
    if way == "add_penalty_gradient":
        with pytest.raises(ValueError, match="line search would see the loss without"):
            train(optimizer, step=step_with_more)
        return
    assert_same(train(optimizer, step=step_with_more), plain(way, penalty))


@every_pair
def test_eager_jit_and_scan_agree(way, penalty):
    optimizer = WAYS[way](PENALTIES[penalty])
    rows = batches(8)
    scanned = train(optimizer, rows=rows)
    compiled = jax.jit(lambda *carry: step(optimizer, *carry))
    for one in (lambda *carry: step(optimizer, *carry), compiled):
        params, state = start(), optimizer.init(start())
        before = jax.tree.map(lambda x: (x.shape, x.dtype), state)
        for row in rows:
            params, state = one(params, state, row)
        assert before == jax.tree.map(lambda x: (x.shape, x.dtype), state)
        assert_close(params, scanned[0], atol=1e-6)
        # z is in units of the threshold, the square of a gradient in its own.
        assert_close(state, scanned[1], atol=1e-4, zeros=False)
        assert_no_negative_zeros(params)


@every_pair
def test_cond_may_skip_a_step(way, penalty):
    optimizer = WAYS[way](PENALTIES[penalty])
    rows = batches(20)

    def step_or_not(optimizer, params, state, x):
        rows, wanted = x
        return jax.lax.cond(
            wanted,
            lambda carry: step(optimizer, *carry, rows),
            lambda carry: carry,
            (params, state),
        )

    wanted = jnp.arange(20) % 2 == 0
    some = train(optimizer, rows=(rows, wanted), step=step_or_not)
    assert_close(some[0], train(optimizer, rows=rows[::2])[0], atol=1e-6)


@every_pair
def test_a_vmapped_ensemble_is_its_members(way, penalty):
    optimizer = WAYS[way](PENALTIES[penalty])
    scales = jnp.array([0.5, 1.0, 2.0])

    @jax.jit
    def member(scale):
        return train(optimizer, 50, jax.tree.map(lambda w: scale * w, start()))[0]

    ensemble = jax.vmap(member)(scales)
    alone = jax.tree.map(lambda *w: jnp.stack(w), *map(member, scales))
    assert_close(ensemble, alone, atol=ROUNDING)
    assert (number_of_zeros(ensemble) > 0) == makes_zeros(way, penalty)


SWEEPS = {
    "add_penalty_gradient": lambda strength: L2(strength),
    "proximal_step": lambda strength: ElasticNet(strength, strength / 3),
    "proximal": lambda strength: masked(L1(strength), by_path("kernel")),
}


@every_way
def test_a_sweep_over_32_strengths_traces_once_and_equals_the_loop(way):
    traces = 0

    def end(penalty):
        nonlocal traces
        traces += 1
        return train(WAYS[way](penalty))[0]

    strengths = jnp.geomspace(1e-3, 1, 32).at[0].set(0)
    swept = jax.jit(jax.vmap(end))(SWEEPS[way](strengths))
    assert traces == 1
    # The strength is traced in the loop too, so that it compiles once.
    one = jax.jit(end)
    looped = [one(SWEEPS[way](strength)) for strength in strengths]
    assert_close(swept, jax.tree.map(lambda *w: jnp.stack(w), *looped), atol=ROUNDING)
    direct = train(WAYS[way](SWEEPS[way](float(strengths[20]))))[0]
    assert_close(jax.tree.map(lambda w: w[20], swept), direct, atol=ROUNDING)
    if way == "proximal":
        zeros = [number_of_zeros(params) for params in looped]
        assert zeros[-1] > zeros[25] > zeros[1]


@pytest.mark.parametrize("zero", [0, 0.0, np.float32(0), jnp.zeros(3)])
@pytest.mark.parametrize("penalty", [L1, L2, lambda zero: ElasticNet(zero, zero)])
@every_way
def test_an_update_with_strength_zero_is_that_of_the_bare_optimizer(way, penalty, zero):
    gradient = jax.grad(loss)(start(), batches(1)[0])

    def update(optimizer):
        return optimizer.update(gradient, optimizer.init(start()), start())[0]

    # Where the step's end point is computed it is rounded, to half an ulp of w ≈ 0.1.
    is_exact = way == "add_penalty_gradient" or penalty is L2 or np.ndim(zero) == 0
    atol = 1e-7 if way == "proximal_step" or not is_exact else 0
    assert_close(
        update(WAYS[way](penalty(zero))),
        update(optax.adam(RATE)),
        atol=atol,
        zeros=False,
    )


@every_pair
def test_buffers_may_be_donated(way, penalty):
    """No two leaves of parameters and state share one buffer at the start."""
    optimizer = WAYS[way](PENALTIES[penalty])
    one = jax.jit(functools.partial(step, optimizer), donate_argnums=(0, 1))
    carry = start(), optimizer.init(start())
    for row in batches(50):
        carry = one(*carry, row)
    assert_close(carry[0], plain(way, penalty)[0], atol=ROUNDING)


@pytest.mark.parametrize("traced", [False, True], ids=["concrete", "traced"])
@every_way
def test_training_with_strength_zero_is_that_of_the_bare_optimizer(way, traced):
    def end(strength):
        return train(WAYS[way](L1(strength)))[0]

    params = (jax.jit(end) if traced else end)(0.0)
    assert_close(params, bare(), atol=ROUNDING, zeros=False)


@pytest.mark.parametrize("traced", [False, True], ids=["concrete", "traced"])
@every_way
def test_a_coordinate_of_strength_zero_is_not_penalised(way, traced):
    """The first six rows of the kernel, as an array and as a leaf of their own."""

    def split(params):
        kernel = params["kernel"]
        return {"free": kernel[:6], "rest": kernel[6:], "bias": params["bias"]}

    def join(params):
        kernel = jnp.concatenate([params["free"], params["rest"]])
        return {"kernel": kernel, "bias": params["bias"]}

    def step_on_parts(optimizer, params, state, rows):
        gradient = jax.grad(lambda params: loss(join(params), rows))(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    # A found threshold is that of the whole leaf.
    def wrap(penalty):
        if way != "proximal":
            return WAYS[way](penalty)
        return proximal(optax.adam(RATE), penalty, threshold=0.1)

    def by_array(strength):
        return train(wrap(L1({"kernel": strength, "bias": 0.0})))[0]

    strength = jnp.where(jnp.arange(13) < 6, 0.0, 0.3)[:, None]
    whole = (jax.jit(by_array) if traced else by_array)(strength)
    penalty = masked(L1(0.3), by_path("rest"))
    parts, _ = train(wrap(penalty), params=split(start()), step=step_on_parts)
    assert_close(whole, join(parts), atol=ROUNDING, zeros=False)
    if way != "add_penalty_gradient":
        assert number_of_zeros(parts["rest"]) > number_of_zeros(parts["free"])
        np.testing.assert_array_equal(
            whole["kernel"][6:] == 0, parts["rest"] == 0, err_msg="zeros"
        )


@pytest.mark.parametrize("penalty", [L1(0.0), lambda step: L1(0.0 * step)])
def test_decoupled_weight_decay_decays_the_weight(penalty):
    adamw = optax.adamw(RATE, weight_decay=0.5)
    decayed, _ = train(adamw)
    assert_close(train(proximal(adamw, penalty))[0], decayed, ROUNDING, zeros=False)
    # Without the decay the end is far away.
    assert np.abs(bare()["kernel"] - decayed["kernel"]).max() > 1000 * ROUNDING


def test_decoupled_weight_decay_sees_the_parameters_alone():
    """A zero weight whose subgradient is far from zero must not be decayed."""
    adamw = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.1))
    optimizer = proximal(adamw, L1(1.0), threshold=0.1)
    w = jnp.zeros(2)
    state = optimizer.init(w)
    for _ in range(5):
        updates, state = optimizer.update(jnp.array([0.9, -0.9]), state, w)
        w = optax.apply_updates(w, updates)
    np.testing.assert_array_equal(w, 0)
    # s settles where g + λ s = 0, and no decay of z = w + ts would leave it there.
    for _ in range(50):
        updates, state = optimizer.update(jnp.array([0.9, -0.9]), state, w)
    np.testing.assert_allclose(state.subgradient, [-0.9, 0.9], rtol=1e-5)
