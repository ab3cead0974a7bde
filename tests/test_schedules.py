"""Schedules of strength, rate and threshold; parameters set from outside."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optareg import (
    L1,
    L2,
    ElasticNet,
    add_penalty_gradient,
    proximal,
    proximal_step,
)
from training import (
    RATE,
    assert_close,
    assert_same,
    batches,
    loss,
    number_of_zeros,
    start,
    step,
    train,
)

ETA = 0.1
SGD = {
    "add_penalty_gradient": lambda p: optax.chain(
        add_penalty_gradient(p), optax.sgd(ETA)
    ),
    "proximal_step": lambda p: optax.chain(optax.sgd(ETA), proximal_step(p, ETA)),
    "proximal": lambda p: proximal(optax.sgd(ETA), p),
}
every_way = pytest.mark.parametrize("way", SGD)


def without_gradient(optimizer, w, steps):
    """The parameters after each of `steps` updates with zero gradient."""
    state, result = optimizer.init(w), []
    for _ in range(steps):
        updates, state = optimizer.update(jnp.zeros_like(w), state, w)
        w = optax.apply_updates(w, updates)
        result.append(w)
    return np.asarray(result)


@every_way
def test_the_first_update_has_the_penalty_of_step_0(way):
    steps = np.arange(4)
    w = without_gradient(SGD[way](lambda step: L2(0.5 * (step + 1))), jnp.ones(1), 4)
    strength = 0.5 * (steps + 1)
    if way == "proximal_step":
        expected = np.cumprod(1 / (1 + 2 * ETA * strength))
    else:
        expected = np.cumprod(1 - 2 * ETA * strength)
    np.testing.assert_allclose(w[:, 0], expected, rtol=1e-6)
    w = without_gradient(SGD[way](lambda step: L1(0.5 * (step + 1))), jnp.ones(1), 4)
    np.testing.assert_allclose(w[:, 0], 1 - np.cumsum(ETA * strength), atol=1e-6)


def test_the_first_proximal_step_has_the_learning_rate_of_step_0():
    optimizer = proximal_step(L1(0.5), lambda step: 0.1 * step)
    w = without_gradient(optimizer, jnp.ones(1), 4)
    np.testing.assert_allclose(w[:, 0], [1, 0.95, 0.85, 0.7], rtol=1e-6)


def test_the_first_proximal_update_has_the_threshold_of_step_0():
    """A weight at zero moves its subgradient by u/t, with the t of that step."""
    optimizer = proximal(optax.sgd(ETA), L1(1.0), threshold=lambda step: 0.5 * 2**step)
    w, s = jnp.zeros(2), np.zeros(2)
    g = np.array([0.9, -0.5])
    state = optimizer.init(w)
    for i in range(4):
        updates, state = optimizer.update(jnp.asarray(g), state, w)
        s = s - ETA * (g + s) / (0.5 * 2**i)
        np.testing.assert_array_equal(updates, 0)
        np.testing.assert_allclose(state.subgradient, s, rtol=1e-5)
        assert state.count == i + 1


def test_a_schedule_sees_the_step_as_an_int32_scalar():
    seen = []

    def schedule(step):
        seen.append((jnp.shape(step), jnp.asarray(step).dtype))
        return L1(0.1)

    for way in SGD.values():
        without_gradient(way(schedule), jnp.ones(2), 2)
    assert seen
    assert set(seen) == {((), jnp.dtype("int32"))}


SCHEDULED = {
    "add_penalty_gradient": lambda strength, rate, _: optax.chain(
        add_penalty_gradient(ElasticNet(strength, 0.1)), optax.adam(rate)
    ),
    "proximal_step": lambda strength, rate, _: optax.chain(
        optax.adam(rate), proximal_step(ElasticNet(strength, 0.1), rate)
    ),
    "proximal": lambda strength, rate, threshold: proximal(
        optax.adam(rate), ElasticNet(strength, 0.1), threshold=threshold
    ),
}


@every_way
def test_schedules_are_constants_exchanged_at_each_step(way):
    strength = optax.linear_schedule(0.0, 0.5, 10)
    rate = optax.warmup_cosine_decay_schedule(0.0, RATE, 5, 30)
    threshold = optax.exponential_decay(0.5, 1, 0.8)
    scheduled = {
        "add_penalty_gradient": lambda: optax.chain(
            add_penalty_gradient(lambda step: ElasticNet(strength(step), 0.1)),
            optax.adam(rate),
        ),
        "proximal_step": lambda: optax.chain(
            optax.adam(rate),
            proximal_step(lambda step: ElasticNet(strength(step), 0.1), rate),
        ),
        "proximal": lambda: proximal(
            optax.adam(rate),
            lambda step: ElasticNet(strength(step), 0.1),
            threshold=threshold,
        ),
    }[way]()
    rows = batches(30)
    expected, _ = train(scheduled, rows=rows)

    # As arguments of one compiled step they are traced constants.
    @jax.jit
    def exchanged(values, carry, row):
        return step(SCHEDULED[way](*values), *carry, row)

    carry = start(), SCHEDULED[way](0.0, 0.1, 0.1).init(start())
    for i, row in enumerate(rows):
        values = [np.float32(f(i)) for f in (strength, rate, threshold)]
        carry = exchanged(values, carry, row)
    assert_close(carry[0], expected, atol=1e-5)
    assert way == "add_penalty_gradient" or number_of_zeros(expected) > 0


def test_eager_training_may_end_at_a_threshold_of_zero():
    """Under `jit` it may; eagerly the schedule's value is known, and is no worse."""
    schedule = optax.linear_schedule(0.1, 0.0, 3)
    optimizer = proximal(optax.sgd(ETA), L1(0.5), threshold=schedule)
    w = without_gradient(optimizer, jnp.ones(1), 5)
    np.testing.assert_allclose(w[:, 0], 1 - 0.05 * np.arange(1, 6), rtol=1e-6)


