"""Trace files: every format from a small sample, and every kind of malformed row."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path

import numpy as np
import pytest

from headway.errors import TraceError
from headway.trace import Trace, rows, transport

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:51.2224670,879,55
"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
2024-05-10 00:00:00.017335+00:00,2399,6
"""
MOONCAKE = """{"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1, 2]}
{"timestamp": 3052, "input_length": 7322, "output_length": 490, "hash_ids": [0, 14]}
"""
BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45.5,GPT-4,1087,230,1317,API log
"""
VIDUR = """arrived_at,num_prefill_tokens,num_decode_tokens
0.25,374,44
1.5,396,109
"""
PLAIN = """# start: 2026-01-31T10:00:00+01:00
# duration_s: 10
# made by hand

arrival_s,payload,visits.detect
0.5,3,1

2,4,2.5
"""
JSONL = """# duration_s: 4
{"arrival_s": 0.5, "payload": 3}
{"payload": 4, "arrival_s": 2}
"""
SAMPLES = {
    "csv": PLAIN,
    "jsonl": JSONL,
    "azure-llm": AZURE,
    "mooncake": MOONCAKE,
    "burstgpt": BURSTGPT,
    "vidur": VIDUR,
    "counts": "3 0\n2\n",
}


def load(tmp_path: Path, text: str, **options: object) -> Trace:
    path = tmp_path / "sample.csv"
    path.write_text(text)
    return Trace.read(path, **options)  # type: ignore[arg-type]


def test_azure(tmp_path: Path) -> None:
    trace = load(tmp_path, AZURE)
    assert trace.arrival_s.tolist() == [0.0, 4.314579, 4.541877]
    assert trace.columns["input_tokens"].tolist() == [374, 396, 879]
    assert trace.columns["output_tokens"].tolist() == [44, 109, 55]
    assert trace.start == "2023-11-16T18:15:46.680590Z"
    assert trace.name == "sample"
    newer = load(tmp_path, AZURE_2024)
    assert newer.arrival_s.tolist() == [0.0, 0.007405]
    assert newer.start == "2024-05-10T00:00:00.009930Z"


def test_mooncake(tmp_path: Path) -> None:
    trace = load(tmp_path, MOONCAKE)
    assert trace.arrival_s.tolist() == [0.0, 3.052]
    assert {key: values.tolist() for key, values in trace.columns.items()} == {
        "input_tokens": [6758, 7322],
        "output_tokens": [500, 490],
        "prefix_blocks": [3, 2],
        "prompt": [0, 1],
    }


def test_burstgpt_and_vidur(tmp_path: Path) -> None:
    burst, vidur = load(tmp_path, BURSTGPT), load(tmp_path, VIDUR)
    assert burst.arrival_s.tolist() == [5.0, 45.5]
    assert burst.columns["output_tokens"].tolist() == [18, 230]
    assert vidur.arrival_s.tolist() == [0.25, 1.5]
    assert vidur.columns["input_tokens"].tolist() == [374, 396]


def test_plain_csv_and_jsonl(tmp_path: Path) -> None:
    trace = load(tmp_path, PLAIN)
    assert trace.start == "2026-01-31T09:00:00Z"
    assert trace.duration_s == 10.0
    assert trace.columns["visits.detect"].tolist() == [1.0, 2.5]
    lines = load(tmp_path, JSONL)
    assert lines.duration_s == 4.0
    assert lines.columns["payload"].tolist() == [3.0, 4.0]


def test_counts_are_spread_within_their_second(tmp_path: Path) -> None:
    trace = load(tmp_path, "3 0\n2\n", seed=5)
    assert np.floor(trace.arrival_s).tolist() == [0, 0, 0, 2, 2]
    assert trace.duration_s == 3.0
    assert trace.hash == load(tmp_path, "3 0\n2\n", seed=5).hash
    assert trace.hash != load(tmp_path, "3 0\n2\n", seed=6).hash


@pytest.mark.parametrize("format", SAMPLES)
def test_every_format_is_recognised_by_its_header_and_can_be_named(tmp_path: Path, format: str) -> None:
    assert load(tmp_path, SAMPLES[format]).hash == load(tmp_path, SAMPLES[format], format=format).hash


@pytest.mark.parametrize(("ending", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress), ("", bytes)])
def test_compression_is_seen_by_content(tmp_path: Path, ending: str, compress: type[bytes]) -> None:
    path = tmp_path / f"load.csv{ending}"
    path.write_bytes(compress(b"\xef\xbb\xbf" + PLAIN.replace("\n", "\r\n").encode()))
    trace = Trace.read(path)
    assert trace.requests == 2
    assert trace.name == "load"


def test_rows_out_of_order_are_sorted_and_ties_keep_their_order(tmp_path: Path) -> None:
    seconds = [(7 * number) % 5 for number in range(200)]
    trace = load(tmp_path, "arrival_s,id\n" + "".join(f"{at},{number}\n" for number, at in enumerate(seconds)))
    expected = sorted(range(200), key=seconds.__getitem__)
    assert trace.arrival_s.tolist() == [seconds[number] for number in expected]
    assert trace.columns["id"].tolist() == expected


BAD = {
    "a word": (PLAIN + "soon,3,1\n", 9, "arrival_s is 'soon'"),
    "not a number": (PLAIN + "nan,3,1\n", 9, "finite number of at least 0"),
    "infinite column": (PLAIN + "3,inf,1\n", 9, "payload is 'inf'"),
    "negative arrival": (PLAIN + "-1,3,1\n", 9, "at least 0"),
    "cut short": (PLAIN + "3,3\n", 9, "2 values where the header names 3"),
    "too long": (PLAIN + "3,3,1,1\n", 9, "4 values where the header names 3"),
    "open quote": (PLAIN + '3,"3,1\n', 9, "not a CSV row"),
    "binary": (PLAIN + "\x00\x01\n", 9, "1 values"),
    "azure day": (AZURE + "2023-11-31 18:15:46,1,1\n", 5, "UTC time like"),
    "azure word": (AZURE + "today,1,1\n", 5, "TIMESTAMP is 'today'"),
    "azure other zone": (AZURE + "2023-11-16 18:15:46+02:00,1,1\n", 5, "UTC time"),
    "negative tokens": (AZURE + "2023-11-16 18:15:46,-1,1\n", 5, "ContextTokens is '-1'"),
    "burstgpt cut": (BURSTGPT + "46,GPT-4,1087,2\n", 4, "4 values where"),
    "mooncake missing": (MOONCAKE + '{"timestamp": 4000, "input_length": 1}\n', 3, "output_length"),
    "mooncake no blocks": (MOONCAKE + '{"timestamp": 4, "input_length": 1, "output_length": 1}\n', 3, "hash_ids"),
    "mooncake negative": (
        MOONCAKE + '{"timestamp": -4, "input_length": 1, "output_length": 1, "hash_ids": []}\n',
        3,
        "timestamp is -4.0",
    ),
    "half an object": (JSONL + '{"arrival_s"\n', 4, "not an object of numbers"),
    "string value": (JSONL + '{"arrival_s": "3", "payload": 1}\n', 4, "not an object of numbers"),
    "missing key": (JSONL + '{"arrival_s": 3}\n', 4, "keys are arrival_s where the first row has arrival_s, payload"),
    "other key": (JSONL + '{"arrival_s": 3, "size": 1}\n', 4, "keys are arrival_s, size"),
    "negative json": (JSONL + '{"arrival_s": -3, "payload": 1}\n', 4, "arrival_s is -3.0"),
    "negative count": ("3\n-1\n", 2, "'-1' is not a number of requests"),
    "fraction of a count": ("3 1\n2 1.5\n", 2, "'1.5' is not a number of requests"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_malformed_row_is_an_error_with_its_line_or_is_left_out_and_counted(tmp_path: Path, case: str) -> None:
    text, line, message = BAD[case]
    with pytest.raises(TraceError) as caught:
        load(tmp_path, text)
    assert f"sample.csv:{line}: " in str(caught.value)
    assert message in str(caught.value)
    trace = load(tmp_path, text, skip_bad=True)
    assert trace.skipped == 1
    clean = load(tmp_path, "\n".join(row for number, row in enumerate(text.split("\n"), 1) if number != line))
    assert trace.hash == clean.hash
    assert clean.skipped == 0


def test_lines_are_counted_across_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "CHUNK_LINES", 2)
    text = "arrival_s\n" + "\n".join(str(second) for second in range(7))
    assert load(tmp_path, text).arrival_s.tolist() == list(range(7))
    with pytest.raises(TraceError, match=r":9: arrival_s is 'x'"):
        load(tmp_path, text + "\nx\n")
    assert load(tmp_path, "# note: two\n1 2\n3\n\n4\n5\n").requests == 15
    with pytest.raises(TraceError, match=r":5: 'x'"):
        load(tmp_path, "1\n2\n3\n4\nx\n")


@pytest.mark.parametrize(
    ("text", "seconds", "requests"),
    [
        ("count\n3\n0\n2\n", 3.0, 5),
        ("second,count\n0,3\n2,2\n", 3.0, 5),
        ("second, count\n1700000000,1\n1700000001,4\n", 2.0, 5),
    ],
)
def test_counts_may_have_a_header(tmp_path: Path, text: str, seconds: float, requests: int) -> None:
    trace = load(tmp_path, text)
    assert (trace.duration_s, trace.requests) == (seconds, requests)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "arrival_s\n1\n1e308\n",
            ":3: arrival_s is '1e308'; it must be a finite number of at least 0 and at most 1e+09",
        ),
        ('{"arrival_s": 1e308}\n', ":1: arrival_s is 1e+308"),
        ('{"timestamp": 1e13, "input_length": 1, "output_length": 1}\n', ":1: timestamp is 10000000000000.0"),
        ("# duration_s: 1e300\narrival_s\n2\n", "duration_s is 1e+300"),
        ("second,count\n0,3\n99999999,2\n", "at most 31,622,400 seconds"),
        ("second,count\n0,3\n0,2\n", "listed twice"),
        ("second,count\n0\n", ":2: 1 values"),
        ("second,count\nx,1\n", ":2: 'x' is not a second"),
        ("count\nx\n", ":2: 'x' is not a number of requests"),
        ("time,size\n1,2\n", "counts (a whole number per second, or header second,count)"),
    ],
)
def test_times_and_counts_out_of_reach_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TraceError) as caught:
        load(tmp_path, text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n\n# duration_s: 3\n", "is empty"),
        ("arrival_s,payload\n", "no requests"),
        ("arrival_s\nx\n", "none of its 1 rows"),
        ("time,size\n1,2\n", ":1: the header 'time,size' is of no known format"),
        ("arrival_s,size,size\n1,2,3\n", ":1: a column name comes twice"),
        ("arrival_s,\n1,2\n", "'' is not a valid column name"),
        ("# duration_s: 1\narrival_s\n2\n", "reach the last arrival"),
        ("# duration_s: long\narrival_s\n2\n", "not a number of seconds"),
        ("# start: yesterday\narrival_s\n2\n", "not a time with zone"),
        ("# start: 2026-01-31T09:00:00\narrival_s\n2\n", "not a time with zone"),
        ('{"size": 1}\n', ":1: no key 'arrival_s'"),
        ("99999999 99999999\n", "at most"),
        ("999999999\n", "whole numbers from 0 to"),
    ],
)
def test_a_file_that_is_no_trace_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TraceError) as caught:
        load(tmp_path, text, skip_bad=True)
    assert message in str(caught.value)
    assert "sample.csv" in str(caught.value)


def test_an_empty_trace_with_a_window_is_a_trace(tmp_path: Path) -> None:
    assert load(tmp_path, "# duration_s: 30\narrival_s,size\n").duration_s == 30.0


def test_names_are_suggested(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="did you mean 'azure-llm'"):
        load(tmp_path, AZURE, format="azure")
    with pytest.raises(TraceError, match="did you mean 'arrival'"):
        load(tmp_path, "arrival\n1\n", format="csv")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="No such file"):
        Trace.read(tmp_path / "absent.csv")
    with pytest.raises(TraceError, match="directory"):
        Trace.read(tmp_path)
    whole = gzip.compress("\n".join(["arrival_s", *map(str, range(5000))]).encode())
    for name, data in {
        "short.gz": whole[: len(whole) // 2],
        "damaged.gz": whole[:40] + b"\xff" * 9 + whole[49:],
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(TraceError, match=f"{name}: cannot be read"):
            Trace.read(tmp_path / name)


def test_size_is_limited_after_decompression(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(b"arrival_s\n" + b"0\n" * 2_000_000))
    monkeypatch.setattr(transport, "MAX_BYTES", 3_000_000)
    with pytest.raises(TraceError, match="more than 3,000,000 bytes"):
        Trace.read(path)
    monkeypatch.setattr(transport, "MAX_LINE_BYTES", 100_000)
    path.write_bytes(b"arrival_s\n" + b"0" * 2_000_000)
    with pytest.raises(TraceError, match="a line is longer"):
        Trace.read(path)
    monkeypatch.setattr(rows, "MAX_REQUESTS", 10)
    path.write_bytes(b"arrival_s\n" + b"0\n" * 11)
    with pytest.raises(TraceError, match="more than 10 requests"):
        Trace.read(path)


def test_whole_numbers_are_written_short_and_equal_traces_give_equal_files(tmp_path: Path) -> None:
    trace = Trace.from_arrivals([0.1, 0.3], {"tokens": [3, 4], "share": [0.5, -0.0]}, 1.0)
    trace.write(tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == "# duration_s: 1.0\narrival_s,tokens,share\n0.1,3,0.5\n0.3,4,-0.0\n"
    zero = Trace.from_arrivals([0.5, 1.0], {"sign": [-0.0, 1.0]})
    zero.write(tmp_path / "zero.csv")
    assert Trace.read(tmp_path / "zero.csv").hash == zero.hash
    trace.write(tmp_path / "a.csv.gz")
    trace.write(tmp_path / "b.csv.gz")
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()
