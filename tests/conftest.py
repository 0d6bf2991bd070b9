"""Property tests draw the same examples in every run; HEADWAY_EXPLORE=1 draws new ones."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("seeded", derandomize=True, deadline=None, database=None)
settings.register_profile("explore", deadline=None)
settings.load_profile("explore" if os.environ.get("HEADWAY_EXPLORE") == "1" else "seeded")
