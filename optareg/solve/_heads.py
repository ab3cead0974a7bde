"""Losses that see parameters only through matrix products, as linear models do.

`Heads` splits such a loss into those products, the heads, and the rest, the tail. A
solver can then work on a few columns of the matrix, which a compiled program cannot
find out for itself. A loss that is written otherwise has no heads and loses nothing
but speed.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Literal

from optareg._sharding import as_traced
from optareg.solve._products import Cut, Head, Rows

__all__ = ["Heads", "evaluate"]

Array = jax.Array

# A Hessian is made in so many parts at most, of about so many numbers of data.
MOST_PARTS, ENTRIES = 8, 2**22


class Heads(NamedTuple):
    """A loss as `tail(products, leaves)`, where leaves with a head are not looked at.

    Attributes:
      heads: the products.
      tail: the rest of the loss.
      axes: for each leaf the axis its heads sum over; None for a leaf without head.
    """

    heads: tuple[Any, ...]  # Of `Head` or `Cut`.
    tail: Callable[[Sequence[Array], Sequence[Array]], Array]
    axes: tuple[int | None, ...]

    @classmethod
    def of(cls, loss: ClosedJaxpr, leaves: Sequence[Any]) -> Self:
        """Splits `loss`, traced, a function of `leaves`, of which shapes suffice."""
        # Calls are written out, so that a `jit` around the loss hides nothing.
        flat = jax.make_jaxpr(lambda *leaves: evaluate(loss, leaves))(*leaves)
        jaxpr = flat.jaxpr
        dynamic = set(jaxpr.invars)
        for equation in jaxpr.eqns:
            if any(v in dynamic for v in variables(equation)):
                dynamic.update(equation.outvars)

        axes: list[int | None] = []
        for leaf in jaxpr.invars:
            uses = [e for e in jaxpr.eqns if leaf in variables(e)]
            found = {contracted_axis(e, leaf, dynamic) for e in uses}
            axes.append(found.pop() if len(found) == 1 else None)
        with_head = {
            v for v, a in zip(jaxpr.invars, axes, strict=True) if a is not None
        }

        known = dict(zip(jaxpr.constvars, flat.consts, strict=True))
        heads, products, rest = [], [], []
        for equation in jaxpr.eqns:
            if not any(v in dynamic for v in variables(equation)):
                bind(equation, known)
            elif any(v in with_head for v in variables(equation)):
                first = equation.invars[0] in with_head
                leaf, matrix = equation.invars if first else equation.invars[::-1]
                (pair, _) = equation.params["dimension_numbers"]
                (leaf_axis,), (matrix_axis,) = pair if first else pair[::-1]
                heads.append(
                    Head(
                        leaf=jaxpr.invars.index(leaf),
                        matrix=read(matrix, known),
                        leaf_axis=leaf_axis,
                        matrix_axis=matrix_axis,
                        leaf_first=first,
                        params=equation.params,
                    )
                )
                products.append(equation.outvars[0])
            else:
                rest.append(equation)

        def tail(zs: Sequence[Array], leaves: Sequence[Array]) -> Array:
            values = {**known, **dict(zip(products, zs, strict=True))}
            values.update(zip(jaxpr.invars, leaves, strict=True))
            for equation in rest:
                bind(equation, values)
            return jnp.asarray(read(jaxpr.outvars[0], values))

        return cls(tuple(heads), tail, tuple(axes))

    @property
    def entries(self) -> int:
        """The number of entries of the largest matrix."""
        return max((head.matrix.size for head in self.heads), default=0)

    def __call__(self, leaves: Sequence[Array]) -> Array:
        """The loss."""
        return self.tail(self.products(leaves), leaves)

    def products(self, leaves: Sequence[Array]) -> list[Array]:
        """The products with the leaves."""
        return [head(leaves[head.leaf]) for head in self.heads]

    def rows(self, leaves: Sequence[Array]) -> int:
        """How many numbers the products have: rows of the data, for each column."""
        return sum(z.size for z in jax.eval_shape(self.products, list(leaves)))

    def value_and_gradient(
        self, products: Sequence[Array], leaves: Sequence[Array]
    ) -> tuple[Array, list[Array]]:
        """The loss and its gradient, as JAX gives it, where the products are known."""
        of_tail = jax.value_and_grad(self.tail, (0, 1))
        value, (of_products, total) = of_tail(list(products), list(leaves))
        return value, self._collected(of_products, total)

    def hessian(
        self, products: Sequence[Array], leaves: Sequence[Array]
    ) -> Callable[[Sequence[Array]], list[Array]]:
        """The derivative of that gradient."""
        bend = self._bend(products, leaves)
        return lambda p: bend(self.products(p), p)

    def hessian_matrix(self, leaves: Sequence[Array]) -> Array:
        """The Hessian of a quadratic loss, of all leaves in a row, of real numbers.

        A large one is made some rows at a time, for which data are copied.
        """
        likes = jax.eval_shape(self.products, list(leaves))
        zs = [jnp.zeros(z.shape, z.dtype) for z in likes]
        bend = self._bend(zs, leaves)
        entries = sum(z.size for z in zs)

        def rows(leaf: int) -> Array:
            size = leaves[leaf].size
            parts = min(MOST_PARTS, -(-entries * size // ENTRIES))
            n = -(-size // max(parts, 1))

            def some(start: Array) -> Array:
                places = start + jnp.arange(n, dtype=start.dtype)
                units = jnp.zeros((n, size), leaves[leaf].dtype)
                units = units.at[jnp.arange(n), places].set(1)
                units = units.reshape(n, *leaves[leaf].shape)
                of_units = {
                    i: head.of_units(start, n, z)
                    for i, (head, z) in enumerate(zip(self.heads, zs, strict=True))
                    if head.leaf == leaf
                }

                def row(of_unit: dict[int, Array], unit: Array) -> Array:
                    products = [of_unit.get(i, z) for i, z in enumerate(zs)]
                    p = [jnp.zeros_like(w) for w in leaves]
                    p[leaf] = unit
                    return jnp.concatenate([x.ravel() for x in bend(products, p)])

                return jax.vmap(row)(of_units, units)

            if n == size:
                return some(jnp.int32(0))

            def fill(out: Array, i: Array) -> tuple[Array, None]:
                start = jnp.minimum(i * n, size - n)  # The last one may overlap.
                block = some(start)
                return jax.lax.dynamic_update_slice_in_dim(out, block, start, 0), None

            nothing = jnp.zeros((size, sum(w.size for w in leaves)), leaves[leaf].dtype)
            blocks = jnp.arange(-(-size // n), dtype=jnp.int32)
            return jax.lax.scan(fill, nothing, blocks)[0]

        return jnp.concatenate([rows(leaf) for leaf in range(len(leaves))])

    def _bend(
        self, products: Sequence[Array], leaves: Sequence[Array]
    ) -> Callable[[Sequence[Array], Sequence[Array]], list[Array]]:
        """The derivative of the gradient, of changes of products and leaves."""
        of_tail = jax.grad(self.tail, (0, 1))
        _, bend = jax.linearize(of_tail, list(products), list(leaves))

        def apply(zs: Sequence[Array], p: Sequence[Array]) -> list[Array]:
            return self._collected(*bend(list(zs), list(p)))

        return apply

    def _collected(self, of_products: list[Array], total: list[Array]) -> list[Array]:
        """The gradient from those in the products and in the leaves themselves."""
        total = list(total)
        for head, z in zip(self.heads, of_products, strict=True):
            like = total[head.leaf]
            total[head.leaf] = like + head.transpose(z, like)
        return total

    def take(self, rows: Rows) -> Self:
        """The loss of some rows of the leaves with heads, the others being zero."""
        pairs = [(head, rows[head.leaf]) for head in self.heads]
        taken = (head if r is None else Cut(head, r) for head, r in pairs)
        return self._replace(heads=tuple(taken))

    def kept(self) -> Self:
        """The same with the matrices of these rows, for many products."""
        return self._of_cuts(Cut.kept)

    def part(self, i: int) -> Self:
        """The loss of the first of them, of one of the sizes they may have."""
        return self._of_cuts(lambda cut: cut.part(i))

    def _of_cuts(self, f: Callable[[Cut], Any]) -> Self:
        heads = (f(head) if isinstance(head, Cut) else head for head in self.heads)
        return self._replace(heads=tuple(heads))


def contracted_axis(equation: Any, leaf: Any, dynamic: set[Any]) -> int | None:
    """The axis of `leaf` that `equation`, a product with a known matrix, sums over."""
    if equation.primitive is not jax.lax.dot_general_p:
        return None
    (contracted, batch) = equation.params["dimension_numbers"]
    side = 0 if equation.invars[0] is leaf else 1
    other = equation.invars[1 - side]
    if batch[0] or len(contracted[0]) != 1 or isinstance(other, Literal):
        return None
    return None if other in dynamic else int(contracted[side][0])


def variables(equation: Any) -> list[Any]:
    """The inputs of an equation that are no literals."""
    return [v for v in equation.invars if not isinstance(v, Literal)]


def evaluate(loss: ClosedJaxpr, arguments: Sequence[Array]) -> Array:
    """Evaluates a traced function of one result, writing out the calls in it."""
    jaxpr = loss.jaxpr
    n = len(jaxpr.constvars)

    def of_all(*values: Array) -> Array:
        (result,) = run(jaxpr, values[:n], values[n:])
        return jnp.asarray(result)

    types = [v.aval for v in (*jaxpr.constvars, *jaxpr.invars)]
    result: Array = as_traced(of_all, types)(*loss.consts, *arguments)
    return result


def run(jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """Evaluates a jaxpr."""
    values = dict(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, arguments, strict=True))
    for equation in jaxpr.eqns:
        inner = equation.params.get("jaxpr")
        if equation.primitive.name in ("jit", "pjit") and inner is not None:
            inputs = [read(v, values) for v in equation.invars]
            outputs = run(inner.jaxpr, inner.consts, inputs)
            values.update(zip(equation.outvars, outputs, strict=True))
        else:
            bind(equation, values)
    return [read(v, values) for v in jaxpr.outvars]


def bind(equation: Any, values: dict[Any, Any]) -> None:
    """Evaluates one equation of a jaxpr."""
    inputs = [read(v, values) for v in equation.invars]
    params = equation.primitive.get_bind_params(equation.params)
    # A pair before JAX 0.7: of functions to be called, and the rest.
    functions, params = params if isinstance(params, tuple) else ((), params)
    with equation.ctx.manager:  # As it was traced: a loss may have explicit axes.
        outputs = equation.primitive.bind(*functions, *inputs, **params)
    if not equation.primitive.multiple_results:
        outputs = [outputs]
    values.update(zip(equation.outvars, outputs, strict=True))


def read(variable: Any, values: dict[Any, Any]) -> Any:
    """The value of a variable or literal of a jaxpr."""
    return variable.val if isinstance(variable, Literal) else values[variable]
