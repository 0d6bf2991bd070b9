"""Trains a classifier of vibrations on signals made with a seed; writes both networks and a folder of samples."""

from pathlib import Path

import numpy as np
from onnx_file import network, node

KINDS = ("hums", "knocks", "hisses")
READINGS, FREQUENCIES, HIDDEN = 64, 32, 16


def signals(rng, count):
    """Signals of every kind, shape (count, 64), and the number of each one's kind."""
    kinds = rng.integers(0, len(KINDS), count)
    frequency, phase = rng.uniform(2, 10, (count, 1)), rng.uniform(0, 2 * np.pi, (count, 1))
    wave = np.sin(2 * np.pi * frequency * np.arange(READINGS) / READINGS + phase)
    noise = rng.normal(size=wave.shape)
    made = np.stack([wave, np.sign(wave), 0.2 * wave + noise])[kinds, np.arange(count)]
    return (made + 0.2 * noise).astype("f4"), kinds


def fourier():
    """Matrices that turn readings into the cosine and sine parts of their frequencies."""
    angle = 2 * np.pi * np.outer(np.arange(READINGS), np.arange(1, FREQUENCIES + 1)) / READINGS
    return np.cos(angle), np.sin(angle)


def spectrum(x):
    return np.log1p(np.square(x @ fourier()[0]) + np.square(x @ fourier()[1]))


def train(rng, x, kinds, steps=1000, rate=0.1):
    """The weights of a network with one hidden layer, by gradient descent on the cross entropy."""
    w1, b1 = rng.normal(size=(FREQUENCIES, HIDDEN)) * 0.2, np.zeros(HIDDEN)
    w2, b2 = rng.normal(size=(HIDDEN, len(KINDS))) * 0.2, np.zeros(len(KINDS))
    wanted = np.eye(len(KINDS))[kinds]
    for _ in range(steps):
        hidden, found = forward(x, w1, b1, w2, b2)
        error = (found - wanted) / len(x)
        back = error @ w2.T * (hidden > 0)
        for weights, change in ((w1, x.T @ back), (b1, back.sum(0)), (w2, hidden.T @ error), (b2, error.sum(0))):
            weights -= rate * change
    return w1, b1, w2, b2


def forward(x, w1, b1, w2, b2):
    hidden = np.maximum(x @ w1 + b1, 0)
    scores = np.exp(hidden @ w2 + b2 - (hidden @ w2 + b2).max(1, keepdims=True))
    return hidden, scores / scores.sum(1, keepdims=True)


def main():
    rng = np.random.default_rng(1)
    x, kinds = signals(rng, 1000)
    weights = train(rng, spectrum(x), kinds)
    fresh, truth = signals(rng, 2000)
    right = forward(spectrum(fresh), *weights)[1].argmax(1) == truth
    print(f"{right.mean():.1%} of 2000 signals that it was not trained on are told apart")

    cosine, sine = fourier()
    steps = [node("MatMul", ("readings", "cosine"), "c"), node("Mul", ("c", "c"), "cc")]
    steps += [node("MatMul", ("readings", "sine"), "s"), node("Mul", ("s", "s"), "ss")]
    steps += [node("Sum", ("cc", "ss", "one"), "power"), node("Log", ("power",), "spectrum")]
    constants = {"cosine": cosine, "sine": sine, "one": np.ones(1)}
    made = network("spectrum", steps, constants, ("readings", READINGS), ("spectrum", FREQUENCIES))
    Path("spectrum.onnx").write_bytes(made)

    steps = [node("Gemm", ("spectrum", "w1", "b1"), "sums"), node("Relu", ("sums",), "hidden")]
    steps += [node("Gemm", ("hidden", "w2", "b2"), "scores"), node("Softmax", ("scores",), "kinds")]
    constants = dict(zip(("w1", "b1", "w2", "b2"), weights, strict=True))
    made = network("classify", steps, constants, ("spectrum", FREQUENCIES), ("kinds", len(KINDS)))
    Path("classify.onnx").write_bytes(made)

    Path("samples").mkdir(exist_ok=True)
    for number, signal in enumerate(fresh[:8]):
        np.save(f"samples/{number}.npy", signal[None])


if __name__ == "__main__":
    main()
