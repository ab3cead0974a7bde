"""Losses that see parameters only through matrix products, as linear models do.

`Heads` splits such a loss into those products, the heads, and the rest, the tail. A
solver can then work on a few columns of the matrix, which a compiled program cannot
find out for itself. A loss that is written otherwise has no heads and loses nothing
but speed.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Literal

from optareg.penalties._numbers import rows_of

__all__ = ["Chosen", "Heads", "Rows", "evaluate"]

Array = jax.Array

# Matrices with more entries are squared in blocks of so many.
MOST_ENTRIES = 2**20


class Head(NamedTuple):
    """A product of one leaf with a matrix that depends on no parameter.

    Attributes:
      leaf: the number of the leaf.
      matrix: the other factor.
      leaf_axis: the axis of the leaf that is summed over.
      matrix_axis: that of the matrix.
      leaf_first: whether the leaf is the first factor.
      params: of `jax.lax.dot_general`.
    """

    leaf: int
    matrix: Array
    leaf_axis: int
    matrix_axis: int
    leaf_first: bool
    params: dict[str, Any]

    def __call__(self, w: Array) -> Array:
        """The product with `w`."""
        pair = (w, self.matrix) if self.leaf_first else (self.matrix, w)
        return jax.lax.dot_general(*pair, **self.params)

    def transpose(self, z: Array, like: Array) -> Array:
        """The transposed product: from the shape of the result to that of the leaf."""
        shape = list(like.shape)
        shape[self.leaf_axis] = self.matrix.shape[self.matrix_axis]
        _, back = jax.vjp(self.__call__, jnp.zeros(shape, like.dtype))
        return jnp.asarray(*back(z))

    def row(self, i: Array, like: Array) -> Array:
        """The product with the unit vector i, of the shape and dtype of `like`."""
        row = jnp.take(self.matrix, i, axis=self.matrix_axis)
        return row.reshape(like.shape).astype(like.dtype)

    def transpose_of_squares(self, z: Array, like: Array) -> Array:
        """`transpose`, of the matrix with the squared size of each entry.

        A large one is squared block by block, so that it is never there as a whole.
        """
        rows = self.matrix.shape[self.matrix_axis]
        n = max(1, MOST_ENTRIES * rows // max(self.matrix.size, 1))
        if n >= rows:
            return self._squared().transpose(z, like)

        def add(out: Array, i: Array) -> tuple[Array, None]:
            start = jnp.minimum(i * n, rows - n)  # The last one may overlap.
            some = jax.lax.dynamic_slice_in_dim(self.matrix, start, n, self.matrix_axis)
            block = self._replace(matrix=some)._squared().transpose(z, like)
            axis = self.leaf_axis
            return jax.lax.dynamic_update_slice_in_dim(out, block, start, axis), None

        blocks = jnp.arange(-(-rows // n))
        return jax.lax.scan(add, jnp.zeros_like(like), blocks)[0]

    def _squared(self) -> Self:
        size = (self.matrix * self.matrix.conj()).real
        return self._replace(matrix=size.astype(self.matrix.dtype))


class Chosen(NamedTuple):
    """Some rows of a leaf, of which the first ones are worked on: how many may change.

    Attributes:
      rows: their numbers. One past the last is of a row that is not there, of zeros.
      axis: the axis that they are counted along.
      sizes: how many of the first ones it may be, rising; the last is all of them.
      which: the place of the size that it is.
      filled: whether some may not be there.
    """

    rows: Array
    axis: int
    sizes: tuple[int, ...]
    which: Array
    filled: bool

    def take(self, x: Array, other: float = 0) -> Array:
        """These rows of x; `other` where a row is not there."""
        return rows_of(x, self.rows, self.axis, other)

    def put(self, x: Array, values: Array) -> Array:
        """Zeros but in these rows of an array shaped as x."""
        at = (slice(None),) * self.axis + (self.rows,)
        unique = not self.filled
        return jnp.zeros_like(x).at[at].set(values, mode="drop", unique_indices=unique)

    def worked_on(self, like: Array) -> Array:
        """Where an array of these rows, of the shape of `like`, may change."""
        number = jnp.array(self.sizes)[self.which]
        place = jax.lax.broadcasted_iota(jnp.int32, like.shape, self.axis)
        return place < number


class Cut(NamedTuple):
    """A head of some rows of its leaf, the others being zero.

    A compiled program has fixed shapes. So there is a matrix for each number of rows
    that it may be, of which one is used; what is not a product has the largest shape.

    Attributes:
      parts: the head of the first rows, for each size.
      chosen: the rows.
    """

    parts: tuple[Head, ...]
    chosen: Chosen

    @classmethod
    def of(cls, head: Head, chosen: Chosen) -> Self:
        """The head of these rows."""

        def gather(size: int, rows: Array) -> Array:
            mode = "fill" if chosen.filled else "clip"  # The first is slower.
            some, axis = rows[:size], head.matrix_axis
            return jnp.take(head.matrix, some, axis, mode=mode, fill_value=0)

        def only(i: int, rows: Array) -> tuple[Array, ...]:
            """The matrix of one size; zeros are written sooner than others are read."""
            shapes = [
                jax.eval_shape(functools.partial(gather, size), rows)
                for size in chosen.sizes
            ]
            nothing = [jnp.zeros(x.shape, x.dtype) for x in shapes]
            return (*nothing[:i], gather(chosen.sizes[i], rows), *nothing[i + 1 :])

        branches = [functools.partial(only, i) for i in range(len(chosen.sizes))]
        matrices = one_of(chosen.which, branches, chosen.rows)
        return cls(tuple(head._replace(matrix=x) for x in matrices), chosen)

    @property
    def leaf(self) -> int:
        """The number of the leaf."""
        return self.parts[0].leaf

    def __call__(self, w: Array) -> Array:
        """The product with `w`."""

        def product(part: Head, size: int, w: Array) -> Array:
            return part(self._first(w, size))

        return self._of_part(product, w)

    def transpose(self, z: Array, like: Array) -> Array:
        """The transposed product, zero where there is nothing to work on."""

        def product(part: Head, size: int, z: Array) -> Array:
            return self._padded(part.transpose(z, self._first(like, size)), like)

        return self._of_part(product, z)

    def transpose_of_squares(self, z: Array, like: Array) -> Array:
        """`transpose`, of the matrix with the squared size of each entry."""

        def product(part: Head, size: int, z: Array) -> Array:
            some = part.transpose_of_squares(z, self._first(like, size))
            return self._padded(some, like)

        return self._of_part(product, z)

    def _of_part(self, f: Callable[[Head, int, Array], Array], x: Array) -> Array:
        pairs = zip(self.parts, self.chosen.sizes, strict=True)
        branches = [functools.partial(f, *pair) for pair in pairs]
        result: Array = one_of(self.chosen.which, branches, x)
        return result

    def _first(self, w: Array, size: int) -> Array:
        return jax.lax.slice_in_dim(w, 0, size, axis=self.chosen.axis)

    def _padded(self, x: Array, like: Array) -> Array:
        ends = [(0, b - a) for a, b in zip(x.shape, like.shape, strict=True)]
        return jnp.pad(x, ends)


def one_of(which: Array, branches: Sequence[Callable[..., Any]], x: Array) -> Any:
    """branches[which](x)."""
    return branches[0](x) if len(branches) == 1 else jax.lax.switch(which, branches, x)


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

    def __call__(self, leaves: Sequence[Array]) -> Array:
        """The loss."""
        return self.tail(self.products(leaves), leaves)

    def products(self, leaves: Sequence[Array]) -> list[Array]:
        """The products with the leaves."""
        return [head(leaves[head.leaf]) for head in self.heads]

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
        of_tail = jax.grad(self.tail, (0, 1))
        _, bend = jax.linearize(of_tail, list(products), list(leaves))

        def apply(p: Sequence[Array]) -> list[Array]:
            bent, total = bend(self.products(p), list(p))
            return self._collected(bent, total)

        return apply

    def _collected(self, of_products: list[Array], total: list[Array]) -> list[Array]:
        """The gradient from those in the products and in the leaves themselves."""
        total = list(total)
        for head, z in zip(self.heads, of_products, strict=True):
            like = total[head.leaf]
            total[head.leaf] = like + head.transpose(z, like)
        return total

    def take(self, rows: "Rows") -> Self:
        """The loss of some rows of the leaves with heads, the others being zero."""
        pairs = [(head, rows[head.leaf]) for head in self.heads]
        taken = (head if r is None else Cut.of(head, r) for head, r in pairs)
        return self._replace(heads=tuple(taken))


# For each leaf some of its rows; None for all.
Rows = Sequence[Chosen | None]


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
    (result,) = run(loss.jaxpr, loss.consts, arguments)
    return jnp.asarray(result)


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
    outputs = equation.primitive.bind(*functions, *inputs, **params)
    if not equation.primitive.multiple_results:
        outputs = [outputs]
    values.update(zip(equation.outvars, outputs, strict=True))


def read(variable: Any, values: dict[Any, Any]) -> Any:
    """The value of a variable or literal of a jaxpr."""
    return variable.val if isinstance(variable, Literal) else values[variable]
