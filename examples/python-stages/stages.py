"""The stages of the pipeline: each a class with `predict(batch)`, which returns one result per input."""

import csv
import html
import re
import unicodedata
import zlib
from collections import defaultdict
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent
COMMON_WORDS = """
english a an and are for have i in is it my not of on that the this to was with you your
german aber auf das der die ein eine für ich ist mein meine mit nicht sie und war wie wir zu
"""
COMMON = {language: set(words) for language, *words in map(str.split, COMMON_WORDS.strip().splitlines())}


class Clean:
    """Takes the text of a message, returns its sentences without markup."""

    def predict(self, batch):
        return [self.sentences(text) for text in batch]

    def sentences(self, text):
        if not isinstance(text, str):
            return TypeError(f"a message is text, not {type(text).__name__}")
        plain = html.unescape(re.sub(r"<[^>]*>", " ", unicodedata.normalize("NFKC", text)))
        found = [part.strip() for part in re.split(r"(?<=[.!?])\s+|\n+", plain) if part.strip()]
        # An exception that is returned fails this message and no other of the batch.
        return found or ValueError("the message holds no text")


class Language:
    """Takes sentences and sends each to the stage that knows its language: data decides the branches."""

    def predict(self, batch):
        return [self.branches(sentences) for sentences in batch]

    def branches(self, sentences):
        chosen = defaultdict(list)
        for sentence in sentences:
            words = set(re.findall(r"\w+", sentence.lower()))
            chosen[max(COMMON, key=lambda language: len(words & COMMON[language]))].append(sentence)
        return dict(chosen)


class Topic:
    """Takes a sentence, returns its topic and how similar the nearest examples of that topic are to it."""

    def __init__(self, examples, neighbors=3, width=4096):
        self.path = FOLDER / examples
        self.neighbors = neighbors
        self.width = width

    def setup(self, hardware):
        # Runs once in every replica, in its own process, before the first batch.
        with self.path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        self.topics = sorted({row["topic"] for row in rows})
        self.labels = np.array([self.topics.index(row["topic"]) for row in rows])
        self.known = self.vectors([row["sentence"] for row in rows])

    def predict(self, batch):
        similarity = self.vectors(batch) @ self.known.T
        nearest = np.argsort(-similarity, axis=1)[:, : self.neighbors]
        results = []
        for row, columns in zip(similarity, nearest, strict=True):
            votes = np.bincount(self.labels[columns], weights=row[columns], minlength=len(self.topics))
            results.append({"topic": self.topics[votes.argmax()], "score": round(float(votes.max()), 4)})
        return results

    def vectors(self, sentences):
        """Unit vectors of hashed character trigrams, shape (sentences, width)."""
        counts = np.zeros((len(sentences), self.width))
        for row, sentence in enumerate(sentences):
            text = f"  {sentence.lower()} "
            for start in range(len(text) - 2):
                counts[row, zlib.crc32(text[start : start + 3].encode()) % self.width] += 1.0
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


class Decide:
    """Takes what the branches made, by stage, and returns the message's strongest topic."""

    def predict(self, batch):
        return [self.decide(results) for results in batch]

    def decide(self, results):
        totals = defaultdict(float)
        for sentences in results.values():
            for found in sentences:
                totals[found["topic"]] += found["score"]
        return {"topic": max(sorted(totals), key=totals.get), "languages": sorted(results)}
