"""JSON as typed objects: the wrong field is named, whatever is wrong with it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
import pytest

from resnet_deploy import _json


@dataclass(frozen=True, kw_only=True)
class Item:
    name: Annotated[str, msgspec.Meta(pattern=r"^\w+$")]
    size: Annotated[int, msgspec.Meta(ge=0)] = 0
    rate: float | None = None


@dataclass(frozen=True, kw_only=True)
class Whole:
    items: dict[str, Item] = field(default_factory=dict)
    more: tuple[Item, ...] = ()
    free: Any = None


def test_what_is_written_is_read() -> None:
    whole = Whole(items={"a": Item(name="x", rate=0.5)}, more=(Item(name="y"),), free={"deep": [1, None]})
    assert _json.decode(_json.encode(whole), Whole) == whole == _json.convert(_json.plain(whole), Whole)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"items": {"good": {"name": "x"}, "bad": {"name": "../x"}}}', r"items\.bad\.name: "),
        ('{"items": {"good": {"name": "x"}, "bad": {"name": "x", "size": -1}}}', r"items\.bad\.size: .*>= 0"),
        ('{"items": {"good": {"name": "x"}, "bad": {"size": 1}}}', r"items\.bad: .*missing.*name"),
        ('{"items": {"bad": 3}}', r"items\.bad: Expected object, got int"),
        ('{"more": [{"name": "x"}, {"name": 7}]}', r"more\[1\]\.name: Expected str, got int"),
        ('{"items": []}', "items: Expected object"),
        ('{"items": {"a": {"name": "x", "rate": 1e999}}}', r"items\.a\.rate: .*out of range"),
        ('{"items": {"a": {"name": "x", "rate": NaN}}}', "not JSON"),
        ("[1]", "the whole: Expected object|^Expected object"),
        ("", "not JSON"),
        ('{"free": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"free": ' + "[" * 64 + "]" * 64 + "}", "nested too deeply"),
    ],
)
def test_the_wrong_field_is_named(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        _json.decode(text.encode(), Whole)


def test_what_is_read_can_be_written_however_deep() -> None:
    text = '{"free": ' + '{"[[\\\\\\"[{\\\\": [' * 31 + "[1]" + "]}" * 31 + "}"
    assert _json.decode(_json.encode(_json.decode(text.encode(), Whole)), Whole).free


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(ValueError, match="not JSON"):
        _json.decode(b'{"free": "\xff"}', Whole)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_never_written(value: float) -> None:
    with pytest.raises(ValueError, match=r"free\.a\[1\]"):
        _json.encode(Whole(free={"a": [0.0, value]}))


def test_names_of_files_that_are_no_text_can_be_written() -> None:
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    assert _json.decode(_json.encode(Whole(free=[name, {name: "é"}])), Whole).free == [
        "caf\\udce9.jpg",
        {"caf\\udce9.jpg": "é"},
    ]


def test_the_schema_is_that_of_the_types() -> None:
    item = _json.json_schema(Whole)["$defs"]["Item"]
    assert item["properties"]["size"]["minimum"] == 0 and item["required"] == ["name"]
