"""`minimize` and `path` where starts, gradients, strengths or leaves are odd."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optareg import L1, minimize, path

pytestmark = pytest.mark.usefixtures("x64")


RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 8))
y = X[:, :3] @ np.array([2.0, -1, 1]) + 0.1 * RNG.normal(size=40)


def squares(w):
    return 0.5 * jnp.mean((jnp.asarray(y) - jnp.asarray(X) @ w) ** 2)


def barrier(w):
    return jnp.sum(w - jnp.log(w))


@pytest.mark.parametrize("optimizer", [None, optax.sgd(0.05)])
def test_an_infinite_gradient_at_zero_is_no_tolerance(optimizer):
    found = minimize(barrier, jnp.full(2, 0.3), L1(0.5), optimizer=optimizer)
    assert found.converged
    np.testing.assert_allclose(found.params, 2 / 3, rtol=1e-8)


def test_an_infinite_gradient_at_zero_is_no_tolerance_of_a_path():
    found = path(barrier, jnp.full(2, 0.3), L1(jnp.array([0.5, 1.0])))
    assert found.converged.all()
    np.testing.assert_allclose(found.params[:, 0], [2 / 3, 1 / 2], rtol=1e-8)


def test_a_far_start_makes_no_large_tolerance():
    found = minimize(lambda w: jnp.sum(jnp.exp(w) - 2 * w), jnp.full(2, 30.0), L1(0.5))
    # Right, or told that it is not.
    right = np.allclose(found.params, np.log(1.5), rtol=1e-6)
    assert right or not found.converged


def test_infinite_traced_strengths_give_no_nan():
    """As of adaptive weights 1 / |w| at zeros."""
    strengths = jnp.array([jnp.inf] + [0.2] * 7)
    found = jax.jit(lambda s: minimize(squares, jnp.zeros(8), L1(s)))(strengths)
    assert np.isfinite(found.params).all()


def test_nothing_to_minimise_over_is_refused():
    with pytest.raises(ValueError, match="nothing to minimise over"):
        minimize(lambda params: jnp.zeros(()), {}, L1(0.1))


def test_an_empty_leaf_is_fine():
    def loss(params):
        return squares(params["w"]) + jnp.sum(params["none"])

    start = {"w": jnp.zeros(8), "none": jnp.zeros((0, 3))}
    found = minimize(loss, start, L1(0.2))
    assert found.converged
    assert found.params["none"].shape == (0, 3)


def test_float32_leaves_with_float64_data():
    assert minimize(squares, jnp.zeros(8, "float32"), L1(0.2)).converged


def test_leaves_of_two_precisions():
    def loss(params):
        return squares(jnp.concatenate([params["a"].astype(float), params["b"]]))

    start = {"a": jnp.zeros(4, "float32"), "b": jnp.zeros(4)}
    assert minimize(loss, start, L1(0.2)).converged


def test_a_path_is_strict_about_ranks(strict):
    found = path(squares, jnp.zeros(8), L1(jnp.array([0.2, 0.1])))
    assert found.converged.all()


@pytest.mark.parametrize("solve", [minimize, path])
def test_a_fraction_of_steps_is_refused(solve):
    with pytest.raises(TypeError, match="`max_steps`"):
        solve(squares, jnp.zeros(8), L1(jnp.array([0.2])), max_steps=50.5)


def test_with_an_optimizer_it_may_be_differentiated_too():
    def size(strength, optimizer):
        found = minimize(
            squares, jnp.zeros(8), L1(strength), optimizer=optimizer, tol=1e-11
        )
        return jnp.sum(found.params**2)

    slopes = [jax.grad(size)(0.2, o) for o in (None, optax.sgd(0.05))]
    np.testing.assert_allclose(slopes[1], slopes[0], rtol=1e-6)
