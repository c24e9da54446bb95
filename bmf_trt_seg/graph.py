"""Graphs as JSON: variables, checks before the run, the run itself.

A graph file is a plain BMF graph. What this adds to it: `${NAME}` and `${NAME:-default}` inside strings, the path of
our modules, and an end with one clear line when something is wrong.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import json
import logging
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, get_args

from bmf_trt_seg.errors import ConfigError, GraphError, SegError, StreamError
from bmf_trt_seg.graph_format import (
    BUILTIN_MODULES,
    FOR_READERS,
    LARGEST_NUMBER,
    MOST_THREADS,
    OWN_MODULES,
    PACKAGE,
    GraphFile,
    InputManager,
    ModuleInfo,
    Node,
)
from bmf_trt_seg.json_text import parsed
from bmf_trt_seg.metrics import request_stop
from bmf_trt_seg.native_output import captured_output
from bmf_trt_seg.outputs import check_distinct, check_writable, publish, temporary_path, with_final_names
from bmf_trt_seg.scheduler_threads import SchedulerThreads
from bmf_trt_seg.validation import Strict, validated

__all__ = [
    "GraphStopped",
    "GraphStuck",
    "check_graph",
    "filled",
    "input_files",
    "load_graph",
    "load_object",
    "read_object",
    "run_graph",
    "whole_outputs",
]

_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
_WRITE_ERROR = re.compile(r"(?:Interleaved write error|Error write trailer): ([A-Z][\w ]+?)(?= in function|[^\w ]|$)")
_OPEN_ERROR = re.compile(r"avformat_open_input failed: (.+)")
_LOGGED_ERROR = re.compile(r"\[error\] node id:(\d+) (.*)")
_BMF_NOISE = re.compile(r"\s*(?:BMF\([\d.]+\) \S+ error: \([^)]*\)|in function '\w+'|in file \S+|on line \d+)\s*")
_LOG_STAMP = re.compile(r"\[\d{4}-\d\d-\d\d [\d:.]+\] \[\w+\] .*")
_LOG_PREFIX = re.compile(r"^(?:\[[^]]* @ 0x[0-9a-f]+\] )+")
_FAILED_AT_WORK = "Process node failed"
_SAYS_NOTHING = ("catch exception:", _FAILED_AT_WORK, "init codec error", "avcodec_open2 result:")
_MODULE_FOLDERS = (Path("/usr/local/share/bmf_mods"), Path())
_STOP_SECONDS = 5.0
_STUCK_SECONDS = 5.0
_INPUT_MANAGERS = get_args(InputManager)
_CODECS = ("video_codec", "audio_codec")
_SEGMENTED = {"hls", "dash", "segment", "image2", "tee"}  # FFmpeg's containers of several files


class GraphStopped(GraphError):
    """A graph that was stopped from outside (Ctrl-C, SIGTERM)."""


class GraphStuck(GraphError):
    """A graph that BMF would wait for without end, because a node failed when it was closed."""


def load_graph(path: Path, variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Read a graph file and put in its variables: from `variables`, else the environment, else the default.

    Raises StreamError if the file cannot be read, ConfigError (with line and column) if it is no JSON object or a
    variable has no value.
    """
    return load_object(path, variables or {}, f"graph '{path}'", "nodes")


def load_object(path: Path, variables: Mapping[str, str], subject: str, member: str) -> dict[str, Any]:
    """`load_graph` for any JSON file; `subject` opens its messages, and `member` is what the object should have."""
    content = read_object(path, subject, member)
    used: set[str] = set()
    missing: list[str] = []
    resolved = _substituted(content, {**os.environ, **variables}, used, missing)
    if missing:
        names = ", ".join(dict.fromkeys(missing))
        raise ConfigError(f"{subject} needs a value for {names}: --set {missing[0]}=..., or in the environment")
    _check_used(variables, used, subject)
    assert isinstance(resolved, dict)
    return resolved


def _check_used(variables: Mapping[str, str], used: set[str], subject: str) -> None:
    unused = sorted(set(variables) - used)
    if unused:
        raise ConfigError(f"{subject} has no variable {', '.join(unused)}; it has {', '.join(sorted(used)) or 'none'}")


