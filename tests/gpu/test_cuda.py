"""The backends' contract on a CUDA device, and a benchmark with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from resnet_deploy.benchmarking.run import bench
from resnet_deploy.bundle import Bundle
from tests.conftest import DIGITS
from tests.test_backends import CUDA, contract


@pytest.mark.parametrize("text", [*CUDA, "eager:cuda,compile", "eager:cuda,fp16,channels_last,cuda_graph"])
def test_contract(digits_bundle: Bundle, text: str) -> None:
    contract(digits_bundle, text)


def test_bench_on_the_gpu(tmp_path: Path) -> None:
    backends = ("eager", "eager:cuda", "eager:cuda,fp16,channels_last")
    report = bench(
        "resnet20", weights=DIGITS, data="digits", output=tmp_path / "b", batch="1,8", backends=backends, duration_s=0.5
    )
    assert report.passed and report.machine["gpus"]
    cuda = [result for result in report.results if result.device == "cuda"]
    assert len(cuda) == 4 and all(result.parity["top1_agreement"] > 0.99 for result in cuda)
