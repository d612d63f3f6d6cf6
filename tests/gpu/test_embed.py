"""Images embedded on a CUDA device, as on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import resnet_deploy as rd
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import UnavailableError
from tests.helpers.embedding import answers, column, photographs

pq = pytest.importorskip("pyarrow.parquet", reason="the extra `parquet` is not installed")


@pytest.mark.fake
@pytest.mark.parametrize("backend", ["eager:cuda", "eager:cuda,cuda_graph", "onnxruntime:cuda"])
def test_embed(digits_bundle: Bundle, tmp_path: Path, backend: str) -> None:
    folder = photographs(tmp_path / "images", 45)
    try:
        rd.embed(digits_bundle, folder, tmp_path / "out.parquet", backend=backend, batch=8)
    except UnavailableError as exc:
        pytest.skip(str(exc))
    table = pq.read_table(tmp_path / "out.parquet")
    expected = answers(digits_bundle, table["path"].to_pylist(), "eager")["logits"]
    np.testing.assert_allclose(column(table, "logits"), expected, atol=1e-3)
