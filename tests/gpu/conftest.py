"""Everything here needs a CUDA device; what is marked `fake` has the fake one where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if Path(__file__).parent in Path(item.path).parents]
    if not here:
        return
    import torch

    from resnet_deploy.backends import fake

    real = torch.cuda.is_available() and not fake.wanted()
    for item in here:
        if not real and item.get_closest_marker("fake") is not None and isinstance(item, pytest.Function):
            item.fixturenames.insert(0, "fake_cuda")
            continue
        item.add_marker(pytest.mark.gpu)
        if not real:
            item.add_marker(pytest.mark.skip(reason=f"no CUDA device (torch {torch.__version__})"))
