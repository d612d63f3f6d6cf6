"""Which calibration method is chosen, and that every image that was given makes the ranges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import resnet_deploy as rd
from resnet_deploy.bundle.names import CALIBRATION
from resnet_deploy.precision.auto import distance
from resnet_deploy.precision.calibrate import Calibration, image_digest
from tests.helpers.shared import exported


def test_every_image_counts_alike() -> None:
    """A tenth off in an image of large outputs weighs what it does in one of small ones."""
    expected = np.array([[1.0, 0.0], [100.0, 0.0]], np.float32)
    small, large = expected.copy(), expected.copy()
    small[0, 0], large[1, 0] = 1.1, 110.0
    assert np.isclose(distance([expected], [small]), 0.05) and np.isclose(distance([expected], [large]), 0.05)
    assert distance([expected], [expected]) == 0.0
    assert np.isfinite(distance([np.zeros((1, 3), np.float32)], [np.ones((1, 3), np.float32)]))


@pytest.mark.slow
def test_ranges_are_of_all_images_also_those_that_the_method_was_chosen_on(tmp_path: Path) -> None:
    images = np.random.default_rng(0).standard_normal((40, 3, 32, 32)).astype(np.float32)
    images[::2] *= 0.5
    np.savez(tmp_path / "images.npz", images=images)
    bundle = rd.export(
        exported("resnet20", tmp_path / "bundle", max_batch=2), precision=["int8"], int8_target=["tensorrt"],
        calibration=tmp_path / "images.npz", calibration_method="auto",
    )  # fmt: skip
    found = Calibration.load(bundle.artifact(CALIBRATION))
    assert sorted(found.images) == sorted(map(image_digest, images))
    assert np.isclose(found.ranges["input"].largest, np.abs(images).max(), rtol=1e-5)
