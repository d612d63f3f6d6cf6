"""What INT8 costs in accuracy, by calibration method: ours, ONNX Runtime's and ModelOpt's, on networks that were trained.

    python benchmarks/quantization.py [--json benchmarks/results/quantization.json] [--modelopt DIR]

Same FP32 graph, same 256 calibration images; every quantized graph is run exactly as it is written (ONNX Runtime with
`session.disable_quant_qdq`) on the same images, which no calibration saw. Then all of it again with a uniformly grey image
before the others. All graphs are written for TensorRT: symmetric int8, weights per channel, biases and classifier in float.
`auto` is what `export --calibration-method auto` does: it chooses the method on 64 of the 256 images and ranges of the rest;
`reconstruct` is what `export --reconstruct` makes of that.

ModelOpt patches ONNX Runtime, so it has processes of its own. It is skipped where it is not installed:

    pip install --no-deps --target DIR nvidia-modelopt==0.47.0 onnx-graphsurgeon onnxslim lief nvidia-ml-py tqdm polygraphy
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import Limit, Row, alone, finish, fresh, parser

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"
IMAGES = 256
RESNEXT = "resnet:layers=2-2-2,block=bottleneck,stem=cifar,widths=16-32-64,groups=4,width_per_group=32"
# Weights, architecture, which images.
NETWORKS = {
    "ResNet-20, digits": ("digits/resnet20.safetensors", "resnet20", "digits"),
    "ResNet-20, noisy": ("noisy/resnet20.safetensors", "resnet20", "noisy"),
    "ResNeXt-20, noisy": ("noisy/resnext.safetensors", RESNEXT, "noisy"),
}
PEERS = {"ort": ("MinMax", "Percentile", "Entropy"), "modelopt": ("max", "entropy")}
# Column, key, how many digits, and whether more is better.
FIGURES = (
    ("top-1", "top1", "{:.2%}", True),
    ("agreement", "agreement", "{:.2%}", True),
    ("max error", "error", "{:.4f}", False),
    ("cosine mean", "cosine_mean", "{:.7f}", True),
    ("cosine min", "cosine_min", "{:.6f}", True),
    ("KL", "kl", "{:.2e}", False),
)
NOTE = (
    '"no, noise": the best of five peers is better, but the images cannot tell the two apart (the 95 % interval of the '
    "difference, by a paired bootstrap, has zero in it). Tensors: activations that are quantized; additions: those that read "
    "one of them."
)
EVERY = Limit(bound="at least", value=len(FIGURES))
NONE = Limit(bound="at most", value=0)
COLUMNS = ("variant", *(name for name, *_ in FIGURES), "tensors", "additions")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A network, its images, and where its files lie. calibration: float32, as the graph takes them."""

    name: str
    folder: Path
    calibration: Any
    images: Any
    labels: Any

    @property
    def fp32(self) -> Path:
        return self.folder / "ours" / "model.fp32.onnx"

    @property
    def seen(self) -> Path:
        """What is calibrated on, as `--calibration` and the peers take it."""
        return self.folder / "calibration.npz"


def read(part: str, preprocessing: Any, limit: int | None = None) -> tuple[Any, Any]:
    import numpy as np

    from resnet_deploy.data.sources import open_data
    from resnet_deploy.specs import InputFormat

    found = open_data(part, preprocessing=preprocessing, input_format=InputFormat.FLOAT, limit=limit)
    batches = list(found.batches(256))
    return np.concatenate([batch.images for batch in batches]), np.concatenate([batch.labels for batch in batches])


def prepare(name: str, folder: Path, noisy: dict[str, Path], *, grey: bool) -> tuple[Setting, str]:
    """The images and our own export, by `auto`: the setting, and the method that was chosen."""
    import numpy as np

    from resnet_deploy.models.create import load_model
    from resnet_deploy.pipeline.export import export

    file, architecture, images = NETWORKS[name]
    preprocessing = load_model(architecture, weights=EXAMPLES / file).preprocessing
    train, test = (noisy["train"], noisy["test"]) if images == "noisy" else ("digits:train", "digits")
    calibration, _ = read(str(train), preprocessing, IMAGES)
    if grey:
        value = [(0.5 - mean) / std for mean, std in zip(preprocessing.mean, preprocessing.std, strict=True)]
        plain = np.broadcast_to(np.array(value, np.float32)[:, None, None], calibration.shape[1:])
        calibration = np.concatenate([plain[None], calibration])
    held, labels = read(str(test), preprocessing)
    setting = Setting(name=name, folder=folder, calibration=calibration, images=held, labels=labels)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(setting.seen, images=calibration)
    bundle = export(
        architecture, folder / "ours", weights=EXAMPLES / file, precision=["int8"],
        int8_target=["tensorrt"], calibration=setting.seen, calibration_images=IMAGES, other_layers="fp32",
        grouped="quantize",
    )  # fmt: skip
    return setting, bundle.manifest.artifacts["model.int8.onnx"].calibration.method


