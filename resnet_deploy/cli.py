"""The command line: the commands as one program, and errors as messages and exit codes, in this one place."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import click

from resnet_deploy.commands import judging, measuring, preparing, reporting, serving
from resnet_deploy.commands.output import fail
from resnet_deploy.errors import EXIT_INTERRUPTED, EXIT_MACHINE, DeployError


class Commands(click.Group):
    """Turns errors into messages and exit codes."""

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


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="resnet-deploy")
def main() -> None:
    """Residual networks from PyTorch to ONNX and TensorRT engines that can be trusted.

    Exit codes: 0 done, 1 a gate failed, 2 wrong usage or input, 3 this machine can't, 4 inconclusive (report),
    130 interrupted.
    """


for command in (
    preparing.models, preparing.doctor, preparing.export, judging.verify, measuring.bench, reporting.report, judging.tune,
    preparing.build, preparing.inspect, serving.triton, serving.cpp, serving.embed,
):  # fmt: skip
    main.add_command(command)


if __name__ == "__main__":
    main()
