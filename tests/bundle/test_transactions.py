"""Two handles, two processes: neither loses the other's work, and nothing is said of a file that is not there any more."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from resnet_deploy.bundle import locks
from resnet_deploy.bundle.manifest import SamplesFile
from resnet_deploy.bundle.names import DRAFT, MANIFEST, SAMPLES, STAGING
from resnet_deploy.bundle.results import ResultStore
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.bundle.transaction import changing
from resnet_deploy.errors import BundleError, ConflictError
from tests.helpers.bundles import REPORT, describe, make, parity, state

KEYS = ("a" * 16, "b" * 16)


def test_two_handles_keep_each_others_work(tmp_path: Path) -> None:
    first, second = make(tmp_path, 1), Bundle.open(tmp_path)
    with second.transaction() as change:
        change.stage("extra.bin").write_text("extra 1")
        change.add("extra.bin", SamplesFile)
    first.record("parity", {KEYS[0]: parity(first)})
    second.record("parity", {KEYS[1]: parity(second, "openvino")})
    assert (tmp_path / "extra.bin").exists() and set(Bundle.open(tmp_path).manifest.parity) == set(KEYS)
    assert set(second.manifest.parity) == set(KEYS) and "extra.bin" in first.manifest.artifacts, "each sees the other's"


def test_a_block_holds_no_lock(tmp_path: Path) -> None:
    bundle, other = make(tmp_path, 1), Bundle.open(tmp_path)
    with bundle.transaction() as change:
        other.record("parity", {KEYS[1]: parity(other)})
        change.record("parity", {KEYS[0]: parity(bundle)})
    assert set(bundle.manifest.parity) == set(KEYS)


def test_what_is_said_of_a_file_that_was_replaced_is_refused(tmp_path: Path) -> None:
    slow = make(tmp_path, 1)
    slow.artifact("graph.bin")
    make(tmp_path, 2)
    before = (tmp_path / MANIFEST).read_bytes()
    with pytest.raises(ConflictError, match=r"what was found of onnxruntime is not written.*replaced by another process"):
        slow.record("parity", {KEYS[0]: parity(slow)})
    assert (tmp_path / MANIFEST).read_bytes() == before and state(tmp_path) == 2


def test_a_file_that_was_replaced_is_not_called_changed(tmp_path: Path) -> None:
    slow = make(tmp_path, 1)
    make(tmp_path, 2)
    with pytest.raises(ConflictError, match="was replaced by another process meanwhile"):
        slow.artifact("graph.bin")
    assert Bundle.open(slow) is slow and slow.artifact("graph.bin").read_text() == "graph.bin 2", "it can look again"


def test_a_checked_file_keeps_its_digest_whatever_comes_after(tmp_path: Path) -> None:
    """Else a measurement of the old file would be recorded as the new one's."""
    slow = make(tmp_path, 1)
    digest = slow.sha256(slow.artifact("graph.bin").name)
    make(tmp_path, 2)
    with changing(tmp_path, Bundle.open(tmp_path).manifest) as change:
        change.update(lambda manifest: manifest)
    slow.manifest = Bundle.open(tmp_path).manifest  # as after a change of its own
    assert slow.sha256("graph.bin") == digest != slow.entry("graph.bin").sha256


def test_another_models_bundle_that_came_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "b"
    with pytest.raises(ConflictError, match="another process made a bundle of resnet18"), changing(path, None) as change:
        change.describe(describe(1, "resnet50"))
        make(path, 1)
    assert state(path) == 1


def test_a_failed_first_change_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), changing(tmp_path / "b", None):
        raise KeyboardInterrupt
    assert not (tmp_path / "b").exists()


