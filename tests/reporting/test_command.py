"""`bench --report` and `report`: real runs on handwritten digits, kept in their bundle, read again, compared."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import resnet_deploy as rd
from resnet_deploy.bundle.manifest import ReportFile, SamplesFile
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import BundleError, IntegrityError, StorageError, UsageError
from resnet_deploy.reporting.facts import commands
from resnet_deploy.reporting.recorded import load_report
from resnet_deploy.reporting.writing import check_path, write_report
from tests.helpers.cli import FAST, fails, load, run
from tests.helpers.paths import DIGITS
from tests.helpers.reports import full, small

pytestmark = pytest.mark.slow

BENCH = ("--data", "digits", "--limit", "20", *FAST, "--backend", "eager", "--backend", "onnxruntime")


@pytest.fixture(scope="module")
def measured(digits_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a run of four rows, and its report as three files beside it; tests that change it copy it first."""
    folder = tmp_path_factory.mktemp("measured")
    shutil.copytree(digits_bundle.path, folder / "bundle")
    for suffix in ("html", "md", "json"):
        done = run("bench", folder / "bundle", *BENCH, "--report", folder / "made" / f"run.{suffix}")
        assert done.exit_code == 0, done.stderr
    return folder


@pytest.fixture
def own(measured: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return shutil.copytree(measured, tmp_path / "own")


def test_bench_writes_the_report_in_every_form(measured: Path) -> None:
    made = measured / "made"
    report = json.loads((made / "run.json").read_text())
    assert [(one["backend"], one["batch"]) for one in report["results"]] == [
        ("eager", 1), ("onnxruntime", 1), ("eager", 2), ("onnxruntime", 2),
    ]  # fmt: skip
    for result in report["results"]:
        samples = report["samples"][f"{result['backend']}|cpu|fp32|{result['batch']}"]["host_s"]
        assert len(samples) == min(result["samples"], 600) and min(samples) <= result["latency_s"]["p50"] <= max(samples)
    page, text = (made / "run.html").read_text(), (made / "run.md").read_text()
    p50 = f"{report['results'][1]['latency_s']['p50'] * 1e3:.3f}"
    for content in (page, text):
        assert "resnet20" in content and "onnxruntime" in content and p50[:4] in content and "To get it again" in content


def test_the_bundle_has_its_last_run(measured: Path) -> None:
    """With every sample; a run that finds all of it there writes nothing."""
    report = load_report(measured / "bundle")
    assert report["results"] == json.loads((measured / "made" / "run.json").read_text())["results"]
    kept = json.loads((measured / "bundle" / "samples.json").read_text())
    assert sorted(len(one["host_s"]) for one in report["samples"].values()) == sorted(len(s["host_s"]) for s in kept.values())
    manifest = (measured / "bundle" / "manifest.json").read_bytes()
    assert run("bench", measured / "bundle", *BENCH).exit_code == 0
    assert (measured / "bundle" / "manifest.json").read_bytes() == manifest
    assert load(run("report", measured / "bundle", "--json"))["results"] == report["results"]


def test_the_commands_get_it_again(own: Path) -> None:
    """The command of the report, run on the same bundle, finds the same rows measured already."""
    report = load_report(own / "bundle")
    (command,) = commands({name: part for name, part in report.items() if name != "commands"})
    words = shlex.split(command)
    assert words[:3] == ["resnet-deploy", "bench", "resnet20"] and str(DIGITS) in words
    again = load(run(*words[1:], "-o", own / "bundle", "--duration", "0.05", "--json"))
    assert again["results"] == report["results"]


def test_a_run_from_a_shell_knows_its_commands(measured: Path, tmp_path: Path) -> None:
    program = [sys.executable, "-m", "resnet_deploy.cli"]
    bench = ["bench", "resnet20", "--weights", str(DIGITS), "-o", "my bundle", "--max-batch", "2", *BENCH, "--backend", "eager"]
    done = subprocess.run([*program, *bench], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert commands(load_report(tmp_path / "my bundle")) == [shlex.join(["resnet-deploy", *bench])]


def test_a_newer_measurement_is_no_sample_of_an_older_report(own: Path) -> None:
    """A run that is killed before its report leaves samples that belong to no row of the last one."""
    bundle = Bundle.open(own / "bundle")
    slower = {
        key: msgspec.structs.replace(one, latency_s=dataclasses.replace(one.latency_s, p50=one.latency_s.p50 * 1.5))
        for key, one in bundle.manifest.measurements.items()
    }
    bundle.record("measurements", slower)
    assert load_report(own / "bundle")["samples"] == {}


def test_samples_that_were_edited_by_hand_are_not_used(own: Path) -> None:
    samples = own / "bundle" / "samples.json"
    samples.write_text(samples.read_text().replace("0.0", "0.9", 1))
    done = run("bench", own / "bundle", *BENCH, "--report", own / "again.json")
    assert done.exit_code == 0 and json.loads((own / "again.json").read_text())["samples"] == {}


def test_report_says_the_run(measured: Path) -> None:
    done = run("report", measured / "bundle")
    assert done.exit_code == 0 and "All 4 rows pass their gates." in done.stdout and "resnet-deploy bench" in done.stdout
    assert run("report", measured / "made" / "run.json").stdout == done.stdout


def test_report_compares_and_fails_on_regressions(own: Path) -> None:
    before, slower = own / "made" / "run.json", own / "slower.json"
    same = run("report", before, own / "bundle", "--fail-on-regression", "5%")
    assert same.exit_code == 0 and "Beyond noise: 0 slower, 0 faster; the same: 4; inconclusive: 0." in same.stdout, same.stdout
    write_report(small(), own / "before.json")
    write_report(small(1.08, seed=9), slower)
    said = fails(1, "report", own / "before.json", slower, "--fail-on-regression", "5%")
    assert said.count("FAILED") == 4 and "onnxruntime fp32 cpu, batch 8: slower by 8.0%, more than 5.0%" in said
    assert run("report", own / "before.json", slower, "--fail-on-regression", "10%").exit_code == 0
    marked = run("report", own / "before.json", slower)
    assert marked.exit_code == 0 and marked.stdout.count("slower\n") == 4
    found = run("report", own / "before.json", slower, "--fail-on-regression", "5%", "--json", "-o", own / "compared.html")
    assert found.exit_code == 1 and len(json.loads(found.stdout)["failures"]) == 4
    assert "slower by 8.0%" in (own / "compared.html").read_text()


def test_what_cannot_be_told_from_noise_has_an_exit_code_of_its_own(tmp_path: Path) -> None:
    """Neither a pass nor a failure; a failure wins."""
    before, after = small(spread=0.5, with_samples=False), small(2.8, spread=2.0, with_samples=False)
    for name, report in (("before", before), ("after", after)):
        write_report(report, tmp_path / f"{name}.json")
    asked = ("report", tmp_path / "before.json", tmp_path / "after.json", "--fail-on-regression", "5%")
    said = fails(4, *asked)
    assert said.count("INCONCLUSIVE") == 4 and "Measure both longer" in said and "FAILED" not in said
    told = run(*asked, "--json", "-o", tmp_path / "compared.md")
    assert told.exit_code == 4 and len(json.loads(told.stdout)["inconclusive"]) == 4
    assert "inconclusive" in (tmp_path / "compared.md").read_text()
    assert run(*asked[:3]).exit_code == 0, "no limit, no failure"
    after["results"].pop()
    write_report(after, tmp_path / "after.json")
    said = fails(1, *asked)
    assert said.count("INCONCLUSIVE") == 3 and "FAILED onnxruntime fp32, batch 8: is in" in said


def test_an_accuracy_that_fell_is_a_failure_of_real_runs(measured: Path, digits_bundle: Bundle, tmp_path: Path) -> None:
    """Another checkpoint of the same network, with noise in its classifier, judged on the very images."""
    weights = load_file(DIGITS)
    noise = torch.Generator().manual_seed(0)
    spoiled = {
        name: value + 3 * value.std() * torch.randn(value.shape, generator=noise) if name == "fc.weight" else value
        for name, value in weights.items()
    }
    with safe_open(DIGITS, "pt") as file:
        save_file(spoiled, tmp_path / "worse.safetensors", file.metadata())
    rd.export("resnet20", tmp_path / "worse", weights=tmp_path / "worse.safetensors", input="uint8", max_batch=8)
    shutil.copytree(digits_bundle.path, tmp_path / "good")
    for name in ("good", "worse"):
        options = ("--data", "digits", "--limit", "150", "--duration", "0.05", "--batch", "1", "--threads", "1")
        done = run("bench", tmp_path / name, *options, "--backend", "onnxruntime", "--report", tmp_path / f"{name}.json")
        assert done.exit_code == 0, done.stderr
    asked = ("report", tmp_path / "good.json", tmp_path / "worse.json")
    said = fails(1, *asked, "--fail-on-regression", "99%")
    assert "onnxruntime fp32 cpu: top-1 accuracy fell from" in said and "beyond the interval of paired answers" in said
    assert "eager, the reference: top-1 accuracy fell from" in said
    assert "the weights differ" in run(*asked).stdout
    assert "by more than 0.5 points" in fails(1, *asked, "--max-accuracy-drop", "0.5")
    assert run(*asked, "--max-accuracy-drop", "99").exit_code == 0
    assert run("report", tmp_path / "good", tmp_path / "good.json", "--fail-on-regression", "0%").exit_code == 0


@pytest.mark.parametrize("name", ["bench.json", "samples.json"])
def test_a_bundle_whose_record_was_forged(name: str, own: Path) -> None:
    """The digest catches accidents; what a forger writes is still read with care."""
    bundle = Bundle.open(own / "bundle")
    spoiled = bundle.artifact(name).read_text().replace("0.0", "-0.0")
    with bundle.transaction() as change:
        change.stage(name).write_text(spoiled)
        change.add(name, ReportFile if name == "bench.json" else SamplesFile)
    if name == "samples.json":
        assert load_report(own / "bundle")["samples"] == {}
    else:
        said = fails(2, "report", own / "bundle")
        assert "bench.json is no report: results[0]." in said and "Measure it again with `resnet-deploy bench" in said


def test_the_same_from_python(own: Path) -> None:
    report = rd.report(own / "bundle", output=own / "page.md")
    assert isinstance(report, dict) and report == rd.load_report(own / "bundle") and (own / "page.md").is_file()
    found = rd.compare_runs(own / "made" / "run.json", Bundle.open(own / "bundle"), fail_on_regression=0.05)
    assert not isinstance(found, dict) and found.failures == [] and found.after == str(own / "bundle")
    bench = rd.bench(
        own / "bundle",
        data="digits",
        limit=20,
        batch=(1, 2),
        duration=0.05,
        threads=1,
        report=own / "b.html",
        backend=["eager", "onnxruntime"],
    )
    assert bench.to_dict()["results"] == report["results"] and "resnet20" in (own / "b.html").read_text()
    assert rd.write_report(bench.to_dict(), own / "c.html") == own / "c.html", "without samples too"


def test_a_report_that_cannot_be_written_is_refused_before_anything_is_measured(own: Path, tmp_path: Path) -> None:
    """Also as root, whom permissions do not stop: nothing can be made in /proc."""
    manifest = (own / "bundle" / "manifest.json").read_bytes()
    said = fails(2, "bench", own / "bundle", *BENCH, "--fresh", "--report", "/proc/report.html")
    assert "cannot write /proc/report.html" in said and "Choose another output folder" in said
    assert (own / "bundle" / "manifest.json").read_bytes() == manifest, "nothing was measured"
    assert "cannot write" in fails(2, "bench", "resnet20", "-o", tmp_path / "new", *BENCH, "--report", "/proc/a/b.html")
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or shutil.which("setpriv") is None, reason="needs setpriv")
def test_a_read_only_folder_is_found_by_trying(tmp_path: Path) -> None:
    folder = tmp_path / "readonly"
    folder.mkdir(mode=0o555)
    powerless = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"] if os.geteuid() == 0 else []
    if powerless and subprocess.run([*powerless, "true"]).returncode:
        pytest.skip("root may write everywhere here")
    command = [sys.executable, "-m", "resnet_deploy.cli", "bench", "resnet20", "-o", str(tmp_path / "b"), "--report"]
    done = subprocess.run([*powerless, *command, str(folder / "r.html")], capture_output=True, text=True)
    assert done.returncode == 2 and f"cannot write {folder}/r.html: Permission denied" in done.stderr, done.stderr
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("error", [BundleError, StorageError])
def test_a_bundle_that_cannot_be_written_is_reported_all_the_same(error: type, own: Path, monkeypatch: Any) -> None:
    """Everything was measured before; only the record of this run has no place."""

    def refuse(self: Bundle) -> Any:
        raise error("cannot write")

    monkeypatch.setattr(Bundle, "transaction", refuse)
    done = run("bench", own / "bundle", *BENCH, "--batch", "2", "--report", own / "new.json")
    assert done.exit_code == 0, done.stderr
    assert len(json.loads((own / "new.json").read_text())["results"]) == 2
    assert len(load_report(own / "bundle")["results"]) == 4, "the last run that could be kept"


@pytest.mark.parametrize("name", ["r.pdf", "r", "r.html.gz"])
def test_other_forms_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.html, \.md, \.json"):
        check_path(tmp_path / name)


def test_what_a_report_may_not_replace(own: Path) -> None:
    for name in ("manifest.json", "bench.json", "samples.json", "calibration.json"):
        assert "is a part of the bundle" in fails(2, "report", own / "bundle", "-o", own / "bundle" / name)
    assert load_report(own / "bundle")["results"]
    (own / "folder.html").mkdir()
    assert "is a folder" in fails(2, "report", own / "bundle", "-o", own / "folder.html")
    assert "cannot write" in fails(2, "report", own / "bundle", "-o", own / "made" / "run.md" / "r.html"), "a file on the way"
    before = (own / "made" / "run.html").read_bytes()
    assert fails(2, "report", own / "made" / "run.md", "-o", own / "made" / "run.html")
    assert (own / "made" / "run.html").read_bytes() == before


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("report",), "Missing argument"),
        (("report", "nowhere"), "nowhere does not exist; give a bundle, or a file"),
        (("report", "EMPTY"), "has no manifest.json"),
        (("report", "FRESH"), "has no recorded run; measure it with `resnet-deploy bench"),
        (("report", "OWN/bundle", "nowhere.json"), "nowhere.json does not exist"),
        (("report", "OWN/bundle", "OWN/full.json"), "the architecture is resnet20 and resnet50"),
        (("report", "OWN/bundle", "--fail-on-regression", "5%"), "a regression is between two runs"),
        (("report", "OWN/bundle", "OWN/bundle", "--fail-on-regression", "5"), "as in 5% or 0.05"),
        (("report", "OWN/bundle", "--max-accuracy-drop", "1"), "a regression is between two runs"),
        (("report", "OWN/bundle", "OWN/bundle", "--max-accuracy-drop", "nan"), "percentage points from 0 to 100"),
        (("report", "OWN/made/run.html"), "is not JSON"),
        (("report", "OWN/bundle/samples.json"), "is not a report of `resnet-deploy bench`"),
        (("report", "OWN/bundle/model.fp32.onnx"), "is not JSON"),
    ],
)
def test_what_cannot_be_meant(args: tuple[str, ...], said: str, own: Path, digits_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_report(full((1, 8)), own / "full.json")
    for name, path in {"OWN": own, "EMPTY": tmp_path / "empty", "FRESH": digits_bundle.path}.items():
        args = tuple(arg.replace(name, str(path)) for arg in args)
    assert said in fails(2, *args)


def test_a_report_that_was_edited_by_hand_is_said(own: Path) -> None:
    path = own / "bundle" / "bench.json"
    path.write_text(path.read_text().replace('"batch": 1', '"batch": 4', 1))
    with pytest.raises(IntegrityError, match="was changed after it was made"):
        load_report(own / "bundle")
    assert run("bench", own / "bundle", *BENCH).exit_code == 0, "the next run makes it again"
    assert load_report(own / "bundle")["results"][0]["batch"] == 1
