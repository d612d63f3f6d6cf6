"""The rules of the architecture, each a test."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import cache
from pathlib import Path

import click
import pytest

import resnet_deploy
from resnet_deploy import errors
from resnet_deploy.backends.table import BACKENDS
from resnet_deploy.cli import main
from resnet_deploy.precisions import PRECISIONS
from tests.helpers.paths import ROOT

PACKAGE = Path(resnet_deploy.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# Floors of the house: a room may use its own floor and those below.
FLOORS = [
    {
        *("_arguments", "_deprecated", "_deps", "_figures", "_files", "_isolate", "_json", "_machine", "_text"),
        *("errors", "limits", "precisions", "specs"),
    },
    {"backends", "charts", "data", "engine", "graph", "models"},
    {"parity", "precision", "timing"},
    {"bundle"},
    {"pipeline"},
    {"benchmarking", "reporting", "serving"},
    {"terminal"},
    {"commands", "cli"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FRAMEWORKS = {
    *("torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_lean_bindings", "tensorrt_rtx"),
    *("sklearn", "PIL", "matplotlib", "pyarrow", "ray"),
}
MOST_LINES, MOST_OF_A_FUNCTION = 300, 40  # docstrings aside


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
            places = {place.where for row in BACKENDS.values() for place in row.devices.values()}
            others = {re.split("[.:]", place)[2] for place in places} - {module.split(".")[1]}
            known = [other for other in used if other.startswith(tuple(f"resnet_deploy.backends.{one}" for one in others))]
            assert not known, f"{name} knows another backend"
        if module.split(".")[0] not in {"cli", "commands", "resnet_deploy"}:
            assert "resnet_deploy.cli" not in used and "click" not in used, name


# Tables of other things that have the same words for keys.
NOT_REPEATED = {
    "resnet_deploy.precisions": "the table",
    "resnet_deploy.backends.table": "the table",
    "resnet_deploy._deps": "distributions by import name",
    "resnet_deploy.bundle.migrate": "an old format",
    "resnet_deploy.engine.plan": "the first bytes of plans",
    "resnet_deploy.benchmarking.roofline.devices": "datasheets' columns",
}


def test_a_set_of_precisions_or_backends_is_derived_from_its_table() -> None:
    for name in NAMES.keys() - NOT_REPEATED.keys():
        for node in ast.walk(tree(NAMES[name])):
            items: list[ast.expr | None] = []
            if isinstance(node, (ast.Set, ast.Tuple, ast.List)):
                items = [*node.elts]
            elif isinstance(node, ast.Dict):
                items = [*node.keys]
            words = {str(item.value) for item in items if isinstance(item, ast.Constant)}
            words |= {item.attr.lower() for item in items if isinstance(item, ast.Attribute)}
            repeated = max((words & PRECISIONS.keys(), words & BACKENDS.keys()), key=len)
            # What is not quantized computes in fp16 or fp32: an option's two values.
            assert len(repeated) < 2 or repeated == {"fp16", "fp32"}, f"{name}:{node.lineno} repeats {sorted(repeated)}"


def test_the_library_never_prints() -> None:
    for path in FILES:
        calls = [node.func for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
        assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"], path


def docstring_lines(node: ast.AST) -> int:
    """Lines of the docstrings of a module, a class or a function, and of all that it holds."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    texts = [each.body[0] for each in ast.walk(node) if isinstance(each, kinds) and ast.get_docstring(each)]
    return sum((text.end_lineno or 0) - text.lineno + 1 for text in texts)


def test_sizes_that_keep_a_file_in_one_head() -> None:
    for path in FILES:
        assert len(path.read_text().splitlines()) - docstring_lines(tree(path)) <= MOST_LINES, path
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef):
                first = node.body[0].lineno
                lines = (node.end_lineno or 0) - first + 1 - docstring_lines(node)
                assert lines <= MOST_OF_A_FUNCTION, f"{path}: {node.name} has {lines} lines"


