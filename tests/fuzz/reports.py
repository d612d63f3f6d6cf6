"""Hostile reports: files that are read, shown in every form, and compared with a good one in both directions."""

from __future__ import annotations

import copy
import functools
import json
import math
import os
import random
from pathlib import Path
from typing import Any

from resnet_deploy.errors import DeployError
from resnet_deploy.parity.confidence import pack
from resnet_deploy.reporting.compare import RunComparison
from resnet_deploy.reporting.recorded import load_report
from resnet_deploy.reporting.writing import compare_runs, render
from resnet_deploy.terminal import report as terminal
from tests.helpers.reports import full, small

NAME = "reports"
WORDS = ["nan", "inf", "-inf", "NaN", "Infinity", "", "0", "pass", "fail", "eager", "\x00", "\x1b[31m", "\u202e", "<script>",
         "|", "`", "../../x", "x" * 5000, "\U0001f600", "a\nb", "\ufeff"]  # fmt: skip
NUMBERS = [0, -1, 1, 0.5, 1e-300, -1e-300, 1e-9, 1e300, -1e300, 1 << 31, 1 << 63, 1 << 64, -(1 << 63), 10**400, 1e18, 2.8, True]
TOKENS = ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000, "0x10", "01", "1.", ".5", "1e", "--1", "null", "nul",
          "[", "{", "]", "}", ",", ":", '"', "\\u0000", "\\ud800", "/*", "'"]  # fmt: skip


def run(rng: random.Random, folder: Path) -> None:
    """One seeded case: a report is spoiled, read, shown and compared.

    Raises:
        AssertionError: something was believed that cannot be.
    """
    good = _good(rng)
    path, before = folder / "spoiled.json", folder / "good.json"
    before.write_text(json.dumps(good))
    if rng.random() < 0.04:
        _odd_file(rng, path)
    else:
        path.write_bytes(_spoiled(rng, good))
    try:
        found = load_report(path)
    except DeployError:
        return
    _believable(found)
    render(found, rng.choice([".html", ".md", ".json"]))
    terminal.report_text(found, None)
    for pair in rng.sample([(before, path), (path, before), (path, path)], 2):
        _compared(*pair, rng.choice([".html", ".md", ".json"]))


@functools.cache
def _texts() -> list[str]:
    """Good reports of a few samples and layers, as JSON."""
    found = [full((1,)), full((1, 8)), small(seed=3), small(with_samples=False)]
    for report in found:
        for entry in (report.get("samples") or {}).values():
            del entry["host_s"][24:]
        for profile in report.get("profiles") or ():
            del profile["layers"][4:]
    return [json.dumps(report) for report in found]


def _good(rng: random.Random) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(rng.choice(_texts()))
    if rng.random() < 0.5:  # as it is now: with which images were right
        for one in report["results"]:
            one["judged_on"] = "a key"
            _judge(one["parity"], 200, rng.randrange(100, 200))
    return report


def _judge(parity: dict[str, Any], images: int, right: int) -> None:
    correct = [index < right for index in range(images)]
    parity |= {"images": images, "top1_accuracy": right / images, "outcomes": {"correct": pack(correct)}}


def _compared(first: Path, second: Path, suffix: str) -> None:
    try:
        found = compare_runs(first, second, fail_on_regression="5%")
    except DeployError:
        return
    assert isinstance(found, RunComparison)
    render(found, suffix)
    terminal.comparison_text(found, None)
    json.dumps(found.to_dict(), allow_nan=False)
    old, new = load_report(first), load_report(second)
    if first == second:
        assert not found.failures, f"believed that a run is worse than itself: {found.failures}"
    if not (found.failures or found.inconclusive):
        _no_worse(old, new)


def _no_worse(old: dict[str, Any], new: dict[str, Any]) -> None:
    """What exit code 0 says, by the plainest look at the two reports."""
    rows = {_key(one): one for one in new["results"]}
    for one in old["results"]:
        other = rows.get(_key(one))
        assert other is not None, f"believed that nothing is missing: {_key(one)}"
        ratio = other["latency_s"]["p50"] / one["latency_s"]["p50"]
        assert ratio <= 1.05, f"believed that {ratio} times the time is none slower"
        parity, then = one.get("parity") or {}, other.get("parity") or {}
        for name in ("top1_accuracy", "reference_top1_accuracy", "top1_agreement"):
            if isinstance(parity.get(name), (int, float)):
                fell = parity[name] - then[name] if isinstance(then.get(name), (int, float)) else math.inf
                assert fell <= 0.0101, f"believed that a fall of {name} by {fell} is none"
        assert not (one.get("gate", "pass") == "pass" and other.get("gate") == "fail"), "believed a gate that fails"


def _key(one: dict[str, Any]) -> tuple[Any, ...]:
    return one["backend"], one["device"], one["precision"], one["batch"]


