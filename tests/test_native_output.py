"""What goes to the descriptors is kept; what Python prints goes on to the terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress

import pytest

from bmf_trt_seg import native_output
from bmf_trt_seg.native_output import captured_output


def test_descriptors_are_captured(capfd):
    with captured_output() as captured:
        os.write(1, b"to one\n")
        assert captured.text() == "to one\n"
        os.write(2, b"to two \xff\n")
        assert captured.text() == captured.text() == "to one\nto two \ufffd\n"
    os.write(1, b"after\n")
    assert capfd.readouterr() == ("after\n", "")


def test_nothing_is_captured_unless_asked_for(capfd):
    with captured_output(capture=False) as captured:
        os.write(1, b"seen\n")
        assert captured.text() == ""
    assert capfd.readouterr().out == "seen\n"


def test_descriptors_come_back_after_an_error(capfd):
    with suppress(KeyError), captured_output():
        os.write(2, b"hidden\n")
        raise KeyError
    os.write(2, b"seen\n")
    assert capfd.readouterr().err == "seen\n"


@pytest.mark.parametrize("first_out", [0, 1])
def test_several_at_once(capfd, first_out):
    """Each sees what was printed since its own start, and the last one gives the descriptors back."""
    inside = [captured_output(), captured_output()]
    first = inside[0].__enter__()
    os.write(1, b"one\n")
    second = inside[1].__enter__()
    os.write(1, b"two\n")
    assert (first.text(), second.text()) == ("one\ntwo\n", "two\n")
    inside[first_out].__exit__(None, None, None)
    os.write(2, b"three\n")
    assert (second if first_out == 0 else first).text().endswith("two\nthree\n")
    inside[1 - first_out].__exit__(None, None, None)
    os.write(1, b"after\n")
    assert capfd.readouterr() == ("after\n", "")


def test_what_was_printed_for_months_is_forgotten(capfd, monkeypatch):
    monkeypatch.setattr(native_output, "_LONGEST_FILE", 1000)
    monkeypatch.setattr(native_output, "_LONGEST_TEXT", 300)
    with captured_output() as first:
        os.write(1, b"a" * 900)
        first.trim()
        assert first.text() == "a" * 300, "its end"
        with captured_output() as second:
            os.write(1, b"b" * 200)
            assert second.text() == "b" * 200
            second.trim()
            assert (first.text(), second.text()) == ("", "")
            os.write(2, b"new\n")
            assert (first.text(), second.text()) == ("new\n", "new\n")
    assert capfd.readouterr() == ("", "")


def test_streams_that_were_replaced_stay_so(monkeypatch, capsys):
    with captured_output():
        print("to the test")
    assert capsys.readouterr().out == "to the test\n"


def test_no_descriptor_is_left_open():
    def count():
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (a Path would open one more)

    before = count()
    for _ in range(5):
        with captured_output():
            pass
    assert count() == before


SCRIPT = """
import ctypes, os, sys
from bmf_trt_seg.native_output import captured_output
print("before")
with captured_output() as captured:
    print("python out")
    print("python err", file=sys.stderr)
    os.write(1, b"native out\\n")
    ctypes.CDLL(None).printf(b"c out\\n")
    kept = captured.text()
    ctypes.CDLL(None).printf(b"late c out\\n")
assert sys.stdout is sys.__stdout__ and sys.stderr is sys.__stderr__
print("kept", sorted(kept.split("\\n")))
"""


def test_python_prints_while_libraries_are_silent():
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}  # C's buffers are meant
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env=env)
    assert done.stdout == "before\npython out\nkept ['', 'c out', 'native out']\n"
    assert done.stderr == "python err\n"
