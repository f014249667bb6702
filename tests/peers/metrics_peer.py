#!/usr/bin/env python3
"""The study's measures of the arrays in a folder, by NumPy, SciPy and scikit-learn, from their
definitions: what tests/study_test.cpp compares with. Prints one JSON object."""
import json
import sys

import numpy as np
from scipy.cluster.hierarchy import linkage
from scipy.stats import kendalltau, pearsonr, spearmanr
from sklearn.metrics import silhouette_score
from sklearn.metrics.pairwise import cosine_distances


def hsic(k, low):
    """HSIC_1 of Song et al. 2012 (paper, appendix D)."""
    n = len(k)
    k, low = k - np.diag(np.diag(k)), low - np.diag(np.diag(low))
    one = np.ones(n)
    return (np.trace(k @ low) + (one @ k @ one) * (one @ low @ one) / ((n - 1) * (n - 2))
            - 2 / (n - 2) * (one @ k @ low @ one)) / (n * (n - 3))


def cka(x, y):
    x, y = x - x.mean(0), y - y.mean(0)
    norm = np.linalg.norm
    return norm(x.T @ y) ** 2 / (norm(x.T @ x) * norm(y.T @ y))


def minibatch_cka(x, y, size):
    sums = np.zeros(3)
    for at in range(0, len(x), size):
        a, b = x[at:at + size], y[at:at + size]
        k, low = a @ a.T, b @ b.T
        sums += [hsic(k, low), hsic(k, k), hsic(low, low)]
    return sums[0] / np.sqrt(sums[1] * sums[2])


def separation(x, labels):
    distance = cosine_distances(x)
    np.fill_diagonal(distance, 0)
    classes = np.unique(labels)
    blocks = np.array([[distance[np.ix_(labels == j, labels == k)].mean() for j in classes]
                       for k in classes])
    return np.diag(blocks).mean(), blocks.mean(), silhouette_score(x, labels, metric="cosine")


def diversity(w):
    merges = 1 - linkage(w, "average", "cosine")[:, 2]
    values = np.sort(np.linalg.eigvalsh(w.T @ w))[::-1]
    values = values[values > values[0] * 1e-12]
    return {"D_C": 1 - np.clip(merges, 0, 1).sum() / len(w),
            "D_S": 1 - (np.cumsum(values) / values.sum()).mean()}


folder = sys.argv[1]
x, y, labels = (np.load(f"{folder}/{name}.npy") for name in ("x", "y", "labels"))
table = np.genfromtxt(f"{folder}/t.csv", delimiter=",", skip_header=1)[:, 1:]
intra, inter, silhouette = separation(x, labels)
print(json.dumps({
    "V_intra": intra, "S_inter": inter, "silhouette": silhouette,
    "cka": cka(x, y), "cka_minibatch": minibatch_cka(x, y, 20),
    "correlations": [{"spearman": spearmanr(c, table[:, 2])[0], "pearson": pearsonr(c, table[:, 2])[0],
                      "kendall": kendalltau(c, table[:, 2])[0]} for c in table[:, :2].T],
    "diversity": {"x": diversity(x), "y": diversity(y)},
}))