def _believable(report: dict[str, Any]) -> None:
    """The figures that everything else rests on."""
    keys = [_key(one) for one in report["results"]]
    assert len(keys) == len(set(keys)), "believed a row twice"
    for one in report["results"]:
        p50 = one["latency_s"]["p50"]
        assert type(p50) in (int, float) and math.isfinite(p50) and p50 > 0, f"believed a latency of {p50!r}"
        assert type(one["batch"]) is int and one["batch"] >= 1, f"believed a batch of {one['batch']!r}"
        assert one.get("gate") in ("pass", "fail", None), f"believed the gate {one['gate']!r}"
        assert not (one.get("gate") == "pass" and one.get("failures")), "believed a gate that passed with failures"
        for name, value in (one.get("parity") or {}).items():
            if name in ("top1_accuracy", "top1_agreement", "top5_agreement", "reference_top1_accuracy", "mcnemar_p"):
                assert value is None or value in ("nan", "inf", "-inf") or 0 <= value <= 1, f"believed {name} of {value!r}"
    for entry in (report.get("samples") or {}).values():
        for value in (entry or {}).get("host_s") or ():
            assert math.isfinite(value) and value > 0, f"believed a sample of {value!r}"
    json.dumps(report, allow_nan=False)


def _odd_file(rng: random.Random, path: Path) -> None:
    kind = rng.randrange(6)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.symlink_to(path.name)
    elif kind == 2:
        path.symlink_to(rng.choice(["/dev/zero", "/dev/null", "/proc/self/mem", "nowhere", ".", "/"]))
    elif kind == 3:
        path.mkdir()
    elif kind == 4:
        with path.open("wb") as file:
            file.truncate(rng.choice([0, 1, 1 << 40]))
    else:
        path.write_bytes(rng.randbytes(rng.randrange(400)))


def _spoiled(rng: random.Random, good: dict[str, Any]) -> bytes:
    report = copy.deepcopy(good)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        _change(rng, report)
    data = json.dumps(report).encode()
    kind = rng.randrange(10)
    if kind == 0:
        return _damaged(rng, data)
    if kind == 1:  # a token in the place of a number
        text = data.decode()
        at = [index for index, letter in enumerate(text) if letter in "0123456789"]
        place = rng.choice(at)
        return (text[:place] + rng.choice(TOKENS) + text[place + rng.randrange(3) :]).encode("utf-8", "replace")
    if kind == 2:
        wide = data.decode().encode("utf-16")
        return rng.choice([b"\xef\xbb\xbf" + data, wide, data + data, data + b"\x00", b"[" + data + b"]"])
    return data


def _damaged(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 3, 20])):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    start = rng.randrange(len(changed))
    return bytes(changed if rng.random() < 0.6 else changed[:start] if rng.random() < 0.5 else changed[start:])


def _change(rng: random.Random, report: dict[str, Any]) -> None:
    """Of one place, drawn level by level, so that few deep places do not stand for all."""
    place: Any = report
    key: Any = rng.choice(["results", *report]) if rng.random() < 0.6 else rng.choice(list(report))
    if key not in report:  # an earlier change took it
        return
    while isinstance(place[key], (dict, list)) and place[key] and rng.random() < 0.9:
        place = place[key]
        key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
    kind = rng.randrange(16)
    if kind == 0:
        del place[key]
    elif kind > 10:
        rows = report.get("results")
        _plausible(rng, rng.choice(rows) if isinstance(rows, list) and rows else None)
    elif kind == 1 and isinstance(place, list):
        place.insert(rng.randrange(len(place) + 1), json.loads(json.dumps(place[0])) if len(str(place)) < 10_000 else 0)
    elif kind == 2 and isinstance(place[key], (int, float)) and not isinstance(place[key], bool):
        place[key] = _times(place[key], rng.choice([-1, 0, 0.2, 0.5, 0.8, 0.97, 1.03, 1.2, 2.8, 100, 1e30]))
    elif kind == 3 and isinstance(place, dict):
        place[rng.choice(WORDS)] = _anything(rng)
    else:
        place[key] = _anything(rng)


def _times(value: float, factor: float) -> float:
    """As it is where it is a whole number beyond every float, which an earlier change wrote."""
    try:
        return value * factor
    except OverflowError:
        return value


def _plausible(rng: random.Random, row: Any) -> None:
    """What another run could have found."""
    if not isinstance(row, dict):
        return
    scale, latency, parity = rng.choice([0.3, 0.9, 0.99, 1.01, 1.04, 1.2, 2.8, 1e6]), row.get("latency_s"), row.get("parity")
    if rng.random() < 0.5 and isinstance(latency, dict):
        row["latency_s"] = {
            name: _times(value, scale) if type(value) in (int, float) else value for name, value in latency.items()
        } | ({"iqr": rng.choice([0, 1e-9, 1e-4, 1.0])} if rng.random() < 0.4 else {})
    elif isinstance(parity, dict):
        images = rng.choice([1, 20, 75, 200, 1000, 50000])
        _judge(parity, images, rng.randrange(images + 1))
        if rng.random() < 0.3:
            parity[rng.choice(["top1_agreement", "reference_top1_accuracy", "top1_accuracy", "images"])] = rng.random()
    if rng.random() < 0.1:
        row |= {"gate": rng.choice(["pass", "fail"]), "samples": rng.choice([0, 1, 3, 4, 600]), "failures": []}


def _anything(rng: random.Random) -> Any:
    kind = rng.randrange(8)
    if kind < 3:
        return rng.choice(NUMBERS)
    if kind < 5:
        return rng.choice(WORDS)
    if kind == 5:
        return None
    if kind == 6:
        return rng.choice([[], {}, [[]], {"p50": 1}, ["nan"], [None], {"": {}}, [1e-3] * 9])
    deep: Any = 1
    for _ in range(rng.choice([3, 25, 70, 600])):
        deep = [deep] if rng.random() < 0.5 else {"a": deep}
    return deep
