"""Images as torchvision sees them, folders as its ImageFolder, and everything that is wrong with real data."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnet_deploy.data import preprocessing as preprocessing_module
from resnet_deploy.data.dataset import Dataset
from resnet_deploy.data.images import FORMATS
from resnet_deploy.data.preprocessing import Transform, normalize
from resnet_deploy.data.sources import open_data
from resnet_deploy.errors import DataError, UsageError
from resnet_deploy.specs import InputFormat, Preprocessing
from tests.helpers.peers import torchvision

FLOAT, UINT8 = InputFormat.FLOAT, InputFormat.UINT8
SMALL = Preprocessing(resize=8, crop=8)


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 4), np.uint8)
    if mode == "P":
        return Image.fromarray(pixels[..., :3]).quantize(64)
    return (
        Image.fromarray(pixels, "RGBA").convert(mode)
        if mode != "CMYK"
        else Image.frombytes(mode, (width, height), pixels.tobytes())
    )


def save(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise(12, 9, seed=seed).save(path)
    return path


def opened(source: Any, input_format: InputFormat = FLOAT, preprocessing: Preprocessing = SMALL, **options: Any) -> Dataset:
    return open_data(source, preprocessing=preprocessing, input_format=input_format, **options)


def images_of(dataset: Dataset, batch: int = 4) -> np.ndarray:
    return np.concatenate([part.images for part in dataset.batches(batch)])


def labels_of(dataset: Dataset, batch: int = 4) -> list[int]:
    return [int(label) for part in dataset.batches(batch) for label in part.labels]


# Preprocessing.


def preprocess(image: Image.Image, preprocessing: Preprocessing, input_format: InputFormat, crops: int = 1) -> np.ndarray:
    return Transform(preprocessing=preprocessing, input_format=input_format, crops=crops)(image)


def assert_equals_torchvision(image: Image.Image, preprocessing: Preprocessing) -> None:
    torchvision()
    from torchvision.transforms._presets import ImageClassification

    transform = ImageClassification(
        crop_size=preprocessing.crop, resize_size=preprocessing.resize, mean=preprocessing.mean, std=preprocessing.std
    )
    expected = transform(image.convert("RGB")).numpy()  # the conversion is that of torchvision's image loader
    actual = preprocess(image, preprocessing, FLOAT)
    assert (actual.dtype, actual.shape) == (np.float32, (3, preprocessing.crop, preprocessing.crop))
    assert np.array_equal(actual, expected)
    pixels = preprocess(image, preprocessing, UINT8)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (preprocessing.crop, preprocessing.crop, 3))
    assert np.array_equal(normalize(pixels, preprocessing), expected)


SIZES = [(500, 375), (375, 500), (256, 256), (224, 224), (333, 257), (225, 640), (97, 31), (32, 32), (5, 5), (1, 1), (2, 3)]


@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (232, 224), (200, 224), (223, 224), (32, 32), (33, 32)])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_preprocess_is_bit_equal_to_torchvisions(size: tuple[int, int], resize: int, crop: int) -> None:
    assert_equals_torchvision(noise(*size), Preprocessing(resize=resize, crop=crop))


@pytest.mark.parametrize("size", [(3, 900), (900, 3), (1, 300)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_preprocess_of_slivers(size: tuple[int, int]) -> None:
    assert_equals_torchvision(noise(*size), Preprocessing(resize=64, crop=56))
    assert_equals_torchvision(noise(*size), Preprocessing(resize=256, crop=224))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "CMYK", "1"])
def test_preprocess_of_every_mode(mode: str) -> None:
    image = noise(300, 260, mode)
    assert image.mode == mode
    assert_equals_torchvision(image, Preprocessing(resize=256, crop=224))


@pytest.mark.parametrize(
    ("file", "mode"),
    [
        ("a.jpg", "RGB"),
        ("a.jpeg", "L"),
        ("a.jpg", "CMYK"),
        ("a.png", "RGBA"),
        ("a.PNG", "P"),
        ("a.png", "1"),
        ("a.webp", "RGB"),
    ],
)
def test_files_are_read_as_torchvision_reads_them(tmp_path: Path, file: str, mode: str) -> None:
    torchvision()
    from torchvision.datasets.folder import default_loader
    from torchvision.transforms._presets import ImageClassification

    noise(61, 47, mode).save(tmp_path / file)
    expected = ImageClassification(crop_size=28, resize_size=32)(default_loader(str(tmp_path / file))).numpy()
    assert np.array_equal(images_of(opened(tmp_path, preprocessing=Preprocessing(resize=32, crop=28)))[0], expected)


def test_normalization_by_hand() -> None:
    preprocessing = Preprocessing(resize=2, crop=2, mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25))
    pixels = np.array([[[0, 0, 0], [255, 255, 255]], [[51, 51, 51], [102, 102, 102]]], np.uint8)
    expected = [[[0, 1], [0.2, 0.4]], [[-1, 1], [-0.6, -0.2]], [[-4, 0], [-3.2, -2.4]]]
    np.testing.assert_allclose(normalize(pixels, preprocessing), expected, atol=1e-6)


@pytest.mark.parametrize(("limit", "size"), [(99, (10, 10)), (99, (3, 20))], ids=["large", "large once resized"])
def test_images_of_too_many_pixels_are_refused(monkeypatch: pytest.MonkeyPatch, limit: int, size: tuple[int, int]) -> None:
    monkeypatch.setattr(preprocessing_module, "MAX_PIXELS", limit)
    with pytest.raises(ValueError, match="megapixels"):
        preprocess(noise(*size), Preprocessing(resize=5, crop=5), FLOAT)
    assert preprocess(noise(9, 9), Preprocessing(resize=5, crop=5), UINT8).shape == (5, 5, 3)


def test_a_sliver_cannot_exhaust_the_memory() -> None:
    with pytest.raises(ValueError, match="256x16776960 is more than 100 megapixels"):
        preprocess(Image.new("1", (1, 65535)), Preprocessing(resize=256, crop=224), FLOAT)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (37, 32), (32, 32)])
def test_ten_crops_are_bit_equal_to_torchvisions(size: tuple[int, int], resize: int, crop: int) -> None:
    torchvision()
    from torchvision.transforms import functional

    resized = functional.resize(noise(*size), [resize])
    expected = np.stack([np.asarray(view) for view in functional.ten_crop(resized, [crop])])
    found = preprocess(noise(*size), Preprocessing(resize=resize, crop=crop), UINT8, crops=10)
    assert found.shape == (10, crop, crop, 3) and np.array_equal(found, expected)
    floats = preprocess(noise(*size), Preprocessing(resize=resize, crop=crop), FLOAT, crops=10)
    assert floats.shape == (10, 3, crop, crop) and np.array_equal(floats, normalize(found, Preprocessing(resize=1, crop=1)))


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("digits", {"crops": 5}, "crops are 1 or 10"),
        ("digits", {"crops": 10, "preprocessing": Preprocessing(resize=6, crop=8)}, "do not fit"),
        ("random:3", {"crops": 10}, "random images"),
    ],
)
def test_crops_that_are_not_to_be_had(source: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises((UsageError, DataError), match=message):
        opened(source, **options)


# Folders.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of 4, 3 and 5 images, sorted as text: the upper-case one is first."""
    root = tmp_path / "val"
    for number, (name, count) in enumerate({"cat": 4, "Dog": 3, "n10": 5}.items()):
        for index in range(count):
            save(root / name / f"{index}.{'PNG' if index % 2 else 'png'}", seed=10 * number + index)
    (root / "cat" / "notes.txt").write_text("not an image")
    (root / "labels.csv").write_text("neither")
    return root


