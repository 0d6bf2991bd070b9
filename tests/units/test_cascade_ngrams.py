"""Counting runs of characters: the matrix of scikit-learn's vectorizers, to the last term."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

from headway.cascade.compiled import compiled_text
from headway.cascade.ngrams import CharCounts, can_count
from headway.errors import CascadeError

LEARNED = ["A nice cup of tea", "the  cup\n\n was BROKEN, sadly", "tea", "", "été à 東京 \U0001f600 tea", "aaaa aaa"]
FRESH = ["tea tea cup", "x", "", "  spaced   out\t\ttext ", "東京 été", "aaaaaaaa", "İstanbul ǅ"]


@pytest.mark.parametrize(
    "vectorizer",
    [
        TfidfVectorizer(analyzer="char", ngram_range=(2, 6)),
        TfidfVectorizer(analyzer="char", ngram_range=(2, 4), max_features=20),
        TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True, norm="l1"),
        TfidfVectorizer(analyzer="char", ngram_range=(3, 3), use_idf=False, norm=None, lowercase=False),
        TfidfVectorizer(analyzer="char", ngram_range=(1, 2), binary=True, strip_accents="unicode"),
        CountVectorizer(analyzer="char", ngram_range=(1, 5), min_df=2),
    ],
)
def test_the_matrix_is_that_of_the_vectorizer(vectorizer: Any) -> None:
    fitted = vectorizer.fit(LEARNED)
    for texts in (LEARNED, FRESH, FRESH[:1]):
        found, exact = CharCounts(fitted).transform(texts), fitted.transform(texts)
        assert found.shape == exact.shape
        assert found.dtype == exact.dtype
        assert np.array_equal(found.indptr, exact.indptr)
        exact.sort_indices()
        assert np.array_equal(found.indices, exact.indices)
        assert found.data == pytest.approx(exact.data, rel=1e-12)


FITTED = TfidfVectorizer(analyzer="char", ngram_range=(1, 3)).fit(["abc abd", "bca  dd", "Ab"])


@given(st.lists(st.text("aAbcd \n", max_size=20), min_size=1, max_size=5))
def test_whatever_the_texts(texts: list[str]) -> None:
    assert abs(CharCounts(FITTED).transform(texts) - FITTED.transform(texts)).max() < 1e-12


def test_only_vectorizers_of_runs_of_characters_are_taken() -> None:
    assert can_count(FITTED)
    assert not can_count(TfidfVectorizer().fit(LEARNED))
    assert not can_count(TfidfVectorizer(analyzer="char_wb").fit(LEARNED))
    assert not can_count(TfidfVectorizer(analyzer="char"))
    with pytest.raises(CascadeError, match="a TfidfVectorizer like this has no compiled form"):
        compiled_text(TfidfVectorizer().fit(LEARNED), LEARNED)


@pytest.mark.parametrize(("gain", "used"), [(2.0, True), (0.5, False)])
def test_the_compiled_form_is_used_where_it_was_faster(gain: float, used: bool) -> None:
    now_s, at = 0.0, 0

    def clock() -> float:
        nonlocal now_s, at
        if at % 2:
            now_s += gain if at // 2 % 2 == 0 else 1.0
        at += 1
        return now_s

    fast = compiled_text(FITTED, FRESH, clock=clock)
    assert fast.measured.same
    assert (fast.measured.point, fast.measured.batch) == (used, used)
    assert abs(fast.transform(FRESH) - FITTED.transform(FRESH)).max() < 1e-12
    assert fast.vocabulary_ is FITTED.vocabulary_
