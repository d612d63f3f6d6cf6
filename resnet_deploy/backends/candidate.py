"""The text that asks for a backend, read and written: `onnxruntime:cuda,fp16`."""

from __future__ import annotations

from dataclasses import dataclass

from resnet_deploy import limits
from resnet_deploy.backends.table import BACKENDS, BackendRow
from resnet_deploy.errors import UsageError
from resnet_deploy.precisions import PRECISIONS, Precision


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A backend with its options: what is compared and measured.

    Attributes:
        backend: its name in the table of backends.
        device: cpu or cuda.
        precision: of the graph, or of the eager network.
        options: the backend's own; one that takes a number is written as in `streams=2`.
    """

    backend: str
    device: str = "cpu"
    precision: Precision = Precision.FP32
    options: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Candidate:
        """Read `BACKEND[:OPTION,...]`: `eager`, `eager:fp16,channels_last`, `onnxruntime:cuda`. Raises UsageError for what is
        unknown, repeated or contradicts itself."""
        backend, colon, rest = text.strip().partition(":")
        if backend not in BACKENDS:
            raise UsageError(f"unknown backend {backend!r}; choose from {', '.join(BACKENDS)}")
        options = rest.split(",") if colon else []
        for option in options:
            _check_option(backend, option)
        names = [option.partition("=")[0] for option in options]
        if repeated := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise UsageError(f"{text!r} gives {repeated[0]} more than once")
        precisions = [option for option in options if option in PRECISIONS]
        row = BACKENDS[backend]
        devices = [option for option in options if option in row.devices]
        if len(precisions) > 1 or len(devices) > 1:
            raise UsageError(f"{text!r} asks for more than one device or precision")
        if devices == ["cpu"] and (of_gpu := [name for name in names if name in row.gpu_options]):
            raise UsageError(f"{text!r} contradicts itself: {of_gpu[0]} needs a GPU; leave out cpu")
        return cls(
            backend=backend,
            device=devices[0] if devices else row.default_device(options),
            precision=Precision(precisions[0]) if precisions else Precision.FP32,
            options=tuple(sorted(set(options) - set(devices) - set(precisions))),
        )

    @property
    def row(self) -> BackendRow:
        """Of the table of backends."""
        return BACKENDS[self.backend]

    @property
    def artifact(self) -> str:
        """The file of a bundle that it runs, or that its plan is built from."""
        if self.row.runs == "network":
            return "weights.safetensors"
        return self.precision.graph_file(self.row.target(self.device, self.options))

    def count(self, option: str) -> int:
        """The number that an option was given; 1 without it."""
        return next((int(text.partition("=")[2]) for text in self.options if text.startswith(f"{option}=")), 1)

    @property
    def name(self) -> str:
        """Backend and its own options: `eager`, `eager:channels_last`. Device and precision stand beside it."""
        return f"{self.backend}:{','.join(self.options)}" if self.options else self.backend

    def __str__(self) -> str:
        extra = [self.device] * (self.device != self.row.default_device(self.options))
        extra += [self.precision.value] * (self.precision is not Precision.FP32)
        options = [*extra, *self.options]
        return f"{self.backend}:{','.join(options)}" if options else self.backend


def _check_option(backend: str, option: str) -> None:
    """Raise UsageError where a backend has no such option, or where its number is none."""
    name, sign, value = option.partition("=")
    known = BACKENDS[backend].all_options
    if name + sign not in known:
        names = ", ".join(f"{name}N" if name.endswith("=") else name for name in sorted(known))
        raise UsageError(f"{backend} has no option {option!r}; it has {names}")
    if sign:
        limits.parse_option(name, value, label=f"{option!r}: {name}")