def test_class_folders_are_image_folders(folder: Path) -> None:
    torchvision()
    from torchvision.datasets import ImageFolder
    from torchvision.transforms._presets import ImageClassification

    theirs = ImageFolder(folder, ImageClassification(crop_size=8, resize_size=8))
    dataset = opened(folder, num_classes=3)
    assert len(dataset) == len(theirs) == 12
    assert [dataset.name_of(number) for number in range(12)] == [path for path, _ in theirs.samples]
    assert labels_of(dataset) == theirs.targets == [0] * 3 + [1] * 4 + [2] * 5
    assert np.array_equal(images_of(dataset), np.stack([image.numpy() for image, _ in theirs]))


def test_images_in_nested_and_linked_folders(folder: Path, tmp_path: Path) -> None:
    torchvision()
    from torchvision.datasets import ImageFolder

    save(folder / "cat" / "more" / "a.jpg")
    save(tmp_path / "elsewhere" / "b.png")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    dataset, theirs = opened(folder), ImageFolder(folder)
    ours = {dataset.name_of(number): int(dataset.labels[number]) for number in range(len(dataset))}
    assert ours == dict(theirs.samples) and len(ours) == 14


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    for seed, name in enumerate(["b.png", "a.jpg", "c.bmp"]):
        save(tmp_path / name, seed)
    (tmp_path / "empty").mkdir()
    dataset = opened(tmp_path)
    assert [Path(dataset.name_of(number)).name for number in range(3)] == ["a.jpg", "b.png", "c.bmp"]
    assert [part.labels for part in dataset.batches(2)] == [None, None]


