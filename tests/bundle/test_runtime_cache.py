"""Kernels that TensorRT-RTX compiled, kept in the bundle: for the plan and machine that they were compiled for alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from resnet_deploy.bundle.manifest import PlanFile, RuntimeCache
from resnet_deploy.bundle.names import FP32, MANIFEST
from resnet_deploy.bundle.runtime_cache import RuntimeCacheStore
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.engine.plan import Origin
from resnet_deploy.engine.report import summarize
from resnet_deploy.errors import BundleError, StorageError
from resnet_deploy.specs import Precision

HERE = Origin(flavour="tensorrt-rtx", version="1.7.1.116", platform="Linux-x86_64", gpu="RTX 4090", compute_capability="8.9")
PLAN = "model.fp32.tensorrt-rtx-1.7.1.116.sm89.plan"


@pytest.fixture
def store(digits_bundle: Bundle, tmp_path: Path) -> RuntimeCacheStore:
    bundle = Bundle.open(shutil.copytree(digits_bundle.path, tmp_path / "bundle"))
    put_plan(bundle, b"a plan")
    return RuntimeCacheStore(bundle=bundle, plan=PLAN, machine=HERE)


def put_plan(bundle: Bundle, content: bytes) -> None:
    with bundle.transaction() as change:
        change.write(PLAN, content)
        change.add(
            PLAN, PlanFile, precision=Precision.FP32, made_from=bundle.sha256(FP32), origin=HERE, profiles=("1:1:1",), flags={},
            builder_s=1.0, key="0" * 16, report=summarize([], [], []),
        )  # fmt: skip


def test_it_comes_back(store: RuntimeCacheStore) -> None:
    assert store.read() is None
    store.write(b"kernels")
    again = replace(store, bundle=Bundle.open(store.bundle.path))
    assert again.read() == b"kernels"
    assert again.name == "model.fp32.tensorrt-rtx-1.7.1.116.sm89.rtx-4090-1.7.1.116.runtime-cache"
    assert isinstance(again.bundle.entry(again.name), RuntimeCache)
    assert json.loads((store.bundle.path / MANIFEST).read_text())["artifacts"][store.name]["kind"] == "runtime_cache"


def test_nothing_else_is_taken_for_it(store: RuntimeCacheStore) -> None:
    """It is code: not what the manifest does not vouch for, nor what was compiled for another plan or machine."""
    path = store.bundle.path / store.name
    path.write_bytes(b"no entry in the manifest")
    assert store.read() is None
    store.write(b"kernels")
    assert replace(store, machine=replace(HERE, gpu="RTX 4080")).read() is None
    assert replace(store, machine=replace(HERE, platform="Windows-AMD64")).read() is None
    path.write_bytes(b"changed")
    assert Bundle.open(store.bundle.path) and replace(store, bundle=Bundle.open(store.bundle.path)).read() is None
    store.write(b"kernels")
    put_plan(store.bundle, b"another plan")
    assert store.read() is None


@pytest.mark.parametrize("error", [BundleError("another process is at it"), StorageError("read-only")])
def test_a_bundle_that_cannot_be_written_is_no_reason_to_fail(
    store: RuntimeCacheStore, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Bundle) -> NoReturn:
        raise error

    monkeypatch.setattr(Bundle, "transaction", refused)
    store.write(b"kernels")
    assert store.read() is None
