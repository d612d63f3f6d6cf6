"""The arguments of the public functions: each is named, typed and described, and one that is not there is refused alike."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import resnet_deploy as rd
from resnet_deploy._arguments import takes
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import UsageError
from resnet_deploy.specs import OptionGroup
from tests.helpers.paths import ROOT

PUBLIC = {name: getattr(rd, name) for name in rd.__all__}
FUNCTIONS = {name: value for name, value in PUBLIC.items() if inspect.isfunction(value)}


def described(text: str) -> set[str]:
    """The names that the Args section of a docstring in Google style describes; several may share a line."""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", inspect.cleandoc(text), re.DOTALL | re.MULTILINE)
    lines = re.findall(r"^ {4}([*\w, ]+): ", section[1], re.MULTILINE) if section else []
    names = [name.strip("*") for line in lines for name in line.split(", ")]
    assert len(names) == len(set(names)), "described twice"
    return set(names)


# The shape of a network is said as in its name, `resnet50:stem=cifar`: what there is, and its defaults, is the name's own.
OF_A_NAME = ("create_model", "shape")


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_every_argument_is_named_typed_and_described(name: str) -> None:
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    for word, parameter in parameters.items():
        several = parameter.kind in {parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL}
        assert not several or (name, word) == OF_A_NAME, f"{name}(**{word})"
        assert parameter.annotation is not parameter.empty, word
    assert described(FUNCTIONS[name].__doc__ or "") == parameters.keys()


@pytest.fixture
def firsts(digits_bundle: Bundle, tmp_path: Path) -> dict[str, Any]:
    """What may stand first in a call: a bundle, its folder, an architecture, an ONNX file."""
    own = shutil.copytree(digits_bundle.path, tmp_path / "own")
    graph = shutil.copy(digits_bundle.artifact("model.fp32.onnx"), tmp_path / "graph.onnx")
    return {"bundle": Bundle.open(own), "folder": str(own), "architecture": "resnet20", "file": str(graph)}


def refusal(call: Callable[..., object], first: Any, **arguments: Any) -> tuple[type[Exception], str]:
    with pytest.raises((TypeError, UsageError)) as caught:
        call(first, **arguments)
    return caught.type, str(caught.value)


@pytest.mark.parametrize("call", [rd.bench, rd.export])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bacth": 1}, r"\(\) got an unexpected keyword argument 'bacth'"),
        ({"precison": "int8"}, "'precison'; did you mean 'precision'"),
        ({"compute_capability": "sm86"}, "unexpected keyword argument 'compute_capability'"),  # of `build`
        ({"head": "nope"}, "unknown head 'nope'"),
        ({"opset": 7}, "opset must be"),
        ({"precision": "int4"}, "unknown precision 'int4'"),
        ({"l2_normalize": True}, "L2 normalization is for the embedding head"),
    ],
)
def test_an_argument_is_refused_alike_whatever_stands_first(
    call: Callable[..., object], arguments: dict[str, Any], message: str, firsts: dict[str, Any]
) -> None:
    refusals = {name: refusal(call, first, **arguments) for name, first in firsts.items()}
    assert len(set(refusals.values())) == 1, refusals
    kind, text = refusals["folder"]
    assert re.search(message, text), text
    assert kind is (TypeError if "unexpected" in text else UsageError)


@dataclass(frozen=True, kw_only=True)
class _Colours(OptionGroup):
    """Colours of light.

    Attributes:
        red, green: their shares,
            in lumen.
    """

    red: int = 1
    green: int = 2


def test_options_know_which_were_given() -> None:
    given = _Colours.of(red=1)
    assert given == _Colours() and given.explicit == {"red"}
    assert given.but(green=3).explicit == {"red", "green"} and given.part(_Colours).explicit == {"red"}
    assert given.explicit_of(_Colours) == {"red": 1}


def test_a_function_takes_the_fields_of_a_dataclass() -> None:
    @takes(_Colours)
    def mix(call: _Colours) -> tuple[int, int]:
        """Mix colours.

        Returns:
            The two shares.
        """
        return call.red, call.green

    assert mix(green=5) == (1, 5)
    assert str(inspect.signature(mix)) == "(*, red: 'int' = 1, green: 'int' = 2) -> 'tuple[int, int]'"
    assert described(mix.__doc__ or "") == {"red", "green"} and "in lumen" in (mix.__doc__ or "")
    with pytest.raises(TypeError, match=r"^mix\(\): too many positional arguments"):
        mix(1)  # type: ignore[misc]


@pytest.mark.slow
def test_type_checkers_see_every_argument(tmp_path: Path) -> None:
    """What an IDE completes: the names, the types and what may be left out."""
    pytest.importorskip("mypy")
    code = tmp_path / "calls.py"
    code.write_text(
        "import resnet_deploy as rd\n"
        "rd.bench('a', batch=8, backend='onnxruntime', precision='int8', head='topk:5', latency_bound='15ms')\n"
        "rd.export('resnet20', 'a', precision=['fp16'], mean=(0.5, 0.5, 0.5))\n"
        "rd.build('a', batch=['1:8:32'])\n"
        "rd.bench('a', bacth=8)\n"
        "rd.bench('a', streams='two')\n"
        "rd.export('a', calibration=3)\n"
        "rd.tune('a')\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(code)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    found = {int(line.split(":")[1]) for line in done.stdout.splitlines() if "calls.py" in line and "error" in line}
    assert found == {5, 6, 7, 8}, done.stdout + done.stderr
