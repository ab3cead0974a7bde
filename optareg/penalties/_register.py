"""How a class becomes a penalty: `register_penalty`, and the kinds of fields.

A field is a strength by default. `static()` marks a hashable field that is never
traced. `data()` marks arrays that are not strengths, so they are not scaled with them.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from typing import Any, Self, TypeVar, dataclass_transform

import jax

from optareg._checks import check_number
from optareg._sharding import automatic
from optareg._tree import is_masked

__all__ = [
    "Registered",
    "check_strengths",
    "data",
    "map_strengths",
    "register_penalty",
    "static",
    "strength_fields",
    "strengths_of",
    "with_strengths",
]

T = TypeVar("T")
REGISTERED = "_registered_fields"


def static(**kwargs: Any) -> Any:
    """A field of a penalty that is not a strength. It is hashable and never traced.

    Args:
      **kwargs: those of `dataclasses.field`, for instance `default`.

    >>> from optareg.penalties import Penalty, register_penalty, static
    >>> @register_penalty
    ... class Cube(Penalty):
    ...     size: float = static(default=1.0)
    ...
    ...     def leaf_value(self, w):
    ...         return jnp.where(jnp.all(abs(w) <= self.size), 0.0, jnp.inf)
    ...
    ...     def leaf_prox(self, w, step):
    ...         return w.clip(-self.size, self.size)
    >>> import jax, jax.numpy as jnp
    >>> print(jax.tree.leaves(Cube()), Cube(2.0).prox(jnp.array([3.0, 1.0]), 0.1))
    [] [2. 1.]
    """
    return dataclasses.field(metadata={"static": True}, **kwargs)


def data(**kwargs: Any) -> Any:
    """A field of a penalty with arrays that are not strengths. They may be traced.

    Args:
      **kwargs: those of `dataclasses.field`.
    """
    return dataclasses.field(metadata={"data": True}, **kwargs)


def strength_fields(cls: type) -> tuple[str, ...]:
    """The names of the fields of `cls` that are strengths, or penalties with them."""
    return tuple(f.name for f in dataclasses.fields(cls) if not f.metadata)


def is_registered(cls: type) -> bool:
    """Whether `register_penalty` decorates this class itself, not just a parent."""
    return REGISTERED in vars(cls)


@dataclass_transform(frozen_default=True, field_specifiers=(static, data))
def register_penalty(cls: type[T]) -> type[T]:
    """A decorator that makes a class a penalty: a frozen dataclass and a pytree.

    The leaves of the pytree are the strengths and the fields of `data()`.

    Args:
      cls: a subclass of `Penalty` with `leaf_value` and `leaf_prox`.

    Returns:
      The class.

    Raises:
      TypeError: the class lacks a method that a penalty must have.

    >>> import jax.numpy as jnp
    >>> from optareg.penalties import Penalty, register_penalty
    >>> @register_penalty
    ... class Ball(Penalty):
    ...     radius: float
    ...
    ...     def leaf_value(self, w):
    ...         return jnp.where(jnp.linalg.norm(w) <= self.radius, 0.0, jnp.inf)
    ...
    ...     def leaf_prox(self, w, step):
    ...         return w / jnp.maximum(jnp.linalg.norm(w) / self.radius, 1)
    >>> print(Ball(1.0).prox(jnp.array([3.0, 4.0]), 0.1))
    [0.6 0.8]
    """
    check_methods(cls)
    cls = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    names = tuple(f.name for f in fields if not f.metadata.get("static"))
    others = tuple(f.name for f in fields if f.name not in names)
    setattr(cls, REGISTERED, names)

    def flatten_with_keys(penalty: T) -> tuple[Any, Any]:
        children, aux = flatten(penalty)
        keys = map(jax.tree_util.GetAttrKey, names)
        return tuple(zip(keys, children, strict=True)), aux

    def flatten(penalty: T) -> tuple[Any, Any]:
        children = tuple(getattr(penalty, name) for name in names)
        return children, tuple(getattr(penalty, name) for name in others)

    def unflatten(aux: Any, children: Any) -> T:
        # Without the constructor: its checks would reject JAX's placeholders.
        new = object.__new__(cls)
        for name, value in zip(names + others, (*children, *aux), strict=True):
            object.__setattr__(new, name, value)
        return new

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


class Registered:
    """The base of classes that must be decorated with `register_penalty`.

    Formulas for one leaf need not know of meshes: they run on automatic axes.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Lets the formulas of a subclass take arrays with explicit sharding."""
        super().__init_subclass__(**kwargs)
        if "is_contract" in vars(cls):  # The fallbacks can.
            return
        for name, method in list(vars(cls).items()):
            if name.startswith("leaf_") and callable(method):
                setattr(cls, name, automatic(method))

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Raises if the decorator is forgotten, or an argument is not a field."""
        if not is_registered(cls):
            raise TypeError(
                f"{cls.__name__} is no penalty yet: decorate the class with "
                '`@register_penalty`; see "How to add a penalty" in CONTRIBUTING.md.'
            )
        fields = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
        for name in kwargs:
            if name not in fields:
                hint = (
                    f" From scikit-learn's, use `{cls.__name__}.from_sklearn`."
                    if name in ("alpha", "l1_ratio") and hasattr(cls, "from_sklearn")
                    else ""
                )
                raise TypeError(
                    f"{cls.__name__} has no argument `{name}`, but "
                    f"{', '.join(f'`{f}`' for f in fields)}.{hint}"
                )
        return object.__new__(cls)

    def replace(self, **fields: Any) -> Self:
        """A copy with other fields. They are not checked: JAX puts placeholders in."""
        new = object.__new__(type(self))
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = fields.get(field.name, getattr(self, field.name))
            object.__setattr__(new, field.name, value)
        return new


