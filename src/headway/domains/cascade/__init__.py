"""Cascades of models: devices that hold several, one queue for each model, and a gear for every range of load."""

from headway.domains.cascade.domain import DOMAIN, CascadeDomain

__all__ = ["DOMAIN", "CascadeDomain"]