def test_merged_files_have_what_every_run_added(tmp_path: Path) -> None:
    first, second = make(tmp_path, 1), Bundle.open(tmp_path)
    for bundle, key in ((first, "first"), (second, "second")):
        with bundle.transaction() as change:
            change.merge(SAMPLES, SamplesFile, lambda kept, key=key: {**kept, key: [0.5]})
    assert json.loads(Bundle.open(tmp_path).artifact(SAMPLES).read_bytes()) == {"first": [0.5], "second": [0.5]}


def test_a_figure_that_is_not_finite_is_never_written(tmp_path: Path) -> None:
    bundle = make(tmp_path, 1)
    before = (tmp_path / MANIFEST).read_bytes()
    with pytest.raises(BundleError, match=r"tuning\.error is inf"), bundle.transaction() as change:
        change.update(lambda manifest: msgspec.structs.replace(manifest, tuning={"error": float("inf")}))
    assert (tmp_path / MANIFEST).read_bytes() == before and not (tmp_path / STAGING).exists()


def test_of_a_verdict_a_figure_that_is_not_finite_is_spelled_out(tmp_path: Path) -> None:
    bundle = make(tmp_path, 1)
    report = dataclasses.replace(REPORT, finite=False, max_rel_error=float("inf"), cosine_min=float("nan"))
    bundle.record("parity", {KEYS[0]: msgspec.structs.replace(parity(bundle), report=report)})
    read = Bundle.open(tmp_path).manifest.parity[KEYS[0]].report
    assert read.max_rel_error == float("inf") and read.cosine_min != read.cosine_min
    assert '"max_rel_error": "inf"' in (tmp_path / MANIFEST).read_text()


def _record(path: Path, number: int, rounds: int) -> None:
    bundle = Bundle.open(path)
    for turn in range(rounds):
        bundle.record("parity", {f"{number:08x}{turn:08x}": parity(bundle)})
        with bundle.transaction() as change:
            change.merge(SAMPLES, SamplesFile, lambda kept, key=f"{number}.{turn}": {**kept, key: 1})


@pytest.mark.slow
def test_four_processes_lose_nothing(tmp_path: Path) -> None:
    make(tmp_path, 1)
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_record, args=(tmp_path, number, 6)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    bundle = Bundle.open(tmp_path)
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert len(bundle.manifest.parity) == 24 == len(json.loads(bundle.artifact(SAMPLES).read_bytes()))


def test_a_writer_that_waits_too_long_says_who_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "WAIT_S", 0.2)
    bundle = make(tmp_path, 1)
    script = (
        "import sys; from pathlib import Path; from resnet_deploy.bundle.locks import locked\n"
        "sys.argv = ['resnet-deploy', 'tune', 'x']\n"
        "with locked(Path(sys.stdin.readline().strip())): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None and other.stdout is not None
        other.stdin.write(f"{tmp_path}\n")
        other.stdin.flush()
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BundleError, match=rf"another process is writing .*process {other.pid}.*resnet-deploy tune x"):
            bundle.record("parity", {KEYS[0]: parity(bundle)})
        assert state(tmp_path) == 1, "reading goes on"
        other.kill()
        other.wait()
    bundle.record("parity", {KEYS[0]: parity(bundle)})
    assert set(Bundle.open(tmp_path).manifest.parity) == {KEYS[0]}


def test_a_second_writer_waits(tmp_path: Path) -> None:
    bundle = make(tmp_path, 1)
    script = (
        "import sys, time; from pathlib import Path; from resnet_deploy.bundle.locks import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(1)"
    )
    with subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        bundle.record("parity", {KEYS[0]: parity(bundle)})
    assert set(Bundle.open(tmp_path).manifest.parity) == {KEYS[0]}