# No jumps: between two steps nothing moves by more than an optimizer's step.


def changes(optimizer, steps):
    """The parameters before each step, and the largest change in it."""
    params, sizes = start(), []
    state = optimizer.init(params)
    one = jax.jit(lambda params, state, row: step(optimizer, params, state, row))
    for row in batches(steps):
        new, state = one(params, state, row)
        moved = jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), new, params)
        sizes.append(max(jax.tree.leaves(moved)))
        params = new
    return np.asarray(sizes), params


SWITCHES = {
    "on": lambda step: jnp.where(step < 30, 0.0, 0.2),
    "off": lambda step: jnp.where(step < 30, 0.2, 0.0),
    "up": lambda step: jnp.where(step < 30, 0.02, 0.2),
}


@pytest.mark.parametrize("penalty", [L1, lambda strength: ElasticNet(strength, 0.1)])
@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize(
    "inner", [optax.sgd(0.05), optax.adam(0.01)], ids=["sgd", "adam"]
)
def test_a_strength_switched_on_or_off_makes_no_jump(inner, switch, penalty):
    threshold = 0.5
    optimizer = proximal(
        inner, lambda step: penalty(SWITCHES[switch](step)), threshold=threshold
    )
    sizes, params = changes(optimizer, 60)
    # The gradient changes by the strength; nothing changes by the threshold.
    neighbours = np.delete(sizes[20:41], 10)
    assert sizes[30] <= 2 * neighbours.max()
    assert sizes[30] < threshold / 10
    assert (number_of_zeros(params) > 0) == (switch != "off")


@pytest.mark.parametrize("strength", [0.0, 0.2])
def test_a_threshold_that_changes_makes_no_jump(strength):
    optimizer = proximal(
        optax.sgd(0.05), L1(strength), threshold=lambda step: 0.02 + 0.5 * (step >= 30)
    )
    sizes, _ = changes(optimizer, 60)
    assert sizes[30] <= 1.5 * np.delete(sizes[20:41], 10).max()


def test_a_strength_warmed_up_from_zero_ends_where_the_constant_one_does():
    rows = jnp.tile(jnp.arange(178), (1500, 1))  # All of wine, each step.
    rate = optax.cosine_decay_schedule(0.05, 1500)
    warmup = optax.linear_schedule(0.0, 0.05, 500)
    warm, _ = train(proximal(optax.adam(rate), lambda s: L1(warmup(s))), rows=rows)
    constant, _ = train(proximal(optax.adam(rate), L1(0.05)), rows=rows)
    assert number_of_zeros(constant) > 10
    # A convex problem; float32 gradients over 178 rows, and no strong convexity.
    assert_close(warm, constant, atol=1e-4)


