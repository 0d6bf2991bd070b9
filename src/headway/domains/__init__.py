"""One folder per kind of work. A domain plugs in as a station; see `headway.plan.contract`."""
