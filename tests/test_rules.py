"""The rules of the architecture, as tests."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import click
import pytest

import resnet_deploy
from resnet_deploy.cli import main

PACKAGE = Path(resnet_deploy.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# Floors of the house: a room may use its own floor and those below.
FLOORS = [
    {"_deps", "_figures", "_files", "_isolate", "_json", "_machine", "_text", "specs", "errors", "images", "limits"},
    {"backends", "engine", "models", "data", "preprocessing", "onnx_files"},
    {"exporter", "graphs", "precision", "parity", "proportions"},
    {
        "benchmarking",
        "reporting",
        "serving",
        "bundle",
        "steps",
        "pipeline",
        "calibration",
        "lowering",
        "building",
        "tuning",
        "divergence",
        "diagnosis",
        "inspection",
    },
    {"terminal", "commands", "cli"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FRAMEWORKS = {"torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "sklearn", "PIL", "matplotlib", "pyarrow", "ray"}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Full names of every module that a module imports, wherever in it; typing-only imports aside."""
    tree = ast.parse(path.read_text())
    typing_only = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "resnet_deploy" and len(parts) > 1 and parts[1] in FLOOR else None


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down(path: Path) -> None:
    mine = room(name_of(path))
    if mine is None:
        assert name_of(path) == "resnet_deploy", f"{name_of(path)} has no floor: add it to FLOORS"
        return
    for module in imports(path):
        other = room(module)
        assert other is None or FLOOR[other] <= FLOOR[mine], f"{name_of(path)} imports {module}"
        assert not module.startswith(("benchmarks", "tests", "examples"))


def test_there_is_no_cycle_between_rooms() -> None:
    graph = {name: set[str]() for name in FLOOR}
    for path in MODULES:
        if mine := room(name_of(path)):
            graph[mine] |= {r for module in imports(path) if (r := room(module)) not in (None, mine)}  # type: ignore[misc]
    while graph:
        free = [name for name, needs in graph.items() if not needs & set(graph)]
        assert free, f"a cycle among {sorted(graph)}"
        for name in free:
            del graph[name]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_particular_rooms(path: Path) -> None:
    module, used = name_of(path).removeprefix("resnet_deploy."), imports(path)
    if module in {"parity", "proportions", "benchmarking.measure"}:
        assert not {name.split(".")[0] for name in used} & FRAMEWORKS, "numpy alone"
    if module.startswith("models.") and module != "models.deploy":
        assert not {room(name) for name in used} & {"backends", "data"} and "resnet_deploy.models.deploy" not in used
    if module.startswith("backends.") and module != "backends.load":
        others = {"eager", "ort", "openvino", "trt"} - {module.split(".")[1]}
        assert not {f"resnet_deploy.backends.{name}" for name in others} & used, "backends do not know each other"
    if module.split(".")[0] not in {"cli", "commands", "__init__"}:
        assert "resnet_deploy.cli" not in used and "click" not in used


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_library_never_prints(path: Path) -> None:
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_sizes_that_keep_a_file_in_one_head(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 330
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            code = node.body[1:] if ast.get_docstring(node) else node.body
            lines = (code[-1].end_lineno or 0) - code[0].lineno + 1 if code else 0
            assert lines <= 40, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", [p for p in MODULES if p.name != "__init__.py"], ids=name_of)
def test_everything_public_is_documented(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            short = isinstance(node, ast.FunctionDef) and name_of(path).split(".")[1] in {"terminal", "commands"}
            assert short or ast.get_docstring(node) or node.name in {"conv3x3", "conv1x1"}, node.name


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

    from resnet_deploy.benchmarking.details import DetailOptions
    from resnet_deploy.benchmarking.scenarios import ScenarioOptions
    from resnet_deploy.benchmarking.settings import MeasureOptions
    from resnet_deploy.engine.options import BuildOptions
    from resnet_deploy.lowering import LoweringOptions
    from resnet_deploy.pipeline.export import ExportOptions
    from resnet_deploy.serving.embed import EmbedOptions
    from resnet_deploy.serving.options import TritonOptions

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
