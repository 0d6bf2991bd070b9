"""Fleets: servers behind a balancer, LLM engines or workers on cores, and a scheduler inside each server."""

from headway.domains.fleet.domain import DOMAIN, FleetDomain

__all__ = ["DOMAIN", "FleetDomain"]
