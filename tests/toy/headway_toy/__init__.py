"""A kind of work that Headway knows nothing of: a service that answers after a fixed delay, bought by tiers.

The whole of a third-party domain in one folder. It has no replicas, batches or hardware, and no profile.
"""

from headway_toy.domain import DOMAIN, Tier, TierConfig, ToyDomain

__all__ = ["DOMAIN", "Tier", "TierConfig", "ToyDomain"]
