"""Property tests draw the same examples in every run; HEADWAY_EXPLORE=1 draws new ones."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

# How long an example takes to draw says how busy the machine is.
settings.register_profile(
    "seeded", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("explore" if os.environ.get("HEADWAY_EXPLORE") == "1" else "seeded")

# What a shell starts in the background ignores interruptions, and so does all that is started from there.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