def map_strengths(f: Callable[[Any], Any], penalty: T) -> T:
    """`penalty` with f of each strength, also in combinators; `data()` as it is."""

    def of_field(value: Any) -> Any:
        return jax.tree.map(of_entry, value, is_leaf=lambda x: is_registered(type(x)))

    def of_entry(x: Any) -> Any:
        return map_strengths(f, x) if is_registered(type(x)) else f(x)

    new = object.__new__(type(penalty))
    strengths = strength_fields(type(penalty))
    for field in dataclasses.fields(penalty):  # type: ignore[arg-type]
        value = getattr(penalty, field.name)
        value = of_field(value) if field.name in strengths else value
        object.__setattr__(new, field.name, value)
    return new


def strengths_of(penalty: Any) -> list[Any]:
    """All strengths of a penalty, in the order of its fields."""
    strengths: list[Any] = []
    map_strengths(strengths.append, penalty)
    return strengths


def with_strengths(penalty: T, strengths: Iterable[Any]) -> T:
    """`penalty` with other strengths, in the order of `strengths_of`."""
    rest = iter(strengths)
    return map_strengths(lambda _: next(rest), penalty)


def check_strengths(penalty: Any) -> None:
    """Raises unless every concrete strength is a finite number, not negative."""
    name = type(penalty).__name__
    for field in strength_fields(type(penalty)):
        pairs = jax.tree_util.tree_leaves_with_path(
            getattr(penalty, field), is_leaf=is_masked
        )
        for path, strength in pairs:
            if path and is_masked(strength):
                continue
            at = f" at {jax.tree_util.keystr(path)}" if path else ""
            if callable(strength):
                raise TypeError(
                    f"`{field}` of {name}{at} must be a real number, got the function "
                    f"{strength!r}. A schedule goes around the penalty, as in "
                    f"`lambda step: {name}(schedule(step))`."
                )
            check_number(strength, f"`{field}` of {name}{at}")


def check_methods(cls: type) -> None:
    """Raises unless `cls` has the methods that a penalty must have."""
    has = {name: is_defined(cls, name) for name in ("leaf_value", "leaf_prox")}
    # A combinator resolves to other penalties. A smooth penalty needs no prox.
    if is_defined(cls, "resolve") and not has["leaf_value"]:
        return
    has["leaf_prox"] |= is_defined(cls, "split")
    missing = [name for name, there in has.items() if not there]
    if missing:
        raise TypeError(
            f"{cls.__name__} lacks {' and '.join(f'`{name}`' for name in missing)}. A "
            "penalty must define `leaf_value(self, w)` and `leaf_prox(self, w, step)`; "
            'see "How to add a penalty" in CONTRIBUTING.md.'
        )


def is_defined(cls: type, name: str) -> bool:
    """Whether `cls`, or one of its bases before `Penalty`, defines `name`."""
    own = itertools.takewhile(lambda c: "is_contract" not in vars(c), cls.__mro__)
    return any(name in vars(c) for c in own)
