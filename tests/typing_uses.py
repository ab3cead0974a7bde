"""Typical uses, for the type checker alone: `mypy --strict tests/typing_uses.py`.

Nothing of this runs. What each expression is must be known to the checker: a function
that gave `Any` would let the wrong annotations here pass, so `assert_type` asks.
"""

from typing import Any, assert_type

import jax
import jax.numpy as jnp
import optax

import optareg
from optareg import (
    L1,
    L2,
    MCP,
    ElasticNet,
    GroupLasso,
    Penalty,
    ProximalState,
    Solution,
    Summary,
    add_penalty_gradient,
    by_path,
    centered,
    compact,
    constraint,
    freeze_zeros,
    joined,
    masked,
    max_strength,
    minimize,
    partition,
    path,
    proximal,
    proximal_step,
    sparsity,
    strength_grid,
    summarize,
    target_sparsity,
)
from optareg.penalties import data, register_penalty, static

Params = dict[str, jax.Array]


def loss(params: Params) -> jax.Array:
    return jnp.sum((params["kernel"] - 1) ** 2)


def penalties(params: Params) -> None:
    bare: Penalty = L1(1e-3)
    bare = ElasticNet(1e-3, jnp.array(1e-4), positive=True)
    bare = GroupLasso({"kernel": 0.1, "bias": 0.0}, axis=0)
    assert_type(L1.from_sklearn(0.1), L1)
    assert_type(ElasticNet.from_glmnet(0.1, 0.5), ElasticNet)
    assert_type(bare.value(params), jax.Array)
    some: Penalty = masked(bare, by_path("kernel"))
    some = masked(MCP(0.1, 3.0), lambda p: jax.tree.map(lambda _: True, p))
    some = partition({"a": L1(0.1), "b": None}, {"kernel": "a", "bias": "b"})
    some = joined(GroupLasso(0.1, axis=1), "kernel|bias")
    some = centered(L2(0.1), at=params)
    some = constraint(lambda x: jnp.clip(x, -1, 1))
    assert_type(some.value(params), jax.Array)


def training(params: Params) -> Params:
    optimizer = proximal(optax.adam(1e-3), L1(1e-3))
    assert_type(optimizer, optax.GradientTransformationExtraArgs)
    proximal(optax.adam(1e-3), lambda step: L1(1e-3 / (1 + step)), threshold=0.1)
    proximal(optax.sgd(0.1), L1(0.1), threshold=optax.linear_schedule(0.1, 0.0, 10))
    optax.chain(add_penalty_gradient(L2(1e-4)), optax.adam(1e-3))
    optax.chain(optax.sgd(0.1), proximal_step(L1(1e-3), 0.1))
    target_sparsity(optax.adam(1e-3), L1(1.0), optax.linear_schedule(0.0, 0.9, 100))
    freeze_zeros(optax.adam(1e-3))
    state = optimizer.init(params)
    updates, state = optimizer.update(jax.grad(loss)(params), state, params)
    new: Params = optax.apply_updates(params, updates)  # type: ignore[assignment,unused-ignore]
    return new


def look_into(state: ProximalState) -> jax.Array:
    assert_type(state.count, jax.Array)
    return state.count


def solving(params: Params) -> jax.Array:
    solution = minimize(loss, params, L1(0.1), tol=1e-8, max_steps=100)
    assert_type(solution, Solution)
    assert_type(solution.converged, jax.Array)
    most = max_strength(loss, params, L1(1.0))
    assert_type(most, jax.Array)
    strengths = strength_grid(most, 20)
    assert_type(path(loss, params, L1(strengths)), Solution)
    return solution.stationarity


def looking(params: Params) -> None:
    summary = summarize(params, L1(0.1))
    assert_type(summary, Summary)
    share: jax.Array = sparsity(params)
    print(share, str(summary))
    smaller: Any = compact(params, ["Dense_0", "Dense_1"])
    print(smaller, optareg.__version__)


@register_penalty
class Limit(Penalty):
    """One of a user."""

    most: Any = data()
    axis: int = static(default=0)

    def leaf_value(self, w: jax.Array) -> jax.Array:
        return jnp.where(jnp.any(jnp.abs(w) > self.most), jnp.inf, 0 * jnp.sum(w))

    def leaf_prox(self, w: jax.Array, step: jax.Array) -> jax.Array:
        return jnp.clip(w, -self.most, self.most)


def refused() -> None:
    """An ignore that is not needed is an error of its own."""
    proximal(optax.sgd(0.1), Limit(0.5))  # This one is right.
    proximal(optax.sgd(0.1), 0.1)  # type: ignore[arg-type]
    proximal(optax.sgd(0.1), L1(0.1), 0.01)  # type: ignore[call-arg]
    L1(0.1).values({})  # type: ignore[attr-defined]
    GroupLasso(0.1, axes=0)  # type: ignore[call-arg]
