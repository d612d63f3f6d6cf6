"""What there is, and what is made: models, doctor, export, build, inspect."""

from __future__ import annotations

from typing import Any

import click

from resnet_deploy import _json
from resnet_deploy.commands.options import (
    PRECISION_NAMES,
    export_options,
    flag,
    json_option,
    number,
    precision_options,
    profiles,
)
from resnet_deploy.commands.output import given_of, show, warn
from resnet_deploy.commands.program import program
from resnet_deploy.terminal import preparing as text
from resnet_deploy.terminal.progress import Bars
from resnet_deploy.terminal.tables import table


@click.command()
@json_option
def models(as_json: bool) -> None:
    """List the architectures by family: parameters, GMACs, memory, paper, its error, published weights.

    Memory is that of FP32 weights, and of what the convolutions put out for one image.

    \b
    Example:
        resnet-deploy models
    """
    import resnet_deploy as rd

    rows = [row.to_dict() for row in rd.models()]
    show({"models": rows}, lambda: text.models(rows), as_json)


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Try every backend on this machine, and say what is missing for the others.

    \b
    Example:
        resnet-deploy doctor
    """
    import resnet_deploy as rd

    findings = [finding.to_dict() for finding in rd.doctor()]
    show({"backends": findings}, lambda: table(findings), as_json)


@click.command()
@click.argument("architecture", metavar="ARCH|DIR")
@click.option("-o", "--output", metavar="DIR", help="The bundle's folder. [default: DIR, which is added to]")
@export_options
@precision_options
@json_option
def export(architecture: str, output: str | None, as_json: bool, **given: Any) -> None:
    """Export ARCH to a checked ONNX file in a bundle, and to others in lower precision; or add to the bundle DIR.

    What a bundle holds stays: what is not said is taken from it, and a request that differs is refused without --overwrite.

    \b
    Example:
        resnet-deploy export resnet50 --weights ckpt.pth --input uint8 --head topk:5 -o build/resnet50
        resnet-deploy export resnet50 --weights ckpt.pth --precision fp16,int8 --calibration train/ -o build/resnet50
        resnet-deploy export build/resnet50 --precision bf16
    """
    import resnet_deploy as rd

    running = program()
    running.divide()  # an exporter that aborts when it is interrupted is interrupted
    with Bars(running.at) as bars:
        bundle = rd.export(architecture, output, progress=bars, **given_of(given))
    content = _json.plain(bundle.manifest)
    summary = {"bundle": str(bundle.path), "model": content["model"], "artifacts": content["artifacts"]}
    show(summary, lambda: text.exported(bundle), as_json)
    for entry in bundle.manifest.artifacts.values():
        for warning in entry.notes:
            warn(warning)


@click.command()
@click.argument("bundle", metavar="DIR")
@click.option("--precision", default="fp32", show_default=True, metavar="LIST", help=f"Of {PRECISION_NAMES}.")
@profiles(
    "--batch",
    multiple=True,
    metavar="PROFILE",
    help="A batch size, or smallest:best:largest; a profile each time. [default: 1:8:32]",
)
@click.option("--flavour", help="auto, tensorrt or tensorrt-rtx. [default: auto]")
@click.option("--target", metavar="LIST", help="Compute capabilities, as sm86,sm89 (tensorrt-rtx). [default: this GPU's]")
@number(
    "--optimization-level",
    help="0 (fast to build) to 5 (fast to run). [default: the package's, 3]",
)
@number("--workspace-mib", help="Scratch memory that kernels may use, MiB. [default: all]")
@click.option("--hardware-compatible", help="ampere-plus or same-compute-capability (tensorrt).")
@flag("--version-compatible", help="Also for later versions of TensorRT (tensorrt).")
@flag("--sparse-weights", help="Use 2:4 sparse kernels where weights are so.")
@flag("--tf32", help="TF32 in FP32 layers: faster, and 11 bits instead of 24.")
@click.option("--timing-cache/--no-timing-cache", default=None, help="Keep kernels' times. [default: where there is one]")
@json_option
def build(bundle: str, as_json: bool, **given: Any) -> None:
    """Build TensorRT plans of a bundle, and prove the precision of their layers; exit code 1 where it is not what was asked.

    TensorRT builds for the GPU that it runs on; TensorRT-RTX for any, without one.

    \b
    Example:
        resnet-deploy build build/resnet50 --precision fp16,int8 --batch 1 --batch 2:8:32
        resnet-deploy build build/resnet50 --precision int8 --flavour tensorrt-rtx --target sm86,sm89
    """
    import resnet_deploy as rd

    running = program()
    running.divide()
    with Bars(running.at) as bars:
        plans = rd.build(bundle, progress=bars, **given_of({**given, "batch": given["batch"] or None}))
    show({"bundle": bundle, "plans": [plan.to_dict() for plan in plans]}, lambda: text.plans(bundle, plans), as_json)
    for plan in plans:
        for warning in plan.entry.warnings:
            warn(f"{plan.name}: {warning}")


@click.command()
@click.argument("file", metavar="FILE")
@click.option("--trust", is_flag=True, help="Read a plan that no manifest knows: that runs its code, on this GPU.")
@json_option
def inspect(file: str, trust: bool, as_json: bool) -> None:
    """Show an ONNX file's inputs, outputs and layers, or the precision in which a plan's layers really compute.

    \b
    Example:
        resnet-deploy inspect build/resnet50/model.fp32.onnx
        resnet-deploy inspect build/resnet50/model.int8.tensorrt-rtx-1.7.1.116.sm86.plan
    """
    import resnet_deploy as rd

    program().divide()  # reading a plan, or a file that is hostile, runs a runtime's own code
    report = rd.inspect(file, trust=trust)
    show(report.to_dict(), lambda: text.inspected(report), as_json)
    for warning in report.warnings:
        warn(warning)
