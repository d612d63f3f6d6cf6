"""Commands in forked children of a process that has imported everything, and what they promise.

python -m tests.fuzz.processes PACKAGE NAME SEED FIRST COUNT (runs a campaign; one line of JSON an outcome)
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from tests.fuzz.bundles import BENCH, BUILD, DIGITS, ENVIRONMENT, command, has_rtx
from tests.fuzz.cases import PACKAGE, Outcome, discover, normal

# Without onnxruntime, whose import starts a thread.
HEAVY = (
    "torch", "onnx", "onnx.helper", "onnxscript", "safetensors.torch", "sklearn.datasets", "scipy.stats",
    "PIL.Image", "PIL.PngImagePlugin", "tqdm", "tabulate", "pyarrow.parquet", "tensorrt_rtx",
)  # fmt: skip
END_S = 180.0  # of a command; more is a hang
SAME = ("--weights", str(DIGITS), "--input", "uint8", "--max-batch", "4")
CALIBRATED = ("--calibration", "digits:train", "--calibration-images", "16", "--calibration-method", "max")


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A command that has ended: its exit code (negative: the signal), what it printed, seconds."""

    name: str
    code: int
    stdout: str
    stderr: str
    seconds: float


def commands() -> dict[str, Callable[[Path, Path], list[str]]]:
    """The commands that write, as arguments for a bundle and for a folder of outputs."""
    found: dict[str, Callable[[Path, Path], list[str]]] = {
        "bf16": lambda bundle, out: ["export", "resnet20", *SAME, "--precision", "bf16", "-o", str(bundle)],
        "int8": lambda bundle, out: ["export", "resnet20", *SAME, "--precision", "int8", *CALIBRATED, "-o", str(bundle)],
        "tune": lambda bundle, out: ["tune", str(bundle), "--data", "digits", "--limit", "16", *CALIBRATED],
        "build": lambda bundle, out: ["build", str(bundle), *BUILD],
        "bench": lambda bundle, out: ["bench", str(bundle), *BENCH],
        "verify": lambda bundle, out: ["verify", str(bundle), "--data", "digits", "--limit", "16"],
        "triton": lambda bundle, out: ["triton", str(bundle), "-o", str(out / "repository")],
        "cpp": lambda bundle, out: ["cpp", str(bundle), "-o", str(out / "project")],
        "embed": lambda bundle, out: [
            "embed", str(bundle), str(images()), "-o", str(out / "answers.parquet"), "--workers", "1"
        ],
    }  # fmt: skip
    return {name: arguments for name, arguments in found.items() if name != "build" or has_rtx()}


def base() -> Path:
    """A bundle with FP32 and FP16, so that every command has something to add. Made once a run."""
    folder = Path(os.environ[ENVIRONMENT])
    with FileLock(folder / "plain.lock"):
        if not (folder / "plain").exists():
            command("export", "resnet20", *SAME, "--precision", "fp32,fp16", "-o", str(folder / "making"))
            (folder / "making").rename(folder / "plain")
    return folder / "plain"


def images() -> Path:
    """Six images, made once a run."""
    from PIL import Image

    folder = Path(os.environ[ENVIRONMENT]) / "images"
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            folder.mkdir()
            for number in range(6):
                Image.new("RGB", (40, 32), (number * 40, 255 - number, 7)).save(folder / f"{number}.png")
    return folder


def warm() -> None:
    """Import what commands import, and no more: a process that forks must have one thread."""
    import resnet_deploy

    names = [item.name for item in pkgutil.walk_packages(resnet_deploy.__path__, "resnet_deploy.")]
    skipped = (
        "resnet_deploy.serving.triton.steps",
        "resnet_deploy.serving.embedding.decode_worker",
        "resnet_deploy.serving.embedding.ray",
    )
    for name in [*HEAVY, *(name for name in names if not name.startswith(skipped))]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    sys.modules["torch"].set_num_threads(1)
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "an import started threads"


def start(
    name: str, arguments: list[str], folder: Path, *, delay_s: float = 0.0, before: Callable[[], None] | None = None
) -> int:
    """Fork a child that runs a command; returns its process id. before: called in the child first."""
    folder.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    files = [os.open(folder / f"{name}.{suffix}", flags) for suffix in ("out", "err")]
    pid = os.fork()
    if pid:
        for file in files:
            os.close(file)
        return pid
    code = 99
    try:
        os.setsid()
        for file, number in zip(files, (1, 2), strict=True):
            os.dup2(file, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(folder)
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(1)  # after a fork its pool is made again, by the first call, which two threads may not be
        time.sleep(delay_s)
        if before is not None:
            before()
        code = run_here(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_here(arguments: list[str]) -> int:
    """Run a command in this process, and return its exit code as a shell would see it."""
    from resnet_deploy.cli import main

    sys.argv = ["resnet-deploy", *arguments]
    try:
        main(arguments, prog_name="resnet-deploy")
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else 0 if exc.code is None else 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def wait(pid: int, name: str, folder: Path, limit_s: float = END_S) -> Ended:
    """Wait for a child. A hang is killed, and has the code -SIGALRM."""
    begin = time.monotonic()
    while time.monotonic() - begin < limit_s:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            break
        time.sleep(0.005)
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        code = -signal.SIGALRM
    with contextlib.suppress(ProcessLookupError):  # what it has started
        os.killpg(pid, signal.SIGKILL)
    texts = [(folder / f"{name}.{suffix}").read_text(errors="replace") for suffix in ("out", "err")]
    return Ended(name=name, code=code, stdout=texts[0], stderr=texts[1], seconds=time.monotonic() - begin)


def run_alone(name: str, arguments: list[str], folder: Path) -> Ended:
    """A command from its start to its end."""
    return wait(start(name, arguments, folder), name, folder)


def fresh(work: Path, name: str) -> Path:
    """A new folder with a copy of the base bundle in it, `bundle`."""
    folder = Path(tempfile.mkdtemp(dir=work, prefix=f"{name}-"))
    shutil.copytree(base(), folder / "bundle")
    return folder


def broken(ended: Ended) -> tuple[str, str] | None:
    """A finding where a command ended as none may: kind and text."""
    if ended.code == -signal.SIGALRM:
        return "hangs", f"{ended.name} runs for more than {END_S:g} s"
    if ended.code < 0:
        return "crashes", f"{ended.name} died of {signal.Signals(-ended.code).name}"
    if "Traceback (most recent call last)" in ended.stderr:
        return "tracebacks", f"{ended.name}: {last_line(ended.stderr)}"
    if ended.code not in {0, 1, 2, 3}:
        return "tracebacks", f"{ended.name} ended with {ended.code}: {last_line(ended.stderr)}"
    return None


def last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "without a word"


def finding(target: str, number: int, kind: str, text: str) -> Outcome:
    """An outcome whose group is its text without numbers and paths."""
    place = str(os.environ.get(ENVIRONMENT, ""))
    words = [("PATH" if place and place in word else word) for word in text.split(" ")]
    return Outcome(target=target, number=number, kind=kind, where=normal(" ".join(words)), text=text.replace(place, ""))


def main() -> None:
    package, name, seed, first, count = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
    if package == PACKAGE:
        base(), images()
        warm()
    for outcome in discover(package)[name].campaign(seed, first, count, Path(os.environ[ENVIRONMENT])):
        print(json.dumps(outcome.to_dict()), flush=True)


if __name__ == "__main__":
    main()
