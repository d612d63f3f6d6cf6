"""Which class a folder is: by name where the model's classes have names, else by rules that are said."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from resnet_deploy.errors import DataError

# named: by the model's class names. numbered: folders are class indices. sorted: as torchvision's ImageFolder, and the names
# become the classes'. assumed: likewise, though the model's classes have other names. given: the data set has the indices.
LabelOrder = Literal["named", "numbered", "sorted", "assumed", "given"]

_SHOWN = 5  # names in a message
_DIGITS = 9


@dataclass(frozen=True, kw_only=True)
class ClassOrder:
    """Which class each name of a data set is.

    indices: the class of each name, in the order that the names were given. class_names: of all classes, by index, where they
    are known. notes: what was assumed, in words, to be printed as warnings.
    """

    indices: tuple[int, ...]
    class_names: tuple[str, ...] | None
    label_order: LabelOrder
    notes: tuple[str, ...] = ()


def order_folders(
    folders: Sequence[str], *, source: str, class_names: Sequence[str] | None, num_classes: int | None
) -> ClassOrder:
    """Find the classes of folders.

    Args:
        folders: their names, sorted.
        source: the data set, for messages.
        class_names: of the model's classes, by index; None where they have none.
        num_classes: of the model; None where it is not known.

    Raises:
        DataError: a folder is no class, may be several, or cannot be told to be one; the message says how to name it.
    """
    if class_names is not None and (order := _by_name(folders, "folder", source=source, class_names=class_names)):
        return order
    count = len(class_names) if class_names is not None else num_classes
    if (numbers := _as_indices(folders, count)) is not None:
        return _numbered(folders, numbers, source=source, class_names=class_names, count=count or len(folders))
    if class_names is not None:
        return _assumed(folders, "folder", source=source, class_names=class_names)
    if count is not None and count != len(folders):
        raise DataError(
            f"{source} has {len(folders)} class folders ({_some(folders)}), but the model has {count} classes, whose names are "
            f"not known: which folder is which class cannot be told. Name the folders by class index (0 to {count - 1}), or "
            "give all classes"
        )
    notes = _text_order(folders, source)
    return ClassOrder(indices=tuple(range(len(folders))), class_names=tuple(folders), label_order="sorted", notes=notes)


def order_names(names: Sequence[str], *, source: str, class_names: Sequence[str] | None, num_classes: int | None) -> ClassOrder:
    """Find the classes of names whose order a data set gives itself (the digits, `class_names` of an .npz).

    Args and errors are those of `order_folders`; without names of the model's, the data set's indices are its classes.
    """
    if class_names is not None:
        if list(names) == list(class_names):  # with a name that two classes have, as ImageNet's crane, none need be told apart
            return ClassOrder(indices=tuple(range(len(names))), class_names=tuple(names), label_order="named")
        matched = _by_name(names, "class", source=source, class_names=class_names)
        return matched or _assumed(names, "class", source=source, class_names=class_names)
    # Fewer names than classes leave the labels right, and the other classes without a name.
    complete = num_classes is None or num_classes == len(names)
    return ClassOrder(
        indices=tuple(range(len(names))), class_names=tuple(names) if complete else None, label_order="given"
    )  # fmt: skip


def check_names(names: Sequence[str], *, source: str) -> None:
    """Raise DataError for a class name that no manifest or list of labels can hold."""
    for name in names:
        if not name or any("\udc80" <= character <= "\udcff" for character in name):
            raise DataError(f"{source} has a class whose name is no UTF-8 text ({name!r}); rename it")
        if any(unicodedata.category(character) in {"Cc", "Zl", "Zp"} for character in name):
            raise DataError(f"{source} has a class whose name has line breaks or control characters ({name!r}); rename it")


def _by_name(names: Sequence[str], what: str, *, source: str, class_names: Sequence[str]) -> ClassOrder | None:
    """None where no name is one of the model's."""
    places: dict[str, list[int]] = {}
    for index, name in enumerate(class_names):
        places.setdefault(name, []).append(index)
    unknown = [name for name in names if name not in places]
    similar = _similar(unknown, class_names)
    if len(unknown) == len(names) and not similar:
        return None
    if unknown:
        hint = f"; rename {_some([f'{old} to {new}' for old, new in similar.items()])}" if similar else ""
        raise DataError(
            f"{source}: {_some(unknown)} is no class of the model, which has {_some(class_names)}{hint}. Give each {what} the "
            "name of its class, and remove those that are none"
        )
    counts = Counter(names)
    for name in names:
        if counts[name] > 1:
            raise DataError(f"{source} has more than one class {name}, and the model has other classes; name them apart")
        if len(places[name]) > 1:
            raise DataError(
                f"{source}: {name} is the name of the model's classes {' and '.join(map(str, places[name]))}, so that it "
                f"cannot be told which the {what} is. Name all folders by class index (0 to {len(class_names) - 1})"
            )
    return ClassOrder(
        indices=tuple(places[name][0] for name in names), class_names=tuple(class_names), label_order="named"
    )  # fmt: skip


