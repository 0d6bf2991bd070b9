"""`python -m headway.serve PLAN.json`: what `run.running` starts as a process of its own.

It drains and ends when its standard input is closed, as it is when the process that started it ends in whatever way.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from headway.errors import HeadwayError


def main() -> int:
    """Serve the plan named on the command line; the URL is printed on a line of its own."""
    from headway.plan.plan import Plan
    from headway.serve.parent import end_with_parent
    from headway.serve.run import TOKEN_VARIABLE, options_from, serve

    parser = argparse.ArgumentParser(prog="python -m headway.serve", description=__doc__)
    parser.add_argument("plan")
    parser.add_argument("--options", default="{}", help="ServeOptions as JSON")
    arguments = parser.parse_args()
    end_with_parent()
    try:
        chosen = options_from(json.loads(arguments.options))
        serve(
            Plan.read(arguments.plan),
            host=chosen.host,
            port=chosen.port,
            token=os.environ.get(TOKEN_VARIABLE),
            announce=lambda url: print(url, flush=True),
            seed=chosen.seed,
            limits=chosen.limits,
            http=chosen.http,
            grace_s=chosen.grace_s,
            engine=chosen.engine,
            ray_cpus=chosen.ray_cpus,
        )
    except HeadwayError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
