"""The library's own JSON, SHA-256 and half precision, against Python's and numpy's."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.helpers.cpp import Ask

pytestmark = pytest.mark.slow

MANY = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec=None, exclude_categories=())),  # lone surrogates too, as in names that are not UTF-8
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


@MANY
@given(VALUES, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_json_is_read_and_written_as_python_does(units: Ask, value: Any, ascii_only: bool, indent: Any) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert units(f"json {text.hex()}") == ("ok", canonical(value))


@pytest.mark.parametrize(
    "text",
    [
        b"123456789012345678901234567890.5e-300", b"-0", b"-0.0", b"1E+5", b'"\\ud83d\\ude00"', b'"\\ud83d"', 
        b'"\\ude00\\ud83d"',
        b'"\\ud83d\\n"', b'"\\ud83d\\u0041"', b'"\\/\\"\\b\\f\\u0000"', b" \r\n\t[ ] ", b"{}",
        b'{"b": 1, "a": {"d": [], "c": null}}',
        b"[" * 64 + b"]" * 64,
    ],
)  # fmt: skip
def test_what_is_allowed(units: Ask, text: bytes) -> None:
    said, found = units(f"json {text.hex()}")
    assert said == "ok" and json.loads(found) == json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        b"", b" ", b"{", b"[1,]", b'{"a":1,}', b"{'a':1}", b'{"a" 1}', b"{1:2}", b"[1 2]", b"01", b"1.", b".5", b"+1", b"-",
        b"1e", b"NaN", b"Infinity", b"-Infinity", b"nul", b"tru", b"True", b'"', b'"\\', b'"\\x41"', b'"\\u12"', b'"\\u12g4"',
        b'"\\u+123"', b'"\n"', b'"\x00"', b"\x00", b"1\x00", b"1 2", b"[] []", b"// no", b'"\xff"', b'"\xc0\x80"',
        b'"\xe2\x82"', b'"\xf4\x90\x80\x80"', b"\xef\xbb\xbf{}", b'{"a": 1, "a": 2}', b'{"a": 1, "\\u0061": 2}',
        b"[" * 66 + b"]" * 66, b"[" * 10_000_000, b'{"a":' * 1_000_000,
    ],
)  # fmt: skip
def test_garbage_is_refused(units: Ask, text: bytes) -> None:
    said, message = units(f"json {text.hex()}")
    assert said == "2" and " at byte " in message


@MANY
@given(st.binary(max_size=40))
def test_any_bytes_give_a_value_or_an_error(units: Ask, data: bytes) -> None:
    said, _ = units(f"json {data.hex()}")
    assert said in {"ok", "2"}
    assume(b"\xed" not in data)  # it starts a surrogate in UTF-8, which stays one
    assert units(f"text {data.hex()}") == ("ok", json.dumps(data.decode("utf-8", "surrogateescape")))


@MANY
@given(st.binary(max_size=300))
def test_sha256(units: Ask, data: bytes) -> None:
    assert units(f"sha256 {data.hex()}") == ("ok", hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("size", [0, 55, 56, 63, 64, 65, 119, 120, 128, 1_000_003])
def test_sha256_where_blocks_end(units: Ask, size: int) -> None:
    data = bytes(i * 7 % 256 for i in range(size))
    assert units(f"sha256 {data.hex()}") == ("ok", hashlib.sha256(data).hexdigest())


def test_sizes_of_tensors(units: Ask) -> None:
    """Products that overflow 64 bits, to nothing or to less than there is, are refused as those that are too large."""
    assert units("elements 8 3 224 224") == ("ok", str(8 * 3 * 224 * 224))
    assert units("elements 5") == ("ok", "5")
    assert units(f"elements 1 {2**40}") == ("ok", str(2**40))
    for sizes in ("1 -1 32 32", "1 0", "0 3", f"{2**62} 4", f"{2**40} 2", f"{2**41}", f"1 {2**32} {2**32}", f"3 {2**40}"):
        code, message = units(f"elements {sizes}")
        assert code == "2" and "no memory holds a batch of " in message, sizes


def test_half_precision_is_widened_as_numpy_does(units: Ask) -> None:
    halves = np.concatenate([np.arange(0, 0x10000, 13), [0, 1, 0x3FF, 0x400, 0x7BFF, 0x8000, 0xFBFF]]).astype(np.uint16)
    numbers = halves[~np.isnan(halves.view(np.float16))]
    for half, expected in zip(numbers, numbers.view(np.float16).astype(np.float32).view(np.uint32), strict=True):
        assert units(f"half_to_float {half}") == ("ok", str(expected)), half


@MANY
@given(st.floats(width=32, allow_nan=False))
def test_half_precision_is_rounded_as_numpy_does(units: Ask, value: float) -> None:
    number = np.float32(value)
    with np.errstate(over="ignore"):
        assert units(f"float_to_half {number.tobytes().hex()}") == ("ok", str(np.float16(number).view(np.uint16)))


@MANY
@given(st.integers(0, 0x7BFE), st.sampled_from([0.25, 0.5, 0.75]), st.booleans())
def test_half_precision_between_two_numbers(units: Ask, low: int, part: float, negative: bool) -> None:
    below, above = np.array([low, low + 1], np.uint16).view(np.float16).astype(np.float64)
    number = np.float32((below + part * (above - below)) * (-1 if negative else 1))
    assert units(f"float_to_half {number.tobytes().hex()}") == ("ok", str(np.float16(number).view(np.uint16)))
