"""The Grafana dashboard and Prometheus's alert rules: what they ask for, asked of a real Prometheus."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import clips
import pytest
from live_runs import live, until

TOP = Path(__file__).parents[1]
DASHBOARD = TOP / "packaging" / "grafana" / "dashboard.json"
ALERTS = TOP / "packaging" / "prometheus" / "alerts.yml"
UNPACKED = TOP / "tests" / ".cache" / "prometheus" / "usr" / "bin"  # by scripts/setup-tests


def tool(name: str) -> str:
    """Prometheus's program of this name; the test is skipped without it."""
    found = shutil.which(name) or shutil.which(name, path=str(UNPACKED))
    if found is None:
        pytest.skip(f"there is no {name} here; Debian's package prometheus has it")
    return found


def panels() -> list[dict[str, Any]]:
    """Those of the dashboard that have queries."""
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def queries() -> list[str]:
    """All of the dashboard, with what Grafana would put in for the choices of the page."""
    written = [target["expr"] for panel in panels() for target in panel["targets"]]
    values = {"$__rate_interval": "1m", "$instance": ".*", "$stream": ".*"}
    filled = [re.sub(r"\$\w+", lambda name: values[name[0]], text) for text in written]
    assert filled
    return filled


# --- the dashboard as a file ----------------------------------------------------------------------------------------


def test_dashboard_is_what_its_script_makes() -> None:
    script = TOP / "packaging" / "dashboard.py"
    made = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    assert made == DASHBOARD.read_text(encoding="utf-8"), (
        "run python packaging/dashboard.py > packaging/grafana/dashboard.json"
    )


def test_dashboard_has_no_field_that_grafana_does_not_know() -> None:
    """Grafana's own types read it and write the same again: a field that is misspelled would get lost."""
    plugins = pytest.importorskip(
        "grafana_foundation_sdk.cog.plugins", reason="wants Python 3.11", exc_type=ImportError
    )
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models import prometheus, stat, statetimeline, timeseries
    from grafana_foundation_sdk.models.dashboard import Dashboard

    plugins.register_default_plugins()
    written = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    read = Dashboard.from_json(written)
    again = json.loads(JSONEncoder().encode(read))
    assert list(losses(written, again)) == []
    kinds = {"stat": stat, "state-timeline": statetimeline, "timeseries": timeseries}
    for panel in read.panels or []:
        if panel.type_val != "row":
            assert isinstance(panel.options, kinds[panel.type_val].Options)
            assert all(isinstance(target, prometheus.Dataquery) for target in panel.targets)


