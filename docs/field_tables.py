"""Prints docs/fields.md: the fields of descriptions of networks, and the options of modules but SegmentModule.

python docs/field_tables.py > docs/fields.md
"""

from __future__ import annotations

import json

import pydantic

from bmf_trt_seg.engine.options import BuildOptions
from bmf_trt_seg.live_outputs.options import FileOutput, HlsOutput, LiveSinkOptions, PushOutput
from bmf_trt_seg.options import LiveOptions, NvDecOptions, RecordSinkOptions, SoundGateOptions
from bmf_trt_seg.spec import InputSpec, ModelSpec, OutputSpec
from bmf_trt_seg.validation import allowed_values

_TABLES: dict[str, dict[str, type[pydantic.BaseModel]]] = {
    "Descriptions of networks": {"The whole": ModelSpec, "`input`": InputSpec, "`output`": OutputSpec},
    "Engines": {"`build`": BuildOptions},
    "Sources": {"LiveSource": LiveOptions, "NvDecSource": NvDecOptions, "SoundGate": SoundGateOptions},
    "Sinks": {
        "LiveSink": LiveSinkOptions,
        'LiveSink, an output of kind "file"': FileOutput,
        'LiveSink, an output of kind "hls"': HlsOutput,
        'LiveSink, an output of kind "push"': PushOutput,
        "RecordSink": RecordSinkOptions,
    },
}


def main() -> None:
    print("# Fields of JSON\n")
    print("What the JSON of [descriptions](own_network.md), of the option `build` and of modules may say. A field")
    print("without default must be given. The options of SegmentModule have [a page of their own](options.md).")
    for heading, models in _TABLES.items():
        print(f"\n## {heading}")
        for title, model in models.items():
            print(f"\n### {title}\n")
            print("| field | default | allowed | meaning |\n|---|---|---|---|")
            schema = model.model_json_schema()
            for name, prop in schema["properties"].items():
                allowed = allowed_values(prop, schema.get("$defs"))
                if model is LiveSinkOptions and name == "outputs":
                    allowed = "a list of 1 to 32 objects, see below"
                meaning = prop.get("description") or ("see below" if "$ref" in prop else "")
                print(f"| `{name}` | {_default(model, name)} | {allowed} | {meaning} |")


def _default(model: type[pydantic.BaseModel], name: str) -> str:
    field = next(field for key, field in model.model_fields.items() if name in (key, field.alias))
    return "" if field.is_required() else f"`{json.dumps(field.get_default(call_default_factory=True))}`"


if __name__ == "__main__":
    main()