def read_object(path: Path, subject: str, member: str) -> dict[str, Any]:
    """A JSON file as it is written, but without what is for readers and editors: comments and the schema's address."""
    subject = _one_line(subject)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise StreamError(f"{subject} cannot be read: {reason}") from error
    try:
        content = parsed(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{subject} is no JSON: line {error.lineno}, column {error.colno}: {error.msg}") from error
    except ValueError as error:
        raise ConfigError(f"{subject}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{subject}: expected a JSON object with '{member}', got a {type(content).__name__}")
    parts = content.get(member)
    for place in [content, *(parts if isinstance(parts, list) else [])]:
        if isinstance(place, dict):
            for key in FOR_READERS:
                place.pop(key, None)
    return content


def filled(content: Any, variables: Mapping[str, str], subject: str) -> Any:
    """What `read_object` gives, with these variables and defaults put in; a variable without a value stays.

    Raises ConfigError if one of the variables is not in it.
    """
    used: set[str] = set()
    resolved = _substituted(content, variables, used, None)
    _check_used(variables, used, subject)
    return resolved


def check_graph(graph: dict[str, Any]) -> list[str]:
    """What is wrong with a graph, one line each; and fill in the paths of our modules.

    BMF ignores keys it does not know and waits for streams that nothing produces: here both are errors.
    """
    problems = _unknown_keys(graph, GraphFile, "graph")
    nodes = graph.get("nodes")
    if not isinstance(nodes, list) or not nodes or not all(isinstance(node, dict) for node in nodes):
        return [*map(_one_line, problems), "graph: 'nodes' should be a list of objects"]
    if not isinstance(graph.get("mode", "Normal"), str):
        problems.append("graph: 'mode' should be a string, as \"Normal\"")
    option = graph.get("option", {})
    if not isinstance(option, dict):
        problems.append("graph: 'option' should be an object")
    elif not _is_number(option.get("scheduler_count", 1)) or option.get("scheduler_count") == 0:
        problems.append("graph: option 'scheduler_count' should be a whole number, from 1")
    elif option.get("scheduler_count", 1) > MOST_THREADS:
        problems.append(f"graph: option 'scheduler_count' should be at most {MOST_THREADS}")
    for key in ("input_streams", "output_streams"):
        if not isinstance(graph.get(key), list):
            problems.append(f"graph: '{key}' is missing; BMF wants a list, [] for none")
    seen: set[str] = set()
    for position, node in enumerate(nodes):
        if str(node.get("id")) in seen:
            problems.append(f"node {node.get('id')}: another node has this id")
        seen.add(str(node.get("id")))
        problems += _node_problems(node, position, graph)
    return [_one_line(problem) for problem in problems + _stream_problems(graph)]


def _one_line(text: str) -> str:
    """Names in a file may have line breaks in them."""
    return " ".join(text.split())


def run_graph(
    graph: dict[str, Any], *, verbose: bool = False, watch: Callable[[], None] | None = None, period: float = 0.2
) -> None:
    """Run a checked graph to its end.

    watch is called every `period` seconds meanwhile, in this thread. What BMF and FFmpeg print is not shown unless
    `verbose`. Raises what a node raised, GraphError if a node failed without saying so in Python, GraphStuck if it did
    not say so at all, GraphStopped after SIGINT or SIGTERM.
    """
    os.environ.setdefault("BMF_LOG_LEVEL", "INFO" if verbose else "WARNING")
    with captured_output(not verbose) as output:
        _bmf = _imported_bmf()
        failure: list[BaseException] = []
        done = threading.Event()
        engines: list[Any] = []

        def run() -> None:
            try:
                engines[0].start()
                engines[0].close()
            except BaseException as error:  # SystemExit of a module too: it belongs to the caller's thread
                failure.append(error)
            finally:
                done.set()

        threads = SchedulerThreads(_scheduler_count(graph))
        with _Stops() as stopped, threads:
            try:
                engines.append(_bmf.engine.Graph(json.dumps(graph), False, True))
            except (Exception, SystemExit) as error:
                raise _translated(error, output.text(), graph) from error
            stopped.listen()
            thread = threading.Thread(target=run, name="graph", daemon=True)
            thread.start()
            while not done.wait(period):
                output.trim()
                if stopped.numbers:
                    # Graph.force_close() beside a blocked close() never comes back, so the stream ends itself
                    request_stop()
                    done.wait(_STOP_SECONDS)
                    break
                if watch is not None:
                    watch()
                if threads.seconds_lost() > _STUCK_SECONDS and not done.is_set():
                    said = output.text()
                    if _FAILED_AT_WORK not in said:  # then BMF closes the graph as soon as the other nodes let it
                        raise GraphStuck(_stuck(said, graph))
        if done.is_set():
            engines.clear()  # a graph that failed keeps its files open as long as it exists
        if stopped.numbers:
            raise GraphStopped(f"stopped by {signal.Signals(stopped.numbers[0]).name}")
        if failure:
            raise _translated(failure[0], output.text(), graph) from failure[0]


def _scheduler_count(graph: Mapping[str, Any]) -> int:
    return int((graph.get("option") or {}).get("scheduler_count", 1))


def _stuck(output: str, graph: Mapping[str, Any]) -> str:
    logged = _LOGGED_ERROR.findall(output)
    subject, words = (_node_name(graph, int(logged[-1][0])), logged[-1][1]) if logged else ("a node", "")
    return (
        f"{subject} failed at its end{f': {words}' if words else '; it gave no reason, and -v shows what it printed'}"
    )


def _imported_bmf() -> Any:
    """BMF's engine. Importing BMF sets up logging for the whole process, which is not its to do: that is undone."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        from bmf.lib import _bmf
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    return _bmf


@contextmanager
def whole_outputs(graph: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A copy of the graph that writes under temporary names; files get their own names when the block ends well.

    That is the files of encoders and of RecordSink. Outputs that are no single new file (a URL, a playlist and its
    segments, a pattern of names, a device) are left as they are. Raises StreamError if a file cannot be written.
    """
    copy = json.loads(json.dumps(graph))
    names: dict[Path, Path] = {}
    for node in copy["nodes"]:
        option, key = _output_option(node)
        if option and _is_single_file(str(option[key]), str(option.get("format", ""))):
            target = Path(option[key])
            check_writable(target)
            temporary = temporary_path(target)
            names[temporary] = target
            option[key] = str(temporary)
    check_distinct(input_files(graph), names.values())
    try:
        yield copy
        publish(names)
    except SegError as error:
        raise type(error)(with_final_names(str(error), names.items())) from error
    finally:
        for temporary in names:
            temporary.unlink(missing_ok=True)


def input_files(graph: Mapping[str, Any]) -> list[Path]:
    """The files that decoders of a graph read; an input that is no file, as a camera, is not among them."""
    paths = []
    for node in graph["nodes"]:
        key = "input_path" if node["module_info"]["name"] == "c_ffmpeg_decoder" else ""
        key = "path" if str(node["module_info"].get("entry", "")).endswith(".NvDecSource") else key
        if key and isinstance(node.get("option"), dict):
            paths.append(Path(str(node["option"].get(key, ""))))
    return [path for path in dict.fromkeys(paths) if path.is_file()]


def _output_option(node: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The options of a node that writes a file, and the one that names it; empty for any other node."""
    option, module = node.get("option"), node["module_info"]
    if isinstance(option, dict):
        if module["name"] == "c_ffmpeg_encoder" and option.get("output_path"):
            return option, "output_path"
        if module.get("entry") == f"{PACKAGE}.sinks.RecordSink" and option.get("json"):
            return option, "json"
    return {}, ""


def _is_single_file(path: str, container: str) -> bool:
    if "://" in path or "%" in path or path.startswith("pipe:"):
        return False
    if container in _SEGMENTED or Path(path).suffix.lower() in {".m3u8", ".mpd"}:
        return False
    return Path(path).is_file() or not Path(path).exists()


def _substituted(value: Any, values: Mapping[str, str], used: set[str], missing: list[str] | None) -> Any:
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
        if default is not None:
            return str(default)
        if missing is None:
            return match[0]
        missing.append(name)
        return ""

    return _VARIABLE.sub(replacement, value)


def _unknown_keys(value: Mapping[str, Any], model: type[Strict], subject: str) -> list[str]:
    known = {field.alias or name for name, field in model.model_fields.items()}
    return [
        f"{subject}: unknown key '{key}' (BMF would ignore it); there are {', '.join(sorted(known))}"
        for key in value
        if key not in known
    ]


def _node_problems(node: dict[str, Any], position: int, graph: dict[str, Any]) -> list[str]:
    subject = f"node {node.get('id', f'number {position}')}"
    problems = _unknown_keys(node, Node, subject)
    if not _is_number(node.get("id")):
        problems.append(f"{subject}: 'id' should be a whole number, from 0")
    elif node["id"] > LARGEST_NUMBER:
        problems.append(f"{subject}: 'id' should be at most {LARGEST_NUMBER}")
    meta = node.get("meta_info")
    limit = meta.get("queue_length_limit", 1) if isinstance(meta, dict) else 1
    if not _is_number(limit) or not 1 <= limit <= LARGEST_NUMBER:  # BMF would wait without end
        problems.append(f"{subject}: meta_info 'queue_length_limit' should be a whole number from 1")
    if not isinstance(node.get("alias", ""), str):
        problems.append(f"{subject}: 'alias' should be a string")
    if node.get("input_manager", "immediate") not in _INPUT_MANAGERS:
        known = ", ".join(sorted(_INPUT_MANAGERS))
        problems.append(f"{subject}: unknown input_manager '{node['input_manager']}'; there are {known}")
    scheduler = node.get("scheduler")
    count = graph.get("option", {}).get("scheduler_count", 1) if isinstance(graph.get("option", {}), dict) else 1
    if not isinstance(scheduler, int) or not _is_number(scheduler):
        problems.append(f"{subject}: 'scheduler' should be the number of a thread, from 0")
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
    if not isinstance(module, dict) or not all(isinstance(value, str) for value in module.values()):
        return [*problems, f"{subject}: 'module_info' should be an object of strings with a 'name'"]
    if "name" not in module:
        return [*problems, f"{subject}: 'module_info' has no 'name'"]
    return problems + _unknown_keys(module, ModuleInfo, f"{subject}, module_info") + _module_problems(node, subject)


def _module_problems(node: dict[str, Any], subject: str) -> list[str]:
    module = node["module_info"]
    name, entry = module["name"], str(module.get("entry", ""))
    if entry.partition(".")[0] == PACKAGE:
        module.setdefault("type", "python")
        if not module.get("path"):
            module["path"] = str(Path(__file__).resolve().parents[1])
        if entry not in OWN_MODULES:
            ours = ", ".join(f"'{known}'" for known in OWN_MODULES)
            return [f"{subject}: there is no module '{entry}'; ours are {ours}"]
        return _own_stream_problems(node, entry, subject) + _own_option_problems(node, entry, subject)
    if name in BUILTIN_MODULES:
        return _builtin_option_problems(node, subject)
    if module.get("type") == "python" and module.get("path"):
        if "." not in entry or not all(part.isidentifier() for part in entry.split(".")):
            return [f"{subject}: 'entry' should be 'FILE.CLASS', not '{entry}'"]
        file = Path(module["path"], *entry.split(".")[:-1]).with_suffix(".py")
        return [] if file.exists() else [f"{subject}: module '{name}' should be in '{file}', which does not exist"]
    if module.get("path"):
        return [] if Path(module["path"]).exists() else [f"{subject}: '{module['path']}' does not exist"]
    if any((folder / f"Module_{name}").exists() for folder in _MODULE_FOLDERS) or _ships_with_bmf(name):
        return []
    known = ", ".join(sorted(BUILTIN_MODULES))
    return [
        f"{subject}: unknown module '{name}'; BMF has {known}; ours has the entry '{PACKAGE}.module.SegmentModule'; "
        "any other needs a 'path'"
    ]


def _own_stream_problems(node: dict[str, Any], entry: str, subject: str) -> list[str]:
    """How many streams our modules have."""
    module = OWN_MODULES[entry]
    sides = ((module.takes, "input_streams"), (module.gives, "output_streams"))
    broken = [side.rule for side, key in sides if not side.least <= len(_identifiers(node, key)) <= side.most]
    return [f"{subject}: {entry.rpartition('.')[2]} {rule}" for rule in dict.fromkeys(broken)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _own_option_problems(node: dict[str, Any], entry: str, subject: str) -> list[str]:
    try:
        validated(OWN_MODULES[entry].options, node.get("option", {}), subject)
    except ConfigError as error:
        return [str(error)]
    return []


def _builtin_option_problems(node: dict[str, Any], subject: str) -> list[str]:
    """What lets BMF's own nodes crash the process."""
    option = node.get("option", {})
    if not isinstance(option, dict):
        return [f"{subject}: 'option' should be an object"]
    is_decoder = node["module_info"]["name"] == "c_ffmpeg_decoder"
    is_source = is_decoder and not node.get("input_streams")
    if is_source and not option.get("input_path") and not option.get("push_raw_stream"):
        return [f"{subject}: option 'input_path' is missing: the file to decode"]
    if node["module_info"]["name"] == "c_ffmpeg_encoder" and not node.get("input_streams"):
        return [f"{subject}: c_ffmpeg_encoder has one input stream at least"]
    problems = [
        f"{subject}: option '{key}' should be a string"
        for key in ("input_path", "output_path", *_CODECS)
        if not isinstance(option.get(key, ""), str)
    ]
    if is_decoder and not problems:
        names = [str(option[key]) for key in _CODECS if option.get(key) not in (None, "copy")]
        problems += [
            f"{subject}: the FFmpeg that BMF uses has no decoder '{name}'" for name in names if not _has_decoder(name)
        ]
    return problems


@functools.cache
def _has_decoder(name: str) -> bool:
    try:
        library = ctypes.CDLL("libavcodec.so.58")  # the one that BMF is linked with
    except OSError:
        return True  # without it no graph runs, and that is told elsewhere
    library.avcodec_find_decoder_by_name.restype = ctypes.c_void_p
    return bool(library.avcodec_find_decoder_by_name(name.encode()))


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
    # "video:decoded" is the stream "decoded", and what the decoder is to put there
    names = [str(stream["identifier"]) for stream in streams if isinstance(stream, dict) and "identifier" in stream]
    return [name.rpartition(":")[2] for name in names]


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


class _Stops:
    """SIGINT, SIGTERM and SIGHUP as a list of numbers, in the place of BMF's own handlers.

    BMF's would end the graph as if the video were over. They are installed with the graph, so signals are held back
    from before that until `listen` has replaced them.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self._is_main = threading.current_thread() is threading.main_thread()  # the one that gets Python's signals
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Stops:
        if self._is_main:
            self._before = {number: signal.getsignal(number) for number in self._SIGNALS}
            signal.pthread_sigmask(signal.SIG_BLOCK, self._SIGNALS)
        return self

    def listen(self) -> None:
        """From here on signals arrive, and those that were held back."""
        if self._is_main:
            for number in self._SIGNALS:
                signal.signal(number, self._remember)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._SIGNALS)

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self.numbers.append(number)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._is_main:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._SIGNALS)


def _translated(error: BaseException, output: str, graph: Mapping[str, Any]) -> SegError:
    """The exception of a node for the caller: our own again, anything else as a GraphError of one line."""
    if isinstance(error, SegError):
        return type(error)(str(error))  # a new one, since it is raised from the other
    text = _BMF_NOISE.sub(" ", " ".join(str(error).split())).strip()
    cause = _WRITE_ERROR.search(text)
    if cause:
        return StreamError(f"{_named(graph, 'output_path', 'an output')} cannot be written: {cause.group(1)}")
    cause = _OPEN_ERROR.search(text)
    if cause:
        return StreamError(f"{_named(graph, 'input_path', 'an input')} cannot be read by FFmpeg: {cause.group(1)}")
    log = output.partition("Graph status when")[0]
    logged = _LOGGED_ERROR.findall(log)
    subject = _node_name(graph, int(logged[0][0])) if logged else "a node"
    if "Process result != 0" in (f"{text} {log}" if type(error) is RuntimeError else text):
        # BMF says only where it happened, or what followed; its log, and what FFmpeg printed, say what
        printed = [_LOG_PREFIX.sub("", line.strip()) for line in _LOG_STAMP.sub("", log).splitlines()]
        words = [line for _, line in logged if not line.startswith(_SAYS_NOTHING)]
        words += [line for line in printed if line and not line.startswith(("debug queue size", "in function"))][-2:]
        text = "; ".join(dict.fromkeys(words)) or "it gave no reason; -v shows what it printed"
    elif isinstance(error, SystemExit):
        text = f"it called sys.exit({error.code!r})"
    elif type(error) is not RuntimeError:  # that is what C++ exceptions are
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return GraphError(f"{subject} failed: {text}")


def _node_name(graph: Mapping[str, Any], number: int) -> str:
    node: dict[str, Any] = next((node for node in graph["nodes"] if node.get("id") == number), {})
    return f"node {number} ({node.get('alias') or node.get('module_info', {}).get('name', 'unknown')})"


def _named(graph: Mapping[str, Any], option: str, otherwise: str) -> str:
    """The path that nodes have in this option, if there is but one."""
    options = [node.get("option") for node in graph["nodes"]]
    paths = [entry[option] for entry in options if isinstance(entry, dict) and entry.get(option)]
    return f"'{paths[0]}'" if len(paths) == 1 else otherwise
