"""The codes of a plan's reasons and of infeasibility: programs branch on them, so they stay as they are."""

from __future__ import annotations

_BOUND = ("cost_usd_per_hour", "lower_bound_usd_per_hour", "stop", "ties")

REASONS: dict[str, tuple[str, ...]] = {
    "optimal": _BOUND,
    "gap": _BOUND,
    "baseline": (*_BOUND, "variants"),
    "supply": ("hardware", "wanted", "max"),
    "promise_broken": ("miss_rate", "broken"),
    "binding_constraint": ("constraint", "variant"),
    "rejected": ("move", "config", "saving_usd_per_hour", "miss_rate", "broken"),
    "headroom": ("headroom_ratio",),
    "judged": ("traces", "kept", "block_s"),
    "current": ("current_usd_per_hour", "saved_usd_per_hour", "current_miss_rate_p97", "assumed"),
}
"""By code, the values that a reason may have."""

OBSTACLES = ("slo_below_service_time", "capacity", "accuracy", "budget", "budget_of_simulations", "local")
"""What may stand in the way of every plan."""
