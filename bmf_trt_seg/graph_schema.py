"""JSON Schemas (draft 2020-12) of graph files and feeds files, for the completion and the marks of an editor.

They come from the models that the check uses. A schema knows less than the check: files and modules that are not there,
streams that nobody produces, limits of numbers that are written as text, and whatever hangs on the value of a variable.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import pydantic
from pydantic.json_schema import GenerateJsonSchema, models_json_schema
from pydantic_core import core_schema

from bmf_trt_seg.graph_format import BUILTIN_MODULES, OWN_MODULES, PACKAGE, GraphFile, Node, OwnModule
from bmf_trt_seg.live.feeds import CameraFeed, FeedsFile, GraphFeed
from bmf_trt_seg.live_outputs.options import FileOutput, LiveSinkOptions, Output, PushOutput
from bmf_trt_seg.options import SegmentOptions
from bmf_trt_seg.text_values import text_pattern

__all__ = ["Kind", "json_schema"]

Kind = Literal["graph", "feeds"]
Schema = dict[str, Any]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_VARIABLE = r"\$\{\w+(:-[^}]*)?\}"
_WHOLE = r"^\s*[+-]?\d+(_\d+)*(\.0+)?\s*$"
_NUMBER = r"^\s*[+-]?(\d+(_\d+)*\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"
_FILLED: Schema = {"type": "string", "minLength": 1}
_SURELY_FILLED: Schema = {"type": "string", "minLength": 1, "not": {"pattern": _VARIABLE}}
_COMMENT = "For readers: a text, or a list of lines."
_TRUTH_TEXTS = ("0", "1", "true", "false", "t", "f", "yes", "no", "y", "n", "on", "off")


def json_schema(kind: Kind) -> Schema:
    """The schema of files of this kind."""
    return _graph_schema() if kind == "graph" else _feeds_schema()


class _WithText(GenerateJsonSchema):
    """What a file may say of a field, where that is more than the field's type: text, with variables in it."""

    def int_schema(self, schema: core_schema.IntSchema) -> Schema:
        return super().int_schema(schema) if schema.get("strict") else _or_text(super().int_schema(schema), _WHOLE)

    def float_schema(self, schema: core_schema.FloatSchema) -> Schema:
        return _or_text(super().float_schema(schema), _NUMBER)

    def bool_schema(self, schema: core_schema.BoolSchema) -> Schema:
        either = {"anyOf": [super().bool_schema(schema), {"type": "integer", "minimum": 0, "maximum": 1}]}
        return _or_text(either, f"^({'|'.join(map(_in_any_case, _TRUTH_TEXTS))})$")

    def literal_schema(self, schema: core_schema.LiteralSchema) -> Schema:
        return _or_text(super().literal_schema(schema))

    def str_schema(self, schema: core_schema.StringSchema) -> Schema:
        plain = super().str_schema(schema)
        return _or_text(plain) if set(plain) & {"pattern", "minLength", "maxLength"} else plain

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> Schema:
        read = super().function_before_schema(schema)
        pattern = text_pattern(schema)
        if pattern is None and schema["function"]["type"] == "no-info" and schema["schema"]["type"] == "nullable":
            pattern = ""  # a list or an object that may be written as text, which nobody described
        return read if pattern is None else _or_text(read, pattern)

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Names of fields in other words tell an editor nothing."""
        return False


def _or_text(schema: Schema, pattern: str | None = None) -> Schema:
    """What `schema` allows, texts of a pattern ('' for all), and texts with a variable in them."""
    text: Schema = {"type": "string"}
    if pattern != "":
        text["pattern"] = _VARIABLE if pattern is None else f"{pattern}|{_VARIABLE}"
    return {"anyOf": [*schema.get("anyOf", [schema]), text]}


def _in_any_case(word: str) -> str:
    return "".join(f"[{letter}{letter.upper()}]" if letter.isalpha() else letter for letter in word)


def _definitions(*models: type[pydantic.BaseModel]) -> dict[str, Schema]:
    """The models and what they are made of, by name."""
    _, whole = models_json_schema([(model, "validation") for model in models], schema_generator=_WithText)
    definitions: dict[str, Schema] = whole["$defs"]
    for definition in definitions.values():
        definition.pop("title", None)
    for model, (field, more) in _CHECKED_BY_CODE.items():
        if model.__name__ in definitions:
            definitions[model.__name__]["properties"][field] |= more
    if "SegmentOptions" in definitions:
        definitions["SegmentOptions"] |= {"allOf": [_ONE_SOURCE_OF_MASKS, _SOME_SOURCE_OF_MASKS]}
    return definitions


def _by_kind() -> Schema:
    """An output of LiveSink: an editor that knows its kind offers the fields of that kind only."""
    models = {str(get_args(model.model_fields["kind"].annotation)[0]): model for model in get_args(Output)}
    return {
        "type": "object",
        "required": ["kind"],
        "properties": {"kind": {**_or_text({"enum": list(models)}), "description": "What it is."}},
        "allOf": [
            {
                "if": {"required": ["kind"], "properties": {"kind": {"const": kind}}},
                "then": {"$ref": f"#/$defs/{model.__name__}"},
            }
            for kind, model in models.items()
        ],
    }


# What the models check with code of their own, said again in the words of JSON Schema; a test compares the two.

_CHECKED_BY_CODE: dict[type[pydantic.BaseModel], tuple[str, Schema]] = {
    FileOutput: ("path", {"allOf": [
        {"not": {"pattern": "://"}}, {"pattern": rf"[^/]\.([mM][pP]4|[mM][kK][vV]|[tT][sS])/*$|{_VARIABLE}"},
    ]}),
    PushOutput: ("url", {"allOf": [
        {"pattern": rf"^({'|'.join(map(_in_any_case, ('rtmps?', 'rtsps?', 'srt', 'udp', 'tcp', 'https?')))})://"
                    rf"|{_VARIABLE}"},
    ]}),
    LiveSinkOptions: ("outputs", {"minItems": 1, "maxItems": 32, "items": _by_kind()}),
}  # fmt: skip
_SOME_SOURCE_OF_MASKS: Schema = {
    "anyOf": [
        {"required": ["model"], "properties": {"model": _FILLED}},
        {"required": ["replay"], "properties": {"replay": _FILLED}},
    ]
}
_ONE_SOURCE_OF_MASKS: Schema = {
    "not": {"required": ["model", "replay"], "properties": {"model": _SURELY_FILLED, "replay": _SURELY_FILLED}}
}


# --- graphs --------------------------------------------------------------------------------------------------------


def _graph_schema() -> Schema:
    definitions = _definitions(GraphFile, *(module.options for module in OWN_MODULES.values()))
    graph = definitions.pop(GraphFile.__name__)
    node = definitions[Node.__name__]
    entry = definitions["ModuleInfo"]["properties"]["entry"]
    entry.pop("type")
    entry["anyOf"] = [
        {"enum": list(OWN_MODULES)},
        {"type": "string", "not": {"pattern": rf"^{PACKAGE}(\.|$)"}},
    ]
    name = definitions["ModuleInfo"]["properties"]["name"]
    name["examples"] = [*BUILTIN_MODULES, *(path.rpartition(".")[2] for path in OWN_MODULES)]
    definitions["ModuleInfo"]["allOf"] = [_FOREIGN_PYTHON]
    node["allOf"] = [*(_own_module(path, module) for path, module in OWN_MODULES.items()), *_builtin_modules()]
    return {"$schema": _DIALECT, "title": "BMF graph, as bmf-trt-seg runs it", **graph, "$defs": definitions}


_FOREIGN_PYTHON: Schema = {
    "if": {
        "properties": {"type": {"const": "python"}, "path": _SURELY_FILLED},
        "required": ["type", "path"],
    },
    "then": {"required": ["entry"], "properties": {"entry": {"pattern": rf"\.|{_VARIABLE}"}}},
}


def _own_module(path: str, module: OwnModule) -> Schema:
    """What holds for a node that runs a module of ours."""
    then: Schema = {
        "description": module.summary,
        "properties": {
            "option": {"$ref": f"#/$defs/{module.options.__name__}"},
            "input_streams": {"minItems": module.takes.least, "maxItems": module.takes.most},
            "output_streams": {"minItems": module.gives.least, "maxItems": module.gives.most},
        },
    }
    if module.options is SegmentOptions or any(field.is_required() for field in module.options.model_fields.values()):
        then["required"] = ["option"]
    return {"if": _runs(entry={"const": path}), "then": then}


def _runs(**module: Schema) -> Schema:
    return {
        "required": ["module_info"],
        "properties": {"module_info": {"required": list(module), "properties": module}},
    }


def _builtin_modules() -> list[Schema]:
    """What holds for BMF's own: some options by name, any other too, and an input for a decoder."""
    not_ours = {"not": _runs(entry={"type": "string", "pattern": rf"^{PACKAGE}(\.|$)"})}
    known = [
        {
            "if": {"allOf": [_runs(name={"const": name}), not_ours]},
            "then": {"properties": {"option": {"type": "object", "properties": options}}},
        }
        for name, options in _BUILTIN_OPTIONS.items()
    ]
    source = {
        "if": {
            "allOf": [
                _runs(name={"const": "c_ffmpeg_decoder"}),
                not_ours,
                {"properties": {"input_streams": {"maxItems": 0}}},
            ]
        },
        "then": {
            "required": ["option"],
            "properties": {
                "option": {
                    "anyOf": [
                        {"required": [key], "properties": {key: {"not": {"enum": _NOTHING}}}}
                        for key in ("input_path", "push_raw_stream")
                    ]
                }
            },
        },
    }
    return [*known, source]


