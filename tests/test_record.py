"""A record behaves as the standard library's frozen dataclass of the same text."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from edgeseg import record


def classes(dataclass: Callable[..., Any]) -> tuple[type, type]:
    @dataclass(frozen=True)
    class Base:
        """Something."""

        a: int
        b: str = "b"
        c: dict[str, int] = dataclasses.field(default_factory=dict, compare=False, hash=False)
        d: float = dataclasses.field(default=1.0, repr=False)

        def __post_init__(self) -> None:
            object.__setattr__(self, "a", int(self.a))

    @dataclass(frozen=True)
    class Derived(Base):
        e: bool = False

    return Base, Derived


OURS, THEIRS = classes(record.dataclass), classes(dataclasses.dataclass)
CALLS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    *(((1,), {}), (("7", "x"), {}), ((), {"a": 2, "d": 3.0}), ((1, "b", {"k": 1}), {"d": 2.0})),
    *(((), {}), ((1,), {"a": 2}), ((1,), {"z": 2}), ((1, 2, {}, 4, 5, 6), {})),
]


@pytest.mark.parametrize("which", (0, 1))
@pytest.mark.parametrize(("args", "kwargs"), CALLS)
def test_it_is_made_shown_and_refused_as_a_dataclass(which, args, kwargs):
    try:
        theirs = THEIRS[which](*args, **kwargs)
    except TypeError:
        with pytest.raises(TypeError):
            OURS[which](*args, **kwargs)
        return
    ours = OURS[which](*args, **kwargs)
    assert repr(ours) == repr(theirs) and hash(ours) == hash(theirs)
    assert dataclasses.asdict(ours) == dataclasses.asdict(theirs)
    assert [f.name for f in dataclasses.fields(ours)] == [f.name for f in dataclasses.fields(theirs)]


@pytest.mark.parametrize("which", (0, 1))
@pytest.mark.parametrize("left", CALLS[:4])
@pytest.mark.parametrize("right", CALLS[:4])
def test_two_are_equal_where_dataclasses_are(which, left, right):
    ours, theirs = ([c[which](*args, **kwargs) for args, kwargs in (left, right)] for c in (OURS, THEIRS))
    assert (ours[0] == ours[1]) == (theirs[0] == theirs[1])


def test_nothing_can_be_changed_and_each_has_its_own_mapping():
    one = OURS[0](1)
    for change in (lambda: setattr(one, "a", 2), lambda: setattr(one, "new", 2), lambda: delattr(one, "a")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            change()
    assert one.c is not OURS[0](1).c and OURS[0](1) != OURS[1](1)
    assert dataclasses.replace(one, b="z") == OURS[0](1, "z") and copy.deepcopy(one) == one


def test_a_record_of_a_module_is_pickled():
    from edgeseg.manifest import Tensor

    tensor = Tensor("x", (1, 3, 8, 8))
    assert pickle.loads(pickle.dumps(tensor)) == tensor and len({tensor, Tensor("x", [1, 3, 8, 8])}) == 1
