"""The run on a GPU, all its stages on the fake device; and what becomes of stages that fail or take too long."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resnet_deploy.backends import fake
from tests.helpers.paths import DIGITS, ROOT
from tests.helpers.shared import exported

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu_stages

    return gpu_stages


def gpu(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [str(BENCHMARKS / "gpu.sh"), *arguments], capture_output=True, text=True, check=False, env=environment
    )


@pytest.mark.slow
def test_all_of_it_on_the_fake_device(run_folder: None, tmp_path: Path) -> None:
    bundle = exported(
        "resnet20", weights=DIGITS, input="uint8", max_batch=32, precision="fp32,fp16,int8", calibration="digits:train",
        calibration_images=128, calibration_method="max",
    )  # fmt: skip
    shutil.copytree(bundle.path, tmp_path / "work" / "digits-32")
    out, options = tmp_path / "out", ("--fake", "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"))
    done = gpu(*options)
    log = (out / "log.txt").read_text()
    assert done.returncode == 0, done.stdout + log
    assert "together     about 25 min" in done.stdout
    assert len(list(out.iterdir())) <= 8
    roof, networks = json.loads((out / "roof.json").read_text()), json.loads((out / "networks.json").read_text())
    peers, sustained = json.loads((out / "peers.json").read_text()), json.loads((out / "sustained.json").read_text())
    assert {row["batch"] for row in roof["settings"]["results"]} == {2} and not roof["settings"]["left_out"]
    assert all(row["runtime"]["gpu"] == fake.NAME for row in roof["settings"]["results"])
    digits = networks["networks"]["digits"]
    assert not digits.get("error") and {row["precision"] for row in digits["batches"]["2"]["results"]} == {"fp32", "int8"}
    assert all(row["gate"] == "pass" for batch in digits["batches"].values() for row in batch["results"])
    assert peers["samples"]["digits batch 2 onnxruntime:cuda, s on the device"] and not peers["settings"]["left_out"]
    row = sustained["networks"]["digits, sustained"]["batches"]["2"]["results"][0]
    assert row["sustained"]["images_per_s"] > 0 and row["sustained"]["duration_s"] >= 0.2
    for result in (roof, networks, peers, sustained):
        assert [one["name"] for one in result["machine"]["gpus"]] == [fake.NAME]
    again = gpu(*options)
    assert again.returncode == 0 and again.stdout.count("done before") == 8


def stage(stages: Any, name: str, code: str, limit_s: float = 60) -> Any:
    def command(out: Path, work: Path) -> Sequence[str]:
        return (sys.executable, "-c", code, str(out))

    return replace(stages.STAGES[0], name=name, limit_s=limit_s, command=command, fake=command)


def test_a_stage_that_fails_or_hangs_stops_no_other(stages: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    once = "import pathlib, sys; p = pathlib.Path(sys.argv[1], 'n'); p.write_text('1' + (p.read_text() if p.exists() else ''))"
    chosen = [stage(stages, "bad", "raise SystemExit(3)"), stage(stages, "slow", child, 0.5), stage(stages, "good", once)]
    asked = type("Asked", (), {"out": out, "work": tmp_path, "fake": True})
    start = time.perf_counter()
    assert stages.perform(chosen, asked) == 1 and time.perf_counter() - start < 30
    found = json.loads((out / "stages.json").read_text())
    assert {name: one["status"] for name, one in found.items()} == {"bad": "failed", "slow": "out of time", "good": "done"}
    assert stages.perform([chosen[0], chosen[2]], asked) == 1
    assert (out / "n").read_text() == "1", "what is done is not done again"


def test_the_stages_fit_the_time_of_a_machine_that_is_lent(stages: Any) -> None:
    assert sum(one.estimate_s for one in stages.STAGES) <= stages.BUDGET_S
    assert all(one.estimate_s < one.limit_s <= stages.MOST_S for one in stages.STAGES)
    assert [one.name for one in stages.STAGES][:3] == ["doctor", "tests", "roof"]
