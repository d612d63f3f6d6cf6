"""Triton's config.pbtxt as a protobuf message: its schema, its text, and how two of them differ.

The schema is that of tritonclient 2.73 (github.com/triton-inference-server/common, protobuf/model_config.proto), as a
serialized FileDescriptorProto under NVIDIA's licence, both in `schema/`. The package itself is not used: it pins protobuf
and ml-dtypes to older versions than the exporter needs.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnet_deploy.errors import RepositoryError

SCHEMA = Path(__file__).parent / "schema" / "model_config.binpb"


@functools.cache
def _message_class() -> Any:
    from google.protobuf import descriptor_pool, message_factory

    pool = descriptor_pool.DescriptorPool()  # of its own: a process that has tritonclient as well has the same names
    pool.AddSerializedFile(SCHEMA.read_bytes())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


def new_config(**fields: Any) -> Any:
    """An inference.ModelConfig message; nested messages as dicts, enums by name. An unknown field raises ValueError."""
    return _message_class()(**fields)


def string_parameters(values: Mapping[str, str]) -> dict[str, Any]:
    """Parameters by name as a configuration has them."""
    return {name: {"string_value": value} for name, value in values.items()}


def to_text(config: Any) -> str:
    """A message as the text of config.pbtxt."""
    from google.protobuf import text_format

    return str(text_format.MessageToString(config))


def config_dict(config: Any) -> dict[str, Any]:
    """A message as JSON has it, under the names of config.pbtxt."""
    from google.protobuf import json_format

    content: dict[str, Any] = json_format.MessageToDict(config, preserving_proto_field_name=True)
    return content


def read_config(path: Path) -> Any:
    """A config.pbtxt as a message. Raises RepositoryError for anything else."""
    from google.protobuf import text_format

    try:
        return text_format.Parse(path.read_text(), _message_class()())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as exc:
        raise RepositoryError(f"{path} cannot be read as a Triton model configuration: {exc}") from exc


def differences(current: Any, wanted: Any) -> list[str]:
    """Where two messages differ, each as `field: found, not wanted`; [] for equal ones."""
    if current == wanted:
        return []
    old, new = config_dict(current), config_dict(wanted)
    return [
        f"{name}: {_short(old.get(name))}, not {_short(new.get(name))}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 160 else f"{text[:157]}..."