def ours(setting: Setting, chosen: str, rivals: dict[str, Any]) -> dict[str, Any]:
    """A graph of each method; that of `auto`, as it is and reconstructed; and that of `auto` with fewer pairs: those of ONNX
    Runtime's quantizer, which leaves the additions of down-sampling blocks alone, and those in front of convolutions."""
    from resnet_deploy.precision import Graph, observe, quantize
    from resnet_deploy.precision.histogram import METHODS
    from resnet_deploy.precision.reconstruct import reconstruct

    graph = Graph.read(setting.fp32)
    images = setting.calibration
    observer = observe(graph, lambda size: (images[at : at + size] for at in range(0, len(images), size)))
    found = {f"ours {method}": quantize(graph, observer.calibration(method))[0] for method in METHODS}
    auto = found[f"ours auto ({chosen})"] = Graph.read(setting.folder / "ours" / "model.int8.onnx")
    found["ours reconstruct"] = reconstruct(graph, auto, images)
    theirs = quantized(rivals["ort MinMax"])
    for what, kept in (("placed as by ort", lambda node, name: name in theirs), ("additions in float", _convolution)):
        fewer = Graph.read(setting.folder / "ours" / "model.int8.onnx")
        for node in fewer.nodes:
            for name in quantized(fewer) if node.op_type in {"Conv", "Add"} else ():
                if not kept(node, name):
                    fewer.rewire(node, f"{name}.dq", name)
        fewer.prune()
        found[f"ours auto, {what}"] = fewer
    return found


def _convolution(node: Any, _: str) -> bool:
    return bool(node.op_type == "Conv")


def quantized(graph: Any) -> set[str]:
    """Activations that go through a pair."""
    nodes = (node for node in graph.nodes if node.op_type == "QuantizeLinear")
    return {node.input[0] for node in nodes if node.input[0] not in graph.constants}


def peer_ort(folder: Path) -> None:
    """quantize_static as its documentation has it for TensorRT, with Q/DQ in front of convolutions."""
    import numpy as np
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

    images = np.load(folder / "calibration.npz")["images"]

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.left, None)
            return None if image is None else {"input": image[None]}

    extra = {
        "ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False,
        "OpTypesToExcludeOutputQuantization": ["Conv"],
    }  # fmt: skip
    for method in PEERS["ort"]:
        quantize_static(
            folder / "ours" / "model.fp32.onnx", folder / f"ort.{method}.onnx", Reader(), quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"], per_channel=True, activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[method], extra_options=extra,
        )  # fmt: skip


def peer_modelopt(folder: Path) -> None:
    """Its own placement, the classifier left out as in ours."""
    import numpy as np
    from modelopt.onnx.quantization import quantize

    images = np.load(folder / "calibration.npz")["images"]
    for method in PEERS["modelopt"]:
        quantize(
            str(folder / "ours" / "model.fp32.onnx"), quantize_mode="int8", calibration_data=images, calibration_method=method,
            calibration_eps=["cpu"], op_types_to_exclude=["Gemm", "MatMul"], high_precision_dtype="fp32",
            output_path=str(folder / f"modelopt.{method}.onnx"), log_level="ERROR",
        )  # fmt: skip


def peers(setting: Setting, modelopt: str | None) -> dict[str, Any]:
    from resnet_deploy.precision import Graph

    found = {}
    for peer, methods in PEERS.items():
        if peer == "modelopt" and modelopt is None:
            continue
        fresh([sys.executable, __file__, "--peer", peer, str(setting.folder), modelopt or ""])
        found |= {f"{peer} {method}": Graph.read(setting.folder / f"{peer}.{method}.onnx") for method in methods}
    return found


def placed(graph: Any) -> tuple[int, int]:
    """Quantized activations, and residual additions that read one of them."""
    values = {node.output[0] for node in graph.nodes if node.op_type == "DequantizeLinear"}
    additions = [node for node in graph.nodes if node.op_type == "Add" and values & set(node.input)]
    return len(quantized(graph)), len(additions)


def figures(expected: Any, found: Any, labels: Any) -> dict[str, Any]:
    """Of logits (N, C) in FP32 and quantized, by image. kl: divergence of the softmaxes, in nats."""
    import numpy as np

    a, b = expected.astype(np.float64), found.astype(np.float64)
    cosine = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    p, q = (values - np.logaddexp.reduce(values, axis=1, keepdims=True) for values in (a, b))
    return {
        "top1": b.argmax(1) == labels, "agreement": a.argmax(1) == b.argmax(1), "error": np.abs(a - b).max(1),
        "cosine_mean": cosine, "cosine_min": cosine, "kl": (np.exp(p) * (p - q)).sum(1),
    }  # fmt: skip


def total(key: str, values: Any) -> float:
    """One figure of all images."""
    import numpy as np

    return float({"error": np.max, "cosine_min": np.min}.get(key, np.mean)(values))


