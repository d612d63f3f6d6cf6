"""Command lines, made of what people and programs type wrongly: none ends in a traceback, and none that is bad is believed.

Nothing here starts long work: every case has a value out of range, a name that is unknown, a file that is not there, or
a bundle that is an empty folder.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import click
from click.testing import CliRunner, Result

from resnet_deploy.cli import main
from resnet_deploy.commands.options import Number

NAME = "command_lines"
EXIT_CODES = {0, 1, 2, 3, 130}  # not 70, a fault of our own
HIDDEN = {chr(code) for code in (*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
WRONG = [
    "nan",
    "-nan",
    "inf",
    "-inf",
    "1e999",
    "-1e999",
    "0x7f",
    "1_0",
    "\u0663",
    "\u00b2",
    "--1",
    "1e",
    "",
    " ",
    "None",
    "true",
]
HUGE = ["9" * 30, "9" * 400, "9" * 5000, str(2**63), str(2**64), str(10**23), str(-(2**63))]
NAMES = [
    "",
    ".",
    "..",
    "/",
    "~",
    "nowhere",
    "a" * 300,
    "a/" * 60,
    "\x1b[31mred",
    "\u202egnp",
    "x\ny",
    "\udcff",
    "%s%n",
    "-",
    "*",
]
BACKENDS = ["eager", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "cpu", "", "ONNXRuntime", "eager "]
OPTIONS = [
    "cpu", "cuda", "fp32", "fp16", "bf16", "int8", "fp8", "tensorrt", "simulate", "compile", "cuda_graph", "no_cuda_graph",
    "streams=2", "streams=3", "streams=0", "streams=\u0663", "streams", "", "=",
]  # fmt: skip
REQUIRED = {
    "export": ["resnet20", "-o", "OUT"], "verify": ["EMPTY", "--data", "random:2"], "bench": ["EMPTY"],
    "tune": ["EMPTY", "--data", "random:2"], "build": ["EMPTY"], "triton": ["EMPTY", "-o", "OUT"], "report": ["EMPTY"],
    "embed": ["EMPTY", "EMPTY", "-o", "OUT.parquet"], "cpp": ["EMPTY", "-o", "OUT"], "inspect": ["FILE"],
}  # fmt: skip
Case = tuple[list[str], bool]  # the arguments, and whether the command line has to be refused


def run(rng: random.Random, folder: Path) -> None:
    """One command line in this process, in `folder`.

    Raises:
        AssertionError: a bad command line was believed, or the answer is not one that the command line gives.
    """
    (folder / "empty").mkdir(exist_ok=True)
    (folder / "file.onnx").write_bytes(rng.randbytes(rng.randrange(200)))
    case = rng.choice((_number, _number, _number, _backend, _names, _options, _text, _words))
    args, refused = case(rng, folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        done = CliRunner().invoke(main, args)
    finally:
        os.chdir(before)
    _judge(args, done, refused)


def _judge(args: list[str], done: Result, refused: bool) -> None:
    shown = f"{[arg[:60] for arg in args]}: {done.stdout[:200]!r} {done.stderr[:300]!r}"
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code in EXIT_CODES, f"a traceback, exit code {done.exit_code}: {shown}"
    assert "Traceback" not in done.stderr, f"a traceback: {shown}"
    assert not refused or done.exit_code == 2, f"believed, exit code {done.exit_code}: {shown}"
    assert done.exit_code == 0 or done.stderr.strip(), f"silent, exit code {done.exit_code}: {shown}"
    assert not HIDDEN & set(done.stdout + done.stderr), f"control characters: {shown}"
    assert sum(line.startswith("Error: ") for line in done.stderr.splitlines()) <= 1, f"several errors: {shown}"


def _base(command: str, folder: Path) -> list[str]:
    """A command with what it cannot be without; its bundle is an empty folder, and so refused at the latest there."""
    places = {"EMPTY": "empty", "OUT": "out", "OUT.parquet": "out.parquet", "FILE": "file.onnx"}
    return [command, *(str(folder / places[part]) if part in places else part for part in REQUIRED[command])]


def _number(rng: random.Random, folder: Path) -> Case:
    """An option's number that is none, or far beyond."""
    numeric = [
        (name, option.opts[-1])
        for name, command in main.commands.items()
        for option in command.params
        if isinstance(option, click.Option) and isinstance(option.type, Number)
    ]
    command, option = rng.choice(numeric)
    number = rng.choice(WRONG + HUGE)
    text = rng.choice(("{}", "{}", "{}s", "{}min", "1,{}", "{},{}", "0.5,{},0.5", "1:{}:8", "{}%")).replace("{}", number)
    joined = [f"{option}={text}"] if rng.random() < 0.5 else [option, text]
    return [*_base(command, folder), *joined], True


def _backend(rng: random.Random, folder: Path) -> Case:
    """A backend's text; its bundle is none, so that nothing runs."""
    text = rng.choice(BACKENDS)
    if rng.random() < 0.9:
        text += ":" + ",".join(rng.choices(OPTIONS, k=rng.randrange(5)))
    command = rng.choice(("verify", "bench", "tune", "embed"))
    return [*_base(command, folder), "--backend", text], True


def _names(rng: random.Random, folder: Path) -> Case:
    """A bundle, file, architecture or command that is not there, of any name."""
    name = rng.choice(NAMES) + rng.choice(("", "", ".onnx", ".plan", ".json", "\x9b2J"))
    command = rng.choice([*REQUIRED, "models", "doctor", name])
    if command not in REQUIRED:
        return [command, name], bool(command) and not (command.startswith("-") or name.startswith("-"))
    rest = _base(command, folder)[2:]
    return [command, name, *rest], False


def _options(rng: random.Random, folder: Path) -> Case:
    """Options of any command with values of any kind."""
    command = rng.choice(sorted(REQUIRED))
    args = [*_base(command, folder), *(["--weights", "nowhere.pth"] if command == "export" else [])]
    known = [option for option in main.commands[command].params if isinstance(option, click.Option)]
    for option in rng.sample(known, min(len(known), rng.randrange(1, 4))):
        if "--weights" in option.opts:
            continue
        args.append(rng.choice(option.opts + option.secondary_opts))
        if not option.is_flag and rng.random() < 0.9:
            values = [*WRONG, *HUGE, *NAMES, "1", "fp16", "sm86", "max-abs-error=nan", "topk:0", "latest:0", "5%"]
            args.append(rng.choice(values))
    return args, False


def _text(rng: random.Random, folder: Path) -> Case:
    """Numbers within a text."""
    command, option, text = rng.choice((
        ("verify", "--gate", "top1-agreement={}"), ("bench", "--gate", "max-abs-error={}"), ("export", "--head", "topk:{}"),
        ("triton", "--version-policy", "latest:{}"), ("triton", "--version-policy", "specific:1,{}"),
        ("bench", "--batch", "1,{}"), ("build", "--batch", "{}:{}:{}"), ("verify", "--gate", "speed={}"),
    ))  # fmt: skip
    number = rng.choice([wrong for wrong in WRONG if wrong.strip()])
    return [*_base(command, folder), option, text.replace("{}", number)], True


def _words(rng: random.Random, folder: Path) -> Case:
    """Words in any order."""
    quick = [command for command in REQUIRED if command not in {"export", "bench"}]
    words = [*quick, *NAMES, "--help", "--json", "--version", "-h", "-o", "--data", "--backend", str(folder / "empty")]
    return rng.choices(words, k=rng.randrange(5)), False