def test_hidden_files_and_folders_are_ignored(folder: Path) -> None:
    before = opened(folder).sha256
    for name in ("cat/._0.png", ".hidden.png", ".ipynb_checkpoints/0.png", "cat/.ipynb_checkpoints/0.png"):
        save(folder / name)
    dataset = opened(folder)
    assert len(dataset) == 12 and dataset.sha256 == before
    assert labels_of(dataset) == [0] * 3 + [1] * 4 + [2] * 5


def test_images_beside_class_folders(folder: Path) -> None:
    save(folder / "stray.png")
    with pytest.raises(DataError, match=r"images beside class folders \(stray.png, Dog/0.png\); use one folder a class"):
        opened(folder)


def test_a_class_folder_without_images_would_shift_the_labels(folder: Path) -> None:
    (folder / "cow").mkdir()
    with pytest.raises(DataError, match=r"class folders without images \(cow\); fill them or remove them"):
        opened(folder)


def test_nothing_to_read(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match=r"has no images \(.apng, .avif, .bmp, .gif, .jfif, .jpe, .jpeg, .jpg"):
        opened(tmp_path)
    with pytest.raises(
        DataError, match=r"absent does not exist; give a folder of images, an .npz file, `digits` or `random:N`"
    ):
        opened(tmp_path / "absent")


def test_labels_beyond_the_models_classes(folder: Path) -> None:
    with pytest.raises(DataError, match=r"has 3 class folders \(Dog, cat, n10\), but the model has 2 classes"):
        opened(folder, num_classes=2)


# Bad images.


def text_file(path: Path) -> None:
    path.write_text("this is no image")


def truncated(path: Path) -> None:
    noise(64, 64).save(path)
    path.write_bytes(path.read_bytes()[:-1500])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def bomb(path: Path) -> None:
    Image.new("1", (20_000, 10_000)).save(path, "PNG")  # 26 kB on disk, 600 MB as RGB


@pytest.mark.parametrize("spoil", [text_file, truncated, empty, bomb])
def test_a_bad_image_is_skipped_by_name_and_fatal_where_strict(folder: Path, spoil: Callable[[Path], None]) -> None:
    good = images_of(opened(folder))
    bad = folder / "cat" / "2.jpg"
    bad.with_suffix(".png").unlink()
    spoil(bad)
    dataset = opened(folder)
    for _ in range(2):  # a second pass starts its list anew
        assert np.array_equal(images_of(dataset, batch=5), np.delete(good, 5, axis=0))
        assert [item.name for item in dataset.skipped] == [str(bad)]
        assert dataset.skipped[0].reason
    assert labels_of(dataset) == [0] * 3 + [1] * 3 + [2] * 5
    assert [len(part.images) for part in dataset.batches(4)] == [4, 4, 3]
    with pytest.raises(DataError, match=rf"{bad}: .*Remove it, or run without --strict"):
        images_of(opened(folder, strict=True))


def test_images_over_the_limit_are_skipped_before_they_are_decoded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessing_module, "MAX_PIXELS", 12 * 9)
    noise(13, 9).save(folder / "cat" / "1.PNG")
    dataset = opened(folder)
    assert len(images_of(dataset)) == 11
    assert "13x9 is more than 0 megapixels" in dataset.skipped[0].reason


