"""Check every call into TensorRT against the signatures of each package: mypy, once for each of their stubs.

    python -m tests.typing.check

A file that types values by `tensorrt_types` is checked, against every package but those of ONLY.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.helpers.paths import ROOT
from tests.typing.stubs import STUBS

PACKAGE = ROOT / "resnet_deploy"
CACHE = ROOT / ".mypy_cache"
BUILDERS = ("tensorrt-1", "tensorrt-rtx-")
ONLY = {
    "engine/build.py": BUILDERS,
    "engine/formats.py": BUILDERS,
    "engine/rtx.py": ("tensorrt-rtx-",),
}  # what the names of their packages begin with


def files_of(package: str, folder: Path = PACKAGE) -> list[Path]:
    """The files whose calls a package must have."""
    typed = [path for path in sorted(folder.rglob("*.py")) if "from tensorrt_types import" in path.read_text()]
    return [path for path in typed if package.startswith(ONLY.get(str(path.relative_to(folder)), ("",)))]


def check(stubs: Path, folder: Path = PACKAGE, cache: Path = CACHE) -> str:
    """What mypy finds with a package's stubs; empty where that is nothing."""
    options = ["--follow-imports", "silent", "--no-error-summary", "--cache-dir", str(cache / stubs.name)]
    command = [sys.executable, "-m", "mypy", *options, *map(str, files_of(stubs.name, folder))]
    environment = {**os.environ, "MYPYPATH": str(stubs)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder.parent, env=environment)
    return done.stdout + done.stderr


def main() -> int:
    """Check against all stubs that are there."""
    packages = sorted(STUBS.glob("*/"))
    if not packages:
        print("calls into TensorRT are not checked: make setup could not make its packages' stubs")
    failed = 0
    for stubs in packages:
        if said := check(stubs):
            failed = 1
            print(f"with {stubs.name}:\n{said}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
