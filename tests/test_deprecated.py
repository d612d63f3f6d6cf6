"""Names that options and arguments had before, and texts where one or several are meant."""

from __future__ import annotations

import shutil
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import resnet_deploy as rd
from resnet_deploy import limits
from resnet_deploy.benchmarking.mlperf.scenarios import ScenarioOptions
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.cli import main
from resnet_deploy.errors import UsageError
from resnet_deploy.serving.embedding.job import EmbedOptions
from resnet_deploy.serving.triton.options import TritonOptions

OLD = [(name, item.opts[0]) for name, command in main.commands.items() for item in command.params
       if isinstance(item, click.Option) and item.hidden]  # fmt: skip


@pytest.fixture
def own(digits_bundle: Bundle, tmp_path: Path) -> Bundle:
    """A copy that may be changed."""
    return Bundle.open(shutil.copytree(digits_bundle.path, tmp_path / "own"))


def test_old_names_of_arguments_work_and_warn(own: Bundle) -> None:
    with pytest.warns(DeprecationWarning, match=r"verify\(\w+=\.\.\.\) is now (backend|gate)=") as caught:
        (verdict,) = rd.verify(own, "random:2", backends=["eager"], gates=["max-abs-error=-1"])  # type: ignore[call-arg]
    assert str(verdict.candidate) == "eager" and verdict.gate == "fail"
    assert len(caught) == 2 and {warning.filename for warning in caught} == {__file__}


def test_both_names_of_an_argument_are_refused(own: Bundle) -> None:
    with pytest.raises(TypeError, match=r"verify\(\) got 'backends' and 'backend'"):
        rd.verify(own, "random:2", backend="eager", backends=["eager"])  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("call", "old", "value"),
    [
        (rd.bench, "duration_s", -1), (rd.bench, "latency_bound_s", -1), (rd.bench, "min_duration_s", -1),
        (rd.bench, "targets", "x"), (rd.bench, "gates", ["x=1"]), (rd.export, "targets", "x"), (rd.tune, "targets", "x"),
        (rd.tune, "gates", ["x=1"]), (rd.build, "target", "x"), (rd.embed, "checkpoint_s", -1), (rd.triton, "max_delay_s", -1),
        (rd.triton, "latency_bound_s", -1), (rd.triton, "server", "26.09"),
    ],
)  # fmt: skip
def test_every_old_name(call: object, old: str, value: object, own: Bundle, tmp_path: Path) -> None:
    """Its value arrives: one that cannot be meant is refused, as by the new name."""
    needed = {rd.tune: ("random:2",), rd.embed: (tmp_path, tmp_path / "x.parquet"), rd.triton: (tmp_path / "x",)}
    with pytest.warns(DeprecationWarning, match=rf"\({old}="), pytest.raises(UsageError):
        call(own, *needed.get(call, ()), **{old: value})  # type: ignore[operator, call-overload]


def test_old_options_are_those_that_are_known() -> None:
    assert sorted(OLD) == [
        ("bench", "--target"), ("build", "--target"), ("export", "--target"), ("triton", "--for"), ("tune", "--target")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("args", "new", "message"),
    [
        (("build", "BUNDLE", "--target", "sm99"), "--compute-capability", "unknown compute capability 'sm99'"),
        (("export", "BUNDLE", "--target=gpu"), "--int8-target", "unknown INT8 target 'gpu'"),
        (("bench", "BUNDLE", "--target", "gpu"), "--int8-target", "unknown INT8 target 'gpu'"),
        (("tune", "BUNDLE", "--data", "digits", "--target", "gpu"), "--int8-target", "unknown INT8 target 'gpu'"),
        (("triton", "BUNDLE", "-o", "OUT", "--for", "26.09"), "--release", "--release are for TensorRT plans"),
    ],
)
def test_old_names_of_options_work_and_warn(args: tuple[str, ...], new: str, message: str, own: Bundle, tmp_path: Path) -> None:
    words = {"BUNDLE": str(own.path), "OUT": str(tmp_path / "out")}
    done = CliRunner().invoke(main, [words.get(word, word) for word in args])
    warning, error = done.stderr.splitlines()
    assert done.exit_code == 2 and warning.startswith("Warning: --") and f"is now called {new}" in warning and message in error


def test_the_new_name_of_an_option_goes_before_the_old() -> None:
    done = CliRunner().invoke(main, ["build", "nowhere", "--compute-capability", "sm98", "--target", "sm99"])
    assert "unknown compute capability 'sm98'" in done.stderr


def test_a_time_is_a_number_of_seconds_or_a_text_with_its_unit() -> None:
    assert limits.seconds("latency_bound", "15ms") == ScenarioOptions().latency_bound_s == 0.015
    assert ScenarioOptions(min_duration="2 min").min_duration_s == 120 == ScenarioOptions(min_duration=120).min_duration_s
    assert TritonOptions(max_delay="500us").max_delay_s == 0.0005 and EmbedOptions(checkpoint="30s").checkpoint_s == 30
    for bad in ("15", "ms", "1h", "-1s", 0, -1, float("nan"), "2h", True):
        with pytest.raises(UsageError):
            limits.seconds("latency_bound", bad)


def test_help_of_verify_has_every_metric() -> None:
    from resnet_deploy.parity.gates import METRICS

    text = CliRunner().invoke(main, ["verify", "--help"]).stdout
    assert not [metric for metric in METRICS if metric not in text]