def measure(setting: Setting, graphs: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Figures by image of each graph, the FP32 graph first."""
    from resnet_deploy.precision import Graph
    from resnet_deploy.precision.auto import run_graph

    expected = run_graph(Graph.read(setting.fp32), setting.images)[0]
    found = {"FP32": figures(expected, expected, setting.labels) | {"placed": (0, 0)}}
    for name, graph in graphs.items():
        found[name] = figures(expected, run_graph(graph, setting.images)[0], setting.labels) | {"placed": placed(graph)}
    return found


def contenders(found: dict[str, dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Whom the peers are compared with: the best of our graphs in each figure, as theirs is the best of five; and two settings
    by themselves. Graphs with fewer pairs are there for comparison, and are none of ours."""
    mine = {name: values for name, values in found.items() if name.startswith("ours ") and "," not in name}
    auto = next(values for name, values in mine.items() if name.startswith("ours auto"))
    return {"the best of ours": list(mine.values()), "reconstruct": [mine["ours reconstruct"]], "auto": [auto]}


def verdicts(ours: list[dict[str, Any]], rivals: list[dict[str, Any]]) -> dict[str, str]:
    """Of each figure: whether the best of ours is at least as good as the best of the peers. "noise": it is not, but the images
    cannot tell the two apart (the 95 % interval of the difference, by a paired bootstrap over the images, has zero in it)."""
    import numpy as np

    count = len(rivals[0]["kl"])
    drawn = np.random.default_rng(0).integers(0, count, (1000, count))
    held = {}
    for _, key, _, more in FIGURES:
        sign = 1 if more else -1
        mine, best = (max(them, key=lambda one: sign * total(key, one[key])) for them in (ours, rivals))
        if sign * (total(key, mine[key]) - total(key, best[key])) >= 0:
            held[key] = "yes"
            continue
        axis = {"error": np.max, "cosine_min": np.min}.get(key, np.mean)
        differences = [sign * float(axis(mine[key][part]) - axis(best[key][part])) for part in drawn]
        held[key] = "no, noise" if np.quantile(differences, 0.975) >= 0 else "**no**"
    return held


def table(title: str, found: dict[str, dict[str, Any]], held: dict[str, dict[str, str]]) -> dict[str, Any]:
    lines = [
        [name, *(form.format(total(key, values[key])) for _, key, form, _ in FIGURES), *map(str, values["placed"])]
        for name, values in found.items()
    ]
    for who, said in held.items():
        lines.append([f"{who} at least the best peer", *(said[key] for _, key, *_ in FIGURES), "", ""])
    return {"title": title, "columns": list(COLUMNS), "lines": lines}


def counted(title: str, held: dict[str, dict[str, str]]) -> list[Row]:
    """How often; the limits are on the best of ours."""
    rows = []
    for who, said in held.items():
        best, worse = (sum(text == word for text in said.values()) for word in ("yes", "**no**"))
        limited = who == "the best of ours"
        what = f"{title}: figures in which {who} is"
        rows.append(alone(f"{what} at least the best peer", best, unit="count", limit=EVERY if limited else None))
        rows.append(alone(f"{what} worse, beyond noise", worse, unit="count", limit=NONE if limited else None))
    return rows


def everything(
    folder: Path, modelopt: str | None, names: Sequence[str]
) -> tuple[list[Row], list[dict[str, Any]], dict[str, Any]]:
    import train_noisy

    noisy = train_noisy.write(folder / "noisy")
    rows, tables, samples = [], [], {}
    for grey in (False, True):
        for name in names:
            title = f"{name}{', a grey image first' if grey else ''}"
            setting, chosen = prepare(name, folder / title.replace(" ", ""), noisy, grey=grey)
            rivals = peers(setting, modelopt)
            found = measure(setting, ours(setting, chosen, rivals) | rivals)
            others = [values for name, values in found.items() if name.split()[0] in PEERS]
            held = {who: verdicts(mine, others) for who, mine in contenders(found).items()}
            tables.append(table(title, found, held))
            for variant, values in found.items():
                samples[f"{title}.{variant}"] = [total(key, values[key]) for _, key, *_ in FIGURES] + [
                    *map(float, values["placed"])
                ]
            rows += counted(title, held)
            print(title, *("  ".join(line) for line in tables[-1]["lines"]), "", sep="\n", flush=True)
    return rows, tables, samples


def main() -> None:
    if sys.argv[1:2] == ["--peer"]:  # started by `peers`
        sys.path.append(sys.argv[4])
        {"ort": peer_ort, "modelopt": peer_modelopt}[sys.argv[2]](Path(sys.argv[3]))
        return
    made = parser(__doc__, rounds=1)
    made.add_argument("--modelopt", metavar="DIR", default="", help="where ModelOpt was installed, if not beside this")
    made.add_argument("--network", choices=NETWORKS, action="append", help="not all of them")
    options = made.parse_args()
    there = (Path(options.modelopt) / "modelopt").is_dir() if options.modelopt else importlib.util.find_spec("modelopt")
    if not there:
        print("ModelOpt is not installed and is left out; --help says how to get it\n")
    with tempfile.TemporaryDirectory() as folder:
        names = options.network or list(NETWORKS)
        rows, tables, samples = everything(Path(folder), options.modelopt if there else None, names)
    finish(
        "quantization", rows, samples, options, tables=tables, note=NOTE, images=IMAGES, modelopt=bool(there),
        figures=[key for _, key, *_ in FIGURES] + ["tensors", "additions"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
