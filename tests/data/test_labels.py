"""Which class a folder is: by name, by number, in order, or not to be told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnet_deploy.data.dataset import Dataset
from resnet_deploy.data.sources import open_data
from resnet_deploy.errors import DataError
from resnet_deploy.specs import InputFormat, Preprocessing

ANIMALS = ("dog", "cat", "horse")  # not in sorted order, as a checkpoint may have them


def opened(source: Any, **options: Any) -> Dataset:
    return open_data(source, preprocessing=Preprocessing(resize=8, crop=8), input_format=InputFormat.UINT8, **options)


def make(root: Path, *names: str, images: int = 1) -> Path:
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(images):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(root / name / f"{number}.png")
    return root


def labels(root: Path, **options: Any) -> dict[str, int]:
    """The label of each folder."""
    dataset = opened(root, **options)
    assert dataset.labels is not None
    return {Path(dataset.name_of(number)).parent.name: int(dataset.labels[number]) for number in range(len(dataset))}


def test_folders_are_matched_by_name(tmp_path: Path) -> None:
    root = make(tmp_path, "cat", "dog", "horse", images=2)
    dataset = opened(root, class_names=ANIMALS, num_classes=3)
    assert labels(root, class_names=ANIMALS) == {"dog": 0, "cat": 1, "horse": 2}
    assert (dataset.class_names, dataset.label_order, dataset.notes) == (ANIMALS, "named", [])
    assert [int(label) for batch in dataset.batches(4) for label in batch.labels] == [1, 1, 0, 0, 2, 2]


@pytest.mark.parametrize("names", [("horse", "dog"), ("horse",), ("cat", "horse")])
def test_some_of_the_classes_keep_their_labels(tmp_path: Path, names: tuple[str, ...]) -> None:
    assert labels(make(tmp_path, *names), class_names=ANIMALS, num_classes=3) == {name: ANIMALS.index(name) for name in names}


def test_a_limited_set_keeps_the_names(tmp_path: Path) -> None:
    dataset = opened(make(tmp_path, "a", "b", "c", images=4), class_names=ANIMALS, limit=3)
    assert (dataset.class_names, dataset.label_order, len(dataset.notes)) == (ANIMALS, "assumed", 1)


def test_without_names_folders_are_in_sorted_order_and_give_the_names(tmp_path: Path) -> None:
    root = make(tmp_path, "cat", "Dog", "horse")
    dataset = opened(root, num_classes=3)
    assert labels(root) == {"Dog": 0, "cat": 1, "horse": 2}  # upper case comes first
    assert (dataset.class_names, dataset.label_order, dataset.notes) == (("Dog", "cat", "horse"), "sorted", [])
    assert opened(make(tmp_path / "flat", ".")).class_names is None


@pytest.mark.parametrize(
    ("folders", "class_names", "message"),
    [
        (("cat", "cow", "dog"), ANIMALS, r": cow is no class of the model, which has dog, cat, horse\. Give each folder"),
        (("cat", "Dog", "Horse"), ANIMALS, r"Dog, Horse is no class.*rename Dog to dog, Horse to horse"),
        (("Dog", "Horse", "Cat"), ANIMALS, "Cat, Dog, Horse is no class.*rename Cat to cat, Dog to dog"),
        (("golden_retriever",), ("golden retriever", "tench"), "rename golden_retriever to golden retriever"),
        (("car", "bus"), ANIMALS, r"none of its 2 class folders \(bus, car\) is a class .*has 3 \(dog, cat, horse\)"),
        (("bus", "car"), tuple(f"c{n}" for n in range(1000)), r"has 1000 \(c0, c1, c2, c3, c4 and 995 more\).*\(0 to 999\)"),
        (("crane",), ("crane", "tench", "crane"), "crane is the name of the model's classes 0 and 2.*by class index"),
        (("1", "3"), ANIMALS, r"none of its 2 class folders \(1, 3\) is a class of the model"),
    ],
    ids=["unknown", "case of some", "case of all", "underscores", "others", "a thousand", "twice", "numbers beyond"],
)  # fmt: skip
def test_folders_that_are_no_class(tmp_path: Path, folders: tuple[str, ...], class_names: Sequence[str], message: str) -> None:
    root = make(tmp_path, *folders)
    with pytest.raises(DataError, match=message):
        opened(root, class_names=class_names)


def test_names_of_another_kind_are_taken_in_order_and_said(tmp_path: Path) -> None:
    """As torchvision has ImageNet: folders are synsets, classes are words."""
    root = make(tmp_path, "n01440764", "n01443537", "n01484850")
    words = ("tench", "goldfish", "great white shark")
    dataset = opened(root, class_names=words, num_classes=3)
    assert labels(root, class_names=words) == {"n01440764": 0, "n01443537": 1, "n01484850": 2}
    assert (dataset.class_names, dataset.label_order) == (words, "assumed")
    (note,) = dataset.notes
    assert "no folder has the name of a class of the model" in note
    assert "n01440764 is tench, n01484850 is great white shark" in note


@pytest.mark.parametrize("folders", [("cat", "dog"), ("a", "b", "c", "d"), ("1", "3")])
def test_another_number_of_folders_than_classes(tmp_path: Path, folders: tuple[str, ...]) -> None:
    root = make(tmp_path, *folders)
    message = rf"has {len(folders)} class folders \({', '.join(folders)}\), but the model has 3 classes, whose names are not"
    with pytest.raises(DataError, match=message + r" known: .*Name the folders by class index \(0 to 2\)"):
        opened(root, num_classes=3)


def test_numbers_are_indices(tmp_path: Path) -> None:
    """torchvision's ImageFolder has 10 before 2."""
    names = [str(number) for number in range(12)]
    root = make(tmp_path, *names)
    dataset = opened(root, num_classes=12)
    assert labels(root) == labels(root, num_classes=12) == {name: int(name) for name in names}
    assert (dataset.class_names, dataset.label_order) == (tuple(names), "numbered")
    (note,) = dataset.notes
    assert "9 is class 9, where torchvision's ImageFolder, which sorts them as text, has class 11" in note
    lexicographic = tuple(sorted(names))
    assert labels(root, class_names=lexicographic) == {name: lexicographic.index(name) for name in names}


