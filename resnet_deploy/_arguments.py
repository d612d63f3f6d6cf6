"""Functions that are called with the fields of a dataclass: each argument is written once, and every tool sees it."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from resnet_deploy.specs import OptionGroup

P = ParamSpec("P")
R = TypeVar("R")
_Arguments = TypeVar("_Arguments", bound=OptionGroup)


def takes(arguments: Callable[P, _Arguments]) -> Callable[[Callable[[_Arguments], R]], Callable[P, R]]:
    """Let a function of a dataclass be called with the dataclass's fields as its arguments.

    Type checkers and IDEs see the dataclass's arguments, and so does `inspect.signature`. The function's docstring describes
    what the dataclass itself adds; what its bases describe under "Attributes:" is appended to that at run time.

    Args:
        arguments: the dataclass, an `OptionGroup`.

    Returns:
        A decorator. A call with an argument that there is not raises TypeError, before anything is done.
    """

    def decorate(function: Callable[[_Arguments], R]) -> Callable[P, R]:
        kind = cast("type[_Arguments]", arguments)
        signature = _signature(kind, function)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return function(kind.of(**_bound(function.__name__, signature, args, kwargs)))

        call.__signature__ = signature  # type: ignore[attr-defined]
        call.__doc__ = _documented(kind, inspect.cleandoc(function.__doc__ or ""))
        return call

    return decorate


def _signature(arguments: type, function: Callable[..., object]) -> inspect.Signature:
    """The dataclass's, its own fields before those of its bases."""
    parameters, own = inspect.signature(arguments).parameters.values(), vars(arguments).get("__annotations__", {})
    ordered = sorted(parameters, key=lambda parameter: (parameter.kind, parameter.name not in own))
    return inspect.Signature(ordered, return_annotation=inspect.signature(function).return_annotation)


def _bound(name: str, signature: inspect.Signature, args: tuple[object, ...], kwargs: dict[str, object]) -> dict[str, object]:
    """Arguments by name. Raises TypeError, in Python's own words."""
    for word in kwargs.keys() - signature.parameters.keys():
        near = difflib.get_close_matches(word, signature.parameters, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise TypeError(f"{name}() got an unexpected keyword argument {word!r}{hint}")
    try:
        return signature.bind(*args, **kwargs).arguments
    except TypeError as exc:
        raise TypeError(f"{name}(): {exc}") from None


def _documented(arguments: type, text: str) -> str:
    """A docstring with the arguments that the dataclass's bases describe, after those that it describes itself."""
    described = []
    for kind in arguments.__mro__:
        _, _, section = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")
        lines = section.split("\n\n")[0].rstrip()
        described += [lines] if lines and issubclass(kind, OptionGroup) else []
    added = "\n".join(described)
    head, heading, rest = text.partition("\nArgs:\n")
    if not heading:
        head, heading, rest = text.partition("\nReturns:\n")
        return f"{head}\nArgs:\n{added}\n{heading}{rest}"
    own, gap, tail = rest.partition("\n\n")
    return f"{head}{heading}{own}\n{added}{gap}{tail}".rstrip()
