"""Tensors in the fake device's memory: kernels go to the current stream, and answers are poison until they have run."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map

from resnet_deploy.backends.fake.streams import current_stream

_ODD = 77  # what memory held before, where the type has no NaN
MEMORY_BYTES = 16 << 30
_KINDS: dict[int, tuple[str, int]] = {}  # device or pinned, and bytes, by the address where a storage begins
_UNINITIALIZED = {"aten::empty_like", "aten::new_empty", "aten::new_empty_strided", "aten::empty_strided"}
# Their shapes would be asked of Python, by way of the compiler, which takes seconds to import.
_AS_THEIR_INPUT = {torch.ops.aten.batch_norm.default}


class DeviceTensor(torch.Tensor):
    """A tensor that says it is on `cuda:0`; `memory` is where its values are."""

    memory: torch.Tensor

    @staticmethod
    def __new__(cls, memory: torch.Tensor) -> DeviceTensor:
        made: DeviceTensor = torch.Tensor._make_wrapper_subclass(
            cls, memory.size(), strides=memory.stride(), storage_offset=memory.storage_offset(), dtype=memory.dtype,
            layout=memory.layout, device="cuda:0", requires_grad=False,
        )  # fmt: skip
        made.memory = memory
        return made

    def data_ptr(self) -> int:
        return int(self.memory.data_ptr())

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it to the host first")
        return self.cpu().numpy()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def record_stream(self, stream: Any) -> None:
        """Nothing to be done: what was started holds the memory that it uses."""

    def __repr__(self) -> str:  # type: ignore[override]
        return f"DeviceTensor({list(self.shape)}, {self.dtype})"  # printing values would wait for them

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """A few methods ask for a guard of CUDA's own before they get to where everything else goes."""
        if func in {torch.Tensor.__getitem__, torch.Tensor.contiguous}:
            return _run(func, args, kwargs or {}, maybe_view=True)
        if func is torch.Tensor.copy_:
            return _copy(*args, **(kwargs or {}))
        return torch._C._disabled_torch_function_impl(func, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name, schema = func._schema.name, func._schema
        if name in {"aten::copy_", "aten::_to_copy"}:
            return (_copy if name == "aten::copy_" else _converted)(*args, **kwargs)
        if name == "aten::to":  # whole in inference mode
            return func.decompose(*args, **kwargs)
        if "device" in kwargs:
            kwargs["device"] = "cpu"
        _check_one_device(name, (args, kwargs))
        if any(argument.alias_info is not None and argument.alias_info.is_write for argument in schema.arguments):
            return _in_place(func, args, kwargs)
        maybe_view = any(result.alias_info is not None for result in schema.returns)
        return _run(func, args, kwargs, maybe_view=maybe_view, empty=name in _UNINITIALIZED)


def poison(memory: torch.Tensor) -> torch.Tensor:
    """What nobody may take for an answer."""
    with torch.inference_mode():
        if memory.dtype is torch.bool:
            return memory.fill_(True)
        return memory.fill_(float("nan") if memory.dtype.is_floating_point else _ODD)


def allocate(like: torch.Tensor) -> DeviceTensor:
    """Device memory of a tensor's shape, strides and type, with what was there before."""
    needed = like.numel() * like.element_size()
    if needed > MEMORY_BYTES - allocated_bytes():
        raise torch.cuda.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {needed / 2**20:.2f} MiB")
    memory = poison(torch.empty_strided(like.size(), like.stride(), dtype=like.dtype))
    remember(memory, "device")
    return DeviceTensor(memory)


def allocated_bytes() -> int:
    """Memory of the device that is taken."""
    return sum(size for kind, size in _KINDS.values() if kind == "device")


def remember(memory: torch.Tensor, kind: str) -> None:
    """Note what kind of memory a tensor is in, as long as that is there."""
    storage = memory.untyped_storage()
    if address := storage.data_ptr():
        _KINDS[address] = kind, storage.nbytes()
        weakref.finalize(storage, _KINDS.pop, address, None)


def kind_of(address: int) -> str | None:
    """device or pinned; None for memory that CUDA knows nothing of. address: where it begins."""
    return _KINDS[address][0] if address in _KINDS else None


def is_pinned(tensor: torch.Tensor) -> bool:
    """Whether copies from and to a tensor run beside everything else."""
    return not isinstance(tensor, DeviceTensor) and kind_of(tensor.untyped_storage().data_ptr()) == "pinned"


def launch(kernel: Callable[[], Any]) -> None:
    """Put a kernel on the current stream."""

    def work() -> None:
        with torch.inference_mode():
            kernel()

    current_stream().start(work)


def unwrapped(values: Any) -> Any:
    """Arguments with the memory of each device tensor in its place."""
    return tree_map(lambda value: value.memory if isinstance(value, DeviceTensor) else value, values)


def computed(like: Any, kernel: Callable[[], Any]) -> Any:
    """Answers of a kernel that is started now. like: what they are shaped as, tensors without values."""
    made = tree_map(lambda value: allocate(value) if isinstance(value, torch.Tensor) else value, like)
    targets = [value.memory for value in _tensors(made)]

    def run() -> None:
        for target, value in zip(targets, _tensors(kernel()), strict=True):
            target.copy_(value)

    launch(run)
    return made


def _run(func: Any, args: Any, kwargs: Any, *, maybe_view: bool, empty: bool = False) -> Any:
    """An operator that changes none of its arguments."""
    args, kwargs = unwrapped((args, kwargs))
    if maybe_view:
        viewed = func(*args, **kwargs)  # a view has no kernel; a copy that it became is made below
        known = {tensor.untyped_storage().data_ptr() for tensor in _tensors((args, kwargs))}
        if all(tensor.untyped_storage().data_ptr() in known for tensor in _tensors(viewed)):
            return tree_map(lambda value: DeviceTensor(value) if isinstance(value, torch.Tensor) else value, viewed)
    like = _shaped(func, args, kwargs)
    if not list(_tensors(like)):  # item(), equal(): the host waits for it
        current_stream().synchronize()
        return func(*args, **kwargs)
    if empty:
        return tree_map(lambda value: allocate(value) if isinstance(value, torch.Tensor) else value, like)
    return computed(like, lambda: func(*args, **kwargs))


def _shaped(func: Any, args: Any, kwargs: Any) -> Any:
    """What an operator gives, without its values; None where that needs them."""
    if func in _AS_THEIR_INPUT:
        return bare(args[0])
    bare_args, bare_kwargs = tree_map(bare, (args, kwargs))
    if "device" in bare_kwargs:
        bare_kwargs["device"] = "meta"
    try:
        return func(*bare_args, **bare_kwargs)
    except (NotImplementedError, RuntimeError) as exc:
        if "meta" not in str(exc).lower():
            raise
        return None


def bare(value: Any) -> Any:
    """A tensor's shape, strides and type alone; anything else as it is."""
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device="meta")


