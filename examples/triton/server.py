"""A Triton server on this machine's CPU, without a container: to look at a repository, and for the tests.

    python examples/triton/server.py --prepare            # once: 500 MB under .venv/triton
    python examples/triton/server.py build/repository     # serves until interrupted

The server is NVIDIA's own, from the wheel of nvidia-pytriton, which carries its Python backend alone. backends/onnxruntime
stands in for NVIDIA's ONNX Runtime backend. Both run in an environment of their own, since the server needs numpy < 2.
It listens on the loopback interface.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE.parent.parent / ".venv" / "triton"
WHEEL = "nvidia-pytriton==0.7.0"  # tritonserver 2.51
PACKAGES = ("numpy<2", "onnxruntime", "pillow", "tritonclient[grpc,http]")
READY = ".ready"


class ServerError(Exception):
    """The server cannot be prepared here, or did not start; the message ends with its log."""


def prepare(folder: Path = FOLDER) -> None:
    """Set the server up in a folder, where it is not yet. Raises ServerError where that cannot be done here."""
    if (folder / READY).exists():
        return
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if sys.platform != "linux" or version not in {"3.10", "3.11", "3.12"}:
        raise ServerError(f"the server runs on Linux with Python 3.10 to 3.12 (numpy < 2); this is {sys.platform}, {version}")
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as downloads:
        _run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", downloads, WHEEL)
        (wheel,) = Path(downloads).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            wanted = [
                name for name in archive.namelist() if name.startswith(("pytriton/tritonserver/", "nvidia_pytriton.libs/"))
            ]
            archive.extractall(folder, wanted)
    server = folder / "pytriton" / "tritonserver"
    stub = server / "backends" / "python" / "triton_python_backend_stub"
    shutil.copy(server / "python_backend_stubs" / version / stub.name, stub)
    for program in (server / "bin" / "tritonserver", stub):
        program.chmod(0o755)
    _run(sys.executable, "-m", "venv", str(folder / "env"))
    _run(str(folder / "env" / "bin" / "python"), "-m", "pip", "install", "--quiet", *PACKAGES)
    (folder / READY).touch()


def _stand_in(backends: Path) -> None:
    """The stand-in as it is here now."""
    source, target = HERE / "backends" / "onnxruntime" / "model.py", backends / "onnxruntime" / "model.py"
    if not target.exists() or target.read_bytes() != source.read_bytes():
        target.parent.mkdir(exist_ok=True)
        beside = target.with_suffix(f".{os.getpid()}")
        shutil.copyfile(source, beside)
        beside.replace(target)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ServerError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-1000:]}")


class Server:
    """A running server. http, grpc: its addresses. log: every line that it said so far."""

    def __init__(self, repository: Path, *arguments: str, folder: Path = FOLDER, ports: tuple[int, int] | None = None) -> None:
        root = folder / "pytriton" / "tritonserver"
        _stand_in(root / "backends")
        http, grpc = ports or (_free_port(), _free_port())
        self.http, self.grpc, self.log = f"127.0.0.1:{http}", f"127.0.0.1:{grpc}", []
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._process = subprocess.Popen(
            [
                str(root / "bin" / "tritonserver"), f"--model-repository={repository}",
                f"--backend-directory={root / 'backends'}", f"--cache-directory={root / 'caches'}",
                "--http-address=127.0.0.1", f"--http-port={http}", "--grpc-address=127.0.0.1", f"--grpc-port={grpc}",
                "--allow-metrics=false", "--allow-gpu-metrics=false", *arguments,
            ],
            env={**os.environ, "PATH": f"{folder / 'env' / 'bin'}{os.pathsep}{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            start_new_session=True,
        )  # fmt: skip
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.log.append(line.rstrip())
            self._lines.put(line)
        self._lines.put(None)

    def wait_for(self, text: str, timeout_s: float = 300) -> str:
        """The first line with a text, from those that no call has seen yet. Raises ServerError where it does not come."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            ended = self._process.poll() is not None
            try:
                line = self._lines.get(timeout=1)
            except queue.Empty:
                if ended:  # the processes of its Python models, which outlive it for a while, keep the pipe open
                    break
                continue
            if line is None:
                break
            if text in line:
                return line
        wrong = [said for said in self.log if said.startswith(("E", "error"))]
        raise ServerError(f"the server did not say {text!r}:\n" + "\n".join(wrong[-10:] or self.log[-30:]))

    def wait_until_listening(self) -> None:
        """Until it answers on both ports; it says so a moment before. Raises ServerError where it ends instead."""
        self.wait_for("Started HTTPService at")
        for address in (self.http, self.grpc):
            host, _, port = address.partition(":")
            for _ in range(200):
                with contextlib.suppress(ConnectionRefusedError), socket.create_connection((host, int(port))):
                    break
                time.sleep(0.05)
            else:
                raise ServerError(f"nothing listens on {address}")

    def wait(self) -> int:
        """Until it ends: its exit code."""
        return self._process.wait()

    def stop(self) -> None:
        """Let it finish what it is answering, and end it."""
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # what is left of its Python models


@contextlib.contextmanager
def serve(repository: Path, *arguments: str, folder: Path = FOLDER) -> Iterator[Server]:
    """A server that listens, for as long as the block runs. A port that was taken in between is another attempt."""
    for attempt in range(3):
        server = Server(repository, *arguments, folder=folder)
        try:
            server.wait_until_listening()
        except ServerError:
            server.stop()
            if attempt == 2 or not any("in use" in line or "failed to start" in line.lower() for line in server.log):
                raise
            continue
        try:
            yield server
        finally:
            server.stop()
        return


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", nargs="?", type=Path, help="a model repository")
    parser.add_argument("--prepare", action="store_true", help="set the server up")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"where the server is (default {FOLDER})")
    parser.add_argument("--http-port", type=int, default=8000)
    parser.add_argument("--grpc-port", type=int, default=8001)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception, so that the server ends too
    try:
        if options.prepare or not (options.folder / READY).exists():
            prepare(options.folder)
        if options.repository is None:
            return
        server = Server(options.repository, folder=options.folder, ports=(options.http_port, options.grpc_port))
        try:
            server.wait_until_listening()
            print(f"http://{server.http}, grpc://{server.grpc}; interrupt to end it", flush=True)
            sys.exit(server.wait())
        finally:
            server.stop()
    except ServerError as exc:
        sys.exit(f"Error: {exc}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