def test_no_image_can_be_read(tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg"):
        text_file(tmp_path / name)
    with pytest.raises(DataError, match=r"none of the 2 images of .*; .*a.png: not an image that can be read \(JPEG"):
        images_of(opened(tmp_path))


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("format", [*FORMATS, "EPS"])
def test_damaged_bytes_never_end_in_another_error(tmp_path: Path, format: str) -> None:
    """The decoder may make something of them; otherwise the file is skipped."""
    whole = io.BytesIO()
    try:
        noise(16, 12).save(whole, format)
    except KeyError:
        pytest.skip(f"this Pillow has no {format}")
    generator = np.random.default_rng(0)
    for number in range(100):
        damaged = bytearray(whole.getvalue())
        for position in generator.integers(0, min(len(damaged), 150), 3):
            damaged[position] = generator.integers(256)
        (tmp_path / f"{number:03}.png").write_bytes(damaged[: None if number % 2 else -number])
    Image.new("RGB", (2, 2)).save(tmp_path / "good.png")
    dataset = opened(tmp_path)
    assert len(images_of(dataset)) == 101 - len(dataset.skipped)
    assert dataset.skipped
    assert format != "EPS" or len(dataset.skipped) == 100


# Order, limits, identity.


@pytest.mark.parametrize("batch", [1, 5, 12, 100])
def test_order_and_content_do_not_depend_on_the_batch_size(folder: Path, batch: int) -> None:
    dataset = opened(folder, UINT8)
    whole = np.stack([dataset.read(number) for number in range(12)])
    assert np.array_equal(images_of(dataset, batch), whole)
    assert labels_of(dataset, batch) == list(dataset.labels)
    assert all(len(part.images) == len(part.labels) <= batch for part in dataset.batches(batch))


@pytest.mark.parametrize("batch", [1, 5, 100])
def test_progress_counts_every_image(folder: Path, batch: int) -> None:
    text_file(folder / "cat" / "0.png")
    told: list[int] = []
    for _ in opened(folder).batches(batch, progress=told.append):
        pass
    assert told == list(range(1, 13))


@pytest.mark.parametrize(("limit", "chosen"), [(1, [0]), (3, [0, 6, 11]), (4, [0, 4, 7, 11]), (12, range(12)), (99, range(12))])
def test_a_limit_is_evenly_spaced(folder: Path, limit: int, chosen: list[int]) -> None:
    whole, part = opened(folder), opened(folder, limit=limit)
    assert len(part) == len(chosen)
    assert [part.name_of(number) for number in range(len(part))] == [whole.name_of(number) for number in chosen]
    assert np.array_equal(images_of(part), images_of(whole)[list(chosen)])
    assert labels_of(part) == [whole.labels[number] for number in chosen]
    if limit >= 3:
        assert set(labels_of(part)) == {0, 1, 2}


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_leaves_nothing(folder: Path, limit: int) -> None:
    with pytest.raises(DataError, match="leaves no image"):
        opened(folder, limit=limit)


def test_a_limited_set_is_strict_too(folder: Path) -> None:
    text_file(folder / "Dog" / "0.png")
    with pytest.raises(DataError, match="without --strict"):
        images_of(opened(folder, limit=3, strict=True))
    dataset = opened(folder, limit=3)
    assert len(images_of(dataset)) == 2 and Path(dataset.skipped[0].name).parts[-2:] == ("Dog", "0.png")


def test_sha256_is_of_content_and_labels(folder: Path, tmp_path: Path) -> None:
    dataset = opened(folder)
    original = dataset.sha256
    assert opened(folder).sha256 == original
    images_of(dataset, batch=5)
    assert dataset.sha256 == original
    assert opened(folder, limit=6).sha256 not in {original, opened(folder, limit=5).sha256}
    save(folder / "cat" / "0.png", seed=99)
    changed = opened(folder).sha256
    assert changed != original
    (folder / "cat").rename(folder / "zebra")
    assert opened(folder).sha256 not in {original, changed}


# .npz files.


def npz(tmp_path: Path, **arrays: Any) -> Path:
    np.savez(tmp_path / "images.npz", **arrays)
    return tmp_path / "images.npz"


PIXELS = np.random.default_rng(3).integers(0, 256, (5, 9, 12, 3), np.uint8)
READY = np.random.default_rng(4).standard_normal((5, 3, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("input_format", [FLOAT, UINT8])
def test_pixels_in_an_npz_are_preprocessed_like_files(tmp_path: Path, input_format: InputFormat) -> None:
    dataset = opened(npz(tmp_path, images=PIXELS, labels=np.arange(5, dtype=np.uint8)), input_format, num_classes=5)
    expected = [preprocess(Image.fromarray(image), SMALL, input_format) for image in PIXELS]
    assert np.array_equal(images_of(dataset), np.stack(expected))
    assert dataset.labels.dtype == np.int64 and labels_of(dataset) == [0, 1, 2, 3, 4]


def test_normalized_images_in_an_npz_are_used_as_they_are(tmp_path: Path) -> None:
    dataset = opened(npz(tmp_path, images=READY))
    assert np.array_equal(images_of(dataset), READY)
    assert [part.labels for part in dataset.batches(5)] == [None]
    with pytest.raises(DataError, match="cropped already"):
        opened(npz(tmp_path, images=READY), crops=10)
    assert len(opened(tmp_path / "images.npz", limit=2)) == 2


def test_normalized_images_for_a_model_that_takes_pixels(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="normalized float32 images, but the model takes uint8 pixels"):
        opened(npz(tmp_path, images=READY), UINT8)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": PIXELS[0]}, r"images are uint8 \[9, 12, 3\]; expected uint8 \[N, H, W, 3\] pixels"),
        ({"images": PIXELS[..., :1]}, r"images are uint8 \[5, 9, 12, 1\]"),
        ({"images": READY.astype(np.float64)}, r"float64 \[5, 3, 8, 8\].*or float32 \[N, 3, 8, 8\] already normalized"),
        ({"images": READY[..., :7]}, r"float32 \[5, 3, 8, 7\]"),
        ({"images": np.uint8(3)}, r"images are uint8 \[\]"),
        ({"images": PIXELS[:0]}, r"has no images: `images` is \[0, 9, 12, 3\]"),
        ({"images": PIXELS[:, :0]}, r"has no images: `images` is \[5, 0, 12, 3\]"),
        ({"x": PIXELS}, "not a whole .npz file with an array `images`.*images"),
        ({"images": np.array([{"a": 1}], object)}, r"images are objects \[1\], which are not plain numbers or strings"),
        ({"images": PIXELS, "labels": np.arange(4)}, r"labels are int64 \[4\], expected integers \[5\]"),
        ({"images": PIXELS, "labels": np.zeros((5, 1), np.int64)}, r"labels are int64 \[5, 1\]"),
        ({"images": PIXELS, "labels": np.zeros(5)}, r"labels are float64 \[5\], expected integers \[5\]"),
        ({"images": PIXELS, "labels": np.arange(5)}, "labels from 0 to 4, but the model has classes 0 to 3"),
        ({"images": PIXELS, "labels": np.arange(5) - 1}, r"labels from -1 to 3; they are indices of classes, from 0 on"),
    ],
)
def test_an_npz_that_cannot_be_used(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        opened(npz(tmp_path, **arrays), num_classes=4)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_truncated_and_damaged_npz_files(tmp_path: Path, write: Callable[..., None]) -> None:
    path = tmp_path / "images.npz"
    write(path, images=PIXELS, labels=np.arange(5))
    whole = path.read_bytes()
    for size in (0, 1, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"not a whole \.npz file"):
            opened(path)
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(whole)
        for position in generator.integers(0, len(whole), 4):
            damaged[position] = generator.integers(256)
        path.write_bytes(damaged)
        try:
            opened(path)
        except DataError:
            refused += 1
    assert refused > 150  # the archive has checksums


def test_an_npz_that_promises_more_than_there_is_memory_for(tmp_path: Path) -> None:
    header = (
        np.lib.format.magic(1, 0)
        + b"\x76\x00"
        + b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000000, 3)}".ljust(118)
    )
    with zipfile.ZipFile(tmp_path / "images.npz", "w") as archive:
        archive.writestr("images.npy", header)
    with pytest.raises(DataError, match=r"not a whole \.npz file"):
        opened(tmp_path / "images.npz")


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", PIXELS)
    for path in (save(tmp_path / "cat.png"), tmp_path / "images.npy"):
        with pytest.raises(DataError, match=r"not a whole \.npz file"):
            opened(path)


