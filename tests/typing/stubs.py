"""The signatures of TensorRT's packages as type stubs, each package's under the same name: `tensorrt_types`.

    python -m tests.typing.stubs

`make setup` writes them to the environment's folder `stubs`, one folder a package. They are made of what the bindings say of
themselves: of TensorRT-RTX and the lean runtime as they are installed, and of the wheels in the folder `bindings`, which are
looked into without the libraries that they need.
"""

from __future__ import annotations

import ast
import importlib.util
import keyword
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

WHEELS = Path(sys.prefix) / "bindings"
STUBS = Path(sys.prefix) / "stubs"
NAME = "tensorrt_types.pyi"
INSTALLED = {  # the name of the stubs, the module with the classes, and the distribution that says its version
    "tensorrt-rtx": ("tensorrt_rtx_bindings.tensorrt_rtx", "tensorrt-rtx-cu13-bindings"),
    "tensorrt-lean": ("tensorrt_lean_bindings.tensorrt_lean", "tensorrt-lean-cu13-bindings"),
}
PYTHON_NAMES = {"IParserError": "ParserError", "IEngineInspector": "EngineInspector"}
UNSAID = {  # what these classes can, though no signature says so: sequences are read by index, memory is a buffer
    "Dims": "def __iter__(self) -> collections.abc.Iterator[int]: ...",
    "IHostMemory": "def __buffer__(self, flags: int) -> memoryview: ...",
}


def signatures(module: str, path: Path | None = None, libraries: Path | None = None) -> str:
    """The stubs that pybind11-stubgen makes of a module, in a process that ends with it."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries or "")}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pybind11_stubgen", module, "--print-invalid-expressions-as-is", "-o", folder]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        written = Path(folder, *module.split(".")).with_suffix(".pyi")
        if done.returncode != 0 or not written.is_file():
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-4000:]}")
        return written.read_text()


def of_wheel(wheel: Path) -> str:
    """The stubs of a wheel of bindings, whose libraries are a few empty functions; of one that has stubs, those."""
    with tempfile.TemporaryDirectory() as name, zipfile.ZipFile(wheel) as archive:
        folder = Path(name)
        if "tensorrt_bindings/tensorrt.pyi" in archive.namelist():
            return archive.read("tensorrt_bindings/tensorrt.pyi").decode()
        archive.extractall(folder)
        binary = (folder / "tensorrt_bindings" / "tensorrt.so").read_bytes()
        functions = r"\0((?:create|get|init)\w*(?:_INTERNAL|Registry|ParserVersion|InferPlugins|LibVersion))\0"
        source = folder / "empty.c"
        names = sorted(set(re.findall(functions.encode(), binary)))
        source.write_text("".join(f"void *{name.decode()}(void) {{ return 0; }}\n" for name in names))
        for library in set(re.findall(rb"lib(?:nvinfer|nvinfer_plugin|nvonnxparser)\.so\.\d+", binary)):
            subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / library.decode(), source], check=True)
        return signatures("tensorrt_bindings.tensorrt", folder, folder)


def clean(text: str) -> str:
    """Stubs with classes alone, without the package's texts, and with `TensorRt`: the package itself as a type.

    A type of C++ that a signature names is that of Python where there is one. Where there is none, nothing that can be used
    comes back (`object`), and anything may be given.
    """
    text = re.sub(r"<[\w.]+: -?\d+>", "...", text).replace("typing.SupportsInt", "int").replace("typing.SupportsFloat", "float")
    classes = set(re.findall(r"^class (\w+)", text, re.MULTILINE))

    def named(match: re.Match[str]) -> str:
        name = match[2].partition("<")[0].rpartition("::")[2]
        name = PYTHON_NAMES.get(name, name)
        other = "object" if match[1] else "typing.Any"
        return f"{match[1] or ''}{name if name in classes else other}"

    text = text.replace("-> ...:", "-> typing.Any:")
    text = re.sub(r"(-> )?\b((?:\w+::)+\w+(?:<[^()]*>)?)", named, text)
    tree = ast.parse("\n".join(map(valid, text.splitlines())))
    # Short names of enumerations' members go: one of them is `bool`, which signatures mean Python's by.
    tree.body = [node for node in tree.body if not isinstance(node, (ast.Assign, ast.AnnAssign))]
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            kept = [line for line in node.body if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))]
            node.body = kept or [ast.Expr(ast.Constant(...))]
            if isinstance(node, ast.ClassDef):
                node.body += ast.parse(UNSAID.get(node.name, "")).body
    # A shape may be given as any sequence of numbers.
    body = re.sub(r"(?<=: )Dims(?=[,)=])", "Dims | collections.abc.Sequence[int]", ast.unparse(tree))
    package = ["class TensorRt:", "    __name__: str", "    __version__: str"]
    package += [f"    {name} = tensorrt_types.{name}" for name in sorted(classes)]
    return "\n".join(["# mypy: ignore-errors", "import collections.abc", "import tensorrt_types", body, *package, ""])


def valid(line: str) -> str:
    """A signature that Python takes: parameters have no names of its own, and none that must be given follows one that may."""
    if not line.lstrip().startswith("def "):
        return line
    line = re.sub(rf"\b({'|'.join(keyword.kwlist)})(?=: )", r"\1_", line)
    try:
        ast.parse(f"{line.strip()} ...")
    except SyntaxError:
        return re.sub(r" = [^,()]+", "", line)
    return line


def make(folder: Path = STUBS) -> None:
    """Write the stubs of every package that is there, in place of those before."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        draft = Path(name) / folder.name
        found = {}
        for package, (module, distribution) in INSTALLED.items():
            if importlib.util.find_spec(module.partition(".")[0]) is not None:
                found[f"{package}-{metadata.version(distribution)}"] = lambda module=module: signatures(module)
        for wheel in sorted(WHEELS.glob("tensorrt*.whl")):
            found[f"tensorrt-{wheel.name.split('-')[1]}"] = lambda wheel=wheel: of_wheel(wheel)
        draft.mkdir()
        for package, read in found.items():
            try:
                text = clean(read())
            except (OSError, RuntimeError, SyntaxError, subprocess.CalledProcessError) as exc:
                print(f"no stubs of {package}: {exc}", file=sys.stderr)
                continue
            (draft / package).mkdir()
            (draft / package / NAME).write_text(text)
        shutil.rmtree(folder, ignore_errors=True)
        if any(draft.iterdir()):
            draft.replace(folder)


if __name__ == "__main__":
    make()
