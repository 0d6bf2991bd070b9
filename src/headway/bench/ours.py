"""A case served by Headway: its plan. `python -m headway.bench.ours CASE PORT`."""

import sys

from headway.bench.served import case_of, plan_of
from headway.serve.parent import end_with_parent
from headway.serve.run import serve


def main() -> None:
    """Serve until SIGTERM, or until whoever started it is gone."""
    end_with_parent()
    serve(plan_of(case_of(sys.argv[1])), port=int(sys.argv[2]))


if __name__ == "__main__":
    main()
