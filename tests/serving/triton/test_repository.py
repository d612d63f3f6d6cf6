"""Versions in a Triton repository: added whole or not at all, never overwritten, and only to the same model."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

import resnet_deploy as rd
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import BundleError, IntegrityError, RepositoryError, StorageError
from resnet_deploy.serving.triton import repository as module
from resnet_deploy.serving.triton.model_config import new_config, read_config, string_parameters, to_text
from resnet_deploy.serving.triton.repository import CONFIG, IDENTITY, Added, File, RepositoryModel, add
from tests.helpers.paths import ROOT

MODELS = ("net", "net_step")


def model(
    content: str, *, name: str = "net", identity: str = "a model", batch: int = 8, labels: str = "x\n"
) -> RepositoryModel:
    config = new_config(name=name, max_batch_size=batch, parameters=string_parameters({IDENTITY: identity}))
    version = {"model.onnx": File(content=content.encode()), "sub/extra.py": File(content=b"1")}
    return RepositoryModel(config=config, version=version, beside={"labels.txt": File(content=labels.encode())})


def both(content: str) -> list[RepositoryModel]:
    return [model(content, name=name) for name in MODELS]


def state(repository: Path) -> dict[str, list[str]]:
    """The content of every version of every model that a server would meet; an error where one is not whole."""
    found: dict[str, list[str]] = {}
    for folder in sorted(path for path in repository.iterdir() if path.is_dir()):
        assert read_config(folder / CONFIG).name == folder.name and (folder / "labels.txt").read_text() == "x\n"
        versions = sorted(path for path in folder.iterdir() if path.is_dir())
        assert [path.name for path in versions] == [str(number + 1) for number in range(len(versions))]
        assert all((path / "sub" / "extra.py").read_bytes() == b"1" for path in versions)
        found[folder.name] = [(path / "model.onnx").read_text() for path in versions]
    return found


def versions_of(found: list[Added]) -> list[tuple[int, bool]]:
    return [(item.version, item.reused) for item in found]


def test_versions_are_added_and_the_same_one_is_not(tmp_path: Path) -> None:
    target = tmp_path / "models"
    assert versions_of(add(target, both("one"))) == [(1, False)] * 2
    assert versions_of(add(target, both("one"))) == [(1, True)] * 2
    assert versions_of(add(target, [model("one"), model("two", name="net_step")])) == [(1, True), (2, False)]
    assert versions_of(add(target, [model("two")])) == [(2, False)]
    assert versions_of(add(target, [model("one")])) == [(3, False)], "back to the first is a version of its own"
    assert state(target) == {"net": ["one", "two", "one"], "net_step": ["one", "two"]}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models"] and (target / ".lock").is_file()


def test_what_a_server_wrote_does_not_make_another_version(tmp_path: Path) -> None:
    (added,) = add(tmp_path, [model("one")])
    (added.path / "sub" / "__pycache__").mkdir()
    (added.path / "sub" / "__pycache__" / "extra.cpython-312.pyc").write_bytes(b"1")
    assert versions_of(add(tmp_path, [model("one")])) == [(1, True)]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (model("two", identity="another"), "holds another model: a model; this one is another. Choose another --name"),
        (model("two", batch=4), "max_batch_size: 8, not 4"),
        (model("two", labels="y\n"), "labels.txt: other content"),
    ],
)
def test_another_model_or_configuration_is_refused(tmp_path: Path, other: RepositoryModel, words: str) -> None:
    add(tmp_path, [model("one")])
    with pytest.raises(RepositoryError) as refusal:
        add(tmp_path, [model("new", name="net_step"), other])
    assert words in str(refusal.value)
    assert state(tmp_path) == {"net": ["one"]}, "nothing of it was written"


def test_folders_that_are_not_ours_are_refused(tmp_path: Path) -> None:
    def refused(words: str, target: Path = tmp_path / "models") -> None:
        with pytest.raises(RepositoryError, match=words):
            add(target, [model("one")])

    folder = tmp_path / "models" / "net"
    folder.mkdir(parents=True)
    refused("has no config.pbtxt: it is not a model of ours")
    (folder / CONFIG).write_text(to_text(new_config(name="net")))
    refused("holds another model: a model that was not made by resnet-deploy")
    (folder / CONFIG).write_text("name: ")
    refused("cannot be read as a Triton model configuration")
    (folder / CONFIG).write_bytes(b"\xff\xfe")
    refused("cannot be read as a Triton model configuration")
    refused("is one model of a repository", folder)
    (tmp_path / "file").write_text("")
    refused("is a file; a model repository is a folder", tmp_path / "file")
    with FileLock(tmp_path / ".lock"):
        refused("another process is working on", tmp_path)


def test_a_bundle_is_not_a_repository(digits_bundle: Bundle) -> None:
    before = sorted(path.name for path in digits_bundle.path.iterdir())
    with pytest.raises(RepositoryError, match="is a bundle; choose a folder that holds models"):
        rd.write_triton(digits_bundle, digits_bundle.path)
    assert sorted(path.name for path in digits_bundle.path.iterdir()) == before


@pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
def test_killed_at_every_step_leaves_whole_models(tmp_path: Path, first: bool) -> None:
    """Real processes that die at their n-th operation on a file, for every n; the next run does what is left."""
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(first)], cwd=ROOT, check=True)
    places = sorted(tmp_path.iterdir())
    assert len(places) > 10
    outcomes = {str(state(place / "models") if (place / "models").exists() else {}) for place in places}
    assert len(outcomes) == 3, "nothing of it, the first model, all of it"
    for place in places:
        add(place / "models", both("two"))
        assert state(place / "models") == {name: ["two"] if first else ["one", "two"] for name in MODELS}
        assert [path.name for path in place.iterdir()] == ["models"], "and nothing is left over"


# A process without threads, which may be forked: one child for each step, until one gets to its end.
KILLED = """
import os, sys
from pathlib import Path
from resnet_deploy.serving.triton.repository import add
from tests.serving.triton.test_repository import both
count = 0
def dying(call, last):
    def wrapped(*args, **kwargs):
        global count
        count += 1
        if count == last:
            os._exit(9)
        return call(*args, **kwargs)
    return wrapped
