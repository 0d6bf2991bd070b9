"""Asking for completions: the requests of the demo, and what is read of their streamed answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from headway.errors import HeadwayError
from headway.gateway.relay import usage_of
from headway.serve.http1 import Client, Reply
from headway.serve.replay import send_all
from headway.serve.system import precise_loop
from headway.trace import Trace

PATH: Final = "/v1/completions"
HEADERS: Final = {"content-type": "application/json"}
TIMEOUT_S: Final = 300.0
_EVENT: Final = b"data: "
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class Answer:
    """A streamed answer: seconds from its request's time until its first and its last token; tokens; its text."""

    ttft_s: float
    e2e_s: float
    prompt_tokens: int
    output_tokens: int
    text: str


def body(prompt: str, output_tokens: int, *, model: str | None = None, extras: bool = True) -> bytes:
    """Return a request for so many tokens, streamed, the likeliest one each time.

    `extras`: fields beyond the OpenAI protocol, which llama.cpp, vLLM and SGLang know, make the answer exactly as long,
    and computed without what is cached of earlier prompts.
    """
    fields: dict[str, Any] = {"prompt": prompt, "max_tokens": output_tokens, "temperature": 0, "stream": True,
                              "stream_options": {"include_usage": True}}  # fmt: skip
    if model is not None:
        fields["model"] = model
    if extras:
        fields |= {"ignore_eos": True, "cache_prompt": False}
    return _encode(fields)


def read(reply: Reply, due_s: float, done_s: float) -> Answer:
    """Return what an answer says; the request was due, and its answer over, at these times of the reply's clock.

    Raises HeadwayError for one that is no stream of completions with its usage.
    """
    used = usage_of(reply.body) if reply.status == 200 else None
    if used is None or used[1] < 1:
        said = reply.error or f"status {reply.status}: {reply.body[:200].decode('utf-8', 'replace')}"
        raise HeadwayError(f"demo: a completion was asked for and not given: {said}")
    return Answer(reply.first_s - due_s, done_s - due_s, *used, text_of(reply.body))


def text_of(stream: bytes) -> str:
    r"""Return the text that the events of a stream add up to.

    >>> text_of(b'data: {"choices": [{"text": "to"}]}\n\ndata: {"choices": []}\n\ndata: [DONE]\n\n')
    'to'
    """
    events = (line[len(_EVENT) :] for line in stream.splitlines() if line.startswith(_EVENT + b"{"))
    return "".join(choice.get("text") or "" for event in events for choice in _decode(event).get("choices", ()))


async def together(client: Client, path: str, bodies: Sequence[bytes]) -> list[Answer]:
    """Send requests at one instant and return their answers when all are there. Raises HeadwayError as `read` does."""
    loop = asyncio.get_running_loop()
    due_s = loop.time()

    async def one(body: bytes) -> Answer:
        reply = await client.request("POST", path, body, HEADERS, TIMEOUT_S)
        return read(reply, due_s, loop.time())

    return list(await asyncio.gather(*(one(body) for body in bodies)))


async def model_of(client: Client, base: str) -> str | None:
    """Return the first model that an endpoint lists, or None where it lists none."""
    reply = await client.request("GET", f"{base}/v1/models", timeout_s=TIMEOUT_S)
    if reply.status == 0:
        raise HeadwayError(f"demo: {reply.error}")
    try:
        return str(_decode(reply.body)["data"][0]["id"])
    except (msgspec.DecodeError, LookupError, TypeError):
        return None


def replay(
    url: str, trace: Trace, bodies: Sequence[bytes], progress: Callable[[int, int], None]
) -> tuple[list[Answer | None], tuple[str, ...]]:
    """Send a trace's requests at their times, whatever was answered before; return answers, and why some are missing.

    An answer's times count from when its request was due.
    """
    answers: list[Answer | None] = [None] * trace.requests
    problems: dict[str, None] = {}

    async def main() -> None:
        client = Client(url, max_connections=trace.requests)
        replies: dict[int, Reply] = {}
        try:
            frames = [client.frame("POST", PATH, body, HEADERS) for body in bodies]
            sent = await send_all(client, trace, frames, TIMEOUT_S, replies.__setitem__, progress)
        finally:
            await client.close()
        for number, reply in replies.items():
            begun_s = reply.sent_s - float(sent.sent_s[number])
            due_s, done_s = begun_s + float(trace.arrival_s[number]), begun_s + float(sent.done_s[number])
            try:
                answers[number] = read(reply, due_s, done_s)
            except HeadwayError as error:
                problems[str(error)] = None

    with asyncio.Runner(loop_factory=precise_loop) as runner:
        runner.run(main())
    return answers, tuple(problems)
