"""`embed --ray` on a cluster of this machine, in a network of its own: Ray listens on every interface that it finds."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

import resnet_deploy as rd
from resnet_deploy.bundle.store import Bundle
from tests.helpers.embedding import column, photographs
from tests.helpers.paths import ROOT

pq = pytest.importorskip("pyarrow.parquet", reason="the extra `parquet` is not installed")
pytestmark = pytest.mark.slow

# A process tree that ends with its first process, a loop-back interface, and nothing else.
OWN_FOLDER = "mkdir -p {0}/ray; mount -t tmpfs none {0}/ray".format(tempfile.gettempdir())  # Ray's sockets need a short path
ALONE = ["unshare", "-rnm", "--pid", "--fork", "--kill-child", "--mount-proc"]


@pytest.fixture(autouse=True)
def alone() -> None:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("the extra `ray` is not installed")
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("unshare and ip are needed for a network of its own")
    if subprocess.run([*ALONE, "ip", "link", "set", "lo", "up"], capture_output=True).returncode:
        pytest.skip("namespaces of our own are not permitted here")


def in_own_network(script: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ALONE, "sh", "-ec", f"ip link set lo up; {OWN_FOLDER}; {script}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "HOME": str(home), "PYTHONPATH": str(ROOT)},
    )


def processes() -> set[str]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if b"raylet" in line or b"gcs_server" in line or b"ray::" in line:
            found.add(path.parent.name)
    return found


def test_a_local_cluster(digits_bundle: Bundle, tmp_path: Path) -> None:
    """Killed once and run again; with a bad image; with relative paths; the same rows as without Ray."""
    photographs(tmp_path / "images", 240)
    (tmp_path / "images" / "003" / "00031.jpg").write_bytes(b"")
    before = processes()
    embed = f"{sys.executable} {ROOT}/cli.py embed {digits_bundle.path} images -o ray.parquet --ray --batch 4 --checkpoint 0s"
    count = "ls ray.parquet.parts 2>/dev/null | grep -c parquet || true"
    done = in_own_network(
        f"cd {tmp_path}; {embed} & while test $({count}) -lt 1 && kill -0 $!; do sleep 0.05; done; kill -9 $!; "
        "wait $! || true; "
        f"ls ray.parquet.parts | wc -l; {embed} --json; ls -d ray.*",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert '"images": 240' in done.stdout and '"bad": 1' in done.stdout and '"before": 0' not in done.stdout, done.stdout
    assert done.stdout.split()[-2:] == ["ray.bad.csv", "ray.parquet"] and "Traceback" not in done.stderr
    assert processes() <= before, "Ray outlived its network"

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        rd.embed(digits_bundle, "images", "local.parquet", batch=4, threads=1)
    ours, rays = pq.read_table(tmp_path / "local.parquet"), pq.read_table(tmp_path / "ray.parquet")
    assert rays["path"] == ours["path"], "the order is the images'"
    np.testing.assert_allclose(column(rays, "logits"), column(ours, "logits"), atol=1e-5)
    assert (tmp_path / "ray.bad.csv").read_bytes() == (tmp_path / "local.bad.csv").read_bytes()


def test_a_cluster_that_is_there_or_is_not(digits_bundle: Bundle, tmp_path: Path) -> None:
    """An existing cluster is used and left as it was; a GPU that it lacks, or an address where none is, is exit code 3."""
    photographs(tmp_path / "images", 10)
    embed = f"{sys.executable} {ROOT}/cli.py embed {digits_bundle.path} {tmp_path}/images --ray"
    ray = str(Path(sys.executable).parent / "ray")
    done = in_own_network(
        f"export RAY_AUTH_MODE=token RAY_AUTH_TOKEN={'t' * 40}; "
        f"{ray} start --head --node-ip-address 127.0.0.1 --port 6399 --include-dashboard false --disable-usage-stats "
        f"--num-cpus 2 >/dev/null; {embed} --ray-address 127.0.0.1:6399 -o {tmp_path}/a.parquet; "
        f"RAY_ADDRESS=127.0.0.1:6399 {embed} -o {tmp_path}/b.parquet; "
        f"{embed} --ray-address 127.0.0.1:6399 --backend eager:cuda -o {tmp_path}/c.parquet || echo code $?; "
        f"{ray} stop --force >/dev/null; {embed} --ray-address 127.0.0.1:6398 -o {tmp_path}/d.parquet || echo code $?",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("10 of 10 images, onnxruntime") == 2 and done.stdout.count("code 3") == 2, (
        done.stdout + done.stderr
    )
    assert "eager:cuda needs a GPU, and the Ray cluster has none" in done.stderr
    assert "no Ray cluster answers at 127.0.0.1:6398" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert pq.read_table(tmp_path / "a.parquet").equals(pq.read_table(tmp_path / "b.parquet"))


# What a machine with a GPU runs, on a CPU: Ray is told of a GPU, and the backend is ONNX Runtime's.
TWO_STAGES = """
import sys
from types import SimpleNamespace
import numpy as np, ray, ray.data
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.serving.embedding import ray as cluster
from resnet_deploy.serving.embedding.job import EmbedOptions, Job
from resnet_deploy.serving.embedding.listing import list_images
from resnet_deploy.bundle.opened import OpenedBundle
from pathlib import Path

class OnGpu(str):
    device = "cuda"

bundle, images, output = map(Path, sys.argv[1:])
ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
listing, plain = list_images(images, images), EmbedOptions(batch=4)
options = SimpleNamespace(batch=4, max_pixels=plain.max_pixels, candidate=OnGpu("onnxruntime"), threads=1)
opened = OpenedBundle(Bundle.open(bundle))
opened.made_from = lambda candidate: OpenedBundle.made_from(opened, plain.candidate)
job = Job(opened=opened, options=options, listing=listing, missing=[(0, listing.count)])
blocks = [ray.put(cluster._block(*piece)) for piece in listing.batches(job.missing, 8)]
answers = cluster._pipeline(ray.data.from_arrow_refs(blocks), job, {"CPU": 2, "GPU": 1})
rows = {}
for block in answers.iter_batches(batch_size=None, batch_format="numpy"):
    for start, paths, reasons, outputs in cluster._runs(block):
        rows |= {start + i: outputs["logits"][i] for i in range(len(paths))}
np.save(output, np.stack([rows[i] for i in range(listing.count)]))
"""


def test_a_gpus_two_stages(digits_bundle: Bundle, tmp_path: Path) -> None:
    photographs(tmp_path / "images", 30)
    (tmp_path / "two_stages.py").write_text(TWO_STAGES)
    arguments = f"{digits_bundle.path} {tmp_path}/images {tmp_path}/rows.npy"
    done = in_own_network(f"{sys.executable} {tmp_path}/two_stages.py {arguments}", tmp_path)
    assert done.returncode == 0, done.stderr
    rd.embed(digits_bundle, tmp_path / "images", tmp_path / "local.parquet", batch=4, threads=1)
    local = column(pq.read_table(tmp_path / "local.parquet"), "logits")
    np.testing.assert_allclose(np.load(tmp_path / "rows.npy"), local, atol=1e-5)
