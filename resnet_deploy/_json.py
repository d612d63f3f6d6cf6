"""JSON as typed objects: read into frozen dataclasses with the wrong field named, written with finite numbers alone.

Types, ranges and patterns are those of the dataclass's annotations (msgspec.Meta), so that what is read, what is checked and
what is published as a JSON Schema are one definition.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from typing import Any, TypeVar

T = TypeVar("T")

MAX_DEPTH = 64
_NO_BRACKETS = re.compile(rb'"[^"]*"|[^"\[\]{}]+')  # of text whose quotes all stand for strings' ends
_INNERMOST = re.compile(rb"\[\]|\{\}")
_ATTRIBUTE = re.compile(r"^ {4}([\w, ]+): (.*(?:\n {8}.*)*)", re.MULTILINE)  # of a docstring in Google style
_MOST_WORK = 1 << 32  # bytes that are read again in search of a wrong key


def decode(data: bytes, kind: type[T]) -> T:
    """Read JSON text as an object of a type.

    Args:
        data: UTF-8 text.
        kind: a dataclass, or any type that msgspec reads, with constraints as `typing.Annotated[..., msgspec.Meta(...)]`.

    Raises:
        ValueError: what is wrong and in which field: not JSON, deeper than 64 levels, another type, a number that is not
            finite or outside its range, a name that is not allowed.
    """
    import msgspec

    try:
        value = msgspec.json.decode(data, type=kind, dec_hook=_named)
    except msgspec.ValidationError as exc:
        raise ValueError(_located(data, kind, str(exc))) from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ValueError(f"it is not JSON ({exc})") from exc
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc
    if _is_deep(data):
        raise ValueError("it is nested too deeply")
    return value


def _is_deep(data: bytes) -> bool:
    """Whether JSON text has more than MAX_DEPTH levels, so that what was read could not be written again."""
    brackets = _NO_BRACKETS.sub(b"", data.replace(rb"\\", b"").replace(rb"\"", b""))
    for _ in range(MAX_DEPTH):
        brackets = _INNERMOST.sub(b"", brackets)
    return bool(brackets)


def convert(value: Any, kind: type[T]) -> T:
    """Plain Python values (dicts, lists, numbers) as an object of a type. Raises ValueError, as `decode` does."""
    import msgspec

    value = _writable(value, "$", 0)
    try:
        return msgspec.convert(value, kind, dec_hook=_named)
    except msgspec.ValidationError as exc:
        raise ValueError(_readable(str(exc))) from exc


def plain(value: Any) -> Any:
    """An object as dicts, lists, strings and numbers: what JSON has."""
    import msgspec

    return _listed(msgspec.to_builtins(value, enc_hook=_text))


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _listed(item) for name, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, (list, tuple)) else value


def encode(value: Any, *, indent: int | None = 1) -> bytes:
    """Readable JSON of an object, UTF-8 with a newline at its end.

    Raises:
        ValueError: a number in it is NaN or infinite, which JSON has no word for; the message names the field.
    """
    values = _writable(plain(value), "$", 0)
    return (json.dumps(values, indent=indent, allow_nan=False) + "\n").encode()


def json_schema(kind: type[Any]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a type: what `decode` accepts. Fields are described by its docstring's Attributes."""
    import msgspec

    schema = dict(msgspec.json.schema(kind, schema_hook=_schema_of)) | {
        "$schema": "https://json-schema.org/draft/2020-12/schema"
    }
    for definition in schema.get("$defs", {}).values():
        _describe(definition)
    return schema


def _describe(definition: dict[str, Any]) -> None:
    """Move what a type's description says of its fields to these."""
    summary, _, attributes = inspect.cleandoc(definition.get("description", "")).partition("\n\nAttributes:\n")
    for names, text in _ATTRIBUTE.findall(attributes):
        definition["description"] = summary
        for name in names.split(", "):
            definition["properties"][name]["description"] = " ".join(text.split())


# Names that are checked against a table, such as `Precision`: subclasses of str with a `json_schema`.
def _named(kind: type[Any], value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError(f"Expected str, got {type(value).__name__}")
    return kind(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise NotImplementedError(f"{type(value).__name__} has no form in JSON")
    return str(value)


def _schema_of(kind: type[Any]) -> dict[str, Any]:
    if not issubclass(kind, str):
        raise NotImplementedError(f"{kind.__name__} has no form in JSON")
    return kind.json_schema()  # type: ignore[attr-defined, no-any-return]


def _writable(value: Any, where: str, depth: int) -> Any:
    """A value as JSON can hold it: bytes of names that are no text become `\\xNN`.

    Raises ValueError for numbers that are not finite, and for what is nested too deeply.
    """
    if depth > MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{_field(where)} is {value}; a recorded figure must be finite")
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_writable(name, where, depth): _writable(item, f"{where}.{name}", depth + 1) for name, item in value.items()}
    if isinstance(value, (list, tuple)) and not all(type(item) is float and math.isfinite(item) for item in value):
        return [_writable(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]
    return value


def _located(data: bytes, kind: type[Any], message: str) -> str:
    """A message whose path names the key where msgspec says `[...]`: without the culprit the first complaint is another."""
    text, path = _split(message)
    if "[...]" not in path:
        return _readable(message)
    raw = json.loads(data)
    parts = re.findall(r"\[\.\.\.\]|\[\d+\]|\.?[^.\[\]$`]+", path)
    place, names = raw, ""
    for part in parts:
        if part == "[...]":
            # Each key costs a look at the whole: of a giant file that would take hours, and the kind of mistake is known.
            key = _culprit(raw, place, kind, message) if len(data) * len(place) < _MOST_WORK else None
            if key is None:
                return _readable(message)
            place, names = place[key], f"{names}.{key}"
        else:
            step: Any = int(part[1:-1]) if part.startswith("[") else part.lstrip(".")
            try:
                place, names = place[step], f"{names}{part if part.startswith('[') else '.' + str(step)}"
            except (KeyError, IndexError, TypeError):
                return f"{_field(names + part)}: {text}"
    return f"{_field(names)}: {text}"


def _culprit(raw: Any, place: Any, kind: type[Any], message: str) -> Any:
    """The key of a dict without which msgspec does not complain of the same."""
    import msgspec

    for key in list(place):
        kept = place.pop(key)
        try:
            msgspec.convert(raw, kind, dec_hook=_named)
            same = False
        except msgspec.ValidationError as exc:
            same = str(exc) == message
        finally:
            place[key] = kept
        if not same:
            return key
    return None


def _split(message: str) -> tuple[str, str]:
    text, _, path = message.partition(" - at ")
    return text.replace("`", ""), path.replace("`", "")


def _readable(message: str) -> str:
    text, path = _split(message)
    return f"{_field(path)}: {text}" if path else text


def _field(path: str) -> str:
    return path.removeprefix("$").removeprefix(".") or "the whole"
