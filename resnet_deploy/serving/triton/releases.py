"""What NVIDIA's Triton releases carry: the TensorRT that has to read a plan."""

from __future__ import annotations

import re

from resnet_deploy.engine.flavours import TENSORRT
from resnet_deploy.engine.plan import Origin, version_fits
from resnet_deploy.errors import ServingError, UsageError

# TensorRT of nvcr.io/nvidia/tritonserver:RELEASE-py3, as many numbers of it as were found. 26.03 is that of its base image:
# https://docs.nvidia.com/deeplearning/frameworks/cuda-dl-release-notes/rel-26-03.html. The others are as projects that run
# these images quote NVIDIA's notes, not read off an image: a row is to be checked against NVIDIA's table of all releases,
# https://docs.nvidia.com/deeplearning/frameworks/support-matrix/index.html, and the release's own notes, such as
# https://docs.nvidia.com/deeplearning/triton-inference-server/release-notes/rel-26-09.html. The images named
# -trtllm-python-py3 carry an older TensorRT:
# https://github.com/triton-inference-server/server/blob/main/docs/introduction/compatibility.md
RELEASES = {
    "26.09": "11.3",
    "26.08": "11.2.1.2",
    "26.07": "11.1.0.106",
    "26.06": "11.0",
    "26.05": "10.16.1.11",
    "26.03": "10.16.0.72",
    "26.02": "10.15.1.29",
}


def tensorrt_of(server: str) -> str:
    """The TensorRT of a Triton release such as 26.09, or of a server that is named by its TensorRT, as in tensorrt-11.3.0.99.

    Raises UsageError for a release that is not in the table, with how to find out.
    """
    if server in RELEASES:
        return RELEASES[server]
    if match := re.fullmatch(r"tensorrt-(\d+(?:\.\d+)+)", server):
        return match[1]
    if re.fullmatch(r"\d\d\.\d\d", server):
        raise UsageError(
            f"the TensorRT of Triton {server} is not in this version's table ({', '.join(RELEASES)}). Find it with `docker run "
            f"--rm nvcr.io/nvidia/tritonserver:{server}-py3 sh -c 'ls /usr/lib/*/libnvinfer.so.*'`, and give it as "
            "--release tensorrt-11.3.0"
        )
    raise UsageError(f"{server!r} is neither a Triton release, as 26.09, nor a TensorRT version, as tensorrt-11.3.0.99")


def fits(plan: Origin, version: str) -> bool:
    """Whether a TensorRT version, or one of which only the first numbers are known, reads a plan."""
    if plan.flavour != TENSORRT.name:
        return False
    same = plan.version == version or plan.version.startswith(f"{version}.")
    return same or (plan.version_compatible and version_fits(plan, version))


def check_release(server: str, name: str, plan: Origin, build: str) -> None:
    """Raise ServingError, saying what to build instead, where a server cannot read a plan. build: the command that builds."""
    version = tensorrt_of(server)
    if fits(plan, version):
        return
    others = [release for release, carried in RELEASES.items() if fits(plan, carried)]
    serving = f", or serve it with Triton {', '.join(others)}" if others else ""
    what = f"Triton {server}" if server in RELEASES else "the server"
    wanted = version if version.count(".") == 3 else f"{version}.*"
    raise ServingError(
        f"{name} was built with {plan.flavour} {plan.version}, and {what} carries tensorrt {version}, which cannot read it. "
        f"Build the plan again with that: pip install 'tensorrt=={wanted}', then `{build} --flavour {TENSORRT.name}`{serving}"
    )
