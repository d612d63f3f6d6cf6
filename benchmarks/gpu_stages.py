"""Everything that needs a GPU, in stages, the most valuable first, each under a limit of its own.

    benchmarks/gpu.sh [--out benchmarks/results/gpu] [STAGE...]

A stage that fails or runs out of time stops no other. Results are written after each row; a second start goes on where the
first ended. Everything is in eight files: stages.json (what became of each), log.txt, doctor.json, tests.txt, roof.json,
networks.json, peers.json, sustained.json. `--fake` goes through all of it on the fake device, with small networks: no time
means anything then, and every file says so.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import write_json

HERE = Path(__file__).parent
BUDGET_S = 25 * 60
MOST_S = 9 * 60  # of one stage: a machine that is lent may end a command after ten minutes
PLANS = ("tensorrt-rtx", "tensorrt-rtx:streams=2")
SMALL = ("--batch", "2", "--duration", "0.05")  # on the fake device
GRAPHS = ("onnxruntime:cuda", "onnxruntime:cuda,fp16")
FAKE = ("eager:cuda,cuda_graph", "onnxruntime:cuda")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the run.

    Attributes:
        name: of it, and with a suffix of its file.
        estimate_s: of the device's time.
        limit_s: when it is ended.
        command: what it runs, given the folder of the results.
        fake: what it runs on the fake device.
    """

    name: str
    estimate_s: int
    limit_s: int = MOST_S
    command: Callable[[Path, Path], Sequence[str]]
    fake: Callable[[Path, Path], Sequence[str]]


def script(name: str, result: str, *arguments: str) -> Callable[[Path, Path], Sequence[str]]:
    """A program here that writes a result, its bundles in a folder that all of them share."""

    def command(out: Path, work: Path) -> Sequence[str]:
        return (sys.executable, str(HERE / name), "--json", str(out / result), "--work", str(work), *arguments)

    return command


def of_each(option: str, values: Sequence[str]) -> tuple[str, ...]:
    return tuple(part for value in values for part in (option, value))


def doctor(out: Path, work: Path) -> Sequence[str]:
    return (sys.executable, "-m", "resnet_deploy.cli", "doctor", "--json")


def tests(*arguments: str) -> Callable[[Path, Path], Sequence[str]]:
    return lambda out, work: (sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "tests/gpu", *arguments)


DIGITS = ("digits", "--precision", "fp32,int8", "--limit", "32", *SMALL)
ROOF = ("--network", "digits", "--roof", "L4", "--backend", "onnxruntime:cuda", *SMALL)
STAGES = (
    Stage(name="doctor", estimate_s=60, limit_s=180, command=doctor, fake=doctor),
    Stage(name="tests", estimate_s=210, command=tests(), fake=tests("-k", "ceiling")),
    Stage(
        name="roof", estimate_s=240, command=script("gpu_roof.py", "roof.json"),
        fake=script("gpu_roof.py", "roof.json", *ROOF),
    ),
    Stage(
        name="networks", estimate_s=270, command=script("gpu.py", "networks.json", "digits", "resnet50", "resnet18"),
        fake=script("gpu.py", "networks.json", *DIGITS, *of_each("--backend", FAKE)),
    ),
    Stage(
        name="peers", estimate_s=270,
        command=script(
            "peers.py", "peers.json", "--cuda", "--network", "resnet50", "--batch", "1,32,128", "--rounds", "3",
            "--duration", "0.4",
        ),
        fake=script(
            "peers.py", "peers.json", "--cuda", "--network", "digits", "--rounds", "1", *SMALL, *of_each("--candidate", GRAPHS)
        ),
    ),
    Stage(
        name="rest", estimate_s=210,
        command=script(
            "gpu.py", "networks.json", "resnet101", "resnet152", "resnext50_32x4d", "preact_resnet50", "--batch", "1,128",
            "--precision", "fp16,int8",
        ),
        fake=script("gpu.py", "networks.json", *DIGITS, *of_each("--backend", FAKE)),
    ),
    Stage(
        name="rtx", estimate_s=90,
        command=script("gpu_roof.py", "roof.json", "--batch", "1,128", *of_each("--backend", PLANS)),
        fake=script("gpu_roof.py", "roof.json", *ROOF),
    ),
    Stage(
        name="sustained", estimate_s=150,
        command=script(
            "gpu.py", "sustained.json", "resnet50", "--batch", "128", "--precision", "fp16,int8", "--sustained", "20",
            *of_each("--backend", ("eager:cuda,fp16,channels_last,cuda_graph", "tensorrt", "onnxruntime:cuda")),
        ),
        fake=script("gpu.py", "sustained.json", *DIGITS, "--sustained", "0.2", "--backend", FAKE[1]),
    ),
)  # fmt: skip
FILES = {"doctor": "doctor.json", "tests": "tests.txt"}  # of what a stage prints; other stages write their own


