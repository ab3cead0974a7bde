"""`compact`: dead units are cut out of a chain of Dense and Conv layers.

A unit is dead if it does nothing for any input. The file has the public function, then
which units are dead, then how layers are found and checked.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from optareg._checks import is_traced

__all__ = ["compact"]

PyTree = Any


def compact(variables: PyTree, layers: Sequence[str | Sequence[Any]]) -> PyTree:
    """Smaller arrays that compute the same outputs, without the dead units.

    A unit of a Dense layer, or a filter of a Conv layer, is dead if

    - it is zero for every input: its incoming weights and bias are exactly zero, or the
      scale and bias of a BatchNorm after it; or
    - nothing reads it: its outgoing weights are exactly zero.

    Units that are dead once these are gone are cut too, along the whole chain. The
    inputs of the first layer and the outputs of the last one stay. If all units of a
    layer are dead, one stays. A unit that is constant but not zero stays too: it has no
    weights, but a bias or a shift by its BatchNorm. So penalise all that makes a unit
    as one group. Weights before a BatchNorm have no scale of their own, so penalise the
    scale of the norm. For filters with norms, and a Dense layer, write
    `joined(GroupLasso(0.02, axis=1, size_scaled=False),
    r"BatchNorm_([01])|(Dense_0)")`.

    The arrays do not show what the model computes between the layers. You must know
    that it treats each unit alone and keeps zeros. That holds for relu, gelu, silu and
    tanh, but not for sigmoid and softmax. It holds for pooling over places, for dropout
    that is off, and for a flatten of (…, h, w, channels) between Conv and Dense. Only
    the next layer may read a unit.

    These are refused with an error: norms other than BatchNorm (LayerNorm and GroupNorm
    take statistics over units, so every unit counts), grouped and depthwise
    convolutions, a layer twice in the chain, units on more than one axis (attention),
    recurrent cells, embeddings. These are not handled, but cannot be seen in the
    arrays: skip connections, a grouped convolution as the first layer, `ConvTranspose`
    with `transpose_kernel`, channels that are not last. A network with any of these has
    chains without them, such as the layers inside a residual block, or both Dense
    layers of a transformer's MLP. Call `compact` for each chain. Then make a new state
    of the optimizer.

    Args:
      variables: all variables of a linen module, as `init` gives them, or its
        parameters alone if there is no BatchNorm. Or `nnx.state(model)`. Or any tree
        whose modules have `kernel`, of shape (in, out) or (*window, in, out), and
        `bias`; or, for BatchNorm, `scale`, `bias`, `mean` and `var`. All are concrete
        and finite.
      layers: the names of the layers in their order, with the BatchNorms. Nested ones
        are written `"encoder/Conv_0"` or `("encoder", "Conv_0")`.

    Returns:
      A tree of the structure of `variables`. Leaves without a cut are the same objects.
      The model for it has smaller widths: the last axes of the new kernels.

    Raises:
      TypeError: a leaf of the chain is traced (new shapes depend on values) or is not
        an array, or `layers` is not a list.
      ValueError: a layer is not in `variables`, is given twice, is of a kind that is
        not handled, does not fit the layer before it, or is not finite.

    >>> import jax, jax.numpy as jnp
    >>> from optareg import compact
    >>> params = {
    ...     "Dense_0": {
    ...         "kernel": jnp.array([[1.0, 0.0, 2.0], [3.0, 0.0, -1.0]]),
    ...         "bias": jnp.array([0.5, 0.0, 0.0]),
    ...     },
    ...     "Dense_1": {
    ...         "kernel": jnp.array([[1.0], [4.0], [2.0]]),
    ...         "bias": jnp.array([1.0]),
    ...     },
    ... }
    >>> def model(params, x):
    ...     first, second = params["Dense_0"], params["Dense_1"]
    ...     x = jax.nn.relu(x @ first["kernel"] + first["bias"])
    ...     return x @ second["kernel"] + second["bias"]
    >>> small = compact(params, ["Dense_0", "Dense_1"])
    >>> [layer["kernel"].shape[-1] for layer in small.values()]  # The widths.
    [2, 1]
    >>> x = jnp.array([[1.0, 2.0]])
    >>> print(model(params, x), model(small, x))
    [[8.5]] [[8.5]]

    Source: Liu, Li, Shen, Huang, Yan & Zhang, Learning efficient convolutional networks
    through network slimming (2017), for the scales of norms.
    """
    pairs, treedef = jax.tree_util.tree_flatten_with_path(variables)
    leaves = [leaf for _, leaf in pairs]
    at = {path_of(path): i for i, (path, _) in enumerate(pairs)}
    links = chain([find(name, at, leaves) for name in names(layers)])
    stay = alive(links)
    for link, inputs, units in zip(links, stay[:-1], stay[1:], strict=True):
        cut(leaves, link.layer, "kernel", inputs, axis=-2)
        cut(leaves, link.layer, "kernel", units)
        cut(leaves, link.layer, "bias", units)
        for norm, key in itertools.product(link.norms, NORM):
            cut(leaves, norm, key, units)
    return jax.tree.unflatten(treedef, leaves)


LAYER = ("kernel", "bias")
NORM = ("scale", "bias", "mean", "var")


class Module(NamedTuple):
    """A layer or a norm.

    Attributes:
      name: its path, joined by slashes.
      at: for each of its arrays, the index of its leaf in the tree.
      arrays: those leaves by name, as NumPy arrays.
    """

    name: str
    at: Mapping[str, int]
    arrays: Mapping[str, np.ndarray]

    @property
    def kernel(self) -> np.ndarray | None:
        """The kernel; None for a norm."""
        return self.arrays.get("kernel")

    @property
    def inputs(self) -> int:
        """The number of inputs, at one place of a window."""
        kernel = self.kernel
        return self.arrays["mean"].size if kernel is None else kernel.shape[-2]

    @property
    def units(self) -> int:
        """The number of units, which are its outputs."""
        kernel = self.kernel
        if kernel is None:
            return self.arrays["mean"].size
        return kernel.shape[-1] if kernel.ndim else 0

    @property
    def is_conv(self) -> bool:
        """Whether the kernel has a window."""
        return self.kernel is not None and self.kernel.ndim > 2

    def is_zero(self, name: str) -> np.ndarray:
        """Where an array is zero. An absent bias is zero, an absent scale is one."""
        absent = np.full(self.units, 0 if name == "bias" else 1)
        return np.asarray(self.arrays.get(name, absent) == 0)


class Link(NamedTuple):
    """A layer of the chain, and the norms between it and the next layer."""

    layer: Module
    norms: list[Module]


# Which units are dead.


def alive(links: Sequence[Link]) -> list[np.ndarray]:
    """Which inputs of the first layer stay, then which units of each layer."""
    # For each layer, whether a unit reads an input: shape (inputs, units).
    reads = []
    for link in links:
        nonzero = np.asarray(link.layer.arrays["kernel"] != 0)
        reads.append(np.any(nonzero, axis=tuple(range(nonzero.ndim - 2))))
    widths = [links[0].layer.inputs, *(link.layer.units for link in links)]
    stay = [np.ones(width, bool) for width in widths]
    changed = True
    while changed:
        changed = False
        for i, link in enumerate(links[:-1]):
            inputs, units, readers = stay[i : i + 3]
            unfed = ~np.any(reads[i][spread(inputs, len(reads[i]))], axis=0)
            zero = zero_after(link, unfed & link.layer.is_zero("bias"))
            unread = ~np.any(reads[i + 1][:, readers], axis=1)
            idle = spread(zero, unread.size) | unread
            # A flatten gives a unit several places. All must be idle.
            dead = np.all(idle.reshape(-1, units.size), axis=0)
            changed |= bool(np.any(units & dead))
            units &= ~dead
    for units in stay:
        units[0] |= not units.any()
    return stay


def zero_after(link: Link, zero: np.ndarray) -> np.ndarray:
    """Which units are zero after the norms, if `zero` are after the layer."""
    for norm in link.norms:
        # The norm subtracts its running mean, so zero stays zero for a zero mean only.
        zero = spread(zero, norm.units) & norm.is_zero("mean")
        zero = (zero | norm.is_zero("scale")) & norm.is_zero("bias")
    return zero


def spread(units: np.ndarray, size: int) -> np.ndarray:
    """The entries of the units, repeated for each place that a flatten makes."""
    return np.tile(units, size // units.size)


def cut(
    leaves: list[Any], module: Module, name: str, units: np.ndarray, axis: int = -1
) -> None:
    """Keeps only `units` of one array of `module`, if it has this array."""
    if name not in module.at or units.all():
        return
    leaf = leaves[module.at[name]]
    kept = np.flatnonzero(spread(units, leaf.shape[axis]))
    leaves[module.at[name]] = leaf.take(kept, axis=axis)


# The chain, and checks of it.


def path_of(path: tuple[Any, ...]) -> str:
    """A key path joined by slashes, without the `.value` of a boxed array."""
    if path[-1:] == (jax.tree_util.GetAttrKey("value"),):
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/")


def names(layers: Any) -> list[str]:
    """The names in `layers`; nested ones are joined by slashes."""
    if isinstance(layers, str) or not isinstance(layers, Sequence):
        raise TypeError(
            f"`layers` must be a list of names in their order, got {layers!r}."
        )
    result = [
        name if isinstance(name, str) else "/".join(map(str, name)) for name in layers
    ]
    for i, name in enumerate(result):
        if name in result[:i]:
            raise ValueError(
                f"`{name}` is in `layers` twice. A layer that is used twice is not "
                "handled: its units would have to be dead in both places."
            )
    return result


def find(name: str, at: Mapping[str, int], leaves: Sequence[Any]) -> Module:
    """The module `name`, its arrays checked."""
    linen = any(path.startswith("params/") for path in at)
    roots = ("params/", "batch_stats/") if linen else ("",)
    mine = {
        path.removeprefix(f"{root}{name}/"): i
        for root in roots
        for path, i in at.items()
        if path.startswith(f"{root}{name}/")
    }
    if not mine:
        modules = {
            path.removeprefix(root).rpartition("/")[0]
            for root in roots
            for path in at
            if path.startswith(root) and path.endswith(("/kernel", "/scale", "/mean"))
        }
        raise ValueError(
            f"there is no `{name}` in the variables; there are "
            f"{', '.join(f'`{module}`' for module in sorted(modules)) or 'no layers'}."
        )
    known = LAYER if "kernel" in mine else NORM
    odd = sorted(set(mine) - set(known))
    if odd:
        raise ValueError(
            f"`{name}` has `{odd[0]}`, so it is not a Dense, Conv or BatchNorm, and "
            "`compact` does not know how to cut it."
        )
    if known is NORM and not {"mean", "var"} <= set(mine):
        raise ValueError(
            f"`{name}` is a norm without running `mean` and `var`. If it is a "
            "BatchNorm, give all variables, with `batch_stats`. Others, such as "
            "LayerNorm, take statistics over units, so no unit before them can be cut. "
            "Call `compact` for chains of layers without them."
        )
    arrays = {
        key: as_array(f"{name}/{key}", leaves[mine[key]])
        for key in known  # The kernel is first, as others are checked against it.
        if key in mine
    }
    module = Module(name, mine, arrays)
    for key, array in arrays.items():
        if key == "kernel":
            good, shape = array.ndim >= 2, "(in, out) or (*window, in, out)"
        else:
            good, shape = array.shape == (module.units,), f"({module.units},)"
        if not good or array.size == 0:
            raise ValueError(
                f"`{name}/{key}` must have shape {shape} and not be empty, got "
                f"{array.shape}. `compact` handles Dense, Conv and BatchNorm, with "
                "units on the last axis only."
            )
    return module


def as_array(name: str, leaf: Any) -> np.ndarray:
    """`leaf` as a NumPy array; raises unless it is concrete and finite."""
    if is_traced(leaf):
        raise TypeError(
            f"`{name}` is traced. The shapes that `compact` gives depend on values: "
            "call it outside of `jit` and `vmap`."
        )
    if not isinstance(leaf, (np.ndarray, jax.Array)):
        raise TypeError(f"`{name}` must be an array, got {leaf!r}.")
    array = np.asarray(leaf)
    if not np.all(np.isfinite(array)):
        raise ValueError(f"`{name}` is not finite. Zero times NaN or ∞ is not zero.")
    return array


def chain(modules: Sequence[Module]) -> list[Link]:
    """The links, from the first layer to the last; raises if they do not fit."""
    links: list[Link] = []
    for module in modules:
        if module.kernel is not None:
            links.append(Link(module, []))
        elif links:
            links[-1].norms.append(module)
    if not links:
        raise ValueError("`layers` must have at least one Dense or Conv layer in it.")
    for link, following in itertools.pairwise(links):
        before, units = link.layer.name, link.layer.units
        for module in (*link.norms, following.layer):
            may_flatten = link.layer.is_conv and not module.is_conv
            if module.inputs % units or (module.inputs > units and not may_flatten):
                raise ValueError(
                    f"`{module.name}` has {module.inputs} inputs, but `{before}` before"
                    f" it gives {units}{' at each place' if may_flatten else ''}. Is "
                    "`layers` in order? Grouped and depthwise convolutions and "
                    "concatenated layers are not handled."
                )
            before, units = module.name, module.inputs
    return links
