"""`headway demo llm`: engines are started and measured, policies simulated, and a trace is sent for real."""

from __future__ import annotations

import contextlib
import json
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headway.errors import HeadwayError

if TYPE_CHECKING:
    from headway.demo.llm.ask import Answer
    from headway.demo.llm.engines import Endpoint
    from headway.demo.llm.measure import Survey
    from headway.demo.llm.scenario import Sizes
    from headway.demo.show import Steps
    from headway.fleet.llm_run import LlmOutcome
    from headway.trace import Trace

REPLAYED_FROM = 1_000_000
"""The number of the first prompt that is replayed: none has been seen before."""


@dataclass
class Run:
    """Everything that one run of the demo found out, in the order in which it did."""

    seed: int
    sizes: Sizes
    date: str
    folder: Path
    model: str = ""
    notes: list[str] = field(default_factory=list)
    endpoints: list[Endpoint] = field(default_factory=list)
    survey: Survey = field(init=False)
    trace: Trace = field(init=False)
    policies: dict[str, list[LlmOutcome]] = field(default_factory=dict)
    answers: list[Answer | None] = field(init=False)
    decisions: list[Mapping[str, Any]] = field(init=False)
    answered: Trace = field(init=False)
    simulated: LlmOutcome = field(init=False)
    neighbors: dict[str, float] = field(default_factory=dict)


def main(
    output: Path, *, seed: int = 1, as_json: bool = False, sizes: Sizes | None = None, gguf: Path | None = None,
    endpoints: Sequence[str] = (), trace: Path | None = None,
) -> None:  # fmt: skip
    """Run the demo: progress on stderr, the result on stdout, all files in the folder `output`.

    Engines are llama.cpp servers with the weights in `gguf`, else SmolLM2-135M; or `endpoints` that are there, written
    as the gateway's upstreams are. Raises HeadwayError when what is needed is not installed, or a step fails. Processes
    that were started are ended, whatever happens.
    """
    from datetime import UTC, datetime

    from headway.demo.llm import engines, scenario
    from headway.demo.llm.tell import LlmTeller
    from headway.demo.run import terminated_like_interrupted
    from headway.trace import Trace

    if endpoints and gguf is not None:
        raise HeadwayError("demo: --gguf is for engines that are started here; leave it out with --endpoint")
    there = [engines.Endpoint.of(text) for text in endpoints]
    model = None if there else engines.model_file(gguf)
    whole = None if trace is None else Trace.read(trace)
    run = Run(seed, sizes or scenario.Sizes(), datetime.now(UTC).strftime("%Y-%m-%d"), output, endpoints=there)
    with terminated_like_interrupted():
        run_all(run, LlmTeller(output, as_json), model, whole)


def run_all(run: Run, teller: Any, model: Path | None, trace: Trace | None) -> None:
    """Go through all steps, telling each result as soon as it is there."""
    from headway.demo.llm import engines
    from headway.demo.neighbors import Neighbors, note
    from headway.demo.show import Steps

    teller.prepare()
    neighbors = Neighbors()
    with Steps(4 if model is None else 5) as steps:
        with contextlib.ExitStack() as started:
            if model is not None:
                with steps.step(f"start {engines.ENGINES} llama.cpp servers") as step:
                    run.endpoints = started.enter_context(engines.running(model, run.folder, engines.Llama()))
                    step.result = model.name
            measure(run, steps)
            teller.engines(run)
            compare(run, steps, trace)
            teller.policies(run)
            replay(run, steps)
        if model is not None:
            # Only what has ended counts as one's own.
            note(neighbors, "demo", run.neighbors, run.notes)
        with steps.step("simulate the same, and write the files") as step:
            simulate(run)
            step.result = str(teller.write(run))
            teller.page(run)
    teller.result(run)


