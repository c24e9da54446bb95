"""What MkDocs does beside building pages: files of the repository that pages link to become part of the site."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_TOP = Path(__file__).resolve().parents[1]
_COPIED = ["graphs/*.json", "benchmarks/results/*.json"]
_LONG_CODE = re.compile(r"<code>(?=[^<]{30,}</code>)")
_LINK = re.compile(r"\]\(\.\./((?:graphs|benchmarks/results)/[^)#]+\.json)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take the graph templates and the result files in, under the paths that they have in the repository."""
    for pattern in _COPIED:
        for path in sorted(_TOP.glob(pattern)):
            files.append(File.generated(config, path.relative_to(_TOP).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links out of docs/, which lead somewhere in a checkout, lead to those copies."""
    up = "../" * page.file.src_uri.count("/")
    return _LINK.sub(rf"]({up}\1)", markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Mark code in tables that may break, so that no column becomes wider than a page."""
    return _LONG_CODE.sub('<code class="long">', html)
