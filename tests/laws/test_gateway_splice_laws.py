"""Laws of the splice: whoever passes a stream on, its client gets the same bytes, and the gateway notes the same."""

from __future__ import annotations

import asyncio
import itertools
from types import SimpleNamespace
from typing import Any

import httptools
import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.e2e.streams import chunk, needs_splice, reset, spliced, told
from tests.e2e.upstreams import Asked, Scripted, gateway

from headway.gateway.relay import events_in, places_of_usage

USAGE = b'data: {"usage": {"prompt_tokens": 9, "completion_tokens": 3}}\n\n'
ENDS = (
    b"0\r\n\r\n",
    b"000\r\nx-trailer: 1\r\n\r\n",
    b"0\r\n\r\nHTTP/1.1 200 OK\r\n",
    b"zz\r\n",
    b"5\r\nhelloX\r\n",
    b"fffffffff\r\nx",
    b"",
)
"""How bodies end: well, with a trailer, with more behind, in three kinds of nonsense, and not at all."""
data = st.one_of(st.binary(min_size=1, max_size=40), st.just(USAGE), st.binary(min_size=4090, max_size=4110))


@st.composite
def chunks(draw: st.DrawFn) -> bytes:
    """A chunk, written in one of the ways that there are."""
    content = draw(data)
    size = b"%x" % len(content)
    written = draw(st.sampled_from([size, size, size.upper(), b"00" + size, size + b";note=1", size + b" "]))
    return written + b"\r\n" + content + b"\r\n"


@st.composite
def bodies(draw: st.DrawFn) -> list[bytes]:
    """A body in pieces, cut anywhere."""
    whole = b"".join(draw(st.lists(chunks(), max_size=6))) + draw(st.sampled_from(ENDS))
    whole = whole or chunk(USAGE)
    cuts = sorted({0, len(whole), *draw(st.lists(st.integers(0, len(whole)), max_size=8))})
    return [whole[begin:end] for begin, end in itertools.pairwise(cuts)]


def die(asked: Asked) -> None:
    asked.die()


@needs_splice
@settings(max_examples=40)
@given(bodies(), st.sampled_from([die, reset]))
@example([chunk(USAGE), chunk(b"a") + chunk(b"b"), b"0\r\n\r\n"], die)
@example([chunk(USAGE[:19]), chunk(USAGE[19:]) + chunk(bytes(5000)), *6 * [chunk(b"x")], b"0\r\n\r\n"], die)
@example([chunk(USAGE) + chunk(USAGE[:30]), chunk(bytes(5000)), b"0\r\n\r\n"], die)
@example([chunk(USAGE) + chunk(bytes(5000)), b"0\r\n\r\n"], die)
@example([chunk(USAGE), b"10\r\n0123", b"456789abcdef\r", b"\n0\r\n\r\n"], die)
@example([b"10\r\n0123456789abcde", b"f", b"\r\n0\r\n\r\n"], die)
@example([chunk(b"x"), b"40\r\n" + b"y" * 30, b"y" * 30], reset)
@example([b"1", b"05\r\nab", b"x" * 259 + b"\r\n", b"0\r\n\r\n"], die)
@example([b"1", b"6\r\nabcdef\r\n", b"y" * 14 + b"\r\n0\r\n\r\n"], die)
@example([chunk(b"x"), b"5;n=", b"5\r\nab", b"cde\r\n0\r\n\r\n"], die)
@example([chunk(b"x"), b"10\r", b"\n0123456789abcdef\r", b"\n0", b"\r\n", b"\r\n"], die)
def test_a_stream_is_the_same_whoever_passes_it_on(pieces: list[bytes], end: Any) -> None:
    # A stream is handed over when some of it has come.
    pieces = [chunk(b"some"), chunk(b"more"), *pieces]

    async def scene() -> None:
        async with gateway(Scripted(), first_token_s=20.0) as plain, gateway(Scripted(), first_token_s=20.0) as other:
            await spliced(other)
            expected = await told(plain, pieces, end)
            found = await told(other, pieces, end)
            assert (expected.most, found.most) == (0, 1)
            expected.most = found.most
            assert found == expected
            assert b"".join(pieces).startswith(found.body)

    asyncio.run(scene())


@needs_splice
@settings(max_examples=200)
@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=6), st.data())
def test_what_a_chunk_has_left_is_what_a_parser_finds(contents: list[bytes], cuts: st.DataObject) -> None:
    from headway.gateway.pump import left_after

    whole = b"".join(map(chunk, contents))
    left = at = 0
    while at < len(whole):
        end = cuts.draw(st.integers(at + 1, len(whole)))
        left = left_after(whole[at:end], end - at, left)
        if left < 0:
            return
        at = end
        rest = b"%x\r\n" % left if left else b""
        assert parsed(whole[:at]) + parsed(rest + whole[at:]) == b"".join(contents)
    assert left == 0


@needs_splice
@settings(max_examples=200)
@given(
    st.lists(
        st.sampled_from([b"data:", b"data", b"\n", b":", b"a", b'{"data:', b'"usage"', b'"usage":{', b" ", b"\v", b"{"])
    ).map(b"".join)
)
@example(b"\ndata:data:")
@example(b'"usage" \t: {"usage":')
def test_what_a_piece_tells_is_read_alike_whoever_passes_a_stream_on(piece: bytes) -> None:
    from headway.gateway.pump import told_in

    events = sum(line.startswith(b"data:") for line in piece.split(b"\n"))
    assert told_in(np.frombuffer(piece, np.uint8), len(piece)) == (events, *[-1, -1, *places_of_usage(piece)][-2:])
    assert events_in(piece) == events


def parsed(body: bytes) -> bytes:
    """Return what chunks hold, as far as they go."""
    found: list[bytes] = []
    parser = httptools.HttpResponseParser(SimpleNamespace(on_body=found.append))
    parser.feed_data(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + body)
    return b"".join(found)
