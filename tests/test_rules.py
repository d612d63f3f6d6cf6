"""The rules of the architecture, each a test."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import click
import pytest

import resnet_deploy
from resnet_deploy.cli import main

PACKAGE = Path(resnet_deploy.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# Floors of the house: a room may use its own floor and those below.
FLOORS = [
    {"_deps", "_figures", "_files", "_isolate", "_json", "_machine", "_text", "errors", "limits", "specs"},
    {"backends", "charts", "data", "engine", "graph", "models"},
    {"parity", "precision", "timing"},
    {"bundle"},
    {"pipeline"},
    {"benchmarking", "reporting", "serving"},
    {"terminal"},
    {"commands", "cli"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FRAMEWORKS = {"torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "sklearn", "PIL", "matplotlib", "pyarrow", "ray"}
MOST_LINES, MOST_OF_A_FUNCTION = 330, 40


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


NAMES = {name_of(path): path for path in FILES}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports(path: Path) -> frozenset[str]:
    """Full names of all that a file imports, wherever in it; typing-only imports aside."""
    typing_only = {
        node
        for block in ast.walk(tree(path))
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    names: set[str] = set()
    for node in ast.walk(tree(path)):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def room(module: str) -> str | None:
    """The room of a module of ours; None for the package itself and what is not ours."""
    parts = module.split(".")
    if parts[0] != "resnet_deploy" or len(parts) == 1:
        return None
    return parts[1] if parts[1] in FLOOR else None


def circle(graph: Mapping[str, set[str]]) -> set[str]:
    """What is left when all that depends on nothing left is taken away, again and again."""
    left = {name: needs & set(graph) - {name} for name, needs in graph.items()}
    while free := {name for name, needs in left.items() if not needs & set(left)}:
        left = {name: needs for name, needs in left.items() if name not in free}
    return set(left)


def test_imports_go_down() -> None:
    for name, path in NAMES.items():
        mine = room(name)
        assert mine or name == "resnet_deploy", f"{name} has no floor: add it to FLOORS"
        for module in imports(path) if mine else ():
            other = room(module)
            assert other is None or FLOOR[other] <= FLOOR[str(mine)], f"{name} imports {module}"
            assert not module.startswith(("benchmarks", "tests", "examples"))


def test_there_is_no_circle() -> None:
    """Between rooms, and between files."""
    rooms: dict[str, set[str]] = {name: set() for name in FLOOR}
    files: dict[str, set[str]] = {}
    for name, path in NAMES.items():
        files[name] = {module for module in imports(path) if module in NAMES}
        # `from package import module` needs the module; what `package/__init__` has is not in it.
        files[name] -= {module for module in files[name] if any(other.startswith(f"{module}.") for other in files[name])}
        if mine := room(name):
            rooms[mine] |= {other for module in imports(path) if (other := room(module))}
    assert not circle(rooms) and not circle(files)


def test_particular_rooms() -> None:
    for name, path in NAMES.items():
        module, used = name.removeprefix("resnet_deploy."), imports(path)
        if room(name) in {"parity", "timing"}:
            assert not {other.split(".")[0] for other in used} & FRAMEWORKS, f"{name}: numpy alone"
        if module.startswith("models.") and module != "models.deploy":
            assert not {room(other) for other in used} & {"backends", "data"} and "resnet_deploy.models.deploy" not in used
        if module.startswith("backends.") and module != "backends.load":
            others = {"eager", "onnxruntime", "openvino", "tensorrt"} - {module.split(".")[1]}
            known = [other for other in used if other.startswith(tuple(f"resnet_deploy.backends.{one}" for one in others))]
            assert not known, f"{name} knows another backend"
        if module.split(".")[0] not in {"cli", "commands", "resnet_deploy"}:
            assert "resnet_deploy.cli" not in used and "click" not in used, name


def test_the_library_never_prints() -> None:
    for path in FILES:
        calls = [node.func for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
        assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"], path


def test_sizes_that_keep_a_file_in_one_head() -> None:
    for path in FILES:
        assert len(path.read_text().splitlines()) <= MOST_LINES, path
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef):
                code = node.body[1:] if ast.get_docstring(node) else node.body
                lines = (code[-1].end_lineno or 0) - code[0].lineno + 1 if code else 0
                assert lines <= MOST_OF_A_FUNCTION, f"{path}: {node.name} has {lines} lines"


def test_everything_public_is_documented() -> None:
    for name, path in NAMES.items():
        assert ast.get_docstring(tree(path)), name
        for node in tree(path).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                short = isinstance(node, ast.FunctionDef) and room(name) in {"terminal", "commands"}
                assert short or ast.get_docstring(node) or node.name in {"conv3x3", "conv1x1"}, f"{name}.{node.name}"


def test_the_public_names_are_there_and_documented() -> None:
    for name in resnet_deploy.__all__:
        value = getattr(resnet_deploy, name)
        assert isinstance(value, str) or inspect.getdoc(value), name
    with pytest.raises(AttributeError):
        resnet_deploy.nonsense  # noqa: B018


@pytest.mark.parametrize(
    "code",
    [
        "import resnet_deploy",
        "import resnet_deploy.cli",
        "import resnet_deploy; resnet_deploy.list_models()",
        "from resnet_deploy.cli import main; main(['--help'], standalone_mode=False)",
        "from resnet_deploy.cli import main; main(['bench', '--help'], standalone_mode=False)",
    ],
)
def test_light_imports(code: str) -> None:
    heavy = sorted(FRAMEWORKS | {"numpy", "tqdm", "tabulate"})
    check = f"import sys; found = set({heavy}) & set(sys.modules); assert not found, found"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{check}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_has_help_with_an_example(name: str) -> None:
    command = main.commands[name]
    text = command.get_help(click.Context(command, info_name=name))
    assert f"resnet-deploy {name}" in text.split("Example:")[1]
    for parameter in command.params:
        assert isinstance(parameter, click.Argument) or parameter.help, parameter.name  # type: ignore[attr-defined]


def test_the_library_knows_every_option_of_the_command_line() -> None:
    """What the CLI can do, a program can do, with the same names."""
    from dataclasses import fields

    from resnet_deploy.benchmarking.layers.details import DetailOptions
    from resnet_deploy.benchmarking.mlperf.scenarios import ScenarioOptions
    from resnet_deploy.benchmarking.settings import MeasureOptions
    from resnet_deploy.engine.options import BuildOptions
    from resnet_deploy.pipeline.export import ExportOptions
    from resnet_deploy.pipeline.lower import LoweringOptions
    from resnet_deploy.serving.embedding.job import EmbedOptions
    from resnet_deploy.serving.triton.options import TritonOptions

    kinds = (
        ExportOptions, LoweringOptions, BuildOptions, ScenarioOptions, MeasureOptions, DetailOptions, EmbedOptions,
        TritonOptions,
    )  # fmt: skip
    known = {field.name for kind in kinds for field in fields(kind)} | {"as_json"}
    known |= {"by_layer"}  # a call of its own: rd.layers
    known |= {"detail"}  # of what is printed
    for name, argument in (
        ("export", "architecture"),
        ("verify", "bundle"),
        ("bench", "target"),
        ("tune", "bundle"),
        ("build", "bundle"),
        ("embed", "bundle"),
        ("triton", "bundle"),
        ("report", "run"),
        ("cpp", "bundle"),
    ):
        function = getattr(resnet_deploy, name)
        named = set(inspect.signature(function).parameters) | {argument}
        asked = {parameter.name for parameter in main.commands[name].params}
        assert asked <= named | known, asked - named - known
