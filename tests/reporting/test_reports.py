"""What a report says, and files that are no report."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_deploy.errors import UsageError
from resnet_deploy.reporting.compare import compare_reports
from resnet_deploy.reporting.content import document
from resnet_deploy.reporting.document import Document, Section
from resnet_deploy.reporting.facts import commands, folded
from resnet_deploy.reporting.formatting import metric, metric_name, milliseconds
from resnet_deploy.reporting.recorded import load_report
from resnet_deploy.reporting.rows import pareto, parse_rows
from resnet_deploy.reporting.schema import read_report
from resnet_deploy.reporting.writing import render
from resnet_deploy.terminal import report as terminal
from tests.helpers.reports import full, small


def section(content: Document, title: str) -> Section:
    return next(one for one in content.sections if one.title.startswith(title))


def cells(content: Document, title: str) -> list[dict[str, str]]:
    table = section(content, title).table
    assert table is not None
    return [dict(zip(table.names, row, strict=True)) for row in table.rows]


def test_everything_that_a_run_found_is_said() -> None:
    content = document(full())
    assert [one.title for one in content.sections] == [
        "What was measured", "Not measured", "Latency and throughput", "All results", "Where the time goes",
        "Latency distribution", "Parity and speed", "Roofline", "Layer times: tensorrt int8, batch 8",
        "Layer times: tensorrt int8, batch 128", "Layer times: onnxruntime int8, batch 8", "MLPerf scenarios",
        "LoadGen's figures", "trtexec on the same plans", "Conditions", "Meanwhile", "Versions", "To get it again",
        "How to read it",
    ]  # fmt: skip
    row = cells(content, "All results")[4]
    assert row["p50 ms"] == "0.307" and row["queued images/s"] == "3,841"
    assert row["of ceiling"] == "4.5%" and row["IQR"] == "3%!"
    assert row["file"].endswith(".plan") and row["gate"] == "pass: accuracy 100% of FP32, needs 99%"
    assert cells(content, "All results")[10]["gate"] == "FAIL: accuracy 98.1% of FP32, needs 99%"
    assert cells(content, "All results")[0]["gate"] == "pass: top-1 agreement 100%, needs 98%"
    assert cells(content, "Parity and speed")[4]["difference"] == "-0.18 points (95%: -0.49 to +0.13)"
    assert content.decision is not None and content.decision.startswith("Deploy model.int8.tensorrt")
    time = cells(content, "Where the time goes")[5]
    assert (time["H2D ms"], time["compute ms"], time["D2H ms"]) == ("0.042", "0.254", "0.007")
    assert time["taken with"] == "cuda_graph, streams=2, no spin_wait, data_transfers"
    assert (
        cells(content, "Roofline")[0]["bound by"] == "memory"
        and "NVIDIA H200 datasheet" in section(content, "Roofline").notes[1]
    )
    assert cells(content, "Not measured")[0]["error"].startswith("RuntimeException: TensorRT EP failed")
    assert (
        section(content, "Layer times: tensorrt int8, batch 128").figures
        and "1.500 ms an inference, 1.400 ms without" in (section(content, "Layer times: tensorrt int8, batch 128").notes[0])
    )
    assert not section(content, "Layer times: tensorrt int8, batch 8").figures, "one chart a line"
    assert "no profiler" in section(content, "Layer times: onnxruntime").notes[0]
    beside = cells(content, "trtexec on the same plans")
    assert beside[0] | {"ours": "0.310 ms", "trtexec": "0.305 ms", "difference": "1.6%"} == beside[0]
    assert beside[1]["ours"] == "–" and beside[1]["trtexec"] == "3,120 images/s" and len(beside) == 2
    assert "no such plan" in section(content, "trtexec on the same plans").notes[1]
    scenarios = cells(content, "MLPerf scenarios")
    assert [one["LoadGen says"] for one in scenarios] == ["VALID"] * 4 + ["INVALID", "FAILED"]
    assert [one["figure"] for one in scenarios[:4]] == ["1.400 ms p90", "4.200 ms p99", "61,234 samples/s", "48,000 queries/s"]
    assert any("Latency bound is not met; lower rates" in note for note in section(content, "MLPerf scenarios").notes)
    seen = cells(content, "Meanwhile")
    assert seen[35]["throttled"] == "power cap 11%" and seen[0]["SM clock, MHz"] == "345 · 1,815–1,980 · 1,980"
    assert seen[0]["energy, mJ/image"] == "11.2" and seen[39]["row"] == "tensorrt int8 server"
    assert "memory clock, MHz" in seen[0] and "busy, %" in seen[0]
    assert [severity for severity, _ in content.notices] == ["problem", "warning", "warning", "advice"]
    assert "Not measured, since the backend failed: 1 row." in content.summary
    interrupted = full() | {"interrupted": True}
    assert document(interrupted).summary[0].startswith("The run was interrupted")


def test_an_older_report_says_what_it_has() -> None:
    content = document(small(with_samples=False))
    assert [one.title for one in content.sections] == [
        "What was measured", "Latency and throughput", "All results", "Latency distribution", "Parity and speed", "Conditions",
        "Versions", "To get it again", "How to read it",
    ]  # fmt: skip
    assert "queued images/s" not in cells(content, "All results")[0]
    on_a_cpu = small(with_samples=False)
    for result in on_a_cpu["results"]:
        result |= {"compute_latency_s": result["device_latency_s"], "settings": {}, "roofline": None, "conditions": None}
    assert [one.title for one in document(on_a_cpu).sections] == [one.title for one in content.sections]
    bare = small(with_samples=False)
    bare = {
        **bare,
        "results": [{n: r[n] for n in ("backend", "device", "precision", "batch", "latency_s")} for r in bare["results"]],
    }
    assert cells(document(bare), "All results")[0]["vs eager"] == "–"
    nothing = document({**bare, "results": []})
    assert nothing.summary == ["Nothing was measured."] and render({**bare, "results": []}, ".html")


def test_the_pareto_front_is_what_nothing_beats_and_what_passes() -> None:
    found = parse_rows(full())
    front = pareto(found)
    for row in front:
        assert row.passed and not any(
            other.passed and other.p50_s < row.p50_s and other.images_per_s > row.images_per_s for other in found
        )
    assert {row.key for row in front} == {
        row.key for row in found if row.passed
        and not any(o.passed and o.p50_s <= row.p50_s and o.images_per_s > row.images_per_s for o in found)
    }  # fmt: skip


def test_commands_are_those_that_were_run_where_they_are_known() -> None:
    assert shlex.split(commands(full())[0]) == [
        "resnet-deploy", "bench", "resnet50", "--weights", "IMAGENET1K_V2", "--head", "topk:5", "--input", "uint8",
        "--max-batch", "1024", "--data", "val/", "--batch", "1,8,32,128,512,1024", "--backend", "eager:cuda", "--backend",
        "eager:cuda,fp16,channels_last,compile", "--backend", "onnxruntime:cuda,fp16", "--backend", "tensorrt:fp16",
        "--backend", "tensorrt:int8", "--backend", "tensorrt:int8,streams=2", "--backend", "onnxruntime:fp16,tensorrt",
        "--precision", "fp16,int8", "--calibration", "DATA", "--scenario", "sweep", "--scenario", "single-stream", "--scenario",
        "multi-stream", "--scenario", "offline", "--scenario", "server", "--threads", "32",
    ]  # fmt: skip
    known = ["resnet-deploy export resnet50 -o 'b; rm -rf /'", "resnet-deploy bench b"]
    assert commands(full() | {"commands": known}) == known
    assert shlex.split(folded(known[0]).replace("\\\n", "")) == shlex.split(known[0])


def test_words() -> None:
    assert [milliseconds(value) for value in (1.5, 0.15, 0.015, 0.0015, None)] == ["1,500", "150.0", "15.00", "1.500", "–"]
    assert metric_name("latency_p90_s") == "latency p90 ms" and metric("latency_p90_s", 0.0014) == "1.400"
    assert metric_name("target_qps") == "target queries/s" and metric_name("samples_per_s") == "samples/s"
    assert metric("top1_accuracy", 0.8) == "80.00%" and metric("accuracy_images", 600) == "600"


def test_markdown_tables_keep_their_columns_whatever_is_in_them() -> None:
    report = full((1,))
    report["results"][0]["backend"] = "a|b `c` <img src=x> \n# heading\\"
    report["unmeasured"][0]["error"] = "first line\nsecond | line\n```\n| a | b |"
    text = render(report, ".md")
    outside = re.sub(r"(?ms)^(`{3,}).*?^\1$|^<pre>$.*?^</pre>$", "", text)
    assert outside.count("```") == 0 and "<" not in outside and "\n# heading" not in outside
    tables = [block.split("\n") for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)]
    assert len(tables) >= 12
    for lines in tables:
        assert len({len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines if line}) == 1, lines[0]
    assert "queued images/s" in text and "VALID" in text and "--loadEngine=model.plan" in text


def test_markdown_has_no_tag_and_no_control_of_a_recorded_string() -> None:
    """Whatever a report recorded, also in the commands to get it again."""
    hostile = "<script>hacked=1</script>\x1b[31m\x9b\u202e\u2066\r</pre>\n```\n<img src=x>\n- a"

    def spoiled(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: spoiled(item) for name, item in value.items()}
        if isinstance(value, list):
            return [spoiled(item) for item in value]
        return f"{value}{hostile}" if isinstance(value, str) else value

    report = full((1,))
    kept = {name: report[name] for name in ("samples",) if name in report}
    text = render(spoiled(report) | kept, ".md")
    assert "&lt;script&gt;" in text and re.findall(r"<[^ ]", text.replace("<pre>", "").replace("</pre>", "")) == []
    assert text.count("<pre>") == text.count("</pre>") > 0
    assert not [character for character in "\x1b\x9b\u202e\u2066\r" if character in text]


def test_json_keeps_everything_but_most_samples() -> None:
    report = full((1,))
    key = next(iter(report["samples"]))
    report["samples"][key]["host_s"] *= 10
    found = json.loads(render(report, ".json"))
    assert len(found["samples"][key]["host_s"]) == 600
    assert {name: part for name, part in found.items() if name != "samples"} == {
        n: p for n, p in report.items() if n != "samples"
    }


def test_fifty_results_are_a_small_page() -> None:
    report = full()
    extra = [copy.deepcopy(report["results"][index]) | {"backend": f"other{index}"} for index in range(14)]
    report["results"] += extra
    values = report["samples"]["eager|cuda|fp32|1"]["host_s"] * 10
    for one in report["results"]:
        report["samples"][f"{one['backend']}|{one['device']}|{one['precision']}|{one['batch']}"] = {"host_s": values}
    report["profiles"] *= 2
    assert len(parse_rows(report)) == 50 and sum(bool(row.host_s) for row in parse_rows(report)) == 50
    for suffix in (".html", ".md", ".json"):
        assert len(render(report, suffix).encode()) < 2e6, suffix


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is not JSON"), ('{"results": [', "is not JSON"), ("\x00\x01", "is not JSON"), ("[" * 100_000, "got array"),
        ('{"x": ' + "[" * 100_000, "nested too deeply"), ("[]", "Expected object, got array"),
        ("{}", "missing required field machine"), ('{"machine": 1}', "machine: Expected"),
        ('{"machine": {}, "model": {}, "results": {}}', "results: Expected array, got object"),
        ('{"machine": {}, "model": {}, "results": [{"backend": "a"}]}', r"results\[0\]: .*missing required field device"),
        ('{"bundle": "b", "results": []}', "missing required field machine"),
        ('{"machine": {}, "model": {}, "results": [], "x": ' + "[" * 50 + "]" * 50 + "}", "nested more than"),
        ('{"machine": {}, "model": {}, "results": [], "x": NaN}', "is not JSON"),
        ('{"machine": {}, "model": {}, "results": [], "x": 1e999}', "Number out of range"),
    ],
)  # fmt: skip
def test_what_is_no_report(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=f"report.json is not a report of `resnet-deploy bench`: .*({said}).*give a bundle"):
        load_report(path)


WRONG = [
    ("latency_s.p50", [0, -1e-3, 1e-12, 1e300, "inf", "nan", True, None, [1], "0.001"]), ("latency_s.iqr", [-1e-6, "nan"]),
    ("latency_s.p90", [1e-6]), ("latency_s", [[], 3, {}]), ("device_latency_s.p50", [-1]), ("compute_latency_s.p99", ["inf"]),
    ("batch", [0, -1, 1.5, True, 1 << 40, "8"]), ("speedup", [0, -1, "inf"]), ("images_per_s", [-1, "nan"]),
    ("throughput_images_per_s", [-1]), ("samples", [-1, 1e3 + 0.5]), ("gate", ["PASS", True, ""]),
    ("failures", ["none", [1]]),
    ("parity.top1_accuracy", [1.01, -0.1, 73.3, "73 %"]), ("parity.cosine_mean", [1.1, -2]), ("parity.images", [0, -5]),
    ("parity.max_rel_error", [-1, "Infinity"]), ("parity.mcnemar_p", [2]),
    ("parity.outcomes", [{"correct": "AA=="}, {"agree": "?"}, "gA=="]),
    ("backend", ["", None, 3, "x" * 2000]), ("threads", [0, -4]), ("noisy", ["no", 0]), ("roofline.reached_percent", [-1, "a"]),
    ("conditions.gpu.throttled", [[], {"power": "much"}]), ("measured", [20261120]),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WRONG for value in values])
def test_a_figure_that_cannot_be_is_refused_by_its_field(field: str, value: Any, tmp_path: Path) -> None:
    report = full((1,))
    *outer, name = field.split(".")
    place = report["results"][2]
    for part in outer:
        place = place[part]
    place[name] = value
    with pytest.raises(UsageError, match=r"results\[2\]"):
        load_report(write(tmp_path / "report.json", report))


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000])
@pytest.mark.parametrize("place", ["p50", "cosine_mean", "speedup", "watts"])
def test_numbers_that_json_has_not(token: str, place: str, tmp_path: Path) -> None:
    path = write(tmp_path / "report.json", {**full((1,)), "watts": 1.5})
    path.write_text(re.sub(f'"{place}": [-0-9.e]+', f'"{place}": {token}', path.read_text(), count=1))
    with pytest.raises(UsageError, match="is not a report"):
        load_report(path)


def test_a_mistake_in_a_giant_file_is_said_at_once(tmp_path: Path) -> None:
    """Its key is looked for as long as that takes seconds, not hours."""
    report = full((1,))
    for count, said in (
        (300, r"machine\.packages\.p299: Expected str"),
        (200_000, r"machine\.packages\[\.\.\.\]: Expected str"),
    ):
        report["machine"]["packages"] = {f"p{index}": "1" for index in range(count)} | {f"p{count - 1}": 3}
        with pytest.raises(UsageError, match=said):
            load_report(write(tmp_path / "report.json", report))


def test_the_same_row_twice_is_refused(tmp_path: Path) -> None:
    """The later one would be believed, the earlier one forgotten."""
    report = full((1,))
    report["results"].append(copy.deepcopy(report["results"][3]))
    with pytest.raises(UsageError, match=r"has the row tensorrt\|cuda\|fp16\|1 more than once"):
        load_report(write(tmp_path / "report.json", report))


def test_a_gate_that_passed_with_failures_is_refused(tmp_path: Path) -> None:
    report = full((1,))
    report["results"][0]["failures"] = ["cosine-min is 0.1"]
    with pytest.raises(UsageError, match=r"the gate passed and yet failed: cosine-min is 0\.1 - at|results\[0\]"):
        load_report(write(tmp_path / "report.json", report))


@pytest.mark.parametrize("values", [["a"], [0.001, -0.001], [0.0], [None], 3, {}])
def test_raw_samples_that_cannot_be(values: Any, tmp_path: Path) -> None:
    report = full((1,))
    report["samples"]["eager|cuda|fp32|1"]["host_s"] = values
    with pytest.raises(UsageError, match=r"samples\.eager\|cuda\|fp32\|1\.host_s"):
        load_report(write(tmp_path / "report.json", report))


def test_what_is_no_file_is_said_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, said in (("pipe", "is not a file"), ("zero", "is not a file"), ("loop", "does not exist")):
        with pytest.raises(UsageError, match=f"{name} {said}; give a bundle"):
            load_report(tmp_path / name)
    with (tmp_path / "giant").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UsageError, match="more than 64 MiB, which no report has"):
        load_report(tmp_path / "giant")


def test_figures_that_are_not_finite_are_spelled_out_wherever_they_are_shown(tmp_path: Path) -> None:
    report = full((1,))
    for result in report["results"]:
        result["parity"] |= {"max_abs_error": math.inf, "cosine_mean": math.nan, "cosine_min": -math.inf}
        result["parity"] |= {"accuracy_difference": math.nan, "top1_agreement": math.nan}
        result["gates"][0]["value"] = math.nan
    report["scenarios"][0]["metrics"]["latency_p90_s"] = math.inf
    (tmp_path / "report.json").write_text(render(report, ".json"))
    found = load_report(tmp_path / "report.json")
    assert found["results"][0]["parity"]["max_abs_error"] == "inf" and found["results"][0]["parity"]["cosine_min"] == "-inf"
    row = cells(document(found), "Parity and speed")[0]
    shown = [row[name] for name in ("1 - cosine", "lowest cosine", "agree", "difference")]
    assert shown == ["nan", "-inf", "nan", "nan"]
    assert cells(document(found), "All results")[0]["gate"] == "pass: top-1 agreement nan%, needs 98%"
    assert cells(document(found), "MLPerf scenarios")[0]["figure"] == "inf ms p90"
    for suffix in (".html", ".md"):
        assert "inf" in render(found, suffix)


def test_preprocessing_is_told_with_its_origin(tmp_path: Path) -> None:
    report = full((1,))
    known = {"resize": 146, "crop": 128, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    origin = {"resize": "assumed", "crop": "option", "interpolation": "assumed", "mean": "checkpoint", "std": "checkpoint"}
    report["model"] |= {"preprocessing": known, "preprocessing_source": origin}
    (tmp_path / "report.json").write_text(render(report, ".json"))
    content = document(load_report(tmp_path / "report.json"))
    assert [tuple(row.values()) for row in cells(content, "Preprocessing")] == [
        ("resize", "146 pixels (the shorter edge)", "assumed"), ("crop", "128 pixels (the centre)", "option"),
        ("interpolation", "bilinear", "assumed"), ("mean", "0.485, 0.456, 0.406", "checkpoint"),
        ("std", "0.229, 0.224, 0.225", "checkpoint"),
    ]  # fmt: skip
    said = "the preprocessing was assumed, since the checkpoint does not say it: resize, interpolation. "
    assert any(severity == "warning" and text.startswith(said) for severity, text in content.notices)
    for text in (render(report, ".html"), render(report, ".md"), terminal.report_text(report, None)):
        assert "Preprocessing" in text and "146 pixels" in text and "since the checkpoint does not say it" in text
    report["model"]["weights"]["source"] = "random"
    assert not any("preprocessing was assumed" in text for _, text in document(report).notices), "it means nothing there"
    del report["model"]["preprocessing_source"]
    assert [row["from"] for row in cells(document(report), "Preprocessing")] == ["not recorded"] * 4
    report["model"]["preprocessing"] = {"crop": 128}
    assert len(cells(document(report), "Preprocessing")) == 1


def test_names_that_are_no_text_are_written_and_read(tmp_path: Path) -> None:
    """A path of other bytes than UTF-8, as the command line has it."""
    report = full((1,)) | {"commands": ["resnet-deploy bench --data caf\udce9/ü\U0001f600"]}
    (tmp_path / "report.json").write_text(render(report, ".json"))
    assert load_report(tmp_path / "report.json")["commands"] == ["resnet-deploy bench --data caf?/ü\U0001f600"]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container and key in it, where something can be put."""
    keys = list(value) if isinstance(value, dict) else range(min(len(value), 4)) if isinstance(value, list) else ()
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


