"""Numbers that tests find, kept for the benchmark's result file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def note(name: str, **values: Any) -> None:
    """Add a figure to the JSON file that $BMF_TRT_SEG_FIGURES names, if it names one."""
    print(name, values)
    where = os.environ.get("BMF_TRT_SEG_FIGURES")
    if not where:
        return
    path = Path(where)
    known = json.loads(path.read_text()) if path.exists() else {}
    known[name] = {key: round(value, 6) if isinstance(value, float) else value for key, value in values.items()}
    path.write_text(json.dumps(known, indent=2) + "\n")
