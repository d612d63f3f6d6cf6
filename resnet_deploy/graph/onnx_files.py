"""ONNX files as others write them: read within limits, checked for what the ONNX checker lets through."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resnet_deploy._files import regular
from resnet_deploy._text import printable
from resnet_deploy.errors import GraphError

MAX_BYTES = (1 << 31) - 1  # protobuf's own limit
MAX_NODES = 1_000_000  # that are read at all; a residual network of 1,202 layers has 4,200
MAX_EXPANDED = 50_000  # with those of functions counted wherever they are called: shape inference visits each
_PACKED_BITS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}


def parse_model(path: Path) -> Any:
    """An ONNX file as a ModelProto, its external data left where it is.

    Raises:
        GraphError: not a file, larger than 2 GB, not ONNX, or ONNX that contradicts itself: see `check_structure`.
    """
    import onnx

    try:
        regular(path, MAX_BYTES)
        model = onnx.ModelProto.FromString(path.read_bytes())
    except (OSError, ValueError) as exc:
        raise invalid(path, exc.strerror if isinstance(exc, OSError) and exc.strerror else exc) from exc
    except Exception as exc:  # protobuf has its own exceptions, by implementation
        raise invalid(path, exc) from exc
    if not model.ByteSize() or not model.HasField("graph"):
        raise invalid(path, "it holds no graph")
    if len(model.graph.node) > MAX_NODES:
        raise invalid(path, f"it has {len(model.graph.node):,} nodes; at most {MAX_NODES:,} are read")
    try:
        check_structure(model, path)
    except (GraphError, OSError, ValueError) as exc:
        raise invalid(path, exc) from exc
    return model


def check_model(path: Path) -> None:
    """Run the ONNX checker on a file that `parse_model` has read. Raises GraphError."""
    import onnx

    try:
        onnx.checker.check_model(str(path))
    except Exception as exc:  # the checker and protobuf have no common base
        raise invalid(path, exc) from exc


def invalid(path: Path, reason: object) -> GraphError:
    """The error for a file that is no ONNX file, with the first line of the reason."""
    first = next(iter(str(reason).splitlines()), "") or type(reason).__name__
    return GraphError(f"{path} is not a valid ONNX file: {printable(first[:300])}")


def check_structure(model: Any, path: Path) -> None:
    """Raise GraphError for an opset or an element type that there is not, and for weights in other files that are missing,
    too short, or not beside the model."""
    import onnx

    domains = ["" if item.domain == "ai.onnx" else item.domain for item in model.opset_import]
    if twice := [domain for domain in domains if domains.count(domain) > 1]:
        raise GraphError(f"it imports the opset of {twice[0] or 'ai.onnx'!r} twice")
    newest = onnx.defs.onnx_opset_version()
    for domain, item in zip(domains, model.opset_import, strict=True):
        if domain == "" and not 1 <= item.version <= newest:
            raise GraphError(f"its opset is {item.version:,}; the onnx package that is installed reads 1 to {newest}")
    if bad := next((text for text in _texts(model) if not isinstance(text, str)), None):
        raise GraphError(f"the name {bad[:40]!r} is not UTF-8")  # protobuf hands it on as bytes
    for value in (*model.graph.input, *model.graph.output):
        typed(value.type)
    for tensor in tensors(model):
        if tensor.data_type:  # the checker says which has none
            element_name(tensor.data_type)
        if is_external(tensor):
            _external(tensor, path)


def load_external(model: Any, path: Path) -> None:
    """Read the weights that a parsed model keeps in other files, and no more of those files than that.

    Raises:
        GraphError: they are more than 2 GB, or a file changed since it was checked.
    """
    outside = [tensor for tensor in tensors(model) if is_external(tensor)]
    if sum(map(size_bytes, outside)) > MAX_BYTES:
        raise invalid(path, "the weights that it keeps in other files are more than 2 GB")
    for tensor in outside:
        place, offset, needed = _external(tensor, path)
        with place.open("rb") as file:
            file.seek(offset)
            data = file.read(needed)
        if len(data) != needed:
            raise invalid(path, f"the weights of {tensor.name!r} are in {location(tensor)!r}, which became shorter")
        tensor.raw_data = data
        tensor.data_location = type(tensor).DEFAULT
        del tensor.external_data[:]


def _texts(model: Any) -> Iterator[Any]:
    """Every name in a model that is shown or looked up."""
    yield from (model.producer_name, model.producer_version)
    for item in model.opset_import:
        yield item.domain
    for function in model.functions:
        yield from (function.domain, function.name)
    for root in (model.graph, *model.functions):
        for graph in graphs(root):
            for node in graph.node:
                yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        yield value.name
        for kind in (value.type.tensor_type, value.type.sparse_tensor_type):
            yield from (dim.dim_param for dim in kind.shape.dim)
    for tensor in tensors(model):
        yield tensor.name
        for entry in tensor.external_data:
            yield from (entry.key, entry.value)


def opset_of(model: Any) -> int:
    """The version of ONNX's own operators; 0 for a model that has none of them."""
    return next((int(item.version) for item in model.opset_import if item.domain in {"", "ai.onnx"}), 0)


def graphs(graph: Any) -> Iterator[Any]:
    """A graph or a function, and all that its nodes' attributes hold, however deep. Protobuf's own limit is 100 levels."""
    waiting = [graph]
    while waiting:
        current = waiting.pop()
        yield current
        for node in current.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    waiting.append(attribute.g)
                waiting.extend(attribute.graphs)