def test_drafts_of_killed_runs_are_swept_and_those_of_the_living_stay(tmp_path: Path) -> None:
    bundle = make(tmp_path, 1)
    script = (
        "import os, sys; from resnet_deploy.bundle.store import Bundle\n"
        "with Bundle.open(sys.argv[1]).transaction() as change:\n"
        "    change.stage('big.bin').write_text('half'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", script, tmp_path]).returncode == -9
    assert len([*tmp_path.glob(f"{DRAFT}*")]) == 1
    with bundle.transaction() as change:
        mine = change.stage("mine.bin")
        mine.write_text("mine 1")
        Bundle.open(tmp_path).record("parity", {})
        assert mine.exists() and len([*tmp_path.glob(f"{DRAFT}*")]) == 1, "the killed run's is gone, the living one's is not"
    assert not [*tmp_path.glob(f"{DRAFT}*")] and state(tmp_path) == 1


def test_a_ledger_keeps_in_memory_what_the_bundle_does_not_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make(tmp_path, 1)
    store = ResultStore(bundle)
    with monkeypatch.context() as patch:
        patch.setattr(locks, "WAIT_S", 0.0)
        with locks.locked(tmp_path):
            assert not store.keep("parity", {KEYS[0]: parity(bundle)})
    assert KEYS[0] in bundle.manifest.parity and "another process is writing" in store.warnings[0]
    assert Bundle.open(tmp_path).manifest.parity == {}


# --- hostile folders ---


def test_a_staging_folder_that_is_a_link_moves_nothing(tmp_path: Path) -> None:
    make(tmp_path / "b", 1)
    other = tmp_path / "other"
    make(other, 2)
    (other / "thesis.tex").write_text("years of work")
    (tmp_path / "b" / STAGING).symlink_to(other)
    with pytest.raises(BundleError, match="is a link, which resnet-deploy never makes"):
        Bundle.open(tmp_path / "b").record("parity", {})
    assert sorted(path.name for path in other.iterdir()) == [".lock", "graph.bin", MANIFEST, "thesis.tex", "weights.bin"]
    assert state(tmp_path / "b") == 1


def test_a_staging_folder_that_is_a_file_is_said(tmp_path: Path) -> None:
    make(tmp_path, 1)
    (tmp_path / STAGING).write_text("mine")
    assert state(tmp_path) == 1, "a reader needs none"
    with pytest.raises(BundleError, match="is a file, which resnet-deploy never makes"):
        Bundle.open(tmp_path).record("parity", {})
    assert (tmp_path / STAGING).read_text() == "mine"


def test_only_what_a_staged_manifest_names_is_moved(tmp_path: Path) -> None:
    bundle = make(tmp_path / "b", 1)
    staging = tmp_path / "b" / STAGING
    outside = tmp_path / "outside.bin"
    outside.write_text("mine")
    staging.mkdir()
    (staging / "stray.bin").write_text("stray")
    (staging / "graph.bin").symlink_to(outside)
    (staging / MANIFEST).write_bytes((bundle.path / MANIFEST).read_bytes())
    assert state(tmp_path / "b") == 1 and not staging.exists()
    assert not (tmp_path / "b" / "stray.bin").exists() and outside.read_text() == "mine"


@pytest.mark.parametrize("spoil", [lambda data: data[:-9], lambda data: data.replace(b'"parameters": 1', b'"parameters": 2')])
def test_a_staged_manifest_without_its_digest_counts_for_nothing(tmp_path: Path, spoil) -> None:  # type: ignore[no-untyped-def]
    bundle = make(tmp_path / "b", 1)
    staging = tmp_path / "b" / STAGING
    staging.mkdir()
    (staging / "graph.bin").write_text("graph.bin 2")
    (staging / MANIFEST).write_bytes(spoil((bundle.path / MANIFEST).read_bytes()))
    assert state(tmp_path / "b") == 1 and not staging.exists()


def test_a_draft_that_is_a_link_is_left_alone(tmp_path: Path) -> None:
    make(tmp_path / "b", 1)
    make(tmp_path / "other", 2)
    (tmp_path / "b" / f"{DRAFT}x").symlink_to(tmp_path / "other")
    Bundle.open(tmp_path / "b").record("parity", {})
    assert state(tmp_path / "other") == 2
