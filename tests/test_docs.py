"""What the documentation says of the code."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from bmf_trt_seg.cli.main import _cli
from bmf_trt_seg.graph import check_graph
from bmf_trt_seg.options import SegmentOptions
from bmf_trt_seg.spec import InputSpec, ModelSpec

TOP = Path(__file__).parents[1]
DOCS = TOP / "docs"
README = (TOP / "README.md").read_text(encoding="utf-8")
PAGES = [TOP / "README.md", *sorted(DOCS.rglob("*.md"))]
MADE = {"fields.md": "field_tables.py", "options.md": "option_table.py", "measured.md": "measured_tables.py"}


def blocks(page: Path, kind: str) -> list[str]:
    """The code blocks of this kind on a page."""
    return re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", MADE)
def test_made_pages_are_of_this_code_and_these_results(page: str) -> None:
    script = DOCS / MADE[page]
    made = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    assert made == (DOCS / page).read_text(encoding="utf-8"), f"run python docs/{script.name} > docs/{page}"


def test_json_in_the_readme_is_valid() -> None:
    found = [json.loads(block) for block in blocks(TOP / "README.md", "json")]
    node = next(block for block in found if "module_info" in block)
    SegmentOptions.model_validate(node["option"])
    spec = next(block for block in found if "labels" in block)
    assert ModelSpec.model_validate(spec).input.resize == "letterbox"
    assert set(spec["input"]) <= set(InputSpec.model_fields)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_json_on_pages_is_valid(page: Path) -> None:
    for block in blocks(page, "json"):
        value: dict[str, Any] = json.loads(block)
        if "input" in value and "output" in value:
            ModelSpec.model_validate(value)
        elif "module_info" in value:
            streams = [stream["identifier"] for stream in value["input_streams"]]
            # another node makes what it takes; otherwise it is checked as it would be in a graph
            source = {
                "id": 99, "scheduler": 0, "module_info": {"name": "c_ffmpeg_decoder"}, "input_streams": [],
                "output_streams": [{"identifier": name} for name in streams], "option": {"input_path": "in.mp4"},
            }  # fmt: skip
            graph = {"option": {"scheduler_count": 9}, "input_streams": [], "output_streams": []}
            assert check_graph({**graph, "nodes": [value, source]}) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_python_on_pages_imports_exists(page: Path) -> None:
    for block in blocks(page, "python"):
        imports = [part for part in ast.parse(block).body if isinstance(part, (ast.Import, ast.ImportFrom))]
        exec(compile(ast.Module(imports, []), str(page), "exec"), {})


def commands(page: Path) -> Iterator[list[str]]:
    """The calls of bmf-trt-seg on a page, in words."""
    for block in blocks(page, "sh"):
        for line in _lines(block):
            words = shlex.split(line, comments=True)
            if words[:1] == ["bmf-trt-seg"]:
                yield words[1:]


def _lines(block: str) -> list[str]:
    """The lines of a shell block; one that ends in a backslash or inside quotes goes on in the next."""
    lines: list[str] = []
    for line in block.replace("\\\n", " ").splitlines():
        if lines and lines[-1].split(" #")[0].count("'") % 2:
            lines[-1] += line
        else:
            lines.append(line)
    return lines


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_on_pages_exist(page: Path) -> None:
    for words in commands(page):
        command: click.Command = _cli
        context = click.Context(_cli)
        rest = list(words)
        while isinstance(command, click.Group):
            while rest[0].startswith("-"):
                rest.pop(0)
            found = command.get_command(context, rest.pop(0))
            assert found is not None, words
            command = found
        known = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)} | {"--help"}
        flags = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
        assert flags <= known, words


def test_numbers_of_the_readme_are_those_of_the_result_file() -> None:
    result = json.loads((TOP / "benchmarks" / "results" / "cpu.json").read_text(encoding="utf-8"))
    for way, row in result["results"].items():
        assert re.search(rf"\| {way} .*\| {row['fps']:.1f} \| .*\| {row['peak_mb']} \|", README), way
    for ratio in result["ratios"].values():
        assert str(ratio) in README


def test_links_of_the_readme_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", README):
        path, _, anchor = link.partition("#")
        assert link.startswith("https://") or (TOP / path).exists(), link
        if anchor and path.endswith(".md"):
            headings = re.findall(r"^#+ (.*)", (TOP / path).read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w]+", "-", heading.lower()).strip("-") for heading in headings}, link


def test_templates_have_the_variables_that_the_page_of_graphs_says() -> None:
    page = (DOCS / "graphs.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[[^]]+\]\(\.\./graphs/([^)]+)\) \|[^|]*\|([^|]*)\|([^|]*)\|", page, re.MULTILINE)
    said = {name: tuple(set(re.findall(r"`(\w+)`", names)) for names in columns) for name, *columns in rows}
    there = {}
    for path in (TOP / "graphs").glob("*.json"):
        text = path.read_text(encoding="utf-8")
        there[path.name] = (set(re.findall(r"\$\{(\w+)\}", text)), set(re.findall(r"\$\{(\w+):-", text)))
    assert said == there


def test_messages_on_the_page_of_trouble_are_those_of_the_code() -> None:
    sources = [*(TOP / "bmf_trt_seg").rglob("*.py"), *(TOP / "scripts").iterdir()]
    # a text in several lines is one text; what it fills in is left out
    code = re.sub(r"[\"']\s*\n\s*f?[\"']", "", "\n".join(path.read_text(encoding="utf-8") for path in sources))
    code = re.sub(r"\{[^{}]*\}|%[sd]", "…", code)
    messages = re.findall(r"^\| `([^`]+)` \|", (DOCS / "trouble.md").read_text(encoding="utf-8"), re.MULTILINE)
    parts = [part.strip() for message in messages for part in message.split("…")]
    assert [part for part in parts if part not in code] == []


def test_the_site_builds_without_a_warning_and_needs_no_other_site(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="MkDocs wants Python 3.11")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=TOP, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert {page.stem for page in pages} >= {page.stem for page in DOCS.rglob("*.md")}
    for page in pages:
        text = page.read_text(encoding="utf-8")
        fetched = re.findall(r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=\"?((?:https?:)?//[^\" >]*)", text)
        assert fetched == [], page
    assert "SegmentModule" in (tmp_path / "site" / "api" / "modules.html").read_text(encoding="utf-8")
