"""Penalties of penalties: `masked` for some leaves, `partition` by label.

Each is a penalty. It masks leaves of the tree before its inner penalty sees them.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from optareg._checks import is_number
from optareg._tree import Tree, is_masked, path_name
from optareg.penalties._base import Penalty, register_penalty, static
from optareg.penalties._choice import Choice, Chooser, as_chooser, choose
from optareg.penalties._param_group import ParamGroup

__all__ = ["check_is_penalty", "masked", "partition"]

PyTree = Any


def masked(penalty: Penalty, mask: PyTree | Chooser) -> Penalty:
    """`penalty` on some leaves only. True means penalised, as in `optax.masked`.

    Args:
      penalty: any penalty.
      mask: a tree of bools, a prefix of the parameters. Or a function from the
        parameters to such a tree, for instance `by_path("kernel")`. A module of bools
        is a tree even if it can be called, as for `optax.masked`.

    Returns:
      A penalty. Value, gradient, prox and every transformation use the same mask. For
      leaves left out nothing is computed and nothing is stored.

    Raises:
      TypeError: `penalty` is not a penalty, or the mask has a leaf that is not a bool.
      ValueError: on use, the mask is not a prefix of the parameters, or the expression
        of `by_path` is found in no key path.

    >>> import jax.numpy as jnp
    >>> from optareg import L1, masked
    >>> params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    >>> penalty = masked(L1(0.5), {"kernel": True, "bias": False})
    >>> print(penalty.value(params))
    3.0
    """
    check_is_penalty(penalty, "masked")
    return Masked(penalty, as_chooser(mask, "mask"))


def partition(
    penalties: Mapping[Hashable, Penalty | None], labels: PyTree | Chooser
) -> Penalty:
    """A penalty for each label, as `optax.partition` has a transformation for each.

    Args:
      penalties: a mapping from label to penalty. None leaves that label unpenalised.
      labels: a tree of labels, a prefix of the parameters. Or a function from the
        parameters to such a tree. A label None leaves its leaves unpenalised, unless
        `penalties` has an entry for None.

    Returns:
      A penalty: the sum of `penalties`, each on its leaves.

    Raises:
      TypeError: an entry of `penalties` is not a penalty, or a label is not hashable.
      ValueError: a label has no penalty, or labels are not a prefix of the parameters.

    >>> import jax.numpy as jnp
    >>> from optareg import L1, L2, partition
    >>> params = {"first": jnp.ones(4), "second": jnp.ones(3), "third": jnp.ones(2)}
    >>> labels = {"first": "sparse", "second": "small", "third": None}
    >>> print(partition({"sparse": L1(1.0), "small": L2(2.0)}, labels).value(params))
    10.0
    """
    if not isinstance(penalties, Mapping):
        raise TypeError(
            f"`partition` needs a mapping from labels to penalties, got {penalties!r}."
        )
    for label, penalty in penalties.items():
        if penalty is not None:
            check_is_penalty(penalty, f"partition` for label `{label}")
    # Equal mappings get one order. The labels themselves may not be comparable.
    names = tuple(sorted(penalties, key=lambda x: (type(x).__name__, repr(x))))
    chooser = as_chooser(labels, "labels")
    if isinstance(chooser, Choice):
        for path, label in zip(chooser.paths, chooser.leaves, strict=True):
            check_label(label, names, path)
    return Partition(tuple(penalties[name] for name in names), names, chooser)


@register_penalty
class Masked(Penalty):
    """What `masked` returns."""

    penalty: Penalty
    mask: Chooser = static()

    def resolve(self, tree: Tree) -> list[ParamGroup]:
        mask = choose(self.mask, tree, "mask")
        return self.penalty.resolve(
            tree.keep(not is_masked(entry) and bool(entry) for entry in mask)
        )


@register_penalty
class Partition(Penalty):
    """What `partition` returns.

    Attributes:
      penalties: a penalty for each of `names`. It is not a dictionary, as JAX would
        sort its keys.
      names: the labels that have a penalty, or None.
      labels: the labels of the leaves.
    """

    penalties: tuple[Penalty | None, ...]
    names: tuple[Hashable, ...] = static()
    labels: Chooser = static()

    def resolve(self, tree: Tree) -> list[ParamGroup]:
        labels = choose(self.labels, tree)
        for path, leaf, label in zip(tree.paths, tree.leaves, labels, strict=True):
            if not is_masked(leaf):
                check_label(label, self.names, path)
        return [
            param_group
            for name, penalty in zip(self.names, self.penalties, strict=True)
            if penalty is not None
            for param_group in penalty.resolve(
                tree.keep(label == name for label in labels)
            )
        ]


def check_label(label: Any, names: Sequence[Hashable], path: Any) -> None:
    """Raises unless `label` has a penalty, or is None."""
    if label not in names and not is_masked(label):
        raise ValueError(
            f"the label {label!r} at {path_name(path)} has no penalty. There are "
            f"penalties for {sorted(map(repr, names))}. Use None for no penalty."
        )


def check_is_penalty(x: Any, where: str) -> None:
    """Raises unless `x` is a penalty."""
    if isinstance(x, Penalty):
        return
    hint = ""
    if isinstance(x, type) and issubclass(x, Penalty):
        hint = f" Give it a strength, as in `{x.__name__}(1e-3)`."
    elif hasattr(x, "update") and hasattr(x, "init"):
        hint = " Are the arguments swapped?"
    elif isinstance(x, Mapping):
        hint = " To give each label a penalty, use `partition`."
    elif isinstance(x, (list, tuple, set)) and any(isinstance(y, Penalty) for y in x):
        hint = (
            " To use each for other leaves, use `partition`. For the sum of L1 and L2 "
            "on the same leaves, use `ElasticNet`. For that of L1 and groups, use "
            "`SparseGroupLasso`."
        )
    elif callable(x):
        hint = (
            " A schedule goes around the whole penalty, as in "
            "`lambda step: masked(L1(f(step)), mask)`."
        )
    elif is_number(x):
        hint = " Give a number as a strength, as in `L1(1e-3)`."
    raise TypeError(f"`{where}` needs a penalty, got {x!r}.{hint}")