# Parameters set from outside.


def frozen_after(steps):
    """An optimizer whose learning rate is zero from `steps` on."""
    return optax.sgd(lambda step: jnp.where(step < steps, ETA, 0.0))


OUTSIDE = {
    "new values": lambda w: jnp.linspace(-2, 2, w.size, dtype=w.dtype).reshape(w.shape),
    "other signs": lambda w: -w,
    "zeros": jnp.zeros_like,
    "zeros to ones": lambda w: jnp.where(w == 0, 1, w).astype(w.dtype),
    "some zeros": lambda w: w.at[::2].set(0),
    "rolled": lambda w: jnp.roll(w, 1),
    "clipped": lambda w: jnp.clip(w, -0.05, 0.05),
}


@functools.cache
def trained_then_frozen(dtype, strength):
    """A compiled step, and the parameters and state from which its rate is zero."""
    optimizer = proximal(frozen_after(30), L1(strength), threshold=0.1)
    carry = train(optimizer, 30, start(dtype))
    return jax.jit(functools.partial(step, optimizer)), carry


@pytest.mark.parametrize("strength", [0.1, 0.0])
@pytest.mark.parametrize("change", OUTSIDE)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_parameters_set_from_outside_are_taken_as_they_are(dtype, change, strength):
    frozen_step, (params, state) = trained_then_frozen(dtype, strength)
    params = now = jax.tree.map(OUTSIDE[change], params)
    for row in batches(3):
        now, state = frozen_step(now, state, row)
    for old, new in zip(jax.tree.leaves(params), jax.tree.leaves(now), strict=True):
        old, new = np.asarray(old, np.float32), np.asarray(new, np.float32)
        np.testing.assert_array_equal(new == 0, old == 0)
        # To the threshold's unit and back, in float32, which three steps may add up.
        atol = 4 * np.finfo(np.float32).eps * max(0.1, np.abs(old).max())
        np.testing.assert_allclose(new, old, rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_weights_moved_by_one_ulp_from_outside_stay_there(dtype):
    """The rounding error that the state carries is at most half an ulp."""
    frozen_step, (params, state) = trained_then_frozen(dtype, 0.1)
    ulp = jnp.finfo(dtype).eps

    def next_up(w):
        mantissa, exponent = jnp.frexp(w.astype(jnp.float32))
        return (w + ulp * 2.0 ** (exponent - 1) * (mantissa != 0)).astype(dtype)

    params = jax.tree.map(next_up, params)
    assert_same(frozen_step(params, state, batches(1)[0])[0], params)


def test_a_weight_set_to_zero_from_outside_waits_for_its_gradient():
    """Its subgradient is that of its old sign, not that of the old weight."""
    optimizer = proximal(optax.sgd(ETA), L1(1.0), threshold=0.1)
    w = jnp.array([5.0, -5.0])
    state = optimizer.init(w)
    updates, state = optimizer.update(jnp.zeros(2), state, w)
    w = jnp.zeros(2)
    for _ in range(5):  # |g| < λ: zero is the optimum.
        updates, state = optimizer.update(jnp.array([-0.9, 0.9]), state, w)
        w = optax.apply_updates(w, updates)
        np.testing.assert_array_equal(w, 0)


def test_other_parameters_with_an_old_z_reach_the_optimum():
    rows = jnp.tile(jnp.arange(178), (1500, 1))
    optimizer = proximal(optax.adam(optax.cosine_decay_schedule(0.05, 1500)), L1(0.05))
    expected, _ = train(optimizer, rows=rows)
    _, state = train(optimizer, rows=rows[:200])
    state = state._replace(count=jnp.zeros_like(state.count))
    restarted = jax.tree.map(lambda w: 1 - 3 * w, start())
    state = state._replace(inner_state=optimizer.init(restarted).inner_state)
    params, _ = train(optimizer, params=restarted, state=state, rows=rows)
    gradient = jax.grad(loss)(params, rows[0])
    for w, g in zip(jax.tree.leaves(params), jax.tree.leaves(gradient), strict=True):
        residual = jnp.where(
            w == 0, jnp.maximum(jnp.abs(g) - 0.05, 0), jnp.abs(g + 0.05 * jnp.sign(w))
        )
        assert residual.max() < 1e-5
    assert_close(params, expected, atol=1e-4)
