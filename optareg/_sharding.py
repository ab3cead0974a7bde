"""Explicit sharding: what the type of an array says of where its parts lie.

On a mesh of explicit axes JAX raises where an operation would change that silently, or
has no rule for it: joining arrays, sorting, slices, sums by labels. Here such functions
run on automatic axes, where XLA chooses, and only their results have a given sharding.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

__all__ = [
    "as_traced",
    "automatic",
    "explicit_sharding",
    "has_explicit_axes",
    "has_manual_axes",
    "placed",
]

Array = jax.Array


def explicit_sharding(x: Any) -> NamedSharding | None:
    """The sharding in the type of `x`; None if there is none."""
    sharding = getattr(jax.typeof(x), "sharding", None)
    spec = getattr(sharding, "spec", ())
    return sharding if any(part is not None for part in spec) else None


def placed(f: Callable[..., Any], sharding: Any) -> Callable[..., Any]:
    """`f` with results of this sharding, or tree of them; within it XLA chooses."""
    # Older versions of JAX have no explicit sharding.
    if sharding is None or not hasattr(jax.sharding, "auto_axes"):
        return f
    result: Callable[..., Any] = jax.sharding.auto_axes(f, out_sharding=sharding)
    return result


def automatic(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method on arrays that are alike, on automatic axes where they are explicit.

    Its results are sharded as the first sharded argument, along axes of its sizes.
    """

    @functools.wraps(method)
    def on_automatic_axes(*arguments: Any) -> Any:
        found = (
            (x, explicit_sharding(x)) for x in arguments[1:] if isinstance(x, jax.Array)
        )
        like, sharding = next((pair for pair in found if pair[1]), (None, None))
        if like is None or sharding is None:
            return method(*arguments)
        leaves, structure = jax.tree.flatten(arguments)
        # What is not an array, as a strength that is known, stays as it is.
        at = [i for i, x in enumerate(leaves) if isinstance(x, jax.Array)]

        def of_arrays(*arrays: Array) -> Any:
            mine = {**dict(enumerate(leaves)), **dict(zip(at, arrays, strict=True))}
            return method(*jax.tree.unflatten(structure, list(mine.values())))

        arrays = [leaves[i] for i in at]
        anywhere = NamedSharding(sharding.mesh, PartitionSpec())  # type: ignore[no-untyped-call]
        results = jax.eval_shape(placed(of_arrays, anywhere), *arrays)
        shardings = jax.tree.map(
            lambda x: NamedSharding(sharding.mesh, spec_like(x.shape, like, sharding)),
            results,
        )
        return placed(of_arrays, shardings)(*arrays)

    return on_automatic_axes


def spec_like(
    shape: tuple[int, ...], like: Array, sharding: NamedSharding
) -> PartitionSpec:
    """The axes of `sharding`, that of `like`, which an array of this shape has too."""
    if len(shape) != like.ndim:
        return PartitionSpec()  # type: ignore[no-untyped-call]
    sizes = zip(sharding.spec, shape, like.shape, strict=True)
    parts = [part if n == m else None for part, n, m in sizes]
    return PartitionSpec(*parts)  # type: ignore[no-untyped-call]


def has_explicit_axes() -> bool:
    """Whether types say here how arrays are sharded."""
    return bool(getattr(mesh_here(), "explicit_axes", ()))


def has_manual_axes() -> bool:
    """Whether this is within `jax.shard_map`."""
    return bool(getattr(mesh_here(), "manual_axes", ()))


def mesh_here() -> Any:
    """The mesh that is set; None in older versions of JAX."""
    return getattr(jax.sharding, "get_abstract_mesh", lambda: None)()


def as_traced(f: Callable[..., Any], types: Sequence[Any]) -> Callable[..., Any]:
    """`f` of arrays on automatic axes, where it was traced with these types."""
    shardings = [getattr(x, "sharding", None) for x in types]
    explicit = [bool(getattr(s.mesh, "explicit_axes", ())) for s in shardings if s]
    if not any(explicit):
        return f
    specs = tuple(s.spec if s else PartitionSpec() for s in shardings)  # type: ignore[no-untyped-call]
    result: Callable[..., Any] = jax.sharding.explicit_axes(f, in_sharding=specs)
    return result
