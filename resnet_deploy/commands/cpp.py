"""`cpp`: a bundle as a C++ project."""

from __future__ import annotations

from typing import Any

import click
import cloup

from resnet_deploy.backends.table import BACKENDS
from resnet_deploy.commands.options import PRECISION_NAMES, json_option
from resnet_deploy.commands.output import show
from resnet_deploy.terminal import cpp as text


@cloup.command()
@cloup.argument("bundle", metavar="DIR")
@cloup.option_group(
    "What to run",
    cloup.option(
        "--backend",
        type=click.Choice([row.name for row in BACKENDS.values() if row.cpp]),
        default="onnxruntime",
        show_default=True,
        help="ONNX Runtime on CPUs, or plans that were built.",
    ),
    cloup.option("--precision", default="fp32", show_default=True, help=f"Of {PRECISION_NAMES}."),
)
@cloup.option_group(
    "Output",
    cloup.option("-o", "--output", required=True, metavar="PROJECT", help="A new or empty folder."),
    json_option,
)
def cpp(bundle: str, output: str, as_json: bool, **options: Any) -> None:
    """Write a C++ project that runs a bundle.

    It is a CMake project of a library with one header, and the program classify. The program takes raw pixels and
    needs the runtime alone: no Python, no image library. Before it loads a file, it checks the manifest, the file's hash
    and, of a plan, its version and GPU.

    \b
    Example:
        resnet-deploy cpp build/resnet50 -o build/resnet50-cpp
        resnet-deploy cpp build/resnet50 -o build/resnet50-gpu --backend tensorrt --precision int8
    """
    import resnet_deploy as rd

    project = rd.write_cpp(bundle, output, **options)
    show(project.to_dict(), lambda: text.project(project), as_json)
