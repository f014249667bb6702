#!/usr/bin/env python3
"""Both diversities of ResNet-50-shaped weights with SciPy and NumPy: the peer of `facet bench`.

Makes the weights of metrics/resnet50_weights.cpp (the same numbers), measures every layer in one of
two ways and prints one JSON object with seconds and values:
  scipy  linkage(W, "average", "cosine") and numpy.linalg.eigvalsh, in f64, as the manuals have it
  tuned  Gram matrix by one f32 product, linkage of its condensed form, eigvalsh in f32
"""
import argparse
import json
import os
import time

# Debian's OpenBLAS may guess too old a processor.
AVX512 = " avx512dq " in open("/proc/cpuinfo").read()
os.environ.setdefault("OPENBLAS_CORETYPE", "SKYLAKEX" if AVX512 else "HASWELL")

import numpy as np
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

MASK = (1 << 64) - 1


def child(stream, n):
    z = (stream + 0x9E3779B97F4A7C15 * (n + 1)) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def uniform(shape, seed, stream):
    """Philox-4x32-10 as in tensor/random.h: f32 in [-1, 1)."""
    count = int(np.prod(shape))
    counter = np.arange((count + 3) // 4, dtype=np.uint64)
    low = np.uint64(0xFFFFFFFF)
    c0, c1 = counter & low, counter >> np.uint64(32)
    c2 = np.full_like(counter, stream & 0xFFFFFFFF)
    c3 = np.full_like(counter, stream >> 32)
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = ((p1 >> np.uint64(32)) ^ c1 ^ np.uint64(k0), p1 & low,
                          (p0 >> np.uint64(32)) ^ c3 ^ np.uint64(k1), p0 & low)
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    bits = np.stack([c0, c1, c2, c3], axis=1).reshape(-1)[:count]
    return (-1.0 + 2.0 * (bits >> np.uint64(8)) * 2.0**-24).astype(np.float32).reshape(shape)


def shapes():
    """(n, d) of the 53 convolutions, in the order of torchvision's parameters."""
    yield 64, 7 * 7 * 3
    inner = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 << stage
        for block in range(blocks):
            yield width, inner
            yield width, 9 * width
            yield 4 * width, width
            if block == 0:
                yield 4 * width, inner
            inner = 4 * width


def weights(seed):
    key = child(0, 6)  # RandomPurpose::synthetic
    for i, (n, d) in enumerate(shapes()):
        layer = child(key, i)
        yield uniform((n, d), seed, child(layer, 0)) + uniform((1, d), seed, child(layer, 1))


def clustering(tree):
    return 1.0 - np.clip(1.0 - tree[:, 2], 0.0, 1.0).sum() / (len(tree) + 1)


def spectral(gram, tolerance):
    values = np.linalg.eigvalsh(gram)[::-1].astype(np.float64)
    values = values[values > values[0] * tolerance]
    r = len(values)
    return 1.0 - (values * np.arange(r, 0, -1)).sum() / (values.sum() * r)


def smaller_gram(w):
    return w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w


def with_scipy(w, large):
    w = w.astype(np.float64)
    d_c = clustering(linkage(w, "average", "cosine"))
    return d_c, 0.0 if large else spectral(smaller_gram(w), 1e-12)


def tuned(w, large):
    unit = w / np.linalg.norm(w, axis=1, keepdims=True)
    distance = 1.0 - unit @ unit.T
    np.fill_diagonal(distance, 0.0)
    d_c = clustering(linkage(squareform(distance, checks=False), "average"))
    return d_c, 0.0 if large else spectral(smaller_gram(w), 1e-6)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=1, help="the fastest counts")
    parser.add_argument("--variant", choices=("scipy", "tuned"), default="scipy")
    parser.add_argument("--large", action="store_true",
                        help="the clustering alone of one layer of 2048 x 4608")
    args = parser.parse_args()
    if args.large:
        layers = [uniform((2048, 4608), args.seed, 1) + uniform((1, 4608), args.seed, 2)]
    else:
        layers = list(weights(args.seed))
    measure = with_scipy if args.variant == "scipy" else tuned
    seconds = []
    for _ in range(args.repeats):
        start = time.perf_counter()
        values = np.array([measure(w, args.large) for w in layers])
        seconds.append(time.perf_counter() - start)
    result = {"layers": len(layers), "seconds": min(seconds), "clustering": values[:, 0].mean()}
    if not args.large:
        result["spectral"] = values[:, 1].mean()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
