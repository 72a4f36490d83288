"""``dataclass(frozen=True)`` for what a cold start loads.

The standard library writes and compiles six functions for each class: 3 million instructions for six fields on a Cortex-A76,
a tenth of a cold ``edgeseg predict`` in all. Here they are written once, for all classes; everything else stays its own, so
``fields``, ``replace``, ``asdict``, ``field`` and type checkers see an ordinary dataclass.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(*, frozen):
        """The decorator; ``frozen`` is True, and is there because readers and type checkers expect it."""

        def made(cls):
            cls = dataclasses.dataclass(init=False, repr=False, eq=False)(cls)
            for method in (__init__, __repr__, __eq__, __hash__, __setattr__, __delattr__):
                if method.__name__ not in cls.__dict__:
                    setattr(cls, method.__name__, method)
            known = cls.__dataclass_fields__.values()
            cls._plain = {f.name: f.default for f in known if f.default is not dataclasses.MISSING}
            cls._made = {f.name: f.default_factory for f in known if f.default_factory is not dataclasses.MISSING}
            return cls

        return made


def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
    names, name = self.__dataclass_fields__, type(self).__name__
    if len(args) > len(names):
        raise TypeError(f"{name} takes {len(names)} values, not {len(args)}")
    given = dict(zip(names, args))
    for key in kwargs:
        if key in given or key not in names:
            raise TypeError(
                f"{name} got {'several values for' if key in given else 'an unexpected keyword argument'} {key!r}"
            )
    values = self.__dict__
    values.update(self._plain)
    values.update(given)
    values.update(kwargs)
    for key, make in self._made.items():
        if key not in values:
            values[key] = make()
    if len(values) < len(names):
        raise TypeError(f"{name} misses {', '.join(repr(n) for n in names if n not in values)}")
    if hasattr(self, "__post_init__"):
        self.__post_init__()


def __repr__(self: Any) -> str:
    shown = (f"{f.name}={getattr(self, f.name)!r}" for f in self.__dataclass_fields__.values() if f.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def __eq__(self: Any, other: object) -> bool:
    return _compared(self) == _compared(other) if type(other) is type(self) else NotImplemented


def __hash__(self: Any) -> int:
    return hash(
        tuple(getattr(self, f.name) for f in self.__dataclass_fields__.values() if (f.compare if f.hash is None else f.hash))
    )


def __setattr__(self: Any, name: str, value: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def __delattr__(self: Any, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _compared(record: Any) -> tuple[Any, ...]:
    return tuple(getattr(record, f.name) for f in record.__dataclass_fields__.values() if f.compare)