def test_everything_public_is_documented() -> None:
    for name, path in NAMES.items():
        assert ast.get_docstring(tree(path)), name
        for node in tree(path).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                short = isinstance(node, ast.FunctionDef) and room(name) in {"terminal", "commands"}
                assert short or ast.get_docstring(node) or node.name in {"conv3x3", "conv1x1"}, f"{name}.{node.name}"


# Words that say nothing of what a thing is.
FILLERS = {"found", "one", "said", "asked", "given", "those"}


def names_bound(path: Path) -> Iterator[tuple[int, str]]:
    """Lines and names of all variables, attributes, parameters, functions, classes and aliases that a file makes."""
    for node in ast.walk(tree(path)):
        if isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)) or (isinstance(node, ast.ExceptHandler) and node.name):
            yield node.lineno, str(node.name)
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname


def test_a_name_says_what_a_thing_is() -> None:
    for path in FILES:
        fillers = [f"line {line}: {name}" for line, name in names_bound(path) if name.strip("_") in FILLERS]
        assert not fillers, f"{path}: {fillers}"


FAKE = "resnet_deploy.backends.fake"  # has the names of what it stands for


def test_no_two_public_things_share_a_name() -> None:
    """But a command's with its call, and where a script's runner looks for a name: who searches for one finds one thing."""
    places: dict[str, list[str]] = {}
    for name, path in NAMES.items():
        for node in tree(path).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(name)
    shared = {
        name: modules
        for name, modules in places.items()
        if len([module for module in modules if room(module) != "commands" and not module.startswith(FAKE)]) > 1
    }
    assert shared.keys() <= {"main", "TritonPythonModel"}, shared


# What a room shows the others: its interface, by module.
INTERFACES = {
    "backends": {
        "base": "Backend Stages", "candidate": "Candidate", "layers": "LayerTime LayerTimes", "load": "load_backend",
        "streams": "Buffers Stream StreamBackend", "table": "BackendRow Implementation register_backend",
    },
    "bundle": {
        "manifest": "Artifact CalibrationFile CalibrationUse Check GraphFile Manifest ModelDescription PlanFile Request "
        "WeightsOrigin",
        "names": "graph_file plan_file", "opened": "OpenedBundle", "results": "ResultStore environment", "store": "Bundle",
        "records": "CeilingRecord JudgedData MeasurementRecord ParityRecord ScenarioRecord SkippedImage",
        "transaction": "Transaction changing",
    },
    "parity": {
        "confidence": "describe_difference mcnemar median_half_width pack paired_interval unpack unpaired_interval "
        "wilson_interval",
        "gates": "Gate GateCheck check_gates describe_gates judge parse_gates",
        "metrics": "OutputComparison ParityReport average_views cosines",
    },
    "timing": {
        "conditions": "Conditions CpuCounters Sample watch watch_with", "measure": "MeasureConfig Measurement measure",
        "nvml": "Gpu GpuInfo GpuState",
    },
    "graph": {"describe": "GraphReport Layer layers_of", "graph": "Graph"},
    "precision": {
        "calibrate": "Observer observe", "cast": "cast", "placement": "Placement place", "quantize": "QuantizeOptions quantize",
        "ranges": "Calibration Range", "reconstruct": "reconstruct", "tune": "Mix Sensitivity Tuner Tuning",
    },
    "engine": {
        "build": "Built build_plan", "flavours": "Flavour", "options": "BuildOptions OptimizationProfile best_profile",
        "plan": "Origin deserialize preflight version_fits", "report": "EngineLayer PlanReport from_inspector summarize",
    },
    "data": {"dataset": "Batch Dataset Skipped subset", "preprocessing": "Transform normalize", "sources": "open_data"},
    "models": {
        "catalogue": "ArchitectureSummary", "checkpoint": "Checkpoint read_checkpoint",
        "complexity": "Complexity Kernel complexity kernels", "config": "ResNetConfig",
        "create": "LoadedModel create_model load_model", "deploy": "DeployModel",
        "registry": "Architecture PublishedWeights register_architecture",
    },
    "serving": {
        "cpp.write": "Project write_cpp", "embedding.job": "EmbedOptions Embedding Job", "embedding.run": "embed",
        "triton.options": "TritonOptions", "triton.repository": "Added File RepositoryModel add",
        "triton.write": "Repository write_triton",
    },
    "reporting": {
        "accuracy": "AccuracyChange", "compare": "Change RunComparison compare_reports", "recorded": "load_report",
        "writing": "compare_runs publish render report write_report",
    },
    "benchmarking": {
        "layers.details": "DetailOptions Measured", "layers.profile": "LayerProfile profile_all",
        "layers.trtexec": "Settings TrtexecComparison TrtexecFigure compare_figures compare_plans",
        "mlperf.loadgen": "Outcome ScenarioRequest run_loadgen", "mlperf.run": "ScenarioRun",
        "mlperf.scenarios": "Figures Runner ScenarioOptions",
        "report": "BenchReport Result ScenarioResult Unmeasured", "roofline.ceilings": "Ceilings",
        "roofline.devices": "Ceiling measure_ceiling", "roofline.floor": "Floor floor", "run": "bench",
        "settings": "MeasureOptions",
    },
    "pipeline": {
        "build": "Plan build", "compare_layers": "Difference Divergence compare_layers", "doctor": "Finding doctor",
        "export": "ExportOptions export", "inspect": "PlanDetails inspect", "lower": "lower",
        "lowering_options": "LoweringOptions",
        "onnx_export": "export_onnx", "restore": "restore", "tune": "tune", "verify": "Verdict verify",
    },
}  # fmt: skip


