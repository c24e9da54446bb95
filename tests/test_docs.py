"""What the documentation says of the code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from bmf_trt_seg.options import SegmentOptions
from bmf_trt_seg.spec import InputSpec, ModelSpec

TOP = Path(__file__).parents[1]
README = (TOP / "README.md").read_text(encoding="utf-8")


def test_the_table_of_options_is_of_this_schema() -> None:
    made = subprocess.run(
        [sys.executable, TOP / "docs" / "option_table.py"], capture_output=True, text=True, check=True
    ).stdout
    assert made == (TOP / "docs" / "options.md").read_text(encoding="utf-8"), (
        "run python docs/option_table.py > docs/options.md"
    )


def test_json_in_the_readme_is_valid() -> None:
    blocks = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", README, re.DOTALL)]
    node = next(block for block in blocks if "module_info" in block)
    SegmentOptions.model_validate(node["option"])
    spec = next(block for block in blocks if "labels" in block)
    assert ModelSpec.model_validate(spec).input.resize == "letterbox"
    assert set(spec["input"]) <= set(InputSpec.model_fields)


def test_numbers_of_the_readme_are_those_of_the_result_file() -> None:
    result = json.loads((TOP / "benchmarks" / "results" / "cpu.json").read_text(encoding="utf-8"))
    for way, row in result["results"].items():
        assert re.search(rf"\| {way} .*\| {row['fps']:.1f} \| .*\| {row['peak_mb']} \|", README), way
    for ratio in result["ratios"].values():
        assert str(ratio) in README


def test_links_of_the_readme_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("https://") or (TOP / link).exists(), link
