"""The command line: parse, call, print. Everything else is in the library, with the same names and defaults."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import click

from resnet_deploy.cli_options import data_options, export_options, flag, json_option, precision_options, scenario_options
from resnet_deploy.errors import EXIT_GATE, EXIT_INTERRUPTED, EXIT_MACHINE, DeployError

F = TypeVar("F", bound=Callable[..., Any])


class Commands(click.Group):
    """Turns errors into messages and exit codes, in this one place."""

    def invoke(self, ctx: click.Context) -> Any:
        if not sys.warnoptions:  # libraries' notes to programmers, such as PIL's on TIFF tags
            warnings.simplefilter("ignore")
        try:
            return super().invoke(ctx)
        except DeployError as exc:
            fail(str(exc), exc.exit_code)
        except KeyboardInterrupt:
            fail("interrupted; nothing that was there before is lost. Run the command again to go on", EXIT_INTERRUPTED)
        except MemoryError as exc:
            fail(f"out of memory ({exc}); use a smaller --batch or --max-batch", EXIT_MACHINE)
        except BrokenPipeError:
            raise  # click's own: the reader went away, as in `... | head`
        except OSError as exc:
            fail(f"{exc.filename or 'a file'}: {exc.strerror or exc}", EXIT_MACHINE)


def fail(message: str, code: int) -> None:
    click.echo(f"Error: {message}", err=True)
    sys.exit(code)


def show(value: Any, text: Callable[[], str], as_json: bool) -> None:
    """A command's result: one JSON object, or text."""
    click.echo(json.dumps(value, indent=1) if as_json else text())


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Without what was left to its default."""
    return {name: value for name, value in options.items() if value is not None}


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="resnet-deploy")
def main() -> None:
    """Residual networks from PyTorch to ONNX and TensorRT engines that can be trusted.

    Exit codes: 0 done, 1 a gate failed, 2 wrong usage or input, 3 this machine can't, 130 interrupted.
    """


@main.command()
@json_option
def models(as_json: bool) -> None:
    """List the architectures by family: parameters, GMACs, memory, paper, its error, published weights.

    Memory is that of FP32 weights, and of what the convolutions put out for one image.

    \b
    Example:
        resnet-deploy models
    """
    from resnet_deploy import terminal
    from resnet_deploy.models.catalogue import catalogue

    rows = catalogue()
    show({"models": rows}, lambda: terminal.models(rows), as_json)


@main.command()
@json_option
def doctor(as_json: bool) -> None:
    """Try every backend on this machine, and say what is missing for the others.

    \b
    Example:
        resnet-deploy doctor
    """
    import resnet_deploy as rd
    from resnet_deploy import terminal

    findings = [finding.to_dict() for finding in rd.doctor()]
    show({"backends": findings}, lambda: terminal.table(findings), as_json)


@main.command()
@click.argument("architecture", metavar="ARCH")
@click.option("-o", "--output", required=True, metavar="DIR", help="The bundle's folder.")
@export_options
@precision_options
@json_option
def export(architecture: str, output: str, as_json: bool, **given: Any) -> None:
    """Export ARCH to a checked ONNX file in a bundle, and to others in lower precision.

    \b
    Example:
        resnet-deploy export resnet50 --weights ckpt.pth --input uint8 --head topk:5 -o build/resnet50
        resnet-deploy export resnet50 --weights ckpt.pth --precision fp16,int8 --calibration train/ -o build/resnet50
    """
    import resnet_deploy as rd
    from resnet_deploy import terminal

    with terminal.Bars() as bars:
        bundle = rd.export(architecture, output, progress=bars, **_given(given))
    summary = {"bundle": str(bundle.path), "model": bundle.manifest["model"], "artifacts": bundle.manifest["artifacts"]}
    show(summary, lambda: terminal.exported(bundle), as_json)
    for entry in bundle.manifest["artifacts"].values():
        for warning in entry.get("warnings", []):
            click.echo(f"Warning: {warning}", err=True)


@main.command()
@click.argument("bundle", metavar="DIR")
@click.option("--data", required=True, help="A folder of images, an .npz file, `digits`, or `random:N`.")
@click.option(
    "--backend",
    "backends",
    multiple=True,
    default=["onnxruntime"],
    show_default=True,
    help="What to compare with eager, as in onnxruntime:cuda or eager:fp16; may be repeated.",
)
@click.option("--batch", type=int, default=32, show_default=True, help="Images at a time.")
@click.option(
    "--crops",
    type=click.Choice(["1", "10"]),
    default="1",
    show_default=True,
    callback=lambda *given: int(given[2]),
    help="Views of each image: the centre, or ten whose probabilities are averaged.",
)
@click.option("--layers", "by_layer", is_flag=True, help="Say block by block where eager and the bundle's graphs part.")
@data_options
@json_option
def verify(bundle: str, data: str, by_layer: bool, as_json: bool, **given: Any) -> None:
    """Prove that the bundle's files answer as the eager model does; exit code 1 when a gate fails.

    Metrics: max-abs-error, mean-abs-error, max-rel-error, cosine-mean, cosine-min, top1-agreement, top5-agreement,
    top1-accuracy, accuracy-difference.

    \b
    Example:
        resnet-deploy verify build/resnet50 --data val/ --gate top1-agreement=0.99 --gate max-abs-error=1e-3
    """
    import resnet_deploy as rd
    from resnet_deploy import terminal

    with terminal.Bars() as bars:
        found = rd.verify(bundle, data, progress=bars, **given)
        parted = rd.layers(bundle, data, backends=given["backends"], progress=bars) if by_layer else None
    results: dict[str, Any] = {"bundle": bundle, "results": [verdict.to_dict() for verdict in found]}
    if parted is not None:
        results["layers"] = parted.to_dict()
    show(results, lambda: terminal.verdicts(found) + ("" if parted is None else f"\n\n{terminal.layers(parted)}"), as_json)
    for item in found[0].data["skipped"]:
        click.echo(f"Warning: skipped {item['name']}: {item['reason']}", err=True)
    _judge([f"{verdict.candidate}: {failure}" for verdict in found for failure in verdict.failures])


@main.command()
@click.argument("target", metavar="ARCH|DIR")
@click.option("-o", "--output", metavar="DIR", help="The bundle of an ARCH. [default: build/ARCH]")
@click.option("--data", help="A folder of images, an .npz file, `digits`, or `random:N`. [default: random:32]")
@click.option("--batch", help="Batch sizes. [default: 1,8,32]")
@click.option(
    "--backend",
    "backends",
    multiple=True,
    default=["eager", "onnxruntime"],
    show_default=True,
    help="What to measure, as in onnxruntime:cuda or eager:fp16,channels_last; may be repeated.",
)
@click.option(
    "--duration",
    "duration_s",
    type=float,
    default=3.0,
    show_default=True,
    help="Seconds of sampling for each backend and batch.",
)
@data_options
@scenario_options
@click.option("--fresh", is_flag=True, help="Measure again what was measured before.")
@export_options
@precision_options
@json_option
def bench(target: str, as_json: bool, **given: Any) -> None:
    """Measure ARCH or a bundle, after whatever is missing of export and verification; exit code 1 when a gate fails.

    Latency is host to host: images in host memory to answers in host memory. "device ms" is the inference alone, the
    batch being bound. Backends are measured in turns, so that a drifting machine drifts under all of them.

    \b
    Example:
        resnet-deploy bench resnet50 --weights ckpt.pth --data val/ --batch 1,8,32
    """
    import resnet_deploy as rd
    from resnet_deploy import terminal

    with terminal.Bars() as bars:
        report = rd.bench(target, progress=bars, **_given(given))
    show(report.to_dict(), lambda: terminal.bench(report), as_json)
    for warning in report.warnings:
        click.echo(f"Warning: {warning}", err=True)
    _judge(report.failures, EXIT_MACHINE if report.broken else EXIT_GATE)


@main.command()
@click.argument("bundle", metavar="DIR")
@click.option("--data", required=True, help="Images that judge, as in verify; those calibrated on are left out.")
@click.option("--max-drop", type=float, metavar="POINTS", help="Of top-1, in percentage points. [default: 1 % of FP32's]")
@click.option("--backend", help="Measure mixes on it and take the fastest, as in openvino:int8. [default: fewest kept]")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Of that measurement.")
@click.option("--limit", type=click.IntRange(min=1), default=256, show_default=True, help="Use so many images, evenly spaced.")
@click.option("--strict", is_flag=True, help="Fail at the first image that cannot be read.")
@click.option(
    "--gate", "gates", multiple=True, metavar="METRIC=LIMIT", help="A condition in place of a default; may be repeated."
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of the backend. [default: all cores]")
@click.option("--plot", type=click.Path(dir_okay=False), help="Draw the sensitivities to this SVG or PNG (extra `plot`).")
@precision_options
@json_option
def tune(bundle: str, data: str, as_json: bool, **given: Any) -> None:
    """Find the mix of INT8 and higher precision that passes the gates, and write the bundle's INT8 files with it.

    Blocks are quantized one at a time for their sensitivity. Kept in higher precision are then the fewest operations with
    which the gates hold or, with --backend, those of the fastest mix with which they do. Exit code 1 when none passes.

    \b
    Example:
        resnet-deploy tune build/resnet50 --calibration train/ --data val/ --max-drop 0.5
    """
    import resnet_deploy as rd
    from resnet_deploy import terminal

    with terminal.Bars() as bars:
        found = rd.tune(bundle, data, progress=bars, **_given(given))
    show({"bundle": bundle, "tuning": found.to_dict()}, lambda: terminal.tuning(found), as_json)


def _judge(failures: list[str], code: int = EXIT_GATE) -> None:
    """Say each failure once, and leave with the exit code."""
    for failure in dict.fromkeys(failures):
        click.echo(f"FAILED {failure}", err=True)
    if failures:
        sys.exit(code)


@main.command()
@click.argument("bundle", metavar="DIR")
@click.option("--precision", default="fp32", show_default=True, metavar="LIST", help="Of fp32, fp16, bf16, int8, fp8.")
@click.option(
    "--batch",
    multiple=True,
    metavar="PROFILE",
    help="A batch size, or smallest:best:largest; a profile each time. [default: 1:8:32]",
)
@click.option("--flavour", help="auto, tensorrt or tensorrt-rtx. [default: auto]")
@click.option("--target", metavar="LIST", help="Compute capabilities, as sm86,sm89 (tensorrt-rtx). [default: this GPU's]")
@click.option("--optimization-level", type=int, help="0 (fast to build) to 5 (fast to run). [default: the package's, 3]")
@click.option("--workspace-mib", type=int, help="Scratch memory that kernels may use, MiB. [default: all]")
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
    from resnet_deploy import terminal

    with terminal.Bars() as bars:
        plans = rd.build(bundle, progress=bars, **_given({**given, "batch": given["batch"] or None}))
    show({"bundle": bundle, "plans": [plan.to_dict() for plan in plans]}, lambda: terminal.plans(bundle, plans), as_json)
    for plan in plans:
        for warning in plan.entry["warnings"]:
            click.echo(f"Warning: {plan.name}: {warning}", err=True)


@main.command()
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
    from resnet_deploy import terminal

    report = rd.inspect(file, trust=trust)
    show(report.to_dict(), lambda: terminal.inspected(report), as_json)


if __name__ == "__main__":
    main()
