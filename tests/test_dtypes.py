"""Precisions: exact zeros, stable dtypes and states, and NaN that stays NaN."""

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
    masked,
    proximal,
    proximal_step,
)
from problems import regression_data, squared_error
from training import PENALTIES, WAYS, assert_no_negative_zeros

ALPHA = 0.05  # Lasso on diabetes has six of ten coefficients, whatever the precision.
ETA = 0.1
STEPS = 300
L1_WAYS = ["proximal_step", "proximal"]


@functools.cache
def lasso() -> np.ndarray:
    return squared_error("diabetes", ALPHA).solution


def gradient(params, dtype=None):
    """That of ‖y − Xw‖² / (2n), computed in float32 or wider, in the given dtype."""
    w = params["w"]
    wide = jnp.promote_types(w.dtype, jnp.float32)
    X, y = (jnp.asarray(x, wide) for x in regression_data("diabetes"))
    return {"w": (X.T @ (X @ w.astype(wide) - y) / len(y)).astype(dtype or w.dtype)}


def sgd(way, penalty):
    return {
        "add_penalty_gradient": lambda: optax.chain(
            add_penalty_gradient(penalty), optax.sgd(ETA)
        ),
        "proximal_step": lambda: optax.chain(
            optax.sgd(ETA), proximal_step(penalty, ETA)
        ),
        "proximal": lambda: proximal(optax.sgd(ETA), penalty, threshold=ETA),
    }[way]()


def one(optimizer, carry, dtype=None):
    params, state = carry
    updates, state = optimizer.update(gradient(params, dtype), state, params)
    return optax.apply_updates(params, updates), state


def run(optimizer, params, how="scan", steps=STEPS, dtype=None):
    """Parameters and state after `steps` full-batch steps."""
    step = functools.partial(one, optimizer, dtype=dtype)
    carry = params, optimizer.init(params)
    if how == "scan":
        body = jax.jit(
            lambda c: jax.lax.scan(lambda c, _: (step(c), None), c, length=steps)
        )
        return body(carry)[0]
    if how == "jit":
        step = jax.jit(step)
    for _ in range(steps):
        carry = step(carry)
    return carry


def first(dtype, scale=0.2):
    rng = np.random.default_rng(0)
    return {"w": jnp.asarray(scale * rng.normal(size=10), dtype)}


def check(params, dtype):
    """Lasso's zeros exactly, no −0.0, the dtype, and the other coefficients nearby."""
    assert params["w"].dtype == dtype
    assert_no_negative_zeros(params)
    w = np.asarray(params["w"], np.float64)
    np.testing.assert_array_equal(w == 0, lasso() == 0)
    # In half precision small steps are lost, up to tens of ulps without a wide state.
    half = jnp.finfo(dtype).bits == 16
    assert np.abs(w - lasso()).max() < (0.1 if half else 2e-3)