def _in_place(func: Any, args: Any, kwargs: Any) -> Any:
    """An operator that writes to an argument: the first of them, or `out`."""
    plain_args, plain_kwargs = unwrapped((args, kwargs))
    launch(lambda: func(*plain_args, **plain_kwargs))
    return kwargs.get("out", args[0])


def _copy(target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """As cudaMemcpyAsync: from memory that is not pinned it goes on once that was read, to such memory once all is there; and
    with the host's memory it waits in any case unless it is told not to."""
    to, out_of = unwrapped((target, source))
    hosts = [side for side in (target, source) if not isinstance(side, DeviceTensor)]
    pageable = [side for side in hosts if not is_pinned(side)]
    if pageable:
        current_stream().check_no_capture()
        out_of = out_of.clone() if isinstance(target, DeviceTensor) else out_of
    elif not isinstance(target, DeviceTensor):
        poison(to)
    launch(lambda: to.copy_(out_of))
    if (hosts and not non_blocking) or (pageable and not isinstance(target, DeviceTensor)):
        current_stream().synchronize()
    return target


def _converted(source: torch.Tensor, non_blocking: bool = False, **wanted: Any) -> torch.Tensor:
    """A copy in another type, layout or place."""
    place = torch.device(wanted.pop("device", None) or "cuda")
    wanted.pop("pin_memory", None)
    like = _shaped(torch.ops.aten._to_copy.default, (source,), wanted)
    target = allocate(like) if place.type == "cuda" else torch.empty_strided(like.size(), like.stride(), dtype=like.dtype)
    return _copy(target, source, non_blocking)


def to_device(source: torch.Tensor, dtype: torch.dtype, non_blocking: bool, memory_format: Any) -> DeviceTensor:
    """A copy of a tensor on the device."""
    target = allocate(bare(source).to(dtype=dtype, memory_format=memory_format or torch.preserve_format))
    _copy(target, source, non_blocking)
    return target


def _check_one_device(name: str, values: Any) -> None:
    """Raise PyTorch's error where an operator is given tensors of the host beside the device's."""
    for tensor in _tensors(values):
        if not isinstance(tensor, DeviceTensor) and tensor.dim() > 0:
            raise RuntimeError(f"Expected all tensors to be on the same device, but {name} found cuda:0 and {tensor.device}")


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    return (value for value in tree_flatten(values)[0] if isinstance(value, torch.Tensor))


def factory(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """torch.empty, torch.zeros and their like, with the device and pinned memory."""

    @functools.wraps(make)
    def made(*args: Any, device: Any = None, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
        if device is not None and torch.device(device).type == "cuda":
            if make.__name__.startswith("empty"):
                return allocate(make(*args, device="meta", **kwargs))
            values = make(*args, **kwargs)
            target = allocate(values)
            launch(lambda: target.memory.copy_(values))
            return target
        values = make(*args, **kwargs) if device is None else make(*args, device=device, **kwargs)
        if pin_memory:
            remember(poison(values) if make.__name__.startswith("empty") else values, "pinned")
        return values

    return made