def test_ten_numbers_are_read_in_one_way_alone(tmp_path: Path) -> None:
    dataset = opened(make(tmp_path, *"0123456789"), num_classes=10)
    assert (dataset.label_order, dataset.notes, dataset.class_names) == ("numbered", [], tuple("0123456789"))


def test_numbers_of_named_classes_and_of_some_classes(tmp_path: Path) -> None:
    root = make(tmp_path, "0", "2")
    assert labels(root, class_names=ANIMALS) == {"0": 0, "2": 2}
    assert labels(root, num_classes=3) == {"0": 0, "2": 2}
    dataset = opened(root, num_classes=3)
    assert dataset.class_names is None and "taken as class indices" in dataset.notes[0]
    assert labels(make(tmp_path / "padded", "000", "001", "002"), num_classes=3) == {"000": 0, "001": 1, "002": 2}
    assert labels(make(tmp_path / "from one", "1", "2", "3"), num_classes=3) == {"1": 0, "2": 1, "3": 2}


def test_numbers_that_are_no_indices_are_sorted_as_text_and_said(tmp_path: Path) -> None:
    root = make(tmp_path, *(str(number) for number in range(1, 11)))
    dataset = opened(root, num_classes=10)
    assert labels(root, num_classes=10) | {"1": 0, "10": 1, "2": 2, "9": 9} == labels(root, num_classes=10)
    assert (
        dataset.label_order == "sorted"
        and "sorted as text, as torchvision's ImageFolder does: 10 is class 1" in dataset.notes[0]
    )


@pytest.mark.parametrize("parts", [("train", "val"), ("Training", "testing"), ("test", "train", "valid"), ("train",)])
@pytest.mark.parametrize("inside", [("cat", "dog"), (".",)], ids=["class folders", "images"])
def test_parts_of_a_data_set_are_no_classes(tmp_path: Path, parts: tuple[str, ...], inside: tuple[str, ...]) -> None:
    for part in parts:
        make(tmp_path / part, *inside)
    (tmp_path / "annotations").mkdir()
    first = {"train": "val", "Training": "testing", "test": "valid"}[parts[0]] if len(parts) > 1 else "train"
    for options in ({}, {"num_classes": len(parts)}, {"class_names": ANIMALS}, {"labels_needed": False}):
        with pytest.raises(DataError, match=f"parts of a data set, not classes. Give one of them, as in {tmp_path / first}"):
            opened(tmp_path, **options)


def test_classes_may_be_called_so(tmp_path: Path) -> None:
    names = ("plane", "test", "train")
    assert labels(make(tmp_path, "train", "test"), class_names=names) == {"train": 2, "test": 1}
    assert labels(make(tmp_path / "other", "train", "plane")) == {"train": 1, "plane": 0}


def test_a_class_without_images_shifts_no_label_that_goes_by_name(tmp_path: Path) -> None:
    root = make(tmp_path, "dog", "horse")
    (root / "cat").mkdir()
    assert labels(root, class_names=ANIMALS) == {"dog": 0, "horse": 2}
    with pytest.raises(DataError, match=r"class folders without images \(cat\)"):
        opened(root)


