"""The gateway: an OpenAI-compatible proxy in front of any engines, by the policies of the simulator.

`run` serves until it is told to stop; `python -m headway.gateway` does the same from the command line.
"""

from __future__ import annotations

from headway.gateway.declare import ApiKey, GatewayOptions, Upstream
from headway.gateway.server import GatewayServer, run

__all__ = ["ApiKey", "GatewayOptions", "GatewayServer", "Upstream", "run"]
