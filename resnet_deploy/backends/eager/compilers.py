"""torch.compile in the ways that a candidate may ask for. CUDA graphs are ours to capture, whoever compiles."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

import torch

from resnet_deploy._deps import version
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.errors import MissingPackageError, UsageError
from resnet_deploy.models.deploy import DeployModel

_MAX_AUTOTUNE = "max-autotune-no-cudagraphs"
_COMPILES = ("compile", "max_autotune")
# What TensorRT cannot build is an error, and not run by PyTorch in silence; types are those of the network.
_TENSORRT = {"use_explicit_typing": True, "min_block_size": 1, "pass_through_build_failures": True}


def check_compiler(candidate: Candidate) -> None:
    """Raise UsageError for options that contradict each other, MissingPackageError for a compiler that is not installed."""
    chosen = {*candidate.options}
    if "freezing" in chosen and chosen.isdisjoint(_COMPILES):
        raise UsageError(f"{candidate}: freezing is of torch.compile; add compile or max_autotune")
    if "torch_tensorrt" not in chosen:
        return
    if other := chosen & {*_COMPILES, "freezing", "cuda_graph", "graph_copies"}:
        raise UsageError(f"{candidate}: torch_tensorrt compiles by itself; leave out {min(other)}")
    try:
        importlib.import_module("torch_tensorrt")  # which tells torch.compile of itself
    except ImportError as exc:
        raise MissingPackageError(
            f"{candidate} needs torch_tensorrt, in the version for torch {torch.__version__}: {exc}"
        ) from exc


def compiler_facts(candidate: Candidate) -> dict[str, Any]:
    """What a compiled candidate runs on, for `describe`; empty where nothing compiles."""
    if "torch_tensorrt" in candidate.options:
        return {"torch_tensorrt": version("torch_tensorrt"), "compiler_options": dict(_TENSORRT)}
    if {*_COMPILES}.isdisjoint(candidate.options):
        return {}
    return {"inductor_freezing": "freezing" in candidate.options}


def compile_network(model: DeployModel, options: Iterable[str], **more: Any) -> Any:
    """The network as it is called: compiled, or as it is without such an option.

    Args:
        model: on its device.
        options: of a candidate, checked.
        more: options of PyTorch's own compiler (inductor).
    """
    chosen = {*options}
    if "torch_tensorrt" in chosen:
        return torch.compile(model, backend="torch_tensorrt", dynamic=False, options=dict(_TENSORRT))
    if chosen.isdisjoint(_COMPILES):
        return model
    if "max_autotune" in chosen:
        more = {**torch._inductor.list_mode_options(_MAX_AUTOTUNE), **more}
    if "freezing" in chosen:
        more["freezing"] = True  # weights are constants: folded, and kept in the layout that kernels read
    dynamic = False if chosen & {"max_autotune", "freezing"} else None
    return torch.compile(model, dynamic=dynamic, options=more or None)
