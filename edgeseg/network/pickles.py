"""A reader of pickles that runs nothing: it follows the opcodes and builds plain data and inert records.

Python's own unpickler calls what a file names, even where ``find_class`` is restricted. This one has no call in it: a
``Name`` stands for a class or function, REDUCE and NEWOBJ make a ``Record`` of a name and its arguments (or plain data, for
the few constructors of plain data), and BUILD stores the state. Names that are not on the closed list of
``edgeseg/network/allowlist.py`` end the reading.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeseg.errors import EdgesegError, brief


def damaged(what: str, path: Path) -> EdgesegError:
    """The error for a file that is not what was written."""
    return EdgesegError(what, path=path, hint="Download it again, or copy it again from where it was made")


@dataclass(frozen=True)
class Name:
    """A class, function or constant that a pickle names; never imported."""

    full: str


@dataclass(eq=False)
class Record:
    """An object that a pickle describes: the class's name, the constructor's arguments, the state as it was stored."""

    cls: str
    args: tuple[Any, ...] = ()
    state: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def short(self) -> str:
        """The class's name without its module."""
        return self.cls.rpartition(".")[2]


@dataclass(frozen=True)
class Storage:
    """Numbers in the file beside the pickle: ``dtype`` is torch's name, ``key`` the member, ``numel`` its length."""

    dtype: str
    key: str
    numel: int


class _Mark:
    """Where a MARK opcode cut the stack."""