def tensors(model: Any) -> Iterator[Any]:
    """Every tensor of a model: initializers, sparse ones, attributes, in graphs and functions."""
    for root in (model.graph, *model.functions):
        for graph in graphs(root):
            yield from getattr(graph, "initializer", ())
            for sparse in getattr(graph, "sparse_initializer", ()):
                yield from (sparse.values, sparse.indices)
            for node in graph.node:
                for attribute in node.attribute:
                    if attribute.HasField("t"):
                        yield attribute.t
                    yield from attribute.tensors
                    for sparse in (*([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else ()),
                                   *attribute.sparse_tensors):  # fmt: skip
                        yield from (sparse.values, sparse.indices)


def expanded_nodes(model: Any) -> int:
    """How many nodes a model has once every call of a function is replaced by the function's nodes.

    Ten functions that each call the one before twice are a thousand nodes. Raises GraphError for functions that call
    themselves.
    """
    bodies = {(item.domain, item.name, getattr(item, "overload", "")): item for item in model.functions}
    sizes: dict[Any, int] = {}
    path: set[Any] = set()

    def size(body: Any) -> int:
        return sum(1 + called(node) for graph in graphs(body) for node in graph.node)

    def called(node: Any) -> int:
        key = (node.domain, node.op_type, getattr(node, "overload", ""))
        if key not in bodies:
            return 0
        if key in path or len(path) > 200:
            raise GraphError(f"its function {node.op_type!r} calls itself, or calls are nested more than 200 deep")
        if key not in sizes:
            path.add(key)
            sizes[key] = size(bodies[key])
            path.remove(key)
        return sizes[key]

    return size(model.graph)


def element_name(element: int) -> str:
    """NumPy's name of an ONNX element type (`float32`, `bfloat16`); `string`. Raises GraphError for a number that is none."""
    import onnx

    if element == onnx.TensorProto.STRING:
        return "string"
    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(element))
    except Exception as exc:  # KeyError, by version
        raise GraphError(f"{element} is no element type that ONNX has") from exc


def typed(kind: Any) -> tuple[str, tuple[int | str, ...]]:
    """A type in words, and a shape: `?` for a size that is not known, `...` alone for a rank that is not."""
    which = kind.WhichOneof("value")
    if which in {"tensor_type", "sparse_tensor_type"}:
        tensor = getattr(kind, which)
        name = element_name(tensor.elem_type)
        return name if which == "tensor_type" else f"sparse {name}", shape_of(tensor)
    if which in {"sequence_type", "optional_type"}:
        name, shape = typed(getattr(kind, which).elem_type)
        return f"{'sequence of' if which == 'sequence_type' else 'optional'} {name}", shape
    if which == "map_type":
        return f"map of {element_name(kind.map_type.key_type)} to {typed(kind.map_type.value_type)[0]}", ()
    return "unknown", ("...",)


def shape_of(tensor: Any) -> tuple[int | str, ...]:
    """A tensor type's shape, as `typed` has it."""
    if not tensor.HasField("shape"):
        return ("...",)
    known = [dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else "?" for dim in tensor.shape.dim]
    return tuple(dim.dim_param or size for dim, size in zip(tensor.shape.dim, known, strict=True))


def size_bytes(tensor: Any) -> int:
    """What a tensor's elements take, wherever they are kept. Raises GraphError for an element type that there is not."""
    import onnx

    if tensor.data_type == onnx.TensorProto.STRING:
        return sum(len(text) for text in tensor.string_data)
    name = element_name(tensor.data_type)
    packed = _PACKED_BITS.get(onnx.TensorProto.DataType.Name(tensor.data_type))
    bits = packed or 8 * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    if min(tensor.dims, default=1) < 0:
        raise GraphError(f"the tensor {tensor.name!r} of {name} has a negative size, {list(tensor.dims)[:8]}")
    return -(-math.prod(map(int, tensor.dims)) * bits // 8)


def is_external(tensor: Any) -> bool:
    """Whether a tensor's elements are in another file."""
    return bool(tensor.data_location == type(tensor).EXTERNAL)


def location(tensor: Any) -> str:
    """The other file, relative to the model's folder."""
    return next((str(item.value) for item in tensor.external_data if item.key == "location"), "")


def _external(tensor: Any, path: Path) -> tuple[Path, int, int]:
    """The file that holds a tensor's elements, where they begin, and how many bytes they are. Raises GraphError."""
    where = location(tensor)
    place = Path(where)
    if not where or place.is_absolute() or ".." in place.parts or "\0" in where:
        raise GraphError(f"the weights of {tensor.name!r} are in {where!r}, which is not a file beside it or in a folder below")
    values = {item.key: item.value for item in tensor.external_data}
    try:
        if not (path.parent / place).resolve().is_relative_to(path.parent.resolve()):
            raise ValueError("a link leads out of its folder")
        held = regular(path.parent / place, 1 << 62)
        offset, needed = _whole(values.get("offset", "0")), size_bytes(tensor)
        if (length := _whole(values.get("length", str(needed)))) != needed:
            raise ValueError(f"{length:,} bytes are named for a tensor of {needed:,}")
        if offset + needed > held:
            raise ValueError(f"it has {held:,} bytes, and {offset + needed:,} are needed")
    except (OSError, ValueError, RuntimeError) as exc:  # RuntimeError: a loop of links, before Python 3.13
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise GraphError(f"the weights of {tensor.name!r} are in {where!r}: {reason}") from exc
    return path.parent / place, offset, needed


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 20:
        raise ValueError(f"{text[:40]!r} is no number of bytes")
    return int(text)
