"""Promises of `agent.figures`: what was measured, for programs and for people."""

import json
from dataclasses import replace

from agent.figures import Live, Machine, Networks, Replay, Report, as_text

REPORT = Report(
    schema="urbansound.bench/1",
    machine=Machine(processor="a board", cores=4, system="Linux 6", python="3.11", litert="2.3", agent="0.1"),
    model="edge 1",
    form="streaming",
    sound="street.flac",
    sample_rate_hz=48_000,
    window_hop_s=0.1,
    live=Live("cpu", 180, 0.9, 1.1, 1.3, 14.7, cpu_share=0.0123456, resident_mib=76.2),
    networks=Networks(4.0, 0.8, 0.7, 0.6, ratio=5.0, ratio_live=5.714, ratio_at_once=6.667, classifier_ms=0.03),
    replay=Replay(0.5, 0.4, 0.2, 0.2, 0.6, 0.1, whole_ms=2.0, times_real_time=500.0, peak_mib=93.4),
    accelerators=(),
    shortest_hop_s={"windowed": 0.0125, "streaming": None},
)


def test_programs_read_rounded_figures_under_the_names_of_the_report() -> None:
    """Four decimals, and what is not there is null."""
    told = json.loads(json.dumps(REPORT.as_json()))

    assert told["schema"] == "urbansound.bench/1"
    assert told["live"]["cpu_share"] == 0.0123
    assert told["shortest_hop_s"] == {"windowed": 0.0125, "streaming": None}
    assert told["machine"]["cores"] == 4


def test_people_read_the_same_figures() -> None:
    """Machine, percentiles, each stage, how much streaming saves, and the shortest hop."""
    lines = as_text(REPORT).splitlines()

    assert lines[0].startswith("a board, 4 cores, Linux 6")
    assert any("1.23% of a core, 76 MiB" in line for line in lines)
    assert any("p99 1.30" in line for line in lines)
    assert any(line.startswith("replay: 500 times real time") for line in lines)
    assert any(line.split() == ["front", "end", "0.200", "ms"] for line in lines)
    assert any(line.strip().startswith("streaming, as live") and "5.7 times less" in line for line in lines)
    assert lines[-2:] == [
        "shortest hop that leaves half a core free, windowed: 0.0125 s",
        "shortest hop that leaves half a core free, streaming: none",
    ]


def test_a_form_that_is_not_there_has_no_line() -> None:
    """A model without a streaming form."""
    windowed = Networks(4.0, None, None, None, None, None, None, classifier_ms=0.03)

    assert "streaming, " not in as_text(replace(REPORT, form="windowed", networks=windowed))