def losses(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Where in a JSON value something is gone, or another."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name, value in before.items():
            yield from losses(value, after.get(name), f"{path}/{name}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for place, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from losses(one, other, f"{path}/{place}")
    elif before != after:
        yield f"{path}: {before!r} became {after!r}"


def test_panels_do_not_overlap_and_are_called_differently() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
    titles = [panel["title"] for panel in panels()]
    assert len(set(titles)) == len(titles)


# --- asked of Prometheus --------------------------------------------------------------------------------------------


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[str]:
    """A server that scrapes `target` each second and judges the alert rules; its address."""
    config, log = folder / "prometheus.json", folder / "prometheus.log"
    job = {"job_name": "bmf-trt-seg", "static_configs": [{"targets": [target]}]}
    content = {  # JSON is YAML
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [job],
    }
    config.write_text(json.dumps(content))
    with log.open("w") as said:
        process = subprocess.Popen(
            [
                tool("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}",
                "--web.listen-address=127.0.0.1:0",
            ],
            stderr=said,
        )  # fmt: skip
    try:
        listening = re.compile(r'msg="Listening on" address=(\S+)')
        found = until(lambda: listening.search(log.read_text()) or process.poll() is not None)
        assert found is not True, log.read_text()
        yield f"http://{found[1]}"
    finally:
        process.terminate()
        process.wait(20)


def asked(server: str, path: str, **parameters: str) -> Any:
    """The data of an answer; what Prometheus complains of is an error."""
    address = f"{server}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(address, timeout=10) as answer:
        content = json.load(answer)
    assert content["status"] == "success", content
    return content["data"]


def has_numbers(server: str, query: str) -> bool:
    """Whether all its values are numbers, and there are some."""
    found = asked(server, "query", query=query)["result"]
    return bool(found) and all(math.isfinite(float(one["value"][1])) for one in found)


def test_prometheus_answers_every_query_of_the_dashboard(tmp_path: Path, bright: Path) -> None:
    tool("prometheus")
    clip = clips.write_clip(tmp_path / "clip.mp4", frames=600, rate=Fraction(10), audio=("aac",))
    (tmp_path / "out").mkdir()
    defaults = {
        "segment": {"model": str(bright)},
        "encoder": {"preset": "ultrafast", "gop_seconds": 0.4},
        "outputs": [{"kind": "file", "path": f"{tmp_path}/out/{{name}}.mp4", "segment_seconds": 1}],
    }
    feeds = [{"name": name, "url": str(clip)} for name in ("door", "yard")]
    with (
        live(tmp_path, feeds, defaults=defaults) as run,
        prometheus(tmp_path, run.url.removeprefix("http://")) as server,
    ):
        until(lambda: run.is_up("door") and run.is_up("yard"))
        waiting = queries()

        def all_answered() -> bool:
            waiting[:] = [query for query in waiting if not has_numbers(server, query)]
            return not waiting

        try:
            until(all_answered)
        except AssertionError:
            pytest.fail(f"no data for {waiting}")

        def values(label: str) -> Any:
            return asked(server, f"label/{label}/values", **{"match[]": "bmf_trt_seg_stream_up"})

        assert values("stream") == ["door", "yard"]
        assert len(values("instance")) == 1
        rules = until(lambda: judged(asked(server, "rules")))
        assert {rule["name"]: rule.get("lastError", "") for rule in rules if rule["health"] != "ok"} == {}
        assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []


def judged(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The rules, once there is a verdict on all of them."""
    rules: list[dict[str, Any]] = [rule for group in answer["groups"] for rule in group["rules"]]
    return rules if all(rule["health"] != "unknown" for rule in rules) else []


# --- alerts ---------------------------------------------------------------------------------------------------------

LATENCY = 'bmf_trt_seg_stage_seconds_bucket{stream="door",stage="end_to_end",le="%s"}'
OUTPUT = '{stream="door",kind="push",output="rtmp://192.0.2.20/live"}'
# alert: series with their values from minute to minute, as `promtool test rules` writes them ("0+60x20": 60 more each)
TROUBLE = {
    "BmfTrtSegGone": {'up{job="bmf-trt-seg"}': "1x2 0x18"},
    "BmfTrtSegCameraDown": {'bmf_trt_seg_stream_up{stream="door"}': "1x2 0x18"},
    "BmfTrtSegFeedDown": {'bmf_trt_seg_feed_running{feed="door"}': "1x2 0x18"},
    "BmfTrtSegFeedRestarts": {'bmf_trt_seg_feed_restarts_total{feed="door"}': "0+1x20"},
    "BmfTrtSegBehind": {LATENCY % "1.0": "0+60x20", LATENCY % "2.5": "0+120x20", LATENCY % "+Inf": "0+120x20"},
    "BmfTrtSegDropsFrames": {
        'bmf_trt_seg_frames_in_total{stream="door"}': "0+600x20",
        'bmf_trt_seg_frames_dropped_total{stream="door",reason="late"}': "0+60x20",
        'bmf_trt_seg_frames_dropped_total{stream="door",reason="closed"}': "0x20",
    },
    "BmfTrtSegRecordingDown": {'bmf_trt_seg_output_up{stream="door",kind="file",output="door.mp4"}': "1x2 0x18"},
    "BmfTrtSegPushDown": {f"bmf_trt_seg_output_up{OUTPUT}": "1x2 0x18"},
    "BmfTrtSegOutputDropsPackets": {
        f"bmf_trt_seg_output_up{OUTPUT}": "1x20",
        f"bmf_trt_seg_output_packets_dropped_total{OUTPUT}": "0+60x20",
    },
    "BmfTrtSegNetworkFails": {'bmf_trt_seg_shared_batches_failed_total{model="person.onnx"}': "0+1x20"},
}
FINE = {
    'up{job="bmf-trt-seg"}': "1x20",
    'bmf_trt_seg_stream_up{stream="door"}': "1 0 1x18",  # away for less than a minute
    'bmf_trt_seg_feed_running{feed="door"}': "1x20",
    'bmf_trt_seg_feed_restarts_total{feed="door"}': "0 1x19",
    LATENCY % "1.0": "0+120x20",
    LATENCY % "+Inf": "0+120x20",
    'bmf_trt_seg_frames_in_total{stream="door"}': "0+600x20",
    'bmf_trt_seg_frames_dropped_total{stream="door",reason="late"}': "0+6x20",
    f"bmf_trt_seg_output_up{OUTPUT}": "1x20",
    f"bmf_trt_seg_output_packets_dropped_total{OUTPUT}": "0x20",
    'bmf_trt_seg_shared_batches_failed_total{model="person.onnx"}': "0x20",
}


def alerts_of(folder: Path, series: dict[str, str], expected: dict[str, int]) -> str:
    """What promtool has to complain of, if these series lead to others than these alerts, each so many times."""
    names = re.findall(r"alert: (\w+)", ALERTS.read_text(encoding="utf-8"))
    checks = [
        {"expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}})', "eval_time": "15m",
         "exp_samples": [{"labels": "{}", "value": expected[name]}] if name in expected else []}
        for name in names
    ]  # fmt: skip
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    content = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": inputs, "promql_expr_test": checks}],
    }
    path = folder / "alerts.json"
    path.write_text(json.dumps(content))
    ran = subprocess.run([tool("promtool"), "test", "rules", path], capture_output=True, text=True)
    return "" if ran.returncode == 0 else ran.stdout + ran.stderr


def test_every_alert_has_a_case() -> None:
    assert re.findall(r"alert: (\w+)", ALERTS.read_text(encoding="utf-8")) == list(TROUBLE)


def test_page_of_installing_names_all_alerts() -> None:
    page = (TOP / "docs" / "install.md").read_text(encoding="utf-8")
    assert re.findall(r"`(BmfTrtSeg\w+)`", page) == list(TROUBLE)


@pytest.mark.parametrize("alert", TROUBLE)
def test_alert_fires_alone_when_something_is_wrong(tmp_path: Path, alert: str) -> None:
    assert alerts_of(tmp_path, TROUBLE[alert], {alert: 1}) == ""


def test_no_alert_fires_while_all_is_well(tmp_path: Path) -> None:
    assert alerts_of(tmp_path, FINE, {}) == ""
