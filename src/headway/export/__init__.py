"""A fleet's rules in the words of other proxies: configuration for HAProxy, NGINX and Envoy, as text.

What a proxy cannot say stands at the top of its configuration, one sentence each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from headway.errors import HeadwayError, nearest
from headway.export.envoy import envoy
from headway.export.haproxy import haproxy
from headway.export.nginx import nginx
from headway.export.rules import Exported
from headway.gateway.declare import GatewayOptions, Upstream

__all__ = ["FORMATS", "Exported", "export"]

FORMATS: Final[Mapping[str, Callable[[Iterable[Upstream], GatewayOptions], Exported]]] = {
    "haproxy": haproxy,
    "nginx": nginx,
    "envoy": envoy,
}


def export(name: str, upstreams: Iterable[Upstream], options: GatewayOptions) -> Exported:
    """Return the configuration with which a proxy does what a gateway with these options would, as far as it can.

    Raises HeadwayError for a proxy that is not known, and for upstreams that it cannot stand in front of.

    >>> "balance leastconn" in export("haproxy", [Upstream("http://127.0.0.1:8001")], GatewayOptions(port=80)).text
    True
    """
    if name not in FORMATS:
        raise HeadwayError(f"export: {name!r} is not known{nearest(name, FORMATS)}; valid: {', '.join(FORMATS)}")
    return FORMATS[name](upstreams, options)