@pytest.mark.slow
@settings(max_examples=40)
@given(st.data())
def test_whatever_stands_in_a_report_it_is_refused_or_shown(data: st.DataObject) -> None:
    """Any part of a real report becomes anything: a complaint, or a page, never another error."""
    report = full((1, 8))
    for samples in report["samples"].values():
        del samples["host_s"][12:]
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(places(report)))
        container[key] = data.draw(ANYTHING)
    with contextlib.suppress(ValueError):
        report = read_report(json.dumps(report).encode())
        for suffix in (".html", ".md", ".json"):
            render(report, suffix)
        with contextlib.suppress(UsageError):
            compare_reports(full((1, 8)), report).to_dict()


def test_the_decision_is_read_first() -> None:
    report = full((1,))
    answer = report["decision"]["text"]
    html = render(report, ".html")
    assert html.index(f'<p class="decision">{answer}</p>') < html.index('class="tiles"') < html.index("Fastest at batch 1, of")
    markdown = render(report, ".md")
    assert markdown.index(f"**{answer.replace('_', chr(92) + '_')}**") < markdown.index("- Fastest at batch 1")
    assert terminal.report_text(report, None).splitlines()[1] == answer
    assert json.loads(render(report, ".json"))["decision"] == report["decision"]
    del report["decision"]
    assert document(report).decision is None and 'class="decision"' not in render(report, ".html"), (
        "an earlier version's report"
    )
