"""How soon the command line answers: `resnet-deploy --help` against the import of its argument parser alone.

    python benchmarks/startup.py [--json benchmarks/results/startup.json]

Every start is a new process; ours and the peers take turns.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

from common import Limit, alone, arguments, compare, finish, fresh

OURS = str(Path(sysconfig.get_path("scripts")) / "resnet-deploy")
HELP = [OURS, "--help"]
CLICK = [sys.executable, "-c", "import click"]
MODELS = [OURS, "models"]
TORCH = [sys.executable, "-c", "import torch"]
HEAVY = {"torch", "onnx", "onnxscript", "onnxruntime", "numpy", "PIL"}


def heavy_imports() -> set[str]:
    """The heavy packages that `--help` imports, from Python's own list of every import."""
    lines = fresh([sys.executable, "-X", "importtime", *HELP]).stderr.splitlines()
    modules = {line.rsplit("|", 1)[1].strip() for line in lines if line.startswith("import time:")}
    if "click" not in modules:
        raise RuntimeError("the list of imports was not understood: click is not in it")
    return {module.split(".")[0] for module in modules} & HEAVY


def take_turns(ours: list[str], peer: list[str], rounds: int) -> tuple[list[float], list[float]]:
    """Wall-clock seconds of each start, after one start each that fills the disk's and the byte code's caches."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(-1, rounds):
        for which in (0, 1) if turn % 2 else (1, 0):
            wall_s = fresh((ours, peer)[which]).wall_s
            if turn >= 0:
                times[which].append(wall_s)
    return times


def main() -> None:
    options = arguments(__doc__, rounds=25)
    heavy = heavy_imports()
    print(f"heavy packages that --help imports: {', '.join(sorted(heavy)) or 'none'}\n")
    help_s, click_s = take_turns(HELP, CLICK, options.rounds)
    models_s, torch_s = take_turns(MODELS, TORCH, max(3, options.rounds // 5))
    rows = [
        compare("`resnet-deploy --help` against `import click`", help_s, click_s, limit=Limit(bound="at most", value=3)),
        alone("heavy packages that `--help` imports", len(heavy), unit="count", limit=Limit(bound="at most", value=0)),
        compare("`resnet-deploy models` against `import torch`", models_s, torch_s),
    ]
    samples = {"help_s": help_s, "click_s": click_s, "models_s": models_s, "torch_s": torch_s}
    finish("startup", rows, samples, options)


if __name__ == "__main__":
    main()
