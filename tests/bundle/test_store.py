"""The bundle: all of a change or none of it, whatever kills it, and nothing that was edited is trusted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resnet_deploy.bundle.disk import check_folder
from resnet_deploy.bundle.manifest import SamplesFile
from resnet_deploy.bundle.names import MANIFEST
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import BundleError, IntegrityError, StorageError
from tests.helpers.bundles import make, state


def test_what_is_written_is_read(tmp_path: Path) -> None:
    made = make(tmp_path / "b", 1)
    opened = Bundle.open(tmp_path / "b")
    assert opened.manifest == made.manifest
    entry = opened.entry("graph.bin")
    assert entry.size_bytes == len("graph.bin 1") and "torch" in entry.packages and entry.created
    assert state(tmp_path / "b") == 1
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == [".lock", "graph.bin", MANIFEST, "weights.bin"]


def test_replacing_drops_what_is_no_longer_named(tmp_path: Path) -> None:
    old = make(tmp_path, 1)
    with old.transaction() as change:
        change.stage("extra.bin").write_text("extra 1")
        change.add("extra.bin", SamplesFile)
    make(tmp_path, 2)
    assert not (tmp_path / "extra.bin").exists() and state(tmp_path) == 2


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
def test_killed_at_every_step_leaves_the_old_or_the_new(tmp_path: Path, first: bool) -> None:
    """A real process that dies without cleaning up (os._exit), at its n-th operation on a file, for every n."""
    outcomes = set()
    for step in range(1, 60):
        path = tmp_path / str(step)
        if not first:
            make(path, 1)
        code = _child_killed_at(path, step)
        if code == 0:
            break
        try:
            outcomes.add(state(path))
        except BundleError:
            assert first, "an old bundle was lost"
            outcomes.add(0)
        make(path, 3)
        assert state(path) == 3, "a killed run stands in the way of the next"
    assert code == 0 and step > 6, "the child was never let through"
    assert outcomes == ({0, 2} if first else {1, 2})


def _child_killed_at(path: Path, step: int) -> int:
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    calls = 0

    def deadly(function):  # type: ignore[no-untyped-def]
        def wrapper(*args, **kwargs):  # type: ignore[no-untyped-def]
            nonlocal calls
            calls += 1
            if calls == step:
                os._exit(9)
            return function(*args, **kwargs)

        return wrapper

    for name in ("replace", "unlink", "mkdir", "write_text", "open"):
        setattr(Path, name, deadly(getattr(Path, name)))
    shutil.rmtree = deadly(shutil.rmtree)
    try:
        make(path, 2)
    except BaseException:
        os._exit(1)
    os._exit(0)


def test_an_error_inside_a_change_changes_nothing(tmp_path: Path) -> None:
    bundle = make(tmp_path, 1)
    with pytest.raises(KeyboardInterrupt), bundle.transaction() as change:
        change.stage("graph.bin").write_text("half")
        raise KeyboardInterrupt
    assert state(tmp_path) == 1 and not (tmp_path / ".staging").exists()


def test_an_edited_artifact_is_never_used(tmp_path: Path) -> None:
    make(tmp_path, 1)
    (tmp_path / "graph.bin").write_text("graph.bin X")
    with pytest.raises(IntegrityError, match=r"was changed after it was made.*resnet-deploy export"):
        Bundle.open(tmp_path).artifact("graph.bin")
    (tmp_path / "graph.bin").unlink()
    with pytest.raises(IntegrityError, match="is gone"):
        Bundle.open(tmp_path).artifact("graph.bin")
    (tmp_path / "graph.bin").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(IntegrityError, match="is a link"):
        Bundle.open(tmp_path).artifact("graph.bin")


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda text: text.replace('"parameters": 1', '"parameters": 7'), "changed by hand"),
        (lambda text: text.replace('"parameters": 1', '"parameters":  1'), "changed by hand"),
        (lambda text: text + " ", "does not end in its digest"),
        (lambda text: text[: len(text) // 2], "cannot be read"),
        (lambda text: "[]", "cannot be read"),
        (lambda text: "", "cannot be read"),
        (lambda text: text.replace('"schema_version": 2', '"schema_version": 99'), "schema version 99"),
    ],
)
def test_an_edited_manifest_is_refused(tmp_path: Path, edit: Callable[[str], str], said: str) -> None:
    make(tmp_path, 1)
    manifest = tmp_path / MANIFEST
    manifest.write_text(edit(manifest.read_text()))
    with pytest.raises(BundleError, match=said):
        Bundle.open(tmp_path)
    make(tmp_path, 2)
    assert state(tmp_path) == 2, "--overwrite is the way out"


def test_folders_that_are_not_this_models(tmp_path: Path) -> None:
    make(tmp_path / "other", 1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(BundleError, match="holds no bundle"):
        check_folder(tmp_path / "mine")
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="is a file"):
        check_folder(tmp_path / "file")
    check_folder(tmp_path / "other")
    with pytest.raises(BundleError, match="there is no bundle"):
        Bundle.open(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"no manifest.json"):
        Bundle.open(tmp_path / "mine")


def test_a_read_only_parent_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="cannot write"):
        make(tmp_path / "file" / "b", 1)


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """A real file system of 64 kB, in a mount namespace of its own."""
    script = """
import sys
from pathlib import Path
from resnet_deploy.errors import StorageError
from resnet_deploy.bundle.manifest import SamplesFile
from tests.helpers.bundles import make, state
path = Path(sys.argv[1])
make(path / "b", 1)
bundle = make(path / "b", 1)
try:
    with bundle.transaction() as change:
        change.stage("graph.bin").write_bytes(b"x" * 200_000)
        change.add("graph.bin", SamplesFile)
except StorageError as exc:
    assert exc.exit_code == 3 and "Free some space" in str(exc), exc
else:
    sys.exit("no error")
assert state(path / "b") == 1
assert not (path / "b" / ".staging").exists()
"""
    command = f"mount -t tmpfs -o size=64k none {tmp_path} && exec {sys.executable} -c '{script}' {tmp_path}"
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", tmp_path], capture_output=True).returncode:
        pytest.skip("mounting in a namespace of our own is not permitted here")
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr


def test_json_is_stable(tmp_path: Path) -> None:
    make(tmp_path, 1)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    names = ["schema_version", "created", "model", "artifacts", "parity", "measurements", "scenarios", "roofs", "tuning"]
    assert list(manifest) == [*names, "digest"]


def test_storage_errors_are_this_machines(tmp_path: Path) -> None:
    assert StorageError("x").exit_code == 3 and BundleError("x").exit_code == 2
