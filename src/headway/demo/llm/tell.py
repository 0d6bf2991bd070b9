"""What the demo of LLM engines says and leaves behind: tables on stdout, a paragraph at the end, files in a folder."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.text import Text

from headway.demo.llm import scenario
from headway.demo.neighbors import NOTED
from headway.demo.tell import Printer, heading
from headway.files import canonical_json, write_atomic
from headway.fleet.metrics import time_per_output_token_s
from headway.profile.stamp import machine
from headway.report import format as fmt
from headway.report.fleets import Compared
from headway.report.tables import table
from headway.sim.outcome import number, percentile
from headway.sim.station import Floats

if TYPE_CHECKING:
    from headway.demo.llm.run import Run
    from headway.fleet.llm_run import LlmOutcome

SCHEMA = "headway.demo.llm/1"
WITHIN = 0.15
"""How far a measured mean may be from the simulated one to count as predicted well."""
JUDGED = ("ttft_mean_s", "e2e_mean_s")
NAMES = {
    "ttft_mean_s": "TTFT mean", "ttft_p50_s": "TTFT P50", "ttft_p95_s": "TTFT P95", "tpot_mean_s": "TPOT mean",
    "e2e_mean_s": "E2E mean", "e2e_p50_s": "E2E P50", "e2e_p95_s": "E2E P95",
}  # fmt: skip
"""What is told of a replay, by its name in JSON: time to first token, per token after it, and to the last one."""

SAMPLE_WORDS = 24
PAGE = "llm.html"
WAITED_S = 1e-3
"""A request that the gateway sends at once is on its way within this."""


class LlmTeller(Printer):
    """Tells each result of the demo, and writes the files."""

    def __init__(self, folder: Path, as_json: bool) -> None:
        super().__init__(folder, None, as_json)

    def engines(self, run: Run) -> None:
        """Tell what was measured of the engines."""
        rows = [
            [endpoint.name, fmt.rate(1.0 / each.step.seconds(1)), fmt.rate(1.0 / each.step.token_s),
             fmt.duration(each.step.floor_s + each.step.overhead_s), fmt.duration(each.step.token_s),
             fmt.duration(1e3 * each.step.kv_token_s), fmt.percent(each.error_ratio)]
            for endpoint, each in zip(run.endpoints, run.survey.engines, strict=True)
        ]  # fmt: skip
        head = ["engine", "writes", "reads", "iteration", "token", "1,000 context", "fit off"]
        self.print("", heading(f"{run.model}, measured"), table(head, rows))
        if len(run.endpoints) > 1:
            beside = f"Beside the others a request takes {fmt.times(run.survey.beside)} as long as alone."
            self.print(Text(beside, style="dim"))

    def policies(self, run: Run) -> None:
        """Tell what each policy would do with the traffic."""
        rows = []
        for name, found in run.policies.items():
            mean = _means(found)
            rows.append([f"{name} (sent)" if name == scenario.POLICY else name, fmt.duration(mean["ttft_mean_s"]),
                         fmt.duration(mean["ttft_p95_s"]), fmt.duration(mean["e2e_mean_s"]),
                         fmt.duration(mean["e2e_p95_s"]), fmt.duration(mean["longest_wait_s"])])  # fmt: skip
        head = ["policy", "TTFT mean", "TTFT P95", "E2E mean", "E2E P95", "longest wait"]
        self.print("", heading("what each policy would do, simulated"), table(head, rows))

    def write(self, run: Run) -> Path:
        """Write all files; return where they are."""
        run.answered.write(self.folder / "trace.csv")
        write_atomic(self.folder / "requests.csv", _requests(run))
        for endpoint, each in zip(run.endpoints, run.survey.engines, strict=True):
            rows = [each.timings[0]._fields, *each.timings]
            write_atomic(self.folder / f"timings-{_file(endpoint.name)}.csv", _lines(rows))
        lines = "".join(f"{json.dumps(decision)}\n" for decision in run.decisions)
        write_atomic(self.folder / "decisions.jsonl", lines)
        write_atomic(self.folder / "demo.json", canonical_json(told(run)))
        return self.folder

    def page(self, run: Run) -> Path:
        """Write the page that shows all of it; return where it is."""
        from headway.report.fleets import measured_page
        from headway.report.html import document

        path = self.folder / PAGE
        write_atomic(
            path, document("Headway demo: language models", *measured_page(told(run), compared(run), loads(run)))
        )
        return path

    def result(self, run: Run) -> None:
        """Tell measured against simulated, where requests went, and a sentence of an answer; or all of it as JSON."""
        if self.as_json:
            sys.stdout.write(canonical_json(told(run)))
            return
        before, after = figures(run)
        rows = [
            [name, fmt.duration(before[key]), fmt.duration(after[key]), fmt.change(after[key] / before[key] - 1.0)]
            for key, name in NAMES.items()
        ]
        self.print("", heading(f"{scenario.POLICY}, sent for real"), table(["", "simulated", "measured", "off"], rows))
        went = [[name, fmt.count(here), fmt.count(there)] for name, (here, there) in routed(run).items()]
        self.print(heading("where requests went"), table(["engine", "simulated", "measured"], went))
        kept_rows = [[name, *(fmt.percent(each[who]) for who in ("simulated", "measured"))]
                     for name, each in promises(run).items()]  # fmt: skip
        self.print(heading("promises kept"), table(["promise", "simulated", "measured"], kept_rows))
        self.print(*(Text(each) for each in run.notes), Text(paragraph(run)))


def figures(run: Run) -> tuple[dict[str, float], dict[str, float]]:
    """Return what was simulated and what was measured of the requests that were answered."""
    answers = [answer for answer in run.answers if answer is not None]
    ttft_s, e2e_s = (np.array([getattr(answer, name) for answer in answers]) for name in ("ttft_s", "e2e_s"))
    tokens = np.array([answer.output_tokens for answer in answers], np.float64)
    return _figures(run.simulated), _summary(ttft_s, e2e_s, tokens)


def _means(found: Sequence[LlmOutcome]) -> dict[str, float]:
    """The figures of a policy, averaged over its runs; of its waits the longest of all."""
    mean = {key: fmean(_figures(each)[key] for each in found) for key in NAMES}
    return mean | {"longest_wait_s": max(float(np.max(each.wait_s)) for each in found)}


def _figures(outcome: LlmOutcome) -> dict[str, float]:
    return _summary(outcome.ttft_s, outcome.e2e_s, outcome.output.astype(np.float64))


def _summary(ttft_s: Floats, e2e_s: Floats, tokens: Floats) -> dict[str, float]:
    tpot_s = time_per_output_token_s(ttft_s, e2e_s, tokens)
    several = tpot_s[np.isfinite(tpot_s)]
    found = {"tpot_mean_s": float(np.mean(several)) if several.size else math.nan}
    for name, values in (("ttft", ttft_s), ("e2e", e2e_s)):
        found |= {f"{name}_mean_s": float(np.mean(values)), f"{name}_p50_s": percentile(values, 50),
                  f"{name}_p95_s": percentile(values, 95)}  # fmt: skip
    return found


def _numbers(values: Mapping[str, float]) -> dict[str, float | None]:
    return {key: number(value) for key, value in values.items()}


def routed(run: Run) -> dict[str, tuple[int, int]]:
    """Return how many requests each engine was sent, simulated and by the gateway."""
    there = Counter(str(decision["upstream"]) for decision in run.decisions)
    here = Counter(run.simulated.engine.tolist())
    return {endpoint.name: (here[at], there[endpoint.name]) for at, endpoint in enumerate(run.endpoints)}


def why(run: Run) -> dict[str, int]:
    """Return how many requests the gateway sent for which reason, by what it saw when it did."""
    reasons = dict.fromkeys(
        ("its engine had nothing to do", "earliest first token of all", "after a wait", "tried again"), 0
    )
    for decision in run.decisions:
        if (decision.get("attempt") or 1) > 1:
            reasons["tried again"] += 1
        elif (decision.get("waited_s") or 0.0) > WAITED_S:
            reasons["after a wait"] += 1
        elif not decision.get("in_flight"):
            reasons["its engine had nothing to do"] += 1
        else:
            reasons["earliest first token of all"] += 1
    return {reason: count for reason, count in reasons.items() if count}


def compared(run: Run) -> list[Compared]:
    """Return the times of every request that was answered, simulated and measured."""
    answers = [answer for answer in run.answers if answer is not None]
    ttft_s, e2e_s, tokens = (
        np.array([getattr(answer, name) for answer in answers], np.float64)
        for name in ("ttft_s", "e2e_s", "output_tokens")
    )
    simulated = run.simulated
    several = tokens > 1
    tpot_s = time_per_output_token_s(ttft_s, e2e_s, tokens)
    return [
        Compared("time to first token", simulated.ttft_s, ttft_s),
        Compared("time per token after it", simulated.tpot_s[several], tpot_s[several]),
        Compared("time to last token", simulated.e2e_s, e2e_s),
    ]


def loads(run: Run) -> list[tuple[str, float, float]]:
    """Return the tokens that each engine read and wrote, simulated and measured."""
    tokens = run.simulated.prompt + run.simulated.output
    here = np.bincount(run.simulated.engine, weights=tokens, minlength=len(run.endpoints))
    there: Counter[str] = Counter()
    for decision, answer in zip(run.decisions, run.answers, strict=False):
        if answer is not None:
            there[str(decision["upstream"])] += answer.prompt_tokens + answer.output_tokens
    return [(one.name, float(here[at]), float(there[one.name])) for at, one in enumerate(run.endpoints)]


def promises(run: Run) -> dict[str, dict[str, float]]:
    """Return the share of the requests of each class whose first token came in time, simulated and measured."""
    long = run.answered.columns["input_tokens"] > scenario.PROMPT_TOKENS
    ttft = compared(run)[0]
    found = {}
    for name, own, most_s in (("short", ~long, scenario.SHORT_TTFT_S), ("long", long, scenario.LONG_TTFT_S)):
        if own.any():
            said = f"{name} prompts: first token within {fmt.duration(most_s)}"
            found[said] = {who: float(np.mean(getattr(ttft, who)[own] <= most_s)) for who in ("simulated", "measured")}
    return found


def told(run: Run) -> dict[str, Any]:
    """Return the whole run as JSON values."""
    before, after = figures(run)
    return {
        "schema": SCHEMA,
        "model": run.model,
        "engines": {
            endpoint.name: {
                **asdict(each.step),
                "error_ratio": each.error_ratio,
                "most_running": endpoint.most_running,
                "token_budget": endpoint.upstream.token_budget,
            }
            for endpoint, each in zip(run.endpoints, run.survey.engines, strict=True)
        },
        "beside": run.survey.beside,
        "policies": {name: _numbers(_means(found)) for name, found in run.policies.items()},
        "policy": scenario.POLICY,
        "simulated": _numbers(before),
        "measured": _numbers(after),
        "error": _numbers({key: after[key] / before[key] - 1.0 for key in NAMES}),
        "within": all(abs(after[key] / before[key] - 1.0) <= WITHIN for key in JUDGED),
        "routed": {name: {"simulated": here, "measured": there} for name, (here, there) in routed(run).items()},
        "why": why(run),
        "classes": promises(run),
        "interval": {each.name: [number(each.off.low), number(each.off.high)] for each in compared(run)},
        "requests": {"offered": len(run.answers), "answered": run.answered.requests},
        "tokens": {name: int(run.answered.columns[f"{name}_tokens"].sum()) for name in ("input", "output")},
        "duration_s": run.trace.duration_s,
        "sample": sample(run),
        "neighbors": run.neighbors,
        "machine": machine(),
        "date": run.date,
        "seed": run.seed,
        "notes": list(run.notes),
        "summary": paragraph(run),
    }


def paragraph(run: Run) -> str:
    """Return what was sent and written, how far the simulation was off, and the longest answer's first words."""
    before, after = figures(run)
    tokens = {name: float(run.answered.columns[f"{name}_tokens"].sum()) for name in ("input", "output")}
    off = {key: fmt.change(after[key] / before[key] - 1.0) for key in JUDGED}
    well = all(abs(after[key] / before[key] - 1.0) <= WITHIN for key in JUDGED)
    disturbed = max(run.neighbors.values(), default=0.0) > NOTED
    verdict = "" if well or disturbed else " That is more than it should be."
    return (
        f"{fmt.plural(len(run.endpoints), 'engine')} read {fmt.count(tokens['input'])} tokens and wrote "
        f"{fmt.count(tokens['output'])} for {fmt.plural(run.answered.requests, 'request')} in "
        f"{fmt.duration(run.trace.duration_s)}. Against the simulation the measured mean was {off['ttft_mean_s']} to "
        f"the first token and {off['e2e_mean_s']} to the last.{verdict} One answer went: “{sample(run)}” All files: "
        f"{run.folder}"
    )


def sample(run: Run) -> str:
    """Return how the longest answer begins."""
    text = max((answer.text for answer in run.answers if answer is not None), key=len)
    words = text.split()
    return " ".join(words[:SAMPLE_WORDS]) + (" ..." if len(words) > SAMPLE_WORDS else "")


def _requests(run: Run) -> str:
    """One line per request: tokens, and times to the first and the last token, simulated and measured."""
    head = ("arrival_s", "input_tokens", "output_tokens", "ttft_simulated_s", "ttft_measured_s", "e2e_simulated_s",
            "e2e_measured_s")  # fmt: skip
    answers = [answer for answer in run.answers if answer is not None]
    columns = zip(run.answered.arrival_s, run.simulated.ttft_s, run.simulated.e2e_s, answers, strict=True)
    rows = [
        (f"{at_s:.6f}", a.prompt_tokens, a.output_tokens, *(f"{s:.6f}" for s in (ttft_s, a.ttft_s, e2e_s, a.e2e_s)))
        for at_s, ttft_s, e2e_s, a in columns
    ]
    return _lines([head, *rows])


def _lines(rows: list[Any]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def _file(name: str) -> str:
    """A name as part of a file's name."""
    return "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in name)
