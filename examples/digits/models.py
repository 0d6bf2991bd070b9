"""Three models of one family: each takes images of 28 x 28 shades of gray, and returns ten scores for each."""

from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent


class Linear:
    """Weighs every fourth pixel."""

    file = "linear.npz"

    def setup(self, hardware):
        # What scikit-learn fitted: for each layer a stack of weights, one for each member, and of biases.
        with np.load(FOLDER / self.file) as arrays:
            self.layers = [(arrays[f"w{at}"], arrays[f"b{at}"][:, None]) for at in range(len(arrays.files) // 2)]

    def predict(self, batch):
        return list(self.scores(np.stack(batch).reshape(len(batch), -1).astype("f4") / 255))

    def scores(self, x):
        return self.forward(x[:, ::4], members=1)

    def forward(self, x, members):
        """The mean of the members' scores."""
        *hidden, (weights, bias) = [(w[:members], b[:members]) for w, b in self.layers]
        for w, b in hidden:
            x = np.maximum(x @ w + b, 0)
        x = np.exp(x @ weights + bias)
        return (x / x.sum(axis=-1, keepdims=True)).mean(axis=0)


class Network(Linear):
    """A network with one hidden layer."""

    file = "networks.npz"

    def scores(self, x):
        return self.forward(x, members=1)


class Committee(Network):
    """Several such networks, each taught anew, of which the mean is taken: slower, and more often right."""

    def scores(self, x):
        return self.forward(x, members=None)