def undescribed(node: ast.ClassDef | ast.FunctionDef) -> set[str]:
    """What the docstring leaves out of two arguments or more, of two fields or more, or of the result of such a call."""
    text = ast.get_docstring(node) or ""
    sections = re.findall(r"^(?:Args|Attributes):\n(.*?)(?=^\S|\Z)", text, re.DOTALL | re.MULTILINE)
    lines = [names for section in sections for names in re.findall(r"^ {4}([*\w, ]+): ", section, re.MULTILINE)]
    described = {name.strip("*") for line in lines for name in line.split(", ")}
    if isinstance(node, ast.FunctionDef):
        wanted = {item.arg for item in (*node.args.args, *node.args.kwonlyargs)} - {"self", "cls", "call"}
        result = node.returns is not None and ast.unparse(node.returns) != "None"
        told = "\nReturns:" in text or "\nYields:" in text
        return set() if len(wanted) < 2 else wanted - described | ({"Returns"} if result and not told else set())
    fields = {item.target.id for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)}
    made = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
    fields |= {item.arg for each in made for item in (*each.args.args[1:], *each.args.kwonlyargs)}
    wanted = {name for name in fields if not name.startswith("_")}
    return set() if len(wanted) < 2 else wanted - described


@pytest.mark.parametrize("module", [f"{room}.{name}" for room, names in INTERFACES.items() for name in names])
def test_interfaces_describe_their_arguments_fields_and_results(module: str) -> None:
    """In Google style, so that IDEs show them. A method without a docstring is described where it is first declared."""
    found = tree(NAMES[f"resnet_deploy.{module}"]).body
    there = {node.name: node for node in found if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    room, _, name = module.partition(".")
    for wanted in INTERFACES[room][name].split():
        node = there[wanted]
        assert not undescribed(node), f"{module}.{wanted}: {sorted(undescribed(node))}"
        for method in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(method, ast.FunctionDef) and not method.name.startswith("_") and ast.get_docstring(method):
                assert not undescribed(method), f"{module}.{wanted}.{method.name}: {sorted(undescribed(method))}"


def test_every_room_has_an_interface() -> None:
    others = {"charts", "cli", "commands", "limits", "precisions", "specs", "errors", "terminal"}  # whose users are elsewhere
    assert INTERFACES.keys() == {name for name in FLOOR if not name.startswith("_")} - others


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


def test_images_are_embedded_without_torch() -> None:
    """It takes seconds and hundreds of megabytes in each process, and a graph needs none of it."""
    modules = "backends.load, backends.onnxruntime.backend, serving.embedding.run, serving.embedding.decode_worker"
    code = (
        f"import sys, {', '.join(f'resnet_deploy.{name}' for name in modules.split(', '))}; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_has_help_with_an_example(name: str) -> None:
    command = main.commands[name]
    text = command.get_help(command.context_class(command, info_name=name))
    assert f"resnet-deploy {name}" in text.split("Example:")[1]
    for parameter in command.params:
        assert isinstance(parameter, click.Argument) or parameter.help, parameter.name  # type: ignore[attr-defined]


VERBS = {
    "triton": "write_triton",
    "cpp": "write_cpp",
    "models": "describe_models",
}  # of a command that is called after what it writes
CALLS = {name: getattr(resnet_deploy, VERBS.get(name, name)) for name in main.commands if name != "report"}
# What a command prints is no affair of the library's, and who watches a call none of the command line's.
PRINTED, WATCHED = {"as_json", "detail"}, {"progress", "crashes"}


@pytest.mark.parametrize("name", sorted(CALLS))
def test_the_command_line_and_python_say_the_same(name: str) -> None:
    """Names and defaults: what the CLI can do, a program can do, and the other way round."""
    parameters = inspect.signature(CALLS[name]).parameters
    known = {word: item.default for word, item in parameters.items()}
    asked = {item.name: item for item in main.commands[name].params if item.expose_value and item.name not in PRINTED}
    calls = {word for word in asked if word in CALLS.keys() | {"layers"} and word not in known}  # --layers: compare_layers
    assert known.keys() - WATCHED <= asked.keys(), "Python has what the command line lacks"
    assert asked.keys() - calls <= known.keys(), "the command line has what Python lacks"
    arguments = [word for word, item in asked.items() if isinstance(item, click.Argument)]
    assert arguments == [*known][: len(arguments)]
    for word, item in asked.items():
        if isinstance(item, click.Option):
            assert word == item.opts[-1].lstrip("-").replace("-", "_"), "an option's name is the argument's"
        if item.default not in (None, False, ()) and not isinstance(item.default, Enum) and word not in calls:
            default = item.type_cast_value(click.Context(main.commands[name]), item.default)
            assert default == known[word] or str(default) == str(known[word]), f"the default of {word}"


def test_report_is_two_calls() -> None:
    """Of one run, and of two; each has its options of the command line's."""
    asked = {item.name for item in main.commands["report"].params} - PRINTED - {"run", "other"}
    compared = set(inspect.signature(resnet_deploy.compare_runs).parameters) - {"before", "after"}
    assert compared == asked and set(inspect.signature(resnet_deploy.report).parameters) == {"run", "output"}


def test_what_type_checkers_see_is_what_is_loaded() -> None:
    """The package names each export twice: for type checkers, and for the lazy import."""
    blocks = [node for node in tree(PACKAGE / "__init__.py").body if isinstance(node, ast.If)]
    seen = {
        alias.asname: f"{node.module}.{alias.name}"
        for block in blocks
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    loaded = {name: f"resnet_deploy.{module}.{name}" for name, module in resnet_deploy._MODULES.items()}
    assert seen == loaded


def test_all_errors_are_public() -> None:
    tree = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, errors.DeployError)}
    assert tree <= set(resnet_deploy.__all__)


@pytest.mark.parametrize(("old", "new"), [("layers", "compare_layers"), ("triton", "write_triton"), ("cpp", "write_cpp")])
def test_names_of_before_work_and_say_what_they_are_called_now(old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=new):
        assert getattr(resnet_deploy, old) is getattr(resnet_deploy, new)


def test_test_files_do_not_import_each_other() -> None:
    """What several of them use is in tests/helpers, and fixtures are found by pytest."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for module in imports(path):
            parts = module.split(".")
            other = parts[0] == "tests" and [part for part in parts if part.startswith("test_") or part == "conftest"]
            assert not other, f"{path}: {module}; move what both need to tests/helpers"
