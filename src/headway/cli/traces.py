"""`headway trace`: show a trace, generate one, change one, or say where a public one is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headway.cli.frame import Format, Json, NoSeed, Output, Seed, SkipBad, duration, emit, examples, read_trace
from headway.cli.frame import rate as to_rate
from headway.errors import HeadwayError, nearest

if TYPE_CHECKING:
    from headway.trace import Trace


Rate = Annotated[float, typer.Option("--rate", parser=to_rate, metavar="N/s", help="Mean rate, such as 50/s or 90/m.")]
Seconds = Annotated[float, typer.Option("--seconds", help="Length of the trace in seconds.")]
OrSeconds = Annotated[float | None, typer.Option("--seconds", help="Length of the trace in seconds; or --requests.")]
OrRequests = Annotated[int | None, typer.Option("--requests", help="Number of requests; or --seconds.")]
TraceArgument = Annotated[Path, typer.Argument(metavar="TRACE", help="A trace file, plain, .gz or .bz2; - is stdin.")]

app = typer.Typer(
    help="Show, generate and change traces, or say where public ones are.\n\n"
    + examples(
        "headway trace show requests.csv",
        "headway trace gamma --rate 50/s --cv 4 --seconds 400 --seed 1 -o bursty.csv",
        "headway trace edit requests.csv --from 1h --to 2h --scale-time 0.5 -o twice-as-fast.csv",
        "headway trace edit requests.csv --input-tokens 700 --output-tokens 200 -o chat.csv",
        "headway trace fetch azure-llm",
    ),
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def show(
    trace: TraceArgument, format: Format = None, skip_bad: SkipBad = False, seed: Seed = 0, json: Json = False
) -> None:
    """Draw a trace's rate and burstiness, and its figures.

    The envelope is the most requests in any window of each length: what a plan has to be ready for.
    """
    from headway.report.trace_view import trace_summary, trace_table

    read = read_trace(trace, seed, format, skip_bad)
    emit(trace_summary(read), json, lambda: trace_table(read))


@app.command()
def poisson(
    rate: Rate,
    seconds: OrSeconds = None,
    requests: OrRequests = None,
    seed: Seed = 0,
    output: Output = None,
    json: Json = False,
) -> None:
    """Generate requests that come independently of each other."""
    from headway.trace import Trace

    _give(Trace.poisson(rate, seconds, seed, requests=requests), output, json)


@app.command()
def gamma(
    rate: Rate,
    cv: Annotated[float, typer.Option("--cv", help="Coefficient of variation of the gaps: 1 is Poisson, 4 bursty.")],
    seconds: OrSeconds = None,
    requests: OrRequests = None,
    seed: Seed = 0,
    output: Output = None,
    json: Json = False,
) -> None:
    """Generate bursty requests: gaps that follow a Gamma law."""
    from headway.trace import Trace

    _give(Trace.gamma(rate, cv, seconds, seed, requests=requests), output, json)


@app.command()
def mmpp2(
    low: Annotated[float, typer.Option("--low", parser=to_rate, metavar="N/s", help="Rate of the calm state.")],
    high: Annotated[float, typer.Option("--high", parser=to_rate, metavar="N/s", help="Rate of the busy state.")],
    low_for: Annotated[float, typer.Option("--low-for", parser=duration, metavar="TIME", help="Its mean length.")],
    high_for: Annotated[float, typer.Option("--high-for", parser=duration, metavar="TIME", help="Its mean length.")],
    seconds: Seconds,
    seed: Seed = 0,
    output: Output = None,
    json: Json = False,
) -> None:
    """Generate requests whose rate switches at random between two levels."""
    from headway.trace import Trace

    _give(Trace.mmpp2((low, high), (low_for, high_for), seconds, seed), output, json)


@app.command()
def diurnal(
    rate: Rate,
    peak_ratio: Annotated[float, typer.Option("--peak-ratio", help="Highest rate over mean rate, 1 to 2.")],
    period: Annotated[float, typer.Option("--period", parser=duration, metavar="TIME", help="One wave, such as 24h.")],
    seconds: Seconds,
    seed: Seed = 0,
    output: Output = None,
    json: Json = False,
) -> None:
    """Generate requests whose rate is a sine, as over days."""
    from headway.trace import Trace

    _give(Trace.diurnal(rate, peak_ratio, seconds, period, seed), output, json)


@app.command()
def ramp(
    start: Annotated[float, typer.Option("--start", parser=to_rate, metavar="N/s", help="Rate at the beginning.")],
    end: Annotated[float, typer.Option("--end", parser=to_rate, metavar="N/s", help="Rate at the end.")],
    seconds: Seconds,
    seed: Seed = 0,
    output: Output = None,
    json: Json = False,
) -> None:
    """Generate requests whose rate moves in a straight line."""
    from headway.trace import Trace

    _give(Trace.ramp(start, end, seconds, seed), output, json)


@app.command()
def spike(
    rate: Rate,
    factor: Annotated[float, typer.Option("--factor", help="Rate within the spike over the rate outside.")],
    at: Annotated[float, typer.Option("--at", parser=duration, metavar="TIME", help="When the spike begins.")],
    length: Annotated[float, typer.Option("--for", parser=duration, metavar="TIME", help="How long it lasts.")],
    seconds: Seconds,
    seed: Seed = 0,
    output: Output = None,
    json: Json = False,
) -> None:
    """Generate requests with one spell of a higher (or lower) rate."""
    from headway.trace import Trace

    _give(Trace.spike(rate, factor, at, length, seconds, seed), output, json)


@app.command()
def edit(
    trace: TraceArgument,
    start: Annotated[
        float | None, typer.Option("--from", parser=duration, metavar="TIME", help="Cut what is before.")
    ] = None,
    end: Annotated[
        float | None, typer.Option("--to", parser=duration, metavar="TIME", help="Cut what is after.")
    ] = None,
    scale_time: Annotated[float, typer.Option("--scale-time", help="0.5 plays it twice as fast.")] = 1.0,
    keep: Annotated[float, typer.Option("--keep", help="Share of the requests that is kept, at random.")] = 1.0,
    mask_gaps: Annotated[
        float | None, typer.Option("--mask-gaps", parser=duration, metavar="TIME", help="Cut out longer silences.")
    ] = None,
    input_tokens: Annotated[
        float | None, typer.Option("--input-tokens", help="Give each request a prompt, of so many tokens on average.")
    ] = None,
    output_tokens: Annotated[
        float | None, typer.Option("--output-tokens", help="And an answer; both are log-normal.")
    ] = None,
    format: Format = None,
    skip_bad: SkipBad = False,
    seed: Seed = 0,
    output: Output = None,
    json: Json = False,
) -> None:
    """Cut a trace, close its gaps, thin it, change its speed, give it tokens: in this order.

    Also converts other formats to our CSV.
    """
    read = read_trace(trace, seed, format, skip_bad)
    if start is not None or end is not None:
        read = read.slice(start or 0.0, end)
    if mask_gaps is not None:
        read = read.mask(read.gaps(mask_gaps))
    if keep != 1.0:
        read = read.thin(keep, seed)
    if scale_time != 1.0:
        read = read.scale_time(scale_time)
    if (input_tokens is None) != (output_tokens is None):
        raise HeadwayError("trace edit: --input-tokens and --output-tokens belong together; give both")
    if input_tokens is not None and output_tokens is not None:
        read = read.with_tokens(input_tokens, output_tokens, seed)
    _give(read, output, json)


@app.command()
def fetch(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Of a public trace; all without one.")] = None,
    seed: NoSeed = 0,
    json: Json = False,
) -> None:
    """Say where a public trace is, and how it is read here. Nothing is downloaded."""
    known = {one: {"url": url, "format": kind, "about": about} for one, url, kind, about in PUBLIC}
    if name is not None and name not in known:
        raise HeadwayError(f"trace fetch: no trace is called {name!r}{nearest(name, known)}; known: {', '.join(known)}")
    chosen = known if name is None else {name: known[name]}
    lines = [
        f"{one}: {it['about']}\n  {it['url']}\n  headway trace show FILE --format {it['format']}"
        for one, it in chosen.items()
    ]
    emit(chosen, json, lambda: "\n".join(lines))


PUBLIC = (
    (
        "azure-llm",
        "https://github.com/Azure/AzurePublicDataset",
        "azure-llm",
        "LLM inference at Microsoft, 2023 and 2024: arrival, context and generated tokens",
    ),
    (
        "mooncake",
        "https://github.com/kvcache-ai/Mooncake",
        "mooncake",
        "LLM requests of the Kimi assistant: arrival, input and output length, prefix blocks",
    ),
    (
        "burstgpt",
        "https://github.com/HPMLL/BurstGPT",
        "burstgpt",
        "ChatGPT and GPT-4 requests of a campus: arrival, model, request and response tokens",
    ),
    (
        "vidur",
        "https://github.com/microsoft/vidur",
        "vidur",
        "traces of the Vidur simulator: arrival, prefill and decode tokens",
    ),
)


def _give(trace: Trace, output: Path | None, as_json: bool) -> None:
    """Write the trace to a file and its figures to stdout, or the trace itself to stdout."""
    if output is not None:
        from headway.report.trace_view import trace_summary

        trace.write(output)
        noun = "request" if trace.requests == 1 else "requests"
        said = f"{output}: {trace.requests:,} {noun} in {trace.duration_s:g} s"
        emit(trace_summary(trace), as_json, lambda: said)
        return
    from headway.trace.formats import dump

    columns: dict[str, Any] = {name: values.tolist() for name, values in trace.columns.items()}
    value = {"start": trace.start, "duration_s": trace.duration_s, "arrival_s": trace.arrival_s.tolist(), **columns}
    emit(value, as_json, lambda: dump(trace, "").decode())
