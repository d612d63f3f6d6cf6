"""Pickles read as data: nothing is imported, and nothing that a pickle names is called.

`torch.load(weights_only=True)` refuses foreign code as well, but it calls what it allows: 150 bytes make it allocate gigabytes
(`bytearray(N)`), and tuples nested deeply enough as a key end the process. Here an opcode makes at most one small object.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

MAX_OPCODES = 2_000_000  # a thousand layers with optimizer and averages have some 600,000
MAX_BYTES = 16 << 20  # of one pickle; they describe tensors and settings, the weights stand elsewhere

_MARK = object()
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "EMPTY_SET": None}
_VALUES = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES",
    "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "BINSTRING", "SHORT_BINSTRING",
}  # fmt: skip
_PLAIN_KEYS = (str, int, float, bytes, type(None))


class ForbiddenGlobal(Exception):
    """A pickle names a class or function that is not one of tensors and plain data."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(frozen=True)
class Global:
    """The name of a class or function, which stays a name."""

    name: str


@dataclass(frozen=True)
class Opaque:
    """An object that is of no use here: settings, a device, a set."""


class PickleReader:
    """Reads one pickle after the other from a file.

    Args:
        file: binary, where the first pickle begins.
        call: what a name called with arguments stands for: call(name, args) → value, or Opaque. It sees every name first,
            with None for the arguments, and raises ForbiddenGlobal for one that is not known.
        persistent: what a persistent id stands for; torch's name storages so.
    """

    def __init__(
        self, file: BinaryIO, call: Callable[[str, tuple[Any, ...] | None], Any], persistent: Callable[[Any], Any]
    ) -> None:
        self._file, self._call, self._persistent = file, call, persistent
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._left = MAX_OPCODES

    def read(self) -> Any:
        """The next pickle's object: dicts, lists, tuples, strings, numbers, and what `call` makes.

        Raises:
            ForbiddenGlobal: for a name that `call` does not know.
            ValueError: for what is not a pickle, or one that is larger than a checkpoint's.
        """
        self._stack, self._memo = [], {}
        start, position = self._file.tell(), 0
        source = io.BytesIO(self._file.read(MAX_BYTES))  # so that a length in it cannot ask for more
        try:
            for opcode, argument, place in pickletools.genops(source):
                position = int(place or 0)
                self._spend(1)
                self._step(opcode.name, argument)
            if len(self._stack) != 1:
                raise IndexError
        except (IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as exc:
            raise ValueError(f"its pickle is damaged at byte {position}") from exc
        self._file.seek(start + source.tell())
        return self._stack[0]

    def _spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise ValueError(f"its pickle has more than {MAX_OPCODES} operations")

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in {"PROTO", "FRAME", "STOP"}:
            pass
        elif name in {"BINPUT", "LONG_BINPUT"}:
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in {"BINGET", "LONG_BINGET"}:
            stack.append(self._memo[argument])
        elif name == "MARK":
            stack.append(_MARK)
        elif name in {"EMPTY_DICT", "EMPTY_LIST"}:
            stack.append({} if name == "EMPTY_DICT" else [])
        elif name == "TUPLE":
            stack.append(tuple(self._marked()))
        elif name in {"TUPLE1", "TUPLE2", "TUPLE3"}:
            stack.append(tuple(self._top(int(name[-1]))))
        elif name in {"SETITEM", "SETITEMS"}:
            items = self._top(2) if name == "SETITEM" else self._marked()
            _update(stack[-1], zip(items[::2], items[1::2], strict=True))
        elif name in {"APPEND", "APPENDS"}:
            items = self._top(1) if name == "APPEND" else self._marked()
            if isinstance(stack[-1], list):
                stack[-1].extend(items)
        else:
            self._objects(name, argument)

    def _objects(self, name: str, argument: Any) -> None:
        """What in other readers imports and calls."""
        stack = self._stack
        if name in {"GLOBAL", "STACK_GLOBAL"}:
            module, attribute = argument.split(" ", 1) if name == "GLOBAL" else self._top(2)
            imported = Global(f"{module}.{attribute}")
            self._call(imported.name, None)
            stack.append(imported)
        elif name in {"REDUCE", "NEWOBJ"}:
            called, args = self._top(2)
            if not isinstance(called, Global) or not isinstance(args, tuple):
                raise TypeError
            self._spend(sum(len(item) for item in args if isinstance(item, (list, dict))))  # they may be copied
            stack.append(self._call(called.name, args))
        elif name == "BUILD":  # attributes, which no tensor and no plain value needs
            self._top(1)
        elif name == "ADDITEMS":  # of a set
            self._marked()
        elif name == "BINPERSID":
            stack.append(self._persistent(self._top(1)[0]))
        else:
            raise ValueError(f"its pickle has the operation {name}, which checkpoints do not have")

    def _top(self, count: int) -> list[Any]:
        """Take so many values off the stack."""
        values = self._stack[-count:]
        if len(values) < count or _MARK in values:
            raise IndexError
        del self._stack[-count:]
        return values

    def _marked(self) -> list[Any]:
        """Take the values above the last mark off the stack, and the mark."""
        stack = self._stack
        place = len(stack) - 1
        while stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise IndexError
        values = stack[place + 1 :]
        del stack[place:]
        return values


def _update(target: Any, pairs: Any) -> None:
    """Set items of a dict; those of an object are of no use. A key that would have to be walked is refused: hashing tuples
    in tuples a million deep ends the process."""
    for key, value in pairs:
        flat = isinstance(key, tuple) and all(isinstance(item, _PLAIN_KEYS) for item in key)
        if not flat and not isinstance(key, (*_PLAIN_KEYS, Global)):
            raise ValueError(f"it has a dict with a {type(key).__name__} for a key")
        if isinstance(target, dict):
            target[key] = value


def updated(pairs: Any) -> dict[Any, Any]:
    """A dict of pairs from a pickle."""
    target: dict[Any, Any] = {}
    _update(target, pairs)
    return target