PRECISIONS = {
    "float32": ("float32", None),
    "bfloat16": ("bfloat16", None),
    "float16": ("float16", None),
    "bfloat16 gradients on float32": ("float32", "bfloat16"),
    "float32 gradients on bfloat16": ("bfloat16", "float32"),
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("way", L1_WAYS)
def test_zeros_are_exact_in_scan_and_vmap(way, precision):
    dtype, gradient_dtype = PRECISIONS[precision]
    optimizer = sgd(way, L1(ALPHA))

    def end(scale):
        params = {"w": (scale * first(jnp.float32)["w"]).astype(dtype)}
        return run(optimizer, params, dtype=gradient_dtype)[0]

    check(end(1.0), dtype)
    for w in jax.vmap(end)(jnp.array([-3.0, 1.0, 3.0]))["w"]:
        check({"w": w}, dtype)


@pytest.mark.parametrize("how", ["eager", "jit"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("way", L1_WAYS)
def test_zeros_are_exact_and_dtypes_stable_step_by_step(way, precision, how):
    dtype, gradient_dtype = PRECISIONS[precision]
    optimizer = sgd(way, L1(ALPHA))
    params, state = run(optimizer, first(dtype), how, 40, gradient_dtype)
    # Forty steps are enough for the first zeros.
    assert jnp.sum(params["w"] == 0) > 0
    assert params["w"].dtype == dtype
    assert_no_negative_zeros(params)
    before = optimizer.init(first(dtype))
    assert jax.tree.structure(state) == jax.tree.structure(before)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(state), strict=True):
        assert (new.dtype, new.shape) == (old.dtype, old.shape)


@pytest.mark.parametrize("way", L1_WAYS)
@pytest.mark.parametrize("how", ["eager", "scan"])
def test_zeros_are_exact_in_float64(way, how, x64):
    params, state = run(sgd(way, L1(ALPHA)), first(jnp.float64), how)
    assert {x.dtype for x in jax.tree.leaves(state)} <= {jnp.dtype(x) for x in FLOAT64}
    assert params["w"].dtype == jnp.float64
    np.testing.assert_array_equal(params["w"] == 0, lasso() == 0)
    assert_no_negative_zeros(params)


FLOAT64 = ("float64", "int32")


@pytest.mark.parametrize("way", L1_WAYS)
@pytest.mark.parametrize("penalty", [L1(0.4), ElasticNet(0.4, 0.05)])
def test_zeros_are_exact_for_complex_weights_and_the_optimum_is_reached(way, penalty):
    """A complex lasso; the optimality condition is g + λ w / |w| = 0, or |g| ≤ λ."""
    rng = np.random.default_rng(0)
    A, noise = (
        (rng.normal(size=(2, *shape)) * [[[1.0]], [[1.0j]]]).sum(0)
        for shape in ((50, 12), (50, 1))
    )
    truth = np.zeros(12, complex)
    truth[:3] = 2, 1.5j, -1 - 1j
    A = jnp.asarray(A / np.sqrt(2), jnp.complex64)
    y = A @ truth.astype(np.complex64) + 0.5 * noise[:, 0].astype(np.complex64)
    optimizer = sgd(way, penalty)

    def complex_gradient(w):
        return jnp.conj(A.T) @ (A @ w - y) / len(y)

    @jax.jit
    def step(carry):
        w, state = carry
        updates, state = optimizer.update(complex_gradient(w), state, w)
        return optax.apply_updates(w, updates), state

    w = 0.1 * jnp.ones(12, jnp.complex64)
    state = optimizer.init(w)
    dtypes = [x.dtype for x in jax.tree.leaves(state)]
    carry = w, state
    for _ in range(STEPS):
        carry = step(carry)
    w, state = carry
    assert w.dtype == jnp.complex64
    assert [x.dtype for x in jax.tree.leaves(state)] == dtypes
    assert_no_negative_zeros(w)
    g = np.asarray(complex_gradient(w))
    if isinstance(penalty, ElasticNet):
        g = g + 2 * 0.05 * np.asarray(w)
    w = np.asarray(w)
    np.testing.assert_array_equal(w == 0, truth == 0)
    assert np.all(np.abs(g[3:]) < 0.4)
    np.testing.assert_allclose(g[:3], -0.4 * w[:3] / np.abs(w[:3]), atol=1e-4)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("penalty", PENALTIES)
def test_updates_are_in_the_wider_dtype_of_gradient_and_parameter(way, penalty):
    """So that `optax.apply_updates` loses no zero, and nothing else is widened."""
    dtypes = ["float32", "bfloat16", "float16"]
    expected = {
        (x, y): jnp.promote_types(x, y) if x != y else jnp.dtype(x)
        for x in dtypes
        for y in dtypes
    }
    for (w, g), dtype in expected.items():
        params = {"kernel": jnp.ones((2, 3), w)}
        gradients = {"kernel": jnp.ones((2, 3), g)}
        transformation = {
            "add_penalty_gradient": add_penalty_gradient,
            "proximal_step": lambda p: proximal_step(p, 0.1),
            "proximal": lambda p: proximal(optax.identity(), p),
        }[way](PENALTIES[penalty])
        state = transformation.init(params)
        updates, after = jax.eval_shape(transformation.update, gradients, state, params)
        smooth_only = way == "proximal" and penalty == "L2"
        assert updates["kernel"].dtype == dtype or smooth_only
        for old, new in zip(
            jax.tree.leaves(state), jax.tree.leaves(after), strict=True
        ):
            assert old.dtype == new.dtype


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_state_carries_what_half_precision_weights_round_away(dtype):
    """Within an ulp of the float32 run, where the bare optimizer stalls far away."""

    def distance(make):
        """The largest, in units of the last place of the largest weight."""
        half, _ = run(make(), first(dtype), steps=1500)
        wide, _ = run(make(), first("float32"), steps=1500)
        x, y = (np.asarray(params["w"], np.float64) for params in (half, wide))
        ulp = float(jnp.finfo(dtype).eps) * 2.0 ** np.floor(np.log2(np.abs(y).max()))
        return np.abs(x - y).max() / ulp

    assert distance(lambda: sgd("proximal", L1(ALPHA))) <= 1
    # ISTA has no state to carry anything; the bare one has no penalty either.
    assert distance(lambda: sgd("proximal_step", L1(ALPHA))) > 4
    assert distance(lambda: optax.sgd(ETA)) > 50
    state = sgd("proximal", L1(ALPHA)).init(first(dtype))
    assert state.subgradient["w"].dtype == jnp.float32


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_training_in_half_precision_is_the_same_in_multi_steps_and_cond(dtype):
    """Both need branches of one dtype, which a widened update could break."""
    for optimizer in (
        optax.MultiSteps(sgd("proximal", L1(ALPHA)), 2),
        optax.apply_if_finite(sgd("proximal", L1(ALPHA)), 3),
        optax.MultiSteps(sgd("proximal_step", L1(ALPHA)), 2),
    ):
        params, _ = run(optimizer, first(dtype), steps=2 * STEPS)
        check(params, dtype)


@pytest.mark.parametrize("way", L1_WAYS)
def test_bfloat16_gradients_on_float32_go_through_multi_steps(way):
    optimizer = optax.MultiSteps(sgd(way, L1(ALPHA)), 2)
    params, _ = run(optimizer, first("float32"), steps=2 * STEPS, dtype="bfloat16")
    assert params["w"].dtype == jnp.float32
    np.testing.assert_array_equal(params["w"] == 0, lasso() == 0)


def test_zeros_survive_an_optimizer_that_emits_bfloat16():
    """The wrapped optimizer's updates may be narrower than the parameters."""
    narrow = optax.stateless(lambda u, _: optax.tree.cast(u, jnp.bfloat16))
    whole = proximal(optax.chain(optax.sgd(1.0), narrow), L1(1e-3), threshold=0.1)
    last = optax.chain(optax.sgd(1.0), narrow, proximal_step(L1(1.0), 0.1))
    w = jnp.linspace(-0.04, 0.04, 10)
    for optimizer in (whole, last):
        # A step beyond zero, not as far as the threshold: it ends at zero.
        updates, _ = optimizer.update(0.05 * jnp.sign(w), optimizer.init(w), w)
        assert updates.dtype == jnp.float32
        np.testing.assert_array_equal(optax.apply_updates(w, updates), 0)


NAN_PENALTIES = {
    **PENALTIES,
    "L1 of zero": L1(0.0),
    "L1 by coordinate": L1(jnp.array([0.0, 0.3, 0.3])),
}


@pytest.mark.parametrize(
    ("dtype", "jit"),
    [
        ("float32", False),
        *((dtype, True) for dtype in ("float32", "bfloat16", "float16", "complex64")),
    ],
)
@pytest.mark.parametrize("penalty", NAN_PENALTIES)
@pytest.mark.parametrize("way", WAYS)
def test_nan_in_a_gradient_stays_nan(way, penalty, dtype, jit):
    """At a weight of zero and at another; never a zero, and never anything else."""
    optimizer = WAYS[way](NAN_PENALTIES[penalty])
    params = {"kernel": jnp.array([[0.0, 1.0, -2.0], [0.0, 3.0, 0.0]], dtype)}
    nan = jnp.array([[np.nan, np.nan, 0.1], [0.1, 0.1, 0.1]], dtype)

    def update(gradient, state, params):
        updates, state = optimizer.update({"kernel": gradient}, state, params)
        return optax.apply_updates(params, updates), state

    if jit:
        update = jax.jit(update)
    params, state = update(nan, optimizer.init(params), params)
    np.testing.assert_array_equal(jnp.isnan(params["kernel"]), jnp.isnan(nan))
    # And it is still there in the next step, whatever the gradient is then.
    params, _ = update(jnp.zeros_like(nan), state, params)
    np.testing.assert_array_equal(jnp.isnan(params["kernel"]), jnp.isnan(nan))


@pytest.mark.parametrize("penalty", [L1(0.3), ElasticNet(0.3, 0.1), L2(0.3)])
@pytest.mark.parametrize("way", WAYS)
def test_a_nan_parameter_stays_nan(way, penalty):
    optimizer = WAYS[way](penalty)
    params = jnp.array([np.nan, 1.0, 0.0])
    updates, _ = optimizer.update(jnp.ones(3), optimizer.init(params), params)
    new = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(jnp.isnan(new), [True, False, False])


def test_integer_leaves_that_are_masked_out_train_along():
    params = {**first("float32"), "step": jnp.arange(3), "on": jnp.array([True])}
    penalty = masked(L1(ALPHA), {"w": True, "step": False, "on": False})
    optimizer = sgd("proximal", penalty)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for _ in range(STEPS):
        # `jax.grad(allow_int=True)` gives float0; users put zeros or None there.
        g = {**gradient(params), "step": None, "on": None}
        updates, state = update(g, state, params)
        moved = optax.apply_updates({"w": params["w"]}, {"w": updates["w"]})
        params = {**params, **moved}
    check({"w": params["w"]}, "float32")
