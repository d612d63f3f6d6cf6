"""The command line: the commands as one program, and errors as messages and exit codes, in this one place."""

from __future__ import annotations

import functools
import os
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

import click
import cloup

from resnet_deploy.commands import bench, build, cpp, doctor, embed, export, inspect, models, report, triton, tune, verify
from resnet_deploy.commands.output import complain, discard, prepare_streams, results_alone
from resnet_deploy.commands.program import Program, program
from resnet_deploy.errors import EXIT_FAULT, EXIT_INTERRUPTED, EXIT_MACHINE, EXIT_USAGE, DeployError, out_of_memory

_LONGEST = 300  # characters of an error that is not ours
_INTERRUPTED = "interrupted; what was there before is unchanged. Run the command again to go on"


# A new command has its row here.
SECTIONS = (
    cloup.Section("Look around", (models.models, doctor.doctor, inspect.inspect)),
    cloup.Section("Make", (export.export, tune.tune, build.build)),
    cloup.Section("Judge and measure", (verify.verify, bench.bench, report.report)),
    cloup.Section("Use", (triton.triton, cpp.cpp, embed.embed)),
)


class Commands(cloup.Group):
    """Turns errors into messages and exit codes."""

    def main(
        self, args: Any = None, prog_name: Any = None, complete_var: Any = None, standalone_mode: bool = True, **extra: Any
    ) -> Any:
        """Run a command, and end with its exit code. Without `args` the process is taken to be this program's own."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode, **extra)
        prepare_streams()
        run = Program(own_process=args is None)
        run.watch_interrupts()
        code = EXIT_FAULT
        try:
            code = self._run(run, args, prog_name, complete_var, extra)
        except _Escaped as escaped:
            code = _code(escaped.error, run)
        except BaseException as exc:
            code = _code(exc, run)
        sys.exit(run.ended(code))

    def _run(self, program: Program, args: Any, prog_name: Any, complete_var: Any, extra: dict[str, Any]) -> int:
        # Of a command it is None, of --help and --version an exit code.
        code = super().main(args, prog_name, complete_var, standalone_mode=False, obj=program, **extra)
        return code if isinstance(code, int) else 0

    def add_command(
        self,
        cmd: click.Command,
        name: str | None = None,
        section: cloup.Section | None = None,
        fallback_to_default_section: bool = True,
    ) -> None:
        """Of what a command does, its results alone are printed; its help is click's to print."""
        callback = cmd.callback
        assert callback is not None

        @functools.wraps(callback)
        def run(*args: Any, **options: Any) -> Any:
            with results_alone(own_process=program().own_process):
                return callback(*args, **options)

        cmd.callback = run
        super().add_command(cmd, name, section, fallback_to_default_section)

    def invoke(self, ctx: click.Context) -> Any:
        if not sys.warnoptions:  # libraries' notes to programmers, such as PIL's on TIFF tags
            warnings.simplefilter("ignore")
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, EOFError, OSError) as exc:
            if ctx.obj is None:
                raise
            raise _Escaped(exc) from exc


class _Escaped(Exception):
    """Carries through click what click has an answer of its own to: it ends with 1, which says that a gate failed."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


def _code(exc: BaseException, program: Program) -> int:
    """Say what ended a command, and give its exit code."""
    if _unread(exc):
        discard(sys.stdout)
        return 0
    if isinstance(exc, SystemExit):
        return exc.code if isinstance(exc.code, int) else 0 if exc.code is None else EXIT_FAULT
    if isinstance(exc, click.exceptions.ClickException):
        return _misused(exc)
    if program.interrupted or isinstance(exc, (KeyboardInterrupt, click.exceptions.Abort)):
        if isinstance(exc, DeployError) and exc.result is not None:  # what was found is shown, and not stored
            complain(str(exc))
        complain(_INTERRUPTED)
        return EXIT_INTERRUPTED
    if (memory := out_of_memory(exc)) is not None:
        complain(f"out of memory ({_line(memory)}); use a smaller --batch, --max-batch or --image-size")
        return EXIT_MACHINE
    if isinstance(exc, DeployError):
        complain(str(exc))
        return exc.exit_code
    if isinstance(exc, OSError) and exc.strerror:
        complain(f"{exc.filename or 'a file'}: {exc.strerror}")
        return EXIT_MACHINE
    complain(f"resnet-deploy failed by a fault of its own: {_line(exc)}. {_recorded(exc)}")
    return EXIT_FAULT


def _unread(exc: BaseException) -> bool:
    """Whether it was click that could not print a help text, since its reader went away; results are printed by `say`."""
    if isinstance(exc, SystemExit):
        return isinstance(exc.__context__, BrokenPipeError)
    frames = traceback.extract_tb(exc.__traceback__) if isinstance(exc, BrokenPipeError) else ()
    return any(frame.name == "echo" and Path(frame.filename).parent.name == "click" for frame in frames)


def _misused(exc: click.exceptions.ClickException) -> int:
    """A command line that click does not take, in one line; the program alone shows its help."""
    context = getattr(exc, "ctx", None)
    if type(exc).__name__ == "NoArgsIsHelpError":
        exc.show()
    else:
        hint = f". Try '{context.command_path} --help'" if context is not None else ""
        complain(exc.format_message().rstrip(".") + hint)
    return EXIT_USAGE


def _line(exc: BaseException) -> str:
    """An error that is not ours, in one line."""
    try:
        lines = str(exc).strip().splitlines()
    except Exception:  # whatever its own __str__ raises
        lines = []
    return f"{type(exc).__name__}: {lines[0][:_LONGEST]}" if lines else type(exc).__name__


def _recorded(exc: BaseException) -> str:
    """Write the traceback to a file of its own; says where, or why not."""
    try:
        text = "".join(traceback.format_exception(type(exc), exc, exc.__traceback__))
        number, path = tempfile.mkstemp(prefix=f"resnet-deploy-error-{os.getpid()}-", suffix=".log")
        with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{sys.argv}\nPython {sys.version}\n\n{text}")
    except Exception as failure:
        return f"Its details could not be written: {_line(failure)}"
    return f"Details are in {path}; please report them"


@cloup.group(cls=Commands, sections=SECTIONS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="resnet-deploy")
def main() -> None:
    """Take residual networks from PyTorch to ONNX files and TensorRT engines, checked and measured.

    `export` writes a bundle: a folder (DIR) with weights, ONNX files and a manifest. A backend runs such a file: ONNX Runtime,
    OpenVINO, or TensorRT, which first builds a plan of it. Answers are compared with those of eager PyTorch, the network as
    PyTorch itself runs it; a gate is a limit on the difference.

    Exit codes: 0 done, 1 a gate failed, 2 wrong usage or input, 3 this machine can't, 4 inconclusive (report), 70 a fault of
    resnet-deploy itself (the message says where its details are), 130 interrupted.
    """


if __name__ == "__main__":
    main()
