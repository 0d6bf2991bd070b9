"""A running server as a tuner sees it over HTTP: its statistics, its plan, and a request to change it."""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from headway.errors import ServeError
from headway.plan.plan import Plan
from headway.tune.patience import ATTEMPTS, Gone, Patience, Silent

TIMEOUT_S = 10.0


class Server:
    """A Headway server at `url`. Use it with `with`; every method raises ServeError when it cannot be reached.

    Questions are asked again for as long as `patience` lasts; without any they are asked `ATTEMPTS` times.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self.url = url
        self.patience: Patience | None = None
        try:
            self._client = httpx.Client(
                base_url=url, headers=headers, timeout=TIMEOUT_S, transport=httpx.HTTPTransport(retries=ATTEMPTS - 1)
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise ServeError(f"{url!r} is not a URL: {error}; write one such as http://127.0.0.1:8000") from None

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def plan(self) -> Plan:
        """Return the plan that is live."""
        return Plan.from_dict(self._get("/plan"))

    def stats(self, arrivals_after: int) -> dict[str, Any]:
        """Return the server's statistics without timings, with the arrivals after so many requests."""
        found: dict[str, Any] = self._get(f"/stats?timings=false&arrivals_after={arrivals_after}")
        if "arrivals" not in found:
            raise ServeError(f"{self.url}: /stats does not tell arrivals; is the server of another version?")
        return found

    def promise(self, since_s: float) -> dict[str, Any]:
        """Return how the promise was kept for the requests that came since a moment of the server's clock."""
        found: dict[str, Any] = self._get(f"/stats?timings=false&promise_since={float(since_s)!r}")
        if "promise" not in found:
            raise ServeError(f"{self.url}: /stats does not tell how the promise is kept; is it of another version?")
        promise: dict[str, Any] = found["promise"]
        return promise

    @property
    def refuses_late(self) -> bool:
        """Whether the server refuses requests that would be answered later than promised."""
        return bool(self._get("/stats?timings=false").get("refuses_late", False))

    def change(self, plan: Plan, pause_s: float = 0.0) -> dict[str, Any]:
        """Ask for another plan; return the change, or `{"error": sentence}` when the server refuses it or says nothing.

        Does not wait until what it needs has been started; a change of replicas that is under way gives way. For
        `pause_s` the server begins no batch, as engines that stop to be rescaled do. `busy` stands beside the error
        where only another change is in the way, so that it helps to ask again.
        """
        asked = {"wait": "false", "supersede": "true", **({"pause": f"{pause_s!r}s"} if pause_s else {})}
        try:
            reply = self._send("PUT", "/plan", params=asked, content=plan.to_json())
        except ServeError as error:
            return {"error": str(error)}
        value: dict[str, Any] = _json(reply)
        if reply.status_code in (200, 202):
            return value
        return {"error": str(value.get("error", reply.text)), **({"busy": True} if reply.status_code == 409 else {})}

    def _get(self, path: str) -> Any:
        if self.patience is None:
            reply = self._send("GET", path, attempts=ATTEMPTS)
        else:
            reply = self.patience.outlast(lambda: self._send("GET", path))
        if reply.status_code != 200:
            hint = "pass its token" if reply.status_code == 401 else "is it a Headway server?"
            raise ServeError(f"{self.url}: GET {path.partition('?')[0]} was answered with {reply.status_code}; {hint}")
        return _json(reply)

    def _send(self, method: str, path: str, attempts: int = 1, **what: Any) -> httpx.Response:
        for left in reversed(range(attempts)):
            try:
                return self._client.request(method, path, **what)
            except httpx.HTTPError as error:
                if left and isinstance(error, httpx.ReadTimeout):
                    continue
                reason = str(error) or type(error).__name__
                kind = Gone if _refused(error) else Silent
                raise kind(f"{self.url}: the server cannot be reached: {reason}") from None
        raise ValueError(f"attempts {attempts} must be at least 1")


def arrival_times_s(told: dict[str, Any]) -> NDArray[np.float64]:
    """Return when requests came, on the server's clock, as `arrivals` of `/stats` tells it.

    >>> arrival_times_s({"first_s": 2.0, "gaps_us": [500_000, 0]}).tolist()
    [2.0, 2.5, 2.5]
    """
    if told["first_s"] is None:
        return np.empty(0)
    gaps_us = np.concatenate([[0], np.asarray(told["gaps_us"], np.int64)])
    times_s: NDArray[np.float64] = told["first_s"] + np.cumsum(gaps_us) / 1e6
    return times_s


def _refused(error: BaseException | None) -> bool:
    """Whether nothing listens at the address; a process that only stands still has its connections taken for it."""
    if error is None or isinstance(error, ConnectionRefusedError):
        return error is not None
    # The client drops causes on the way; the context is kept.
    return _refused(error.__cause__ or error.__context__)


def _json(reply: httpx.Response) -> Any:
    try:
        return json.loads(reply.content)
    except ValueError:
        return {}