def test_not_a_number_in_normalized_images(tmp_path: Path) -> None:
    images = READY.copy()
    images[3, 0, 0, 0] = np.nan
    images[4, 0, 0, 0] = np.inf
    dataset = opened(npz(tmp_path, images=images, labels=np.arange(5)))
    assert labels_of(dataset) == [0, 1, 2]
    assert [(Path(item.name).name, item.reason) for item in dataset.skipped] == [
        ("images.npz[3]", "NaN or Inf in the image"),
        ("images.npz[4]", "NaN or Inf in the image"),
    ]
    with pytest.raises(DataError, match=r"images.npz\[3\]: NaN or Inf in the image"):
        images_of(opened(tmp_path / "images.npz", strict=True))


def test_sha256_of_arrays(tmp_path: Path) -> None:
    digests = set()
    for arrays in (
        {"images": PIXELS},
        {"images": 255 - PIXELS},
        {"images": PIXELS.reshape(5, 12, 9, 3)},
        {"images": PIXELS, "labels": np.arange(5)},
        {"images": PIXELS, "labels": np.arange(5)[::-1]},
    ):
        digests.add(opened(npz(tmp_path, **arrays)).sha256)
        assert opened(npz(tmp_path, **arrays)).sha256 in digests
    assert len(digests) == 5


