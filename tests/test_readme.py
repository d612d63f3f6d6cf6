"""Every command of the README is run, and what it shows is what comes out, numbers aside."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.cpu import EXACT_INT8
from tests.helpers.paths import ROOT

README = (ROOT / "README.md").read_text()
REFERENCE = (ROOT / "REFERENCE.md").read_text()
OTHERS = {"--backend-config", "--build", "--preset"}  # options of other programs


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A place like a checkout, whose build/ is not the user's."""
    for name in ("examples", "resnet_deploy", "Makefile", ".venv"):
        if (ROOT / name).exists():
            (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def shell(command: str, folder: Path) -> str:
    """Run a command as a reader of the README does, with this environment's programs first.

    INT8's gate may fail where the processor's kernels saturate, which the command says.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        command, shell=True, cwd=folder, capture_output=True, text=True, timeout=900, env={**clean, "PATH": path}
    )
    saturates = not EXACT_INT8 and done.returncode == 1 and "no VNNI" in done.stderr
    assert done.returncode == 0 or saturates, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def masked(line: str) -> str:
    """A line without its numbers and the widths that follow from them; of INT8, without its gate where that is another."""
    if not EXACT_INT8 and " int8 " in line:
        line = re.sub(r"(pass|fail)$|; mean cosine.*$", "", line)
    return re.sub(r"\s+", " ", re.sub(r"[-+]?\d[\d.,e+-]*", "#", line)).strip()


@pytest.mark.slow
def test_the_console_blocks(checkout: Path) -> None:
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    ran = 0
    for block in blocks:
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            printed = {masked(line) for line in shell(command, checkout).splitlines()}
            ran += 1
            for line in shown.splitlines():
                # The machine's own line, rulers and hashes differ from place to place.
                if line.strip() in {"", "..."} or " cores, " in line or line.startswith("--") or "sha256" in line:
                    continue
                if line.startswith("Deploy "):  # which file that is follows from the figures
                    assert [found for found in printed if found.startswith(("Deploy ", "Nothing to deploy: "))], command
                    continue
                if line.split()[0].endswith((".onnx", ".safetensors")):
                    line = line.rsplit(None, 1)[0]
                    assert any(found.startswith(masked(line)) for found in printed), (command, line)
                    continue
                assert masked(line) in printed, (command, line)
    assert ran >= 5


@pytest.mark.slow
def test_the_python_block(checkout: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (checkout / "readme.py").write_text(code)
    assert "pass 0.995" in shell("python readme.py", checkout)


def test_the_commands_of_the_table_and_the_set_up_are_real() -> None:
    from resnet_deploy.cli import main

    assert set(re.findall(r"^\| `resnet-deploy (\w+)", README, re.MULTILINE)) == set(main.commands)
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake (bench|check|test|setup|lint|tools|fuzz)\b", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def anchors(page: str) -> set[str]:
    """What a link can lead to in a page: its headings as GitHub writes them."""
    return {heading.lower().replace(" ", "-") for heading in re.findall(r"^## (.+)$", page, re.MULTILINE)}


@pytest.mark.parametrize("page", [README, REFERENCE], ids=["README", "REFERENCE"])
def test_links_commands_and_options_are_real(page: str) -> None:
    from resnet_deploy.cli import main

    for file in re.findall(r"\]\(([\w./-]+)[)#]", page):
        assert (ROOT / file).exists(), file
    assert set(re.findall(r"REFERENCE\.md#([\w-]+)", page)) <= anchors(REFERENCE)
    assert set(re.findall(r"\]\(#([\w-]+)\)", page)) <= anchors(page)
    assert set(re.findall(r"(?:`|\$ |^ {4})resnet-deploy ([a-z]+)", page, re.MULTILINE)) <= main.commands.keys()
    parameters = [option for command in main.commands.values() for option in command.params]
    known = {name for option in parameters for name in (*option.opts, *option.secondary_opts)} | {"--help"} | OTHERS
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*(?![\w-])", page)) <= known


@pytest.mark.slow
def test_make_bench(checkout: Path) -> None:
    """The main job, by the very command, in the environment that `make setup` left; a network smaller than the default."""
    if not (ROOT / ".venv").exists() or shutil.which("make") is None:
        pytest.skip("`make setup` was not run in this checkout")
    for name in ("pyproject.toml", "constraints.txt", "requirements-peers.txt", "tests"):
        (checkout / name).symlink_to(ROOT / name)
    printed = shell("make bench NETWORK=resnet32", checkout)
    assert printed.count("pass") == 15 and "resnet32" in printed and "600 images of digits" in printed
    assert "Nothing to be done" not in printed