def _assumed(names: Sequence[str], what: str, *, source: str, class_names: Sequence[str]) -> ClassOrder:
    """As many names as classes, in order, as torchvision's datasets and published checkpoints have it (n01440764: tench)."""
    if len(names) != len(class_names):
        raise DataError(
            f"{source}: none of its {len(names)} {'classes' if what == 'class' else 'class folders'} ({_some(names)}) is a "
            f"class of the model, which has {len(class_names)} ({_some(class_names)}). Give each {what} the name of its class, "
            f"or name the folders by class index (0 to {len(class_names) - 1})"
        )
    note = (
        f"{source}: no {what} has the name of a class of the model, so their order was taken as that of the classes: "
        f"{names[0]} is {class_names[0]}, {names[-1]} is {class_names[-1]}"
    )
    return ClassOrder(
        indices=tuple(range(len(names))), class_names=tuple(class_names), label_order="assumed", notes=(note,)
    )  # fmt: skip


def _text_order(folders: Sequence[str], source: str) -> tuple[str, ...]:
    """A note on numbers that are no indices (1 to 10) and stand in another order as text."""
    if not all(_is_number(name) for name in folders):
        return ()
    moved = [index for index, name in enumerate(sorted(folders, key=int)) if name != folders[index]]
    if not moved:
        return ()
    return (
        f"{source}: the folders are numbers, but not class indices from 0 on, and were sorted as text, as torchvision's "
        f"ImageFolder does: {folders[moved[0]]} is class {moved[0]}",
    )


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal() and len(name) <= _DIGITS


def _as_indices(folders: Sequence[str], count: int | None) -> list[int] | None:
    """Folders that are numbers as class indices, below `count` or, where that is not known, without a gap."""
    if not all(_is_number(name) for name in folders):
        return None
    numbers = [int(name) for name in folders]
    if len(set(numbers)) != len(numbers) or max(numbers) >= (count or len(numbers)):
        return None
    return numbers


def _numbered(
    folders: Sequence[str], numbers: list[int], *, source: str, class_names: Sequence[str] | None, count: int
) -> ClassOrder:
    notes: tuple[str, ...] = ()
    if numbers != list(range(len(numbers))):
        notes = (
            f"{source}: the folders are numbers, and were taken as class indices: {folders[-1]} is class {numbers[-1]}, where "
            f"torchvision's ImageFolder, which sorts them as text, has class {len(folders) - 1}",
        )
    elif class_names is not None:
        notes = (
            f"{source}: the folders are numbers, and were taken as class indices: {folders[-1]} is {class_names[numbers[-1]]}",
        )
    names = class_names
    if names is None and len(numbers) == count:
        names = [name for _, name in sorted(zip(numbers, folders, strict=True))]
    return ClassOrder(
        indices=tuple(numbers), class_names=None if names is None else tuple(names), label_order="numbered", notes=notes
    )


def _similar(unknown: Sequence[str], class_names: Sequence[str]) -> dict[str, str]:
    """Names that are a class's but for case, spaces, hyphens and underscores, and that class's."""
    plain = {_plain(name): name for name in class_names}
    return {name: plain[_plain(name)] for name in unknown if _plain(name) in plain}


def _plain(name: str) -> str:
    return name.casefold().translate(dict.fromkeys(map(ord, " -_")))


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