# Built-in images.


def test_digits_are_split_once_and_for_all() -> None:
    datasets = pytest.importorskip("sklearn.datasets", reason="the extra `digits` installs scikit-learn")
    held_out, train = (opened(name, UINT8, num_classes=10) for name in ("digits", "digits:train"))
    assert (len(held_out), len(train)) == (600, 1197)
    # Some digits may be equal, so the parts are compared as multisets: together they are the whole, which is disjointness.
    found = datasets.load_digits()
    whole = sorted(
        (np.rint(image * 255 / 16).astype(np.uint8).tobytes(), label)
        for image, label in zip(found.images, found.target, strict=True)
    )
    parts = [
        (image[..., 0].tobytes(), label)
        for part in (held_out, train)
        for image, label in zip(images_of(part, 64), part.labels, strict=True)
    ]
    assert sorted(parts) == whole
    assert np.bincount(held_out.labels).min() > 40  # every class is there
    again = opened("digits", UINT8)
    assert again.sha256 == held_out.sha256 != train.sha256
    assert np.array_equal(images_of(again), images_of(held_out))


def test_digits_are_grey() -> None:
    pytest.importorskip("sklearn.datasets", reason="the extra `digits` installs scikit-learn")
    images = images_of(opened("digits", UINT8, Preprocessing(resize=32, crop=32), limit=20))
    assert (images == images[..., :1]).all() and images.max() > 200


@pytest.mark.parametrize("argument", ["test", "600", "Train"])
def test_an_unknown_part_of_the_digits(argument: str) -> None:
    with pytest.raises(DataError, match=f"unknown part '{argument}' of the digits; use `digits`"):
        opened(f"digits:{argument}")


def test_random_images_are_seeded_one_by_one() -> None:
    few, many = opened("random:3", UINT8), opened("random:5", UINT8)
    assert (len(few), len(many), len(opened("random"))) == (3, 5, 64)
    assert np.array_equal(images_of(few), images_of(many)[:3])
    assert len({image.tobytes() for image in images_of(many)}) == 5
    assert few.labels is None and few.sha256 != many.sha256
    assert np.array_equal(images_of(opened("random:5")), normalize(images_of(many), SMALL))


@pytest.mark.parametrize("argument", ["0", "-3", "many", "1.5", " 4"])
def test_random_of_no_number(argument: str) -> None:
    with pytest.raises(DataError, match=f"random:{argument} is not a number of images, as in random:64"):
        opened(f"random:{argument}")


def test_a_folder_called_digits_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "digits" / "one.png")
    monkeypatch.chdir(tmp_path)
    assert len(opened("digits")) == 1