def run(stage: Stage, command: Sequence[str], out: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run a stage's command, and end it and what it started when its time is up; what became of it."""
    start = time.perf_counter()
    printed = out / FILES[stage.name] if stage.name in FILES else out / "log.txt"
    with printed.open("w" if stage.name in FILES else "a") as stdout, (out / "log.txt").open("a") as log:
        log.write(f"\n== {stage.name}: {' '.join(command)}\n")
        log.flush()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=log,
            env=environment,
            cwd=HERE.parent,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(stage.limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end(process)
    status = "done" if code == 0 else "out of time" if code is None else "failed"
    return {"status": status, "code": code, "took_s": round(time.perf_counter() - start, 1), "estimate_s": stage.estimate_s}


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process with all that it started."""
    for number in (signal.SIGINT, signal.SIGKILL):  # what it has measured is written by then
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                continue


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(stage.name for stage in STAGES)}")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or HERE / "results" / "gpu"))
    parser.add_argument("--work", type=Path, help="where bundles are kept for a second start [default: a temporary folder]")
    parser.add_argument("--fake", action="store_true", help="on the fake device, with small networks")
    parser.add_argument("--list", action="store_true", help="print the stages with their times, and end")
    asked = parser.parse_args()
    known = {stage.name: stage for stage in STAGES}
    if unknown := [name for name in asked.stages if name not in known]:
        parser.error(f"there is no stage {unknown[0]!r}; choose from {', '.join(known)}")
    chosen = [known[name] for name in asked.stages] or list(STAGES)
    for stage in chosen:
        print(f"{stage.name:12s} about {stage.estimate_s:4d} s, at most {stage.limit_s} s")
    print(f"{'together':12s} about {sum(stage.estimate_s for stage in chosen) / 60:.0f} min of the device", flush=True)
    if not asked.list:
        sys.exit(perform(chosen, asked))


def perform(chosen: Sequence[Stage], asked: argparse.Namespace) -> int:
    """Run the stages that are not done; 0 where all of them are now."""
    out, work = asked.out.resolve(), asked.work or Path(tempfile.gettempdir()) / "resnet-deploy-gpu"
    out.mkdir(parents=True, exist_ok=True)
    record = out / "stages.json"
    found = json.loads(record.read_text()) if record.is_file() else {}
    path = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path} | ({"RESNET_DEPLOY_FAKE_CUDA": "1"} if asked.fake else {})
    for stage in chosen:
        if found.get(stage.name, {}).get("status") == "done":
            print(f"{stage.name}: done before", flush=True)
            continue
        print(f"{stage.name}: ...", flush=True)
        command = (stage.fake if asked.fake else stage.command)(out, work.resolve())
        found[stage.name] = run(stage, command, out, environment) | {"fake": asked.fake}
        write_json(record, found)
        print(f"{stage.name}: {found[stage.name]['status']} after {found[stage.name]['took_s']} s", flush=True)
    return 0 if all(found[stage.name]["status"] == "done" for stage in chosen) else 1


if __name__ == "__main__":
    main()
