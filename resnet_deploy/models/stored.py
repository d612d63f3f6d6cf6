"""Tensors as a file describes them, before a byte of theirs is read; and what the names in PyTorch's pickles stand for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from resnet_deploy.models.pickles import ForbiddenGlobal, Global, Opaque, updated

_STORAGES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool, "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128, "QInt8": torch.qint8,
    "QUInt8": torch.quint8, "QInt32": torch.qint32, "QUInt4x2": torch.quint4x2, "QUInt2x4": torch.quint2x4,
}  # fmt: skip
_QUANTIZED = {torch.qint8, torch.quint8, torch.qint32, torch.quint4x2, torch.quint2x4}
DTYPES: dict[str, torch.dtype] = {  # that a storage of plain bytes may be read as
    name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype) and value not in _STORAGES.values()
} | {str(value).removeprefix("torch."): value for value in _STORAGES.values()}
_BYTES = {"torch.storage.UntypedStorage", "torch.UntypedStorage", "torch.storage._UntypedStorage"}
_PARAMETERS = {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}
_KINDS = {  # tensors that are not one block of numbers
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_sparse_csr_tensor": "sparse",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch._utils._rebuild_qtensor": "quantized",
    "torch._utils._rebuild_meta_tensor_no_storage": "without values (on the meta device)",
    "torch._utils._rebuild_wrapper_subclass": "of a subclass that wraps others",
    "torch._utils._rebuild_device_tensor_from_numpy": "of another device's format",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "of another device's format",
}
_DICTS = {"collections.OrderedDict", "collections.Counter", "builtins.dict"}
_OPAQUE = {
    "argparse.Namespace", "torch.Size", "torch.device", "torch.Tensor", "torch.nn.parameter.Parameter", "_codecs.encode",
    "builtins.set", "__builtin__.set", "builtins.bytearray", "builtins.complex", "collections.defaultdict",
    "torch.serialization._get_layout", "torch.torch_version.TorchVersion", "torch.per_tensor_affine",
    "torch.per_tensor_symmetric", "torch.per_channel_affine", "torch.per_channel_symmetric",
    "torch.per_channel_affine_float_qparams",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Storage:
    """A block of numbers in a file. key: its name there. size_bytes: as the description claims."""

    key: str
    dtype: torch.dtype
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A view of a storage. offset, stride: in elements. kind: "dense", or what it is that has no such view."""

    storage: Storage | None
    dtype: torch.dtype | None
    shape: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    offset: int = 0
    kind: str = "dense"

    @property
    def size_bytes(self) -> int:
        """Of its elements written out, which a stride of 0 can make far more than the storage has."""
        return math.prod(self.shape) * (self.dtype.itemsize if self.dtype else 0)

    def view(self, data: bytearray) -> Tensor:
        """The tensor over the storage's bytes. Raises ValueError where it would reach outside them."""
        if self.dtype is None or self.kind != "dense":
            raise ValueError("it is not a block of numbers")
        try:
            return self._view(data, self.dtype)
        except (RuntimeError, TypeError, OverflowError) as exc:  # torch's, for sizes that it cannot count
            raise ValueError(f"its shape {list(self.shape)} cannot be") from exc

    def _view(self, data: bytearray, dtype: torch.dtype) -> Tensor:
        if 0 in self.shape:
            return torch.empty(self.shape, dtype=dtype)
        last = self.offset + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        if min((self.offset, *self.shape, *self.stride)) < 0 or (last + 1) * dtype.itemsize > len(data):
            raise ValueError(f"its {list(self.shape)} elements lie outside the {len(data)} bytes of their storage")
        whole = len(data) // dtype.itemsize * dtype.itemsize
        flat = torch.frombuffer(memoryview(data)[:whole], dtype=dtype)
        return flat.as_strided(self.shape, self.stride, self.offset)


def call_global(name: str, args: tuple[Any, ...] | None) -> Any:
    """What a name in a checkpoint's pickle stands for when it is called with arguments; `PickleReader` takes it.

    Raises:
        ForbiddenGlobal: for a name that is not one of tensors and plain data.
    """
    plain = name.removeprefix("torch.")
    known = name in _DICTS | _OPAQUE | _BYTES | _PARAMETERS or name in _KINDS or name in _REBUILDS
    if not known and plain not in DTYPES and storage_dtype(name) is None:
        raise ForbiddenGlobal(name)
    if args is None:
        return None
    if name in _REBUILDS:
        return _REBUILDS[name](*args)
    if name in _PARAMETERS:
        return args[0]
    if name in _KINDS:
        return StoredTensor(storage=None, dtype=None, kind=_KINDS[name])
    if name == "torch.Size":
        return args[0] if args and isinstance(args[0], tuple) else Opaque()
    if name in _DICTS:
        return updated(args[0] if args and isinstance(args[0], list) else [])
    return {} if name == "collections.defaultdict" else Opaque()


def storage_dtype(name: str) -> torch.dtype | None:
    """The dtype of a storage class: `torch.FloatStorage` → float32; None for another name."""
    if name in _BYTES:
        return torch.uint8
    if not name.startswith("torch.") or not name.endswith("Storage"):
        return None
    return _STORAGES.get(name.removeprefix("torch.").removesuffix("Storage").removeprefix("cuda."))


def _rebuild(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any, dtype: Any = None) -> StoredTensor:
    """torch._utils._rebuild_tensor and _v2: rest is requires_grad, hooks and flags."""
    if not isinstance(storage, Storage) or type(offset) is not int:
        raise TypeError
    if len(shape) != len(stride) or len(shape) > 64 or not all(type(value) is int for value in (*shape, *stride)):
        raise TypeError
    flags = rest[2] if len(rest) > 2 else None
    lazy = isinstance(flags, dict) and any(flags.values())  # torch negates and conjugates when it reads
    quantized = storage.dtype in _QUANTIZED
    return StoredTensor(
        storage=storage, dtype=dtype or storage.dtype, shape=tuple(shape), stride=tuple(stride), offset=offset,
        kind="negated or conjugated lazily" if lazy else "quantized" if quantized else "dense",
    )  # fmt: skip


def _rebuild_v3(
    storage: Any, offset: Any, shape: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *flags: Any
) -> StoredTensor:
    if not isinstance(dtype, Global):
        raise TypeError
    return _rebuild(storage, offset, shape, stride, grad, hooks, *flags, dtype=DTYPES[dtype.name.removeprefix("torch.")])


def _rebuild_with_attributes(function: Any, kind: Any, args: Any, *_: Any) -> Any:
    """torch._tensor._rebuild_from_type_v2: a tensor with attributes of its own, which are not weights."""
    if not isinstance(function, Global) or not isinstance(args, tuple):
        raise TypeError
    if kind != Global("torch.Tensor") and kind != Global("torch.nn.parameter.Parameter"):
        return StoredTensor(storage=None, dtype=None, kind="of a subclass")
    return call_global(function.name, args)


_REBUILDS: dict[str, Any] = {
    "torch._utils._rebuild_tensor": _rebuild,
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_tensor_v3": _rebuild_v3,
    "torch._tensor._rebuild_from_type_v2": _rebuild_with_attributes,
}
