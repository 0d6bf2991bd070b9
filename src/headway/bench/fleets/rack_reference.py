"""Figures of a prototype that the simulator has to meet: P99 by policy and load, and load carried at a P99 target.

They are of a single seed (400,000 requests; 200,000 for carried loads), from which the requests of all cells of a
workload are drawn: `headway.bench.fleets.rack_noise` says what that means for whoever is to meet them.
"""

from __future__ import annotations

import math

COLUMNS = (("exp", math.inf), ("bimodal", math.inf), ("halves", 25e-6))
"""Workload and quantum in seconds, for each group of three columns of `P99_US`."""
LOADS = (0.8, 0.9, 0.95)
SEED = 11
"""Of NumPy's default generator: service times first, then the gaps between arrivals."""
REQUESTS, CARRIED_REQUESTS = 400_000, 200_000

P99_US: dict[str, tuple[tuple[float | None, ...], ...]] = {
    "random": ((261, 357, 669), (647, 906, 1665), (1326, 2633, 5794)),
    "round-robin": ((245, 301, 485), (587, 790, 1242), (804, 1422, 2522)),
    "pow2-exact": ((237, 243, 257), (512, 544, 607), (591, 783, 1149)),
    "racksched": ((240, 249, 263), (529, 557, 619), (655, 840, 1194)),
    "pow4": ((243, 252, 266), (542, 569, 621), (687, 847, 1169)),
    "shortest": ((272, 292, 310), (667, 714, 762), (954, 1169, 1495)),
    "least-sent": ((236, 241, 252), (505, 531, 592), (544, 714, 1082)),
    "proactive2": ((None, 244, None), (None, 544, None), (None, 785, None)),
    "proactive2-lost": ((None, 258, None), (None, 584, None), (None, 1625, None)),
    "jbsq": ((236, 240, 251), (505, 530, 593), (543, 712, 1030)),
    "central": ((236, 238, 248), (505, 525, 587), (534, 702, 1068)),
}
"""Eight servers of eight workers; microseconds by system, group of columns and load."""

CARRIED_EQUAL: dict[str, tuple[float, ...]] = {
    "random": (0.906, 0.886, 0.860),
    "racksched": (0.982, 0.986, 0.979),
    "least-sent": (0.984, 0.988, 0.982),
    "central": (0.984, 0.988, 0.982),
}
CARRIED_UNEQUAL: dict[str, tuple[float, ...]] = {
    "random": (0.617, 0.597, 0.571),
    "racksched": (0.966, 0.956, 0.934),
    "shortest": (0.860, 0.921, 0.660),
    "least-sent": (0.973, 0.973, 0.967),
}
"""Share of capacity carried for the first three workloads (quantum 250 microseconds, one queue) at their P99 targets:
eight servers of eight workers; four of seven and four of four."""
EQUAL = (8,) * 8
UNEQUAL = (7, 7, 7, 7, 4, 4, 4, 4)
