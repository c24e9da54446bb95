"""Hypothesis as the tests want it: the same examples everywhere, and nothing kept."""

from __future__ import annotations

import hypothesis

hypothesis.settings.register_profile(
    "fuzz",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=120,
    print_blob=False,
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.load_profile("fuzz")