_NOTHING: list[Any] = ["", 0, False, None, [], {}]


def _described(**options: str) -> dict[str, Schema]:
    return {name.replace("__", "-"): {"description": text} for name, text in options.items()}


_BUILTIN_OPTIONS: dict[str, dict[str, Schema]] = {
    "c_ffmpeg_decoder": _described(
        input_path="File or address to decode.",
        video_codec="Decoder, as FFmpeg calls it; copy hands the packets on as they are.",
        audio_codec="Decoder of the sound, as FFmpeg calls it; copy hands the packets on as they are.",
        copyts="1 keeps times as they are in the file, also where it does not begin at 0.",
        start_time="Seconds from the beginning at which it begins.",
        end_time="Seconds from the beginning at which it ends.",
        dec_params="Options of the decoder and of the way to the file, as FFmpeg names them.",
        loglevel="How much FFmpeg says: quiet, error, warning, info.",
    ),
    "c_ffmpeg_encoder": {
        **_described(
            output_path="File or address to write.",
            format="Container, as FFmpeg calls it; else by the ending of the path.",
            loglevel="How much FFmpeg says: quiet, error, warning, info.",
        ),
        "video_params": {
            "description": "Options of the video encoder, as FFmpeg names them.",
            "properties": _described(
                codec="Encoder, as FFmpeg calls it: libx264, libx265, h264_nvenc, hevc_nvenc.",
                preset="Speed of the encoder against the size of the file.",
                crf="Quality; lower is better and larger.",
                r="Frames a second; with vsync passthrough, ticks a second of the source.",
                vsync="passthrough keeps each frame at its time.",
                in_time_base='"1,90000" if the frames come from LiveSource, or from NvDecSource with that clock.',
                aspect='Shape of the picture, as "4:3".',
                x264__params="Options of libx264, as it names them.",
            ),
        },
        "audio_params": {"description": "Options of the audio encoder, as FFmpeg names them."},
        "mux_params": {"description": 'Options of the container, as FFmpeg names them: {"movflags": ...}.'},
    },
    "c_ffmpeg_filter": _described(
        name="Filter, as FFmpeg calls it.", para="Its parameters, as FFmpeg takes them on its command line."
    ),
}


