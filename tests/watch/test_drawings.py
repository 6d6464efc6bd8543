"""Curves of a run that trains are drawn again in a twentieth of the time at most."""

from __future__ import annotations

from fewstep.watch import pages


def test_a_drawing_is_kept_for_nineteen_times_what_it_took(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(pages.time, "monotonic", lambda: now[0])
    drawings, counts = pages.Drawings(), []

    def draw():
        now[0] += 0.5
        counts.append(len(counts))
        return {"curves": bytes(counts)}

    def look(state):
        return drawings.of("run", state, draw)["curves"]

    assert look(1) == b"\x00"
    now[0] += 9.4  # 19 times half a second is 9.5
    assert look(2) == b"\x00"
    now[0] += 0.2
    assert look(2) == b"\x00\x01"
    now[0] += 1000
    assert look(2) == b"\x00\x01"  # nothing changed