Construct = Callable[[tuple[Any, ...]], Any]
_KEYS = (str, int, float, bool, type(None), bytes)
_SKIP = frozenset({"PROTO", "FRAME"})
_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_TEXTS = {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_VALUES = frozenset({*_NUMBERS, *_TEXTS, "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"})
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": set}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_STORE = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_FETCH = frozenset({"GET", "BINGET", "LONG_BINGET"})


class PickleReader:
    """Reads one pickle.

    Args:
        path: the file it comes from, for messages.
        allowed: says whether a full name (``module.name``) is on the closed list.
        constructors: full name -> function that makes plain data of the arguments; other names become a ``Record``.
        storages: full name of a storage class -> torch's dtype name.
    """

    def __init__(
        self, path: Path, allowed: Callable[[str], bool], constructors: dict[str, Construct], storages: dict[str, str]
    ) -> None:
        self.path, self.allowed, self.constructors, self.storages = path, allowed, constructors, storages
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def read(self, data: bytes) -> Any:
        """The object that the pickle describes.

        Raises:
            EdgesegError: a name off the closed list, an instruction that no checkpoint needs, or a damaged file.
        """
        try:
            for opcode, arg, _ in pickletools.genops(data):
                if opcode.name == "STOP":
                    return self._pop()
                if opcode.name not in _SKIP:
                    self._step(opcode.name, arg)
        except PermissionError as e:
            raise self.refuse(str(e)) from e
        except (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError) as e:
            raise damaged(f"damaged: its pickle cannot be followed ({str(e)[:120]})", self.path) from e
        raise damaged("damaged: its pickle has no end", self.path)

    def refuse(self, what: str) -> EdgesegError:
        """The error for a pickle that asks for more than data."""
        return EdgesegError(
            f"refused: it {what}, which no checkpoint needs; nothing of it was run",
            path=self.path,
            hint="Where it was made, save plain weights: torch.save(model.state_dict(), 'weights.pt'), and load those",
        )

    def _pop(self) -> Any:
        value = self.stack.pop()
        if isinstance(value, _Mark):
            raise ValueError("a mark where a value should be")
        return value

    def _pop_to_mark(self) -> list[Any]:
        at = next(i for i in range(len(self.stack) - 1, -2, -1) if i < 0 or isinstance(self.stack[i], _Mark))
        if at < 0:
            raise ValueError("no mark on the stack")
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values

    def _step(self, op: str, arg: Any) -> None:
        stack = self.stack
        if op in _STORE:
            self.memo[arg] = stack[-1]
        elif op in _FETCH:
            stack.append(self.memo[arg])
        elif op in _VALUES:
            stack.append(arg)
        elif op in _CONSTANTS:
            stack.append(_CONSTANTS[op])
        elif op in _EMPTY:
            stack.append(_EMPTY[op]())
        elif op in _TUPLES:
            stack.append(tuple(reversed([self._pop() for _ in range(_TUPLES[op])])))
        elif op == "MARK":
            stack.append(_Mark())
        elif op == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif op == "GLOBAL":
            stack.append(self._name(*arg.split(" ", 1)))
        elif op == "STACK_GLOBAL":
            name, module = self._pop(), self._pop()
            stack.append(self._name(module, name))
        elif op in ("REDUCE", "NEWOBJ", "NEWOBJ_EX"):
            self._make(op)
        elif op == "BUILD":
            state = self._pop()
            self._build(stack[-1], state)
        elif op == "BINPERSID":
            stack.append(self._storage(self._pop()))
        else:
            self._collect(op)

    def _collect(self, op: str) -> None:
        stack = self.stack
        if op in ("SETITEMS", "SETITEM"):
            pairs = self._pop_to_mark() if op == "SETITEMS" else [self._pop(), self._pop()][::-1]
            self._set_items(stack[-1], pairs)
        elif op in ("APPENDS", "APPEND", "ADDITEMS"):
            values = [self._pop()] if op == "APPEND" else self._pop_to_mark()
            target = stack[-1]
            if isinstance(target, list) and op != "ADDITEMS":
                target.extend(values)
            elif isinstance(target, set) and op == "ADDITEMS":
                target.update(hashable(v) for v in values)
            else:
                raise self.refuse(f"appends to a {type(target).__name__}")
        elif op == "TUPLE":
            stack.append(tuple(self._pop_to_mark()))
        elif op == "LIST":
            stack.append(self._pop_to_mark())
        elif op == "DICT":
            made: dict[Any, Any] = {}
            self._set_items(made, self._pop_to_mark())
            stack.append(made)
        elif op == "FROZENSET":
            stack.append(frozenset(hashable(v) for v in self._pop_to_mark()))
        elif op == "POP":
            stack.pop()
        elif op == "POP_MARK":
            self._pop_to_mark()
        elif op == "DUP":
            stack.append(stack[-1])
        else:
            raise self.refuse(f"uses the pickle instruction {op}")

    def _name(self, module: Any, name: Any) -> Name:
        full = f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else ""
        full = full.replace("__builtin__.", "builtins.", 1) if full.startswith("__builtin__.") else full
        if not self.allowed(full):
            raise self.refuse(f"names {full[:120]!r}")
        return Name(full)

    def _make(self, op: str) -> None:
        if op == "NEWOBJ_EX" and self._pop() != {}:
            raise self.refuse("constructs an object with keywords")
        args, callee = self._pop(), self._pop()
        if not isinstance(callee, Name) or not isinstance(args, tuple):
            raise self.refuse("calls what is no named class")
        maker = self.constructors.get(callee.full)
        self.stack.append(Record(callee.full, args) if maker is None else maker(args))

    def _build(self, target: Any, state: Any) -> None:
        if isinstance(target, Record):
            parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
            for part in parts:
                if isinstance(part, dict):
                    target.state.update(part)
                elif part is not None:
                    target.state["state"] = state
        elif not isinstance(target, (dict, list, set)):
            raise self.refuse(f"sets attributes of a {type(target).__name__}")

    def _set_items(self, target: Any, flat: list[Any]) -> None:
        if not isinstance(target, dict) or len(flat) % 2:
            raise self.refuse(f"sets items of a {type(target).__name__}")
        for key, value in zip(flat[::2], flat[1::2]):
            target[hashable(key)] = value

    def _storage(self, pid: Any) -> Storage:
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage" or not isinstance(pid[1], Name):
            raise self.refuse("refers to something outside the file")
        _, kind, key, _, numel = pid
        dtype = self.storages.get(kind.full)
        if dtype is None or not isinstance(key, str) or not isinstance(numel, int) or numel < 0:
            raise ValueError(f"no storage: {kind.full} {brief(key)} {brief(numel)}")
        return Storage(dtype, key, numel)


def hashable(value: Any) -> Any:
    """``value`` when it may be a key: a plain scalar, a record, a name, or a flat tuple of scalars.

    Raises:
        TypeError: anything else; nested keys can exhaust the C stack while they are hashed.
    """
    if isinstance(value, (*_KEYS, Name, Record)) or (isinstance(value, tuple) and all(isinstance(v, _KEYS) for v in value)):
        return value
    raise TypeError(f"a {type(value).__name__} is no key")