# --- feeds ---------------------------------------------------------------------------------------------------------


def _feeds_schema() -> Schema:
    definitions = _definitions(FeedsFile, CameraFeed, GraphFeed, SegmentOptions, LiveSinkOptions)
    whole, camera, by_graph = (definitions.pop(model.__name__) for model in (FeedsFile, CameraFeed, GraphFeed))
    sink = definitions.pop(LiveSinkOptions.__name__)["properties"]
    definitions["SegmentOptions"]["allOf"] = [_ONE_SOURCE_OF_MASKS]  # the model may stand in the defaults
    definitions["Encoder"] = {
        "type": "object",
        "description": camera["properties"]["encoder"]["description"],
        "properties": {key: prop for key, prop in sink.items() if key not in ("name", "outputs")},
        "additionalProperties": False,
    }
    camera["properties"] |= {
        "segment": {**_without_type(camera["properties"]["segment"]), "$ref": "#/$defs/SegmentOptions"},
        "encoder": {**_without_type(camera["properties"]["encoder"]), "$ref": "#/$defs/Encoder"},
        "outputs": {**sink["outputs"], "description": camera["properties"]["outputs"]["description"]},
    }
    own = {"name", "url"}
    shared = {key: prop for key, prop in camera["properties"].items() if key not in own}
    definitions["Defaults"] = {**camera, "description": whole["properties"]["defaults"]["description"]}
    definitions["Defaults"] |= {"properties": shared, "required": []}
    for feed in (camera, by_graph):
        feed["properties"]["comment"] = {"description": _COMMENT}
    definitions |= {"CameraFeed": camera, "GraphFeed": by_graph}
    definitions["Feed"] = {
        "type": "object",
        "properties": {"graph": by_graph["properties"]["graph"]},
        "if": {"required": ["graph"]},
        "then": {"$ref": "#/$defs/GraphFeed"},
        "else": {"$ref": "#/$defs/CameraFeed"},
    }
    properties = {
        "$schema": {"description": "Where editors find this schema."},
        "comment": {"description": _COMMENT},
        "defaults": {"$ref": "#/$defs/Defaults"},
        "feeds": {**whole["properties"]["feeds"], "items": {"$ref": "#/$defs/Feed"}},
    }
    return {
        "$schema": _DIALECT,
        "title": "Feeds of bmf-trt-seg live",
        **whole,
        "properties": properties,
        "allOf": [_somewhere(_has_source_of_masks()), _somewhere({"required": ["outputs"]})],
        "$defs": definitions,
    }


def _without_type(schema: Schema) -> Schema:
    return {key: value for key, value in schema.items() if key in ("description", "default")}


def _has_source_of_masks() -> Schema:
    return {"required": ["segment"], "properties": {"segment": _SOME_SOURCE_OF_MASKS}}


def _somewhere(wanted: Schema) -> Schema:
    """Either the defaults have it, or each feed that has no graph of its own."""
    return {
        "if": {"not": {"required": ["defaults"], "properties": {"defaults": wanted}}},
        "then": {"properties": {"feeds": {"items": {"anyOf": [{"required": ["graph"]}, wanted]}}}},
    }
