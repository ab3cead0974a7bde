"""`freeze_zeros`: any optimizer, on the nonzero parameters only."""

from typing import Any

import jax.numpy as jnp
import optax

from optareg._tree import Tree, is_masked
from optareg.transforms._arguments import (
    check_optimizer,
    need_params,
)

__all__ = ["freeze_zeros"]


def freeze_zeros(
    optimizer: optax.GradientTransformation, *, at: Any = None
) -> optax.GradientTransformationExtraArgs:
    """Wraps `optimizer` so that a parameter that is exactly zero stays zero.

    For debiasing, a fit without the penalty on the support that the penalty found, and
    for fine-tuning a pruned network. The other parameters move as `optimizer` moves
    them where the zeros are left out: it gets gradients of 0 for them (so that
    global-norm clipping counts the support only), and its updates of them are replaced
    by 0. NaN does not pass either way, and no momentum collected before moves a zero.

    What is zero is read from `params` at every update. A parameter that lands on zero
    stays there, so `freeze_zeros(proximal(...))` only prunes more; one that is set to
    another value moves again.

    Not for what starts at zero and should move, as fresh biases do: leave them out by
    `optax.partition({True: freeze_zeros(adam), False: adam}, by_path("kernel"))`.

    With `at`, a parameter stays that equals its entry there instead: what
    `centered(penalty, at=pretrained)` left as it was.

    Args:
      optimizer: any Optax optimizer; a whole chain, as what stands before or behind
        `freeze_zeros` sees the zeros' gradients, or may move them. It receives the
        parameters and every extra argument.
      at: a tree of arrays with the structure and shapes of the parameters; zeros by
        default. Leaves that are masked there all move.

    Returns:
      A transformation that needs `params`. Its state is that of `optimizer`, so one
      from training may be carried over: its moments at the zeros fade as they would at
      gradients of 0, but until then count where a norm is taken of moments (Lamb, Muon,
      clipping behind momentum). Updates have the dtypes of those of `optimizer`. Leaves
      that are not floating or complex pass through.

    Raises:
      TypeError: `optimizer` is no transformation.
      ValueError: `params` is missing, or updates or `at` do not fit it.

    >>> import jax, jax.numpy as jnp, optax
    >>> from optareg import freeze_zeros
    >>> loss = lambda w: 0.5 * jnp.sum((w - jnp.array([2.0, 0.4])) ** 2)
    >>> w = jnp.array([1.0, 0.0])  # The optimum of loss + L1(1.0).
    >>> optimizer = freeze_zeros(optax.adam(0.1))
    >>> state = optimizer.init(w)
    >>> for _ in range(300):
    ...     updates, state = optimizer.update(jax.grad(loss)(w), state, w)
    ...     w = optax.apply_updates(w, updates)
    >>> print(w.round(3))
    [2. 0.]

    Source: Belloni & Chernozhukov, Least squares after model selection in
    high-dimensional sparse models (2013); Han, Pool, Tran & Dally, Learning both
    weights and connections for efficient neural networks (2015).
    """
    inner = check_optimizer(optimizer, "freeze_zeros")

    def update_fn(
        updates: Any, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[Any, Any]:
        need_params(params, "freeze_zeros")
        tree = Tree(params)
        g = tree.match(updates, "`updates`")
        fixed = [0] * len(g) if at is None else tree.match(at, "`at` of `freeze_zeros`")
        gradients = tree.build(map(on_support, g, tree.leaves, fixed))
        steps, state = inner.update(gradients, state, params, **extra_args)
        u = tree.match(steps, "the updates of the wrapped optimizer")
        return tree.build(map(on_support, u, tree.leaves, fixed)), state

    return optax.GradientTransformationExtraArgs(inner.init, update_fn)


def on_support(x: Any, w: Any, fixed: Any) -> Any:
    """The leaf `x` with zeros where the parameter w is `fixed`, whatever was there."""
    if any(is_masked(leaf) for leaf in (x, w, fixed)):
        return x
    if not jnp.issubdtype(w.dtype, jnp.inexact):
        return x
    return jnp.where(w == jnp.asarray(fixed).astype(w.dtype), 0, x)
