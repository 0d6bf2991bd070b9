"""A case served by LitServe: one class with its hooks. `python -m headway.bench.rival_litserve CASE PORT`."""

import os
import signal
import sys
from typing import Any

import litserve

from headway.bench.rivals import BATCH_WAIT_S
from headway.bench.served import Case, case_of, models, payload_of, response_of, work
from headway.serve.parent import when_gone


class Api(litserve.LitAPI):  # type: ignore[misc, unused-ignore]
    """The models of a case, one after the other."""

    def __init__(self, case: Case) -> None:
        super().__init__(max_batch_size=case.max_batch_size, batch_timeout=BATCH_WAIT_S)
        self._case = case.name

    def setup(self, device: str) -> None:
        """Load the models, in the worker process."""
        self._models = models(case_of(self._case))

    def decode_request(self, request: litserve.Request) -> Any:
        """Return what a body carries; LitServe reads it as JSON because of the parameter's type."""
        return payload_of(request)

    def predict(self, asked: Any) -> Any:
        """Work on one request, or on a list of them where batches are formed."""
        return work(self._models, asked) if self.max_batch_size > 1 else work(self._models, [asked])[0]

    def encode_response(self, output: Any) -> dict[str, Any]:
        """Return the body of an answer."""
        return response_of(output)


def main() -> None:
    """Serve. The fast queue is what the documentation advises from 100 requests per second on."""
    when_gone(0, lambda: os.killpg(0, signal.SIGKILL))
    case = case_of(sys.argv[1])
    server = litserve.LitServer(Api(case), accelerator="cpu", workers_per_device=case.workers, fast_queue=True)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
