"""The benchmarks' page is what the script makes of the committed figures, and figures name their machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

BENCHMARKS = ROOT / "benchmarks"
RESULTS = sorted((BENCHMARKS / "results").glob("*.json"))


def test_the_page_is_made_from_the_results() -> None:
    code = "import sys, report; sys.stdout.write(report.page(report.read(report.HERE / 'results')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=BENCHMARKS)
    page = done.stdout
    assert page == (BENCHMARKS / "README.md").read_text()


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_every_figure_has_its_machine_versions_and_spread(path: Path) -> None:
    result = json.loads(path.read_text())
    assert result["machine"]["cpu"] and result["machine"]["packages"]["torch"] and result["measured"]
    assert (BENCHMARKS / f"{path.stem}.py").is_file(), "a figure without its script"
    for row in result["rows"]:
        assert row["ratio"] is None or row["ratio"]["q1"] <= row["ratio"]["median"] <= row["ratio"]["q3"]
    assert str(ROOT) not in path.read_text()


@pytest.mark.parametrize(("gpu", "said"), [("NVIDIA H200", None), ("fake CUDA device, no timing means anything", "of no GPU")])
def test_a_run_on_the_fake_device_is_never_published(monkeypatch: pytest.MonkeyPatch, gpu: str, said: str | None) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import report

    machine = json.loads(RESULTS[0].read_text())["machine"] | {"gpus": [{"name": gpu}]}
    results = {"networks": {"machine": machine, "networks": {"digits": {"batches": {}, "left_out": {"tensorrt:fp16": "no"}}}}}
    if said is None:
        text = "\n".join(report.gpu_section(results))
        assert (
            "NVIDIA H200" in text and "- tensorrt:fp16: no" in text and "Not measured yet" in "\n".join(report.gpu_section({}))
        )
    else:
        with pytest.raises(ValueError, match=said):
            report.gpu_section(results)
