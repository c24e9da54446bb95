"""The Grafana dashboard: `python packaging/dashboard.py > packaging/grafana/dashboard.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

WIDTH = 24  # of a row of panels, in Grafana's units
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
STREAM = 'instance=~"$instance",stream=~"$stream"'
FEED = 'instance=~"$instance",feed=~"$stream"'
INSTANCE = 'instance=~"$instance"'
RATE = "[$__rate_interval]"
GREEN, RED = "green", "red"
# names of common settings, as Grafana spells them
STATES = [{"type": "value", "options": {"0": {"text": "down", "color": RED}, "1": {"text": "up", "color": GREEN}}}]


@dataclass(frozen=True)
class Panel:
    """One picture: queries in PromQL with what their lines are called."""

    title: str
    says: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    unit: str = "short"
    width: int = 12
    height: int = 8
    red_from: float | None = None
    more: dict[str, Any] = field(default_factory=dict)
    """Settings of this kind of panel in the place of the usual ones."""

    def content(self, number: int, x: int, y: int) -> dict[str, Any]:
        steps: list[dict[str, Any]] = [{"value": None, "color": GREEN}]
        if self.red_from is not None:
            steps.append({"value": self.red_from, "color": RED})
        defaults: dict[str, Any] = {"unit": self.unit, "thresholds": {"mode": "absolute", "steps": steps}}
        if self.kind == "timeseries":
            defaults |= {"min": 0, "color": {"mode": "palette-classic"}, "custom": {"fillOpacity": 8, "lineWidth": 1}}
        else:
            defaults |= {"color": {"mode": "thresholds"}}
        if self.kind == "state-timeline":
            defaults |= {"mappings": STATES, "custom": {"fillOpacity": 80, "lineWidth": 0}}
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.says,
            "datasource": SOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "fieldConfig": {"defaults": defaults, "overrides": []},
            "options": {**OPTIONS[self.kind], **self.more},
            "targets": [
                {
                    "refId": chr(ord("A") + place),
                    "datasource": SOURCE,
                    "editorMode": "code",
                    "expr": query,
                    "instant": self.kind == "stat",
                    "range": self.kind != "stat",
                    "legendFormat": legend,
                }
                for place, (query, legend) in enumerate(self.queries)
            ],
        }


OPTIONS: dict[str, dict[str, Any]] = {
    "stat": {
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "auto",
    },
    "state-timeline": {
        "alignValue": "left",
        "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": False},
        "mergeValues": True,
        "rowHeight": 0.8,
        "showValue": "auto",
        "tooltip": {"mode": "single", "sort": "none"},
    },
    "timeseries": {
        "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
}


def quantile(share: str, metric: str, labels: str, by: str) -> str:
    return f"histogram_quantile({share}, sum by (le, {by}) (rate({metric}_bucket{{{labels}}}{RATE})))"


def mean(metric: str, labels: str, by: str) -> str:
    return (
        f"sum by ({by}) (rate({metric}_sum{{{labels}}}{RATE})) / sum by ({by}) (rate({metric}_count{{{labels}}}{RATE}))"
    )


def rate(metric: str, labels: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}{{{labels}}}{RATE}))"


END_TO_END = f'{STREAM},stage="end_to_end"'
ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Now",
        (
            Panel(
                "Streams up", "Streams whose frames come.",
                ((f"sum(bmf_trt_seg_stream_up{{{STREAM}}})", ""),), "stat", width=4, height=4,
            ),
            Panel(
                "Streams down", "Streams whose camera is away, or that have not begun.",
                ((f"sum(1 - bmf_trt_seg_stream_up{{{STREAM}}})", ""),), "stat", width=4, height=4, red_from=1,
            ),
            Panel(
                "Outputs away", "Files, playlists and servers that take nothing.",
                ((f"sum(1 - bmf_trt_seg_output_up{{{STREAM}}})", ""),), "stat", width=4, height=4, red_from=1,
            ),
            Panel(
                "Frames a second", "Out of all streams.",
                ((f"sum(rate(bmf_trt_seg_frames_out_total{{{STREAM}}}{RATE}))", ""),), "stat", width=4, height=4,
            ),
            Panel(
                "Dropped", "Of the frames that came in.",
                ((
                    f"sum(rate(bmf_trt_seg_frames_dropped_total{{{STREAM}}}{RATE}))"
                    f" / sum(rate(bmf_trt_seg_frames_in_total{{{STREAM}}}{RATE}))", "",
                ),),
                "stat", "percentunit", width=4, height=4, red_from=0.05,
            ),
            Panel(
                "Slowest stream", "99 of 100 of its frames take at most so long, from arrival to the encoder.",
                ((f"max({quantile('0.99', 'bmf_trt_seg_stage_seconds', END_TO_END, 'stream')})", ""),),
                "stat", "s", width=4, height=4, red_from=1,
            ),
        ),
    ),
    (
        "Cameras",
        (
            Panel(
                "Streams", "Up while frames come; of one with `absence: hold` the last picture is repeated meanwhile.",
                ((f"bmf_trt_seg_stream_up{{{STREAM}}}", "{{stream}}"),), "state-timeline",
            ),
            Panel(
                "Feeds", "Up while the feed's graph runs; down while it waits for its next start, hangs, or is over.",
                ((f"bmf_trt_seg_feed_running{{{FEED}}}", "{{feed}}"),), "state-timeline",
            ),
            Panel(
                "Frames in", "From each camera, a second.",
                ((rate("bmf_trt_seg_frames_in_total", STREAM, "stream"), "{{stream}}"),),
            ),
            Panel(
                "Frames out", "To each stream's encoder, a second.",
                ((rate("bmf_trt_seg_frames_out_total", STREAM, "stream"), "{{stream}}"),),
            ),
            Panel(
                "Dropped and repeated frames", "A second, with the reason. 'late': older than max_latency_ms.",
                (
                    (rate("bmf_trt_seg_frames_dropped_total", STREAM, "stream, reason"), "{{stream}}: {{reason}}"),
                    (rate("bmf_trt_seg_frames_repeated_total", STREAM, "stream"), "{{stream}}: repeated"),
                ),
            ),
            Panel(
                "Age of the last frame", "Grows while a camera is away.",
                ((f"bmf_trt_seg_last_frame_age_seconds{{{STREAM}}}", "{{stream}}"),), unit="s",
            ),
            Panel(
                "Reconnects and restarts", "How often a camera came back, or a feed was started again, in an hour.",
                (
                    (f"increase(bmf_trt_seg_reconnects_total{{{STREAM}}}[1h])", "{{stream}}: reconnects"),
                    (f"increase(bmf_trt_seg_feed_restarts_total{{{FEED}}}[1h])", "{{feed}}: restarts"),
                ),
            ),
            Panel(
                "Sound", "Packets a second.",
                (
                    (rate("bmf_trt_seg_sound_packets_total", STREAM, "stream"), "{{stream}}"),
                    (rate("bmf_trt_seg_sound_packets_dropped_total", STREAM, "stream"), "{{stream}}: dropped"),
                ),
            ),
        ),
    ),
    (
        "Time",
        (
            Panel(
                "From arrival to the encoder", "Half of the frames, and 99 of 100, take at most so long.",
                (
                    (quantile("0.5", "bmf_trt_seg_stage_seconds", END_TO_END, "stream"), "{{stream}}: half"),
                    (quantile("0.99", "bmf_trt_seg_stage_seconds", END_TO_END, "stream"), "{{stream}}: 99 %"),
                ),
                unit="s",
            ),
            Panel(
                "Stages", "Mean time of each stage for a frame or a batch, over all streams.",
                ((mean("bmf_trt_seg_stage_seconds", STREAM, "stage"), "{{stage}}"),), unit="s",
            ),
            Panel(
                "Frames that the network sees", "A second; fewer than come in with `interval`.",
                ((rate("bmf_trt_seg_frames_inferred_total", STREAM, "stream"), "{{stream}}"),),
            ),
            Panel(
                "Batches", "Mean size of a stream's own batches, and of those that streams share.",
                (
                    (mean("bmf_trt_seg_batch_size", STREAM, "stream"), "{{stream}}"),
                    (mean("bmf_trt_seg_shared_batch_size", INSTANCE, "model"), "shared: {{model}}"),
                ),
            ),
            Panel(
                "Frames that wait for a shared network", "Grows when it is too slow for its streams.",
                ((f"bmf_trt_seg_shared_frames_waiting{{{INSTANCE}}}", "{{model}}"),),
            ),
            Panel(
                "Shared networks", "Streams of each, and batches a second that failed.",
                (
                    (f"bmf_trt_seg_shared_streams{{{INSTANCE}}}", "{{model}}: streams"),
                    (rate("bmf_trt_seg_shared_batches_failed_total", INSTANCE, "model"), "{{model}}: failed"),
                ),
            ),
        ),
    ),
    (
        "Outputs",
        (
            Panel(
                "Outputs", "Down while a file cannot be written, or a server takes nothing.",
                ((f"bmf_trt_seg_output_up{{{STREAM}}}", "{{stream}}: {{kind}} {{output}}"),), "state-timeline",
            ),
            Panel(
                "Packets", "That outputs have taken, a second.",
                ((rate("bmf_trt_seg_output_packets_total", STREAM, "stream, kind, output"), "{{stream}}: {{output}}"),),
            ),
            Panel(
                "Dropped packets", "A second; an output was away for them, or too slow.",
                (
                    (
                        rate("bmf_trt_seg_output_packets_dropped_total", STREAM, "stream, kind, output"),
                        "{{stream}}: {{output}}",
                    ),
                ),
            ),
            Panel(
                "Reconnects of outputs", "How often one worked again after it had failed, in an hour.",
                ((f"increase(bmf_trt_seg_output_reconnects_total{{{STREAM}}}[1h])", "{{stream}}: {{output}}"),),
            ),
        ),
    ),
)  # fmt: skip


def placed() -> list[dict[str, Any]]:
    """All panels and the titles of rows, from left to right and downwards."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS:
        place = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        )
        x, y, height = 0, y + 1, 0
        for panel in row:
            if x + panel.width > WIDTH:
                x, y = 0, y + height
            panels.append(panel.content(len(panels) + 1, x, y))
            x, height = x + panel.width, panel.height
        y += height
    return panels


def variable(name: str, label: str, query: str) -> dict[str, Any]:
    """A choice above the panels, of the values of a label; all of them at first."""
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,  # whenever the time range changes
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def dashboard() -> dict[str, Any]:
    return {
        "uid": "bmf-trt-seg",
        "title": "bmf-trt-seg",
        "description": "Streams of bmf-trt-seg: cameras, times, outputs.",
        "tags": ["bmf-trt-seg", "video"],
        "schemaVersion": 38,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                {
                    "type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus",
                    "refresh": 1, "current": {},
                },
                variable("instance", "Instance", "label_values(bmf_trt_seg_stream_up, instance)"),
                variable("stream", "Stream", 'label_values(bmf_trt_seg_stream_up{instance=~"$instance"}, stream)'),
            ]
        },
        "annotations": {"list": []},
        "links": [],
        "panels": placed(),
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=2))