for step in range(1, 100):
    target = Path(sys.argv[1]) / f"{step:02d}" / "models"
    target.parent.mkdir()
    if sys.argv[2] == "False":
        add(target, both("one"))
    if (child := os.fork()) == 0:
        for name in ("mkdir", "rename", "write_bytes"):
            setattr(Path, name, dying(getattr(Path, name), step))
        add(target, both("two"))
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        sys.exit()
sys.exit("it never got to its end")
"""


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "models"
    add(target, both("one"))

    def full(path: Path, data: bytes) -> str:
        if path.name == "model.onnx" and "net_step" in path.parts:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return "" if path.write_bytes(data) is None else module.File(content=data).digest

    monkeypatch.setattr(module, "write_hashed", full)
    with pytest.raises(StorageError, match="Free some space and run the command again"):
        add(target, both("two"))
    assert state(target) == {name: ["one"] for name in MODELS} and [path.name for path in tmp_path.iterdir()] == ["models"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(BundleError, match="Choose another output folder"):
        add(tmp_path / "models", both("one"))


def test_a_repository_that_is_a_mount_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be renamed into it from beside it."""
    monkeypatch.setattr(module.os, "access", lambda path, mode: False)
    add(tmp_path / "models", both("one"))
    assert state(tmp_path / "models") == {name: ["one"] for name in MODELS}
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == [".lock", *MODELS]


def test_a_file_that_changes_while_it_is_copied_is_not_published(tmp_path: Path) -> None:
    source = tmp_path / "graph"
    source.write_text("one")
    changed = RepositoryModel(config=model("one").config, version={"model.onnx": File(path=source, sha256="0" * 64)})
    with pytest.raises(IntegrityError, match="was changed while it was copied"):
        add(tmp_path / "models", [changed])
    assert not [path for path in (tmp_path / "models").iterdir() if path.is_dir()]
    shutil.rmtree(tmp_path / "models")
