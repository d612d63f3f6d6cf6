"""Two commands on one bundle at once, at random offsets: what each promised is there, and nothing is broken."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.fuzz.bundles import read
from tests.fuzz.cases import Outcome, generator, numbered
from tests.fuzz.processes import Ended, broken, commands, finding, fresh, last_line, start, wait
from tests.fuzz.state import check, dicts, output

NAME = "races"
SPREAD_S = 2.0  # between the starts, at most
REFUSED = re.compile(r"another process|is not written to|(results|profiles) are not kept in the bundle")


def campaign(seed: int, first: int, count: int, work: Path) -> Iterator[Outcome]:
    """All pairs, also of a command with itself, in turn; then again with other offsets."""
    pairs = list(itertools.combinations_with_replacement(commands(), 2))
    for index in range(first, first + count):
        yield race(numbered(seed, index), pairs[index % len(pairs)], work)


def race(number: int, pair: tuple[str, str], work: Path) -> Outcome:
    """One pair. The first finding is the outcome; refusals are counted apart."""
    rng, folder = generator(NAME, number), fresh(work, NAME)
    # Half of the offsets are small: commands meet where they are at the same step.
    offset = rng.uniform(-SPREAD_S, SPREAD_S) * rng.choice([1.0, 0.15])
    delays = (max(0.0, -offset), max(0.0, offset))
    children = []
    for place, (name, delay_s) in enumerate(zip(pair, delays, strict=True)):
        own = folder / str(place)
        (own / "out").mkdir(parents=True)
        arguments = commands()[name](folder / "bundle", own / "out")
        children.append((start(name, arguments, own, delay_s=delay_s), name, own))
    ended = [wait(*child) for child in children]
    outcome = _judged(number, folder, ended)
    shutil.rmtree(folder)
    return outcome


def _judged(number: int, folder: Path, ended: list[Ended]) -> Outcome:
    both = " beside ".join(item.name for item in ended)
    try:
        check(folder / "bundle")
    except AssertionError as exc:
        return finding(NAME, number, "lost", f"{exc} after {both}")
    manifest, refused = read(folder / "bundle"), 0
    for place, item in enumerate(ended):
        if (bad := broken(item)) is not None:
            return finding(NAME, number, bad[0], f"{both}: {bad[1]}")
        if REFUSED.search(item.stderr):
            refused += 1
        elif item.code:
            return finding(NAME, number, "lost", f"{both}: {item.name} ended with {item.code}: {last_line(item.stderr)}")
        elif (gone := missing(item.name, manifest, folder / str(place) / "out")) is not None:
            return finding(NAME, number, "lost", f"{both}: {item.name} ended with 0, but {gone}")
    return Outcome(target=NAME, number=number, note="refused" if refused else "", seconds=max(item.seconds for item in ended))


def missing(name: str, manifest: dict[str, Any], out: Path) -> str | None:
    """What a command promised by its exit code 0, and is not there."""
    artifacts = manifest["artifacts"]
    kinds = {entry["kind"] for entry in artifacts.values()}
    wanted = {"bf16": ["model.bf16.onnx"], "bench": ["bench.json", "samples.json"]}.get(name, [])
    if name in {"int8", "tune"}:
        wanted = ["model.int8.onnx", "model.int8-cpu.onnx"]
        if "calibration" not in kinds:
            return "there is no calibration"
    if gone := [file for file in wanted if file not in artifacts]:
        return f"there is no {gone[0]}"
    if name == "tune" and not manifest.get("tuning"):
        return "there is no tuning"
    if name == "build" and not any(
        entry["kind"] == "plan" and entry["made_from"] == artifacts["model.fp16.onnx"]["sha256"] for entry in artifacts.values()
    ):
        return "there is no plan"
    if name == "verify" and not any(
        str(item.get("source")).startswith("digits (16 of 600)") for item in dicts(manifest.get("parity"))
    ):
        return "there is no parity record"
    if name == "bench" and not manifest.get("measurements"):
        return "there is no measurement"
    return _missing_output(name, artifacts, output(out))


def _missing_output(name: str, artifacts: dict[str, Any], files: dict[str, str]) -> str | None:
    graph = artifacts["model.fp32.onnx"]["sha256"]
    wanted = {"triton": "repository/resnet20/1/model.onnx", "cpp": "project/bundle/model.fp32.onnx"}
    if name in wanted and files.get(wanted[name]) != graph:
        return f"{wanted[name]} is not the bundle's"
    if name == "embed" and "answers.parquet" not in files:
        return "there is no answers.parquet"
    return None