def test_images_alone_need_no_labels(tmp_path: Path) -> None:
    """As for calibration: other folders than the model's classes are images all the same."""
    root = make(tmp_path, "bus", "car")
    for options in ({"class_names": ANIMALS}, {"num_classes": 3}):
        dataset = opened(root, labels_needed=False, **options)
        assert len(dataset) == 2 and dataset.labels is None and dataset.label_order is None
        assert dataset.notes[0].startswith("labels are left out: ") and dataset.class_names is None
    assert opened(root, labels_needed=False, num_classes=2).labels is not None


@pytest.mark.parametrize("name", ["two\nlines", "bell\a", "next\u2028line", "\x85"])
def test_names_that_no_list_of_labels_can_hold(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="whose name has line breaks or control characters"):
        opened(make(tmp_path, name, "cat"))


def test_names_in_any_language(tmp_path: Path) -> None:
    names = ("кот", "犬\u3000柴", "golden retriever")
    assert set(labels(make(tmp_path, *names))) == set(names)


# Data sets that have indices.


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path / "images.npz", images=np.zeros((3, 8, 8, 3), np.uint8), **arrays)
    return path / "images.npz"


def test_class_names_of_an_npz(tmp_path: Path) -> None:
    source = npz(tmp_path, labels=[2, 0, 1], class_names=["cat", "dog", "horse"])
    plain = opened(source, num_classes=3)
    assert plain.labels.tolist() == [2, 0, 1] and plain.class_names == ("cat", "dog", "horse")
    assert plain.label_order == "given"
    named = opened(source, class_names=ANIMALS, num_classes=3)
    assert named.labels.tolist() == [2, 1, 0] and named.class_names == ANIMALS and named.label_order == "named"
    assert opened(source, num_classes=4).class_names is None, "the fourth has no name"


def test_class_names_of_an_npz_that_are_not_the_models(tmp_path: Path) -> None:
    source = npz(tmp_path, labels=[1, 0, 1], class_names=["bus", "car"])
    with pytest.raises(DataError, match=r"none of its 2 classes \(bus, car\) is a class of the model"):
        opened(source, class_names=ANIMALS)
    dataset = opened(source, class_names=ANIMALS, labels_needed=False)
    assert dataset.labels is None and dataset.notes
    other = opened(source, class_names=("tram", "train"))
    assert other.label_order == "assumed" and other.labels.tolist() == [1, 0, 1] and len(other.notes) == 1


def test_names_that_two_classes_have(tmp_path: Path) -> None:
    """ImageNet has two cranes: the machine and the bird."""
    source = npz(tmp_path, labels=[2, 0, 1], class_names=["crane", "tench", "crane"])
    assert opened(source, class_names=("crane", "tench", "crane")).labels.tolist() == [2, 0, 1]
    with pytest.raises(DataError, match="more than one class crane"):
        opened(source, class_names=("tench", "crane", "cock"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cat"], "has labels up to 2, but 1 class_names"),
        ([["cat", "dog", "horse"]], r"class_names are <U5 \[1, 3\], expected strings in one dimension"),
        ([1, 2, 3], r"class_names are int64 \[3\], expected strings"),
        (["cat", "a\nb", "horse"], "line breaks"),
        (["cat", "", "horse"], "no UTF-8 text"),
    ],
)
def test_class_names_of_an_npz_that_are_none(tmp_path: Path, names: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        opened(npz(tmp_path, labels=[2, 0, 1], class_names=names))


def test_labels_without_names_are_indices(tmp_path: Path) -> None:
    dataset = opened(npz(tmp_path, labels=[2, 0, 1]), class_names=ANIMALS, num_classes=3)
    assert dataset.labels.tolist() == [2, 0, 1] and dataset.label_order == "given" and dataset.class_names == ANIMALS
    assert opened(npz(tmp_path)).label_order is None
    left_out = opened(npz(tmp_path, labels=[2, 0, 1]), num_classes=2, labels_needed=False)
    assert left_out.labels is None and "labels from 0 to 2, but the model has classes 0 to 1" in left_out.notes[0]


def test_digits_have_names() -> None:
    pytest.importorskip("sklearn.datasets", reason="the extra `digits` installs scikit-learn")
    dataset = opened("digits", num_classes=10, limit=20)
    assert dataset.class_names == tuple("0123456789") and dataset.label_order == "given" and not dataset.notes
    backwards = opened("digits", class_names=tuple("9876543210"), limit=20)
    assert backwards.labels.tolist() == [9 - label for label in dataset.labels] and backwards.label_order == "named"
    with pytest.raises(DataError, match="digits: none of its 10 classes"):
        opened("digits", class_names=ANIMALS)


def test_names_and_number_of_classes_agree(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the model has 4 classes, but 3 names of classes"):
        opened("random:3", class_names=ANIMALS, num_classes=4)
