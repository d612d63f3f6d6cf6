"""The fake CUDA device has CUDA's semantics: what is done when, what memory is whose, and who says that it is no GPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resnet_deploy.backends import fake
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.backends.cuda import CudaDevice
from resnet_deploy.backends.fake import tensors
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.store import Bundle
from tests.helpers.cli import load, run
from tests.helpers.contract import IMAGES


@pytest.fixture(autouse=True)
def device(fake_cuda: None) -> Iterator[CudaDevice]:
    yield CudaDevice()


def pinned(values: list[float]) -> torch.Tensor:
    made = torch.empty(len(values), pin_memory=True)
    made[:] = torch.tensor(values)
    return made


def test_nothing_happens_before_somebody_waits(device: CudaDevice) -> None:
    source, answer, stream = pinned([1.0, 2.0]), pinned([0.0, 0.0]), device.stream()
    there = device.empty((2,), "float32")
    device.copy(there, source, stream)
    with torch.cuda.stream(stream), torch.inference_mode():
        twice = there * 2
    device.copy(answer, twice, stream)
    assert answer.isnan().all(), "an answer before its stream was synchronized"
    source[:] = 5.0  # the copy has not begun
    stream.synchronize()
    assert answer.tolist() == [10.0, 10.0]


def test_a_capture_computes_nothing_and_a_replay_the_captured_buffers(device: CudaDevice) -> None:
    stream, there = device.stream(), torch.ones(3, device="cuda")
    torch.cuda.synchronize()
    python_ran, answers = [], []

    def run() -> None:
        python_ran.append(True)
        with torch.inference_mode():
            answers.append(there + 1)

    replay = device.capture(run, stream)
    assert python_ran == [True] and answers[0].cpu().isnan().all(), "a capture has answers"
    there.copy_(pinned([1.0, 2.0, 3.0]))
    for _ in range(2):
        replay()
        stream.synchronize()
        assert python_ran == [True] and answers[0].cpu().tolist() == [2.0, 3.0, 4.0]
    there.copy_(pinned([0.0, 0.0, 0.0]))
    replay()
    stream.synchronize()
    assert answers[0].cpu().tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("wait", ["stream", "event", "item", "pageable"])
def test_what_is_not_permitted_under_capture(device: CudaDevice, wait: str) -> None:
    stream, there = device.stream(), torch.ones(1, device="cuda")
    event = device.mark(stream)
    waits = {
        "stream": stream.synchronize,
        "event": event.synchronize,
        "item": there.item,
        "pageable": lambda: there.copy_(torch.ones(1)),
    }
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        device.capture(waits[wait], stream)


def test_streams_keep_their_order_and_wait_for_nobody_else(device: CudaDevice) -> None:
    first, second = device.stream(), device.stream()
    there, answer = torch.zeros(1, device="cuda"), pinned([0.0])
    torch.cuda.synchronize()
    with torch.cuda.stream(first):
        there += 3
    event = first.record_event()
    with torch.cuda.stream(first):
        there += 10  # after the event
    device.copy(answer, there, second)
    second.synchronize()
    assert answer.item() == 0.0, "nobody told the second stream to wait"
    second.wait_event(event)
    device.copy(answer, there, second)
    second.synchronize()
    assert answer.item() == 3.0, "it waits for the event, and no further"


def test_events_have_times_when_they_are_reached(device: CudaDevice) -> None:
    stream = device.stream()
    begin, end = device.mark(stream, timed=True), device.mark(stream, timed=True)
    with pytest.raises(RuntimeError, match="not ready"):
        device.seconds(begin, end)
    begin.synchronize()
    assert begin.reached and not end.reached, "who waits for an event does not wait for the stream"
    stream.synchronize()
    assert device.seconds(begin, end) > 0
    with pytest.raises(RuntimeError, match="enable_timing"):
        device.seconds(device.mark(stream), end)


def test_memory_is_told_apart(device: CudaDevice) -> None:
    there, host, locked = device.empty((2,), "float32"), torch.zeros(2), device.pinned((2,), "float32")
    assert there.is_cuda and there.device.type == "cuda" and not host.is_cuda
    assert locked.is_pinned() and not host.is_pinned() and not there.is_pinned()
    assert [tensors.kind_of(each.data_ptr()) for each in (there, locked, host)] == ["device", "pinned", None]
    with pytest.raises(TypeError, match="can't convert"):
        there.numpy()
    with pytest.raises(RuntimeError, match="same device"):
        there + host
    held = tensors.allocated_bytes()
    del there
    assert tensors.allocated_bytes() == held - 8


def test_memory_that_is_not_pinned_makes_the_host_wait(device: CudaDevice) -> None:
    stream, there, source = device.stream(), device.empty((1,), "float32"), torch.tensor([4.0])
    device.copy(there, source, stream)
    source[:] = 9.0  # CUDA has read it by now
    answer = torch.zeros(1)
    device.copy(answer, there, stream)
    assert answer.item() == 4.0


def test_memory_is_limited(device: CudaDevice) -> None:
    assert device.free_bytes() <= tensors.MEMORY_BYTES
    with pytest.raises(torch.cuda.OutOfMemoryError, match="out of memory"):
        device.empty((tensors.MEMORY_BYTES + 1,), "uint8")


def test_onnxruntime_takes_memory_of_the_device_alone(digits_bundle: Bundle) -> None:
    with OpenedBundle(digits_bundle).backend(Candidate.parse("onnxruntime:cuda"), 1) as backend:
        binding = backend._session.session.io_binding()  # type: ignore[attr-defined]
        for memory in (torch.empty(4, pin_memory=True), torch.empty(4)):
            with pytest.raises(RuntimeError, match="cuda memory was named"):
                binding.bind_input("input", "cuda", 0, np.float32, [4], memory.data_ptr())


@pytest.mark.parametrize("text", ["eager:cuda", "onnxruntime:cuda"])
def test_an_answer_is_poison_until_it_is_waited_for(digits_bundle: Bundle, text: str) -> None:
    with OpenedBundle(digits_bundle).backend(Candidate.parse(text), 1) as backend:
        expected = backend.infer(IMAGES)["logits"]
        backend.bind(IMAGES)
        backend.enqueue()
        stream: Any = backend.streams[0]  # type: ignore[attr-defined]
        stream.download()
        early = next(iter(stream.bound.answers.values())).clone()
        backend.synchronize()
        assert early.isnan().all() and np.array_equal(backend.outputs()["logits"], expected)


@pytest.mark.parametrize("text", ["eager:cuda", "onnxruntime:cuda"])
def test_every_result_says_what_it_was_taken_on(digits_bundle: Bundle, text: str) -> None:
    with OpenedBundle(digits_bundle).backend(Candidate.parse(text), 1) as backend:
        assert backend.describe()["gpu"] == fake.NAME and "no timing means anything" in fake.NAME


@pytest.mark.slow
def test_processes_that_are_started_have_it() -> None:
    code = (
        "import json, sys, resnet_deploy; before = 'torch' in sys.modules; import torch, onnxruntime\n"
        "print(json.dumps([before, torch.cuda.get_device_name(), onnxruntime.get_available_providers()]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, name, providers = json.loads(done.stdout)
    assert not before and name == fake.NAME and "CUDAExecutionProvider" in providers


@pytest.mark.slow
def test_it_goes_without_a_trace() -> None:
    code = (
        "import sys, torch, onnxruntime, resnet_deploy\n"
        "assert 'resnet_deploy.backends.fake' not in sys.modules\n"
        "owners = (torch, torch.cuda, torch.Tensor, torch._C, onnxruntime, torch.profiler.profile)\n"
        "kept = [dict(vars(owner)) for owner in owners]\n"
        "from resnet_deploy.backends import fake\n"
        "with fake.device(): changed = [dict(vars(owner)) for owner in owners]\n"
        "assert changed[1] != kept[1] and [dict(vars(owner)) for owner in owners] == kept"
    )
    environment = {name: value for name, value in os.environ.items() if name != fake.ENVIRONMENT}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_verify_runs_on_it(digits_bundle: Bundle, tmp_path: Path) -> None:
    copied = shutil.copytree(digits_bundle.path, tmp_path / "b")
    backends = ("--backend", "eager:cuda,cuda_graph", "--backend", "onnxruntime:cuda")
    found = load(run("verify", copied, "--data", "digits", "--limit", "20", "--threads", "1", *backends, "--json"))
    assert [one["gate"] for one in found["results"]] == ["pass", "pass"]
    assert {record.runtime["gpu"] for record in Bundle.open(copied).manifest.parity.values()} == {fake.NAME}
