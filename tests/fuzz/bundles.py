"""A real bundle of the digits' ResNet-20, made once a run; and manifests that were changed, with a digest that is right.

python -m tests.fuzz.bundles FOLDER (makes it there)
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from filelock import FileLock

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "examples" / "digits" / "resnet20.safetensors"
ENVIRONMENT = "RESNET_DEPLOY_FUZZ"  # the run's folder
MANIFEST = "manifest.json"
EXPORT = (
    "export", "resnet20", "--weights", str(DIGITS), "--input", "uint8", "--max-batch", "4", "--precision", "fp32,fp16,int8",
    "--calibration", "digits:train", "--calibration-images", "16",
)  # fmt: skip
VERIFY = ("--data", "digits", "--limit", "32", "--backend", "onnxruntime", "--backend", "onnxruntime:int8", "--gate")
BENCH = ("--duration", "0.05", "--batch", "1", "--backend", "onnxruntime")
BUILD = ("--precision", "fp16", "--flavour", "tensorrt-rtx", "--compute-capability", "sm86", "--batch", "1:4:4")


def base_bundle() -> Path:
    """The bundle that all cases start from; copy it before it is changed. Made by the first process that asks."""
    folder = Path(os.environ[ENVIRONMENT])
    with FileLock(folder / "base.lock"):
        if not (folder / "base").exists():
            make(folder / "making")
            (folder / "making").rename(folder / "base")
    return folder / "base"


def make(folder: Path) -> None:
    """Everything that a bundle can hold without a GPU: FP32, FP16, INT8, a calibration, parity, measurements, a plan."""
    command(*EXPORT, "-o", str(folder))
    command("verify", str(folder), *VERIFY, "cosine-mean=0.9")
    command("bench", str(folder), *BENCH)
    if has_rtx():
        command("build", str(folder), *BUILD)


def has_rtx() -> bool:
    """Whether plans can be built here: TensorRT-RTX needs no GPU for that."""
    try:
        import tensorrt_rtx  # noqa: F401
    except ImportError:
        return False
    return True


def command(*arguments: str) -> None:
    """Run a command of the command line in a process of its own. Raises RuntimeError where it fails."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "resnet_deploy.cli", *arguments], capture_output=True, text=True, env=environment, cwd=ROOT,
        preexec_fn=unlimited,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments[:2])} ended with {done.returncode}: {done.stderr[-2000:]}")


def unlimited() -> None:
    """Take back the limit of memory that a worker has: a bundle is made once, and no case."""
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def copied(folder: Path) -> Path:
    """A copy in a folder, whose big files are hard links: for readers, and for those who replace files by renaming."""
    source = base_bundle()
    folder.mkdir(parents=True)
    for file in source.iterdir():
        if file.name == MANIFEST or file.stat().st_size < 65536:
            shutil.copyfile(file, folder / file.name)
        else:
            os.link(file, folder / file.name)
    return folder


def read(folder: Path) -> dict[str, Any]:
    """A bundle's manifest as plain values, without its digest."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    manifest.pop("digest", None)
    return dict(manifest)


def seal(text: str) -> bytes:
    """The manifest's bytes of a JSON object in text form, with the digest that this version computes: the one place for it.

    By hand, as the writer refuses what these texts have: numbers that are not finite, depth, keys that are there twice.
    """
    body = (text.rstrip().removesuffix("}").rstrip() + ",\n ").encode("utf-8", "surrogatepass")
    return body + f'"digest": "{hashlib.sha256(body).hexdigest()}"\n}}\n'.encode()


if __name__ == "__main__":
    make(Path(sys.argv[1]))
