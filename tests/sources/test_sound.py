"""SoundGate, without a graph: what comes out of it, and when."""

from __future__ import annotations

from typing import Any

import pytest
from bmf import Packet, Task, Timestamp

from bmf_trt_seg.errors import ConfigError
from bmf_trt_seg.graph import check_graph
from bmf_trt_seg.sources.sound import SoundGate

SECOND = 1_000_000


def packet(name: str, timestamp: int) -> Packet:
    made = Packet(name)
    made.timestamp = timestamp
    return made


def step(gate: SoundGate, pictures: list[Packet], sound: list[Packet]) -> tuple[list[Any], list[Any], bool]:
    """What one call puts out on each stream, by name or as 'end', and whether the gate is done."""
    task = Task(0, [0, 1], [0, 1])
    for index, given in enumerate((pictures, sound)):
        for one in given:
            task.get_inputs()[index].put(one)
    gate.process(task)
    shown = []
    for index in range(2):
        stream, found = task.get_outputs()[index], []
        while not stream.empty():
            one = stream.get()
            found.append("end" if one.timestamp == Timestamp.EOF else one.get(str))
        shown.append(found)
    return shown[0], shown[1], task.timestamp == Timestamp.DONE


def test_sound_waits_for_its_pictures() -> None:
    gate = SoundGate(0, {"lead_seconds": 0.5})
    sound = [packet(f"s{number}", number * SECOND // 4) for number in range(8)]
    assert step(gate, [], [*sound, Packet.generate_eof_packet()]) == ([], [], False)
    assert step(gate, [packet("p0", 0)], []) == (["p0"], ["s0", "s1", "s2"], False)
    assert step(gate, [packet("p1", SECOND)], []) == (["p1"], ["s3", "s4", "s5", "s6"], False)
    assert step(gate, [Packet.generate_eof_packet()], []) == (["end"], ["s7", "end"], True)


def test_sound_that_comes_after_the_last_picture() -> None:
    gate = SoundGate(0, {})
    assert step(gate, [packet("p0", 0), Packet.generate_eof_packet()], [packet("s0", 0)]) == (
        ["p0", "end"], ["s0"], False,
    )  # fmt: skip
    assert step(gate, [], [packet("s1", SECOND)]) == ([], ["s1"], False)
    assert step(gate, [], [Packet.generate_eof_packet()]) == ([], ["end"], True)


def test_pictures_without_sound() -> None:
    gate = SoundGate(0, {})
    assert step(gate, [packet("p0", 0)], [Packet.generate_eof_packet()]) == (["p0"], [], False)
    assert step(gate, [packet("p1", 1), Packet.generate_eof_packet()], []) == (["p1", "end"], ["end"], True)


@pytest.mark.parametrize("option", [{"lead_seconds": -1}, {"lead": 1}])
def test_wrong_options_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        SoundGate(0, option)


def test_it_has_two_streams() -> None:
    node = {
        "id": 0, "scheduler": 0, "option": {}, "input_streams": [], "output_streams": [{"identifier": "a"}],
        "module_info": {"name": "SoundGate", "type": "python", "entry": "bmf_trt_seg.sources.SoundGate"},
    }  # fmt: skip
    problems = check_graph({"input_streams": [], "output_streams": [], "nodes": [node]})
    assert any("SoundGate has two streams in and out: pictures, then sound" in problem for problem in problems)
