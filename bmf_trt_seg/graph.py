"""Graphs as JSON: variables, checks before the run, the run itself.

A graph file is a plain BMF graph. What this adds to it: `${NAME}` and `${NAME:-default}` inside strings, the path of
our modules, and an end with one clear line when something is wrong.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from bmf_trt_seg.errors import ConfigError, GraphError, SegError, StreamError
from bmf_trt_seg.metrics import request_stop
from bmf_trt_seg.native_output import captured_output
from bmf_trt_seg.options import RecordSinkOptions, SegmentOptions
from bmf_trt_seg.validation import Strict, validated

__all__ = ["GraphStopped", "check_graph", "load_graph", "run_graph"]

_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
_WRITE_ERROR = re.compile(r"(?:Interleaved write error|Error write trailer): ([A-Z][\w ]+)")
_LOGGED_ERROR = re.compile(r"\[error\] (.*)")
_BMF_NOISE = re.compile(r"\s*(?:in function '\w+'|in file \S+|on line \d+)\s*")
_PACKAGE = __name__.partition(".")[0]
_BUILTIN_MODULES = {"c_ffmpeg_decoder", "c_ffmpeg_encoder", "c_ffmpeg_filter"}
_OWN_OPTIONS: dict[str, type[Strict]] = {"SegmentModule": SegmentOptions, "RecordSink": RecordSinkOptions}
_MODULE_FOLDERS = (Path("/usr/local/share/bmf_mods"), Path())
_STOP_SECONDS = 5.0
_TOP_KEYS = {"mode", "input_streams", "output_streams", "option", "nodes"}
_NODE_KEYS = {
    "alias", "dist_nums", "id", "input_manager", "input_streams", "meta_info", "module_info", "option",
    "output_streams", "scheduler", "user_callback",
}  # fmt: skip
_MODULE_KEYS = {"name", "type", "path", "entry"}


class GraphStopped(GraphError):
    """A graph that was stopped from outside (Ctrl-C, SIGTERM)."""


def load_graph(path: Path, variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Read a graph file and put in its variables: from `variables`, else the environment, else the default.

    Raises StreamError if the file cannot be read, ConfigError (with line and column) if it is no JSON object or a
    variable has no value.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise StreamError(f"graph '{path}' cannot be read: {reason}") from error
    try:
        graph = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"graph '{path}', line {error.lineno}, column {error.colno}: {error.msg}") from error
    if not isinstance(graph, dict):
        raise ConfigError(f"graph '{path}': expected a JSON object with 'nodes', got a {type(graph).__name__}")
    variables = variables or {}
    used: set[str] = set()
    missing: list[str] = []
    resolved = _substituted(graph, {**os.environ, **variables}, used, missing)
    if missing:
        names = ", ".join(dict.fromkeys(missing))
        raise ConfigError(f"graph '{path}' needs a value for {names}: --set {missing[0]}=..., or in the environment")
    unused = sorted(set(variables) - used)
    if unused:
        raise ConfigError(
            f"graph '{path}' has no variable {', '.join(unused)}; it has {', '.join(sorted(used)) or 'none'}"
        )
    assert isinstance(resolved, dict)
    return resolved


def check_graph(graph: dict[str, Any]) -> list[str]:
    """What is wrong with a graph, one line each; and fill in the paths of our modules.

    BMF ignores keys it does not know and waits for streams that nothing produces: here both are errors.
    """
    problems = _unknown_keys(graph, _TOP_KEYS, "graph")
    nodes = graph.get("nodes")
    if not isinstance(nodes, list) or not nodes or not all(isinstance(node, dict) for node in nodes):
        return [*problems, "graph: 'nodes' should be a list of objects"]
    for key in ("input_streams", "output_streams"):
        if not isinstance(graph.get(key), list):
            problems.append(f"graph: '{key}' is missing; BMF wants a list, [] for none")
    seen: set[object] = set()
    for position, node in enumerate(nodes):
        if node.get("id") in seen:
            problems.append(f"node {node.get('id')}: another node has this id")
        seen.add(node.get("id"))
        problems += _node_problems(node, position, graph)
    return problems + _stream_problems(graph)


def run_graph(
    graph: dict[str, Any], *, verbose: bool = False, watch: Callable[[], None] | None = None, period: float = 0.2
) -> None:
    """Run a checked graph to its end.

    watch is called every `period` seconds meanwhile, in this thread. What BMF and FFmpeg print is not shown unless
    `verbose`. Raises what a node raised, GraphError if a node failed without saying so in Python, GraphStopped after
    SIGINT or SIGTERM.
    """
    os.environ.setdefault("BMF_LOG_LEVEL", "INFO" if verbose else "WARNING")
    with captured_output(not verbose) as output:
        from bmf.lib import _bmf

        failure: list[BaseException] = []
        done = threading.Event()
        engine = _bmf.engine.Graph(json.dumps(graph), False, True)

        def run() -> None:
            try:
                engine.start()
                engine.close()
            except BaseException as error:  # SystemExit of a module too: it belongs to the caller's thread
                failure.append(error)
            finally:
                done.set()

        with _stop_signals() as stopped:
            thread = threading.Thread(target=run, name="graph", daemon=True)
            thread.start()
            while not done.wait(period):
                if stopped:
                    # Graph.force_close() beside a blocked close() never comes back, so the stream ends itself
                    request_stop()
                    done.wait(_STOP_SECONDS)
                    break
                if watch is not None:
                    watch()
        if stopped:
            raise GraphStopped(f"stopped by {signal.Signals(stopped[0]).name}")
        if failure:
            raise _translated(failure[0], output.text())


def _substituted(value: Any, values: Mapping[str, str], used: set[str], missing: list[str]) -> Any:
    if isinstance(value, dict):
        return {key: _substituted(item, values, used, missing) for key, item in value.items()}
    if isinstance(value, list):
        return [_substituted(item, values, used, missing) for item in value]
    if not isinstance(value, str):
        return value

    def replacement(match: re.Match[str]) -> str:
        name, default = match.groups()
        used.add(name)
        if name in values:
            return values[name]
        if default is None:
            missing.append(name)
            return ""
        return str(default)

    return _VARIABLE.sub(replacement, value)


def _unknown_keys(value: Mapping[str, Any], known: set[str], subject: str) -> list[str]:
    return [
        f"{subject}: unknown key '{key}' (BMF would ignore it); there are {', '.join(sorted(known))}"
        for key in value
        if key not in known
    ]


def _node_problems(node: dict[str, Any], position: int, graph: dict[str, Any]) -> list[str]:
    subject = f"node {node.get('id', f'number {position}')}"
    problems = _unknown_keys(node, _NODE_KEYS, subject)
    if not isinstance(node.get("id"), int):
        problems.append(f"{subject}: 'id' should be a whole number")
    scheduler = node.get("scheduler")
    count = graph.get("option", {}).get("scheduler_count", 1) if isinstance(graph.get("option", {}), dict) else 1
    if not isinstance(scheduler, int):
        problems.append(f"{subject}: 'scheduler' is missing: write the number of a thread, from 0")
    elif isinstance(count, int) and scheduler >= count:
        problems.append(
            f'{subject}: scheduler {scheduler} does not exist; set the graph\'s "option": {{"scheduler_count": '
            f"{scheduler + 1}}}"
        )
    for key in ("input_streams", "output_streams"):
        streams = node.get(key)
        if not isinstance(streams, list) or not all(
            isinstance(stream, dict) and isinstance(stream.get("identifier"), str) for stream in streams
        ):
            problems.append(f"{subject}: '{key}' should be a list of {{\"identifier\": NAME}}, [] for none")
    module = node.get("module_info")
    if not isinstance(module, dict) or not isinstance(module.get("name"), str):
        problems.append(f"{subject}: 'module_info' should be an object with a 'name'")
        return problems
    return problems + _unknown_keys(module, _MODULE_KEYS, f"{subject}, module_info") + _module_problems(node, subject)


def _module_problems(node: dict[str, Any], subject: str) -> list[str]:
    module = node["module_info"]
    name, entry = module["name"], str(module.get("entry", ""))
    if entry.partition(".")[0] == _PACKAGE:
        module.setdefault("type", "python")
        if not module.get("path"):
            module["path"] = str(Path(__file__).resolve().parents[1])
        dotted, _, class_name = entry.rpartition(".")
        if not dotted or importlib.util.find_spec(dotted) is None:
            return [f"{subject}: there is no module '{entry}' in {_PACKAGE}"]
        return _own_option_problems(node, class_name, subject)
    if name in _BUILTIN_MODULES:
        return []
    if module.get("type") == "python" and module.get("path"):
        file = Path(module["path"], *entry.split(".")[:-1]).with_suffix(".py")
        return [] if file.exists() else [f"{subject}: module '{name}' should be in '{file}', which does not exist"]
    if module.get("path"):
        return [] if Path(module["path"]).exists() else [f"{subject}: '{module['path']}' does not exist"]
    if any((folder / f"Module_{name}").exists() for folder in _MODULE_FOLDERS) or _ships_with_bmf(name):
        return []
    known = ", ".join(sorted(_BUILTIN_MODULES))
    return [
        f"{subject}: unknown module '{name}'; BMF has {known}; ours has the entry '{_PACKAGE}.module.SegmentModule'; "
        "any other needs a 'path'"
    ]


def _own_option_problems(node: dict[str, Any], class_name: str, subject: str) -> list[str]:
    try:
        if class_name in _OWN_OPTIONS:
            validated(_OWN_OPTIONS[class_name], node.get("option", {}), subject)
    except ConfigError as error:
        return [str(error)]
    return []


def _ships_with_bmf(name: str) -> bool:
    spec = importlib.util.find_spec("bmf")
    folders = list(spec.submodule_search_locations or []) if spec else []
    return any(
        (Path(folder) / kind / f"Module_{name}").exists()
        for folder in folders
        for kind in ("cpp_modules", "python_modules")
    )


def _identifiers(container: Mapping[str, Any], key: str) -> list[str]:
    streams = container.get(key)
    if not isinstance(streams, list):
        return []
    return [str(stream["identifier"]) for stream in streams if isinstance(stream, dict) and "identifier" in stream]


def _stream_problems(graph: dict[str, Any]) -> list[str]:
    problems = []
    producers: dict[str, object] = dict.fromkeys(_identifiers(graph, "input_streams"), "the graph")
    for node in graph["nodes"]:
        for name in _identifiers(node, "output_streams"):
            if name in producers:
                problems.append(f"node {node.get('id')}: stream '{name}' is produced by {producers[name]} already")
            producers[name] = f"node {node.get('id')}"
    known = ", ".join(producers) or "none"
    for node in graph["nodes"]:
        for name in _identifiers(node, "input_streams"):
            if name not in producers:
                problems.append(f"node {node.get('id')}: no node produces the stream '{name}'; there are {known}")
    for name in _identifiers(graph, "output_streams"):
        if name not in producers:
            problems.append(f"graph: no node produces the stream '{name}'; there are {known}")
    return problems


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM put their number into the list, in the place of BMF's own handlers.

    BMF's would end the graph as if the video were over.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # Python handles signals in the main thread only
        return

    def remember(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _translated(error: BaseException, output: str) -> BaseException:
    """The exception of a node for the caller: our own as they are, anything else as a GraphError of one line."""
    if isinstance(error, SegError):
        return error
    text = " ".join(str(error).split())
    cause = _WRITE_ERROR.search(text)
    if cause:
        return StreamError(f"the output cannot be written: {cause.group(1)}")
    # BMF wraps its own errors in the name of the node and the function, and keeps the cause in its log
    logged = [match.group(1).strip() for match in _LOGGED_ERROR.finditer(output)]
    causes = [line for line in logged if not line.startswith(("node id:", "Process node failed"))]
    if "Process result != 0" in text and causes:
        return GraphError(f"a node failed: {causes[0]}")
    return GraphError(f"a node failed: {_BMF_NOISE.sub('', text) or type(error).__name__}")