def measure(run: Run, steps: Steps) -> None:
    """Fit what the engines' iterations take to requests alone and in small groups."""
    from headway.demo.llm.measure import survey
    from headway.demo.llm.prompts import Prompts

    with steps.step("measure the engines") as step:
        run.survey = survey(
            run.endpoints, Prompts(run.seed), run.sizes.measure_s, lambda done, total: step.show(done, total, "probes")
        )
        run.model = run.survey.model or "what they serve"
        errors = max(each.error_ratio for each in run.survey.engines)
        step.result = f"the fit is off by {100 * errors:.1f}% on average"


def compare(run: Run, steps: Steps, trace: Trace | None) -> None:
    """Say what each policy would do with the traffic that the engines carry."""
    from headway.demo.llm import scenario
    from headway.report import format as fmt

    made = [each.step for each in run.survey.engines]
    run.trace = scenario.sent(
        trace, made, min(endpoint.most_tokens for endpoint in run.endpoints), run.sizes.replay_s, run.seed
    )
    engines = [endpoint.engine(step) for endpoint, step in zip(run.endpoints, made, strict=True)]
    with steps.step(
        f"simulate {len(scenario.POLICIES)} policies on {fmt.plural(run.trace.requests, 'request')}"
    ) as step:
        for done, name in enumerate(scenario.POLICIES):
            run.policies[name] = scenario.simulated(engines, name, run.trace, run.sizes.runs, run.seed)
            step.show(done + 1, len(scenario.POLICIES), name)
        step.result = f"{run.trace.rate_per_s:.2g} requests/s"


def replay(run: Run, steps: Steps) -> None:
    """Send the traffic to the gateway, and keep what it decided."""
    from headway.demo.llm import ask, scenario
    from headway.demo.llm.engines import gateway
    from headway.demo.llm.prompts import Prompts

    prompts = Prompts(run.seed, run.survey.tokens_per_word)
    extras = all(endpoint.upstream.kind != "hosted" for endpoint in run.endpoints)
    tokens = zip(run.trace.columns["input_tokens"], run.trace.columns["output_tokens"], strict=True)
    bodies = [
        ask.body(prompts.text(REPLAYED_FROM + number, int(prompt)), int(output), model=run.survey.model, extras=extras)
        for number, (prompt, output) in enumerate(tokens)
    ]
    made = [each.step for each in run.survey.engines]
    title = f"send {run.trace.requests} requests in {run.trace.duration_s:.0f} s through the gateway"
    with (
        steps.step(title) as step,
        gateway(run.endpoints, made, scenario.POLICY, run.folder) as url,
    ):
        run.answers, problems = ask.replay(
            url, run.trace, bodies, lambda done, total: step.show(done, total, "answered")
        )
        run.decisions = _decisions(url, run.trace.requests)
        missing = sum(answer is None for answer in run.answers)
        if missing == len(run.answers):
            raise HeadwayError(f"demo: no request was answered: {'; '.join(problems)}")
        if missing:
            run.notes.append(f"{missing} requests were not answered and count nowhere: {'; '.join(problems)}")
        step.result = f"{len(run.answers) - missing} answered"


def simulate(run: Run) -> None:
    """Simulate the requests that were answered, with their tokens as the engines counted them."""
    from headway.demo.llm import scenario

    kept = [(at, answer) for at, answer in enumerate(run.answers) if answer is not None]
    counted = [(answer.prompt_tokens, answer.output_tokens) for _, answer in kept]
    run.answered = scenario.counted(run.trace, [at for at, _ in kept], counted)
    engines = [endpoint.engine(each.step) for endpoint, each in zip(run.endpoints, run.survey.engines, strict=True)]
    (run.simulated,) = scenario.simulated(engines, scenario.POLICY, run.answered, 1, run.seed)


def _decisions(url: str, count: int) -> list[Mapping[str, Any]]:
    """Return the gateway's decisions, in the order in which requests came to it."""
    try:
        with urllib.request.urlopen(f"{url}/decisions?last={count}", timeout=10.0) as answer:
            found: list[Mapping[str, Any]] = json.load(answer)
    except (OSError, ValueError) as error:
        raise HeadwayError(f"demo: the gateway does not tell its decisions: {error}") from None
    return sorted(found, key=lambda decision: int(decision["request"]))
