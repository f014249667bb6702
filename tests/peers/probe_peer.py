#!/usr/bin/env python3
"""A linear probe by scikit-learn on the features of `facet bench probe`: its peer.

Fits some of the 45 strengths, each from the solution of the strength before it on the path (a
quarter of a decade below, fitted first and not timed), as facet does. With --facet, what
`facet bench probe --json` printed, also goes on from scikit-learn's solution to the optimum, by
Newton steps in f64, and gives how far above it both objectives are, relative to it. The optimum comes
with a proof: with the intercept at its best, the objective is strongly convex in the weights (modulus
1, for its half square of them), so that its minimum is at most |gradient|^2 / 2 lower. Prints one JSON
object."""
import argparse
import json
import os
import sys
import time

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--folder", required=True, help="with x.npy and y.npy of facet bench probe")
parser.add_argument("--strengths", default="0.001,0.1,10", help="values of C")
parser.add_argument("--iterations", type=int, default=100, help="scikit-learn's max_iter")
parser.add_argument("--facet", help="what facet bench probe --json printed on these features")
parser.add_argument("--threads", type=int, default=0)
args = parser.parse_args()
# Debian's OpenBLAS may guess too old a processor.
avx512 = " avx512dq " in open("/proc/cpuinfo").read()
os.environ.setdefault("OPENBLAS_CORETYPE", "SKYLAKEX" if avx512 else "HASWELL")
if args.threads:
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(args.threads)

import warnings

import numpy as np
from sklearn.linear_model import LogisticRegression

warnings.filterwarnings("ignore")
x = np.load(os.path.join(args.folder, "x.npy"))
y = np.load(os.path.join(args.folder, "y.npy"))
wide = x.astype(np.float64)
rows = np.arange(len(y))


def at(w, b, c):
    """The objective, the probabilities, and the gradient of the losses with respect to the logits."""
    p = wide @ w.T + b
    top = p.max(axis=1, keepdims=True)
    p = np.exp(p - top)
    p /= p.sum(axis=1, keepdims=True)
    losses = -np.log(p[rows, y])
    errors = p.copy()
    errors[rows, y] -= 1
    return 0.5 * (w * w).sum() + c * losses.sum(), p, errors


def objective_of(model, c):
    return at(model.coef_.astype(np.float64), model.intercept_, c)[0]


def best_intercept(w, b, c):
    for _ in range(20):
        value, p, errors = at(w, b, c)
        slope = errors.sum(axis=0)
        if np.abs(slope).max() < 1e-11 * len(y):
            break
        b = b - np.linalg.pinv(np.diag(p.sum(axis=0)) - p.T @ p) @ slope
    return value, b, p, errors


def optimum_of(model, c, tolerance=1e-8):
    """The least objective and how much lower the true minimum can be, relative to it."""
    w, b = model.coef_.astype(np.float64), model.intercept_.astype(np.float64)
    for _ in range(30):
        value, b, p, errors = best_intercept(w, b, c)
        g = w + c * (errors.T @ wide)
        gap = 0.5 * (g * g).sum() / value
        print(f"C = {c:g}: {value:.10g}, at most {gap:.2g} too high", file=sys.stderr)
        if gap <= tolerance:
            return value, gap
        # Conjugate gradients on the Hessian of weights and intercept.
        step_w, step_b = np.zeros_like(w), np.zeros_like(b)
        r_w, r_b = -g, -c * errors.sum(axis=0)
        d_w, d_b = r_w, r_b
        square = first = (r_w * r_w).sum() + (r_b * r_b).sum()
        for _ in range(500):
            u = wide @ d_w.T + d_b
            u = c * p * (u - (p * u).sum(axis=1, keepdims=True))
            h_w, h_b = d_w + u.T @ wide, u.sum(axis=0)
            length = square / ((d_w * h_w).sum() + (d_b * h_b).sum())
            step_w, step_b = step_w + length * d_w, step_b + length * d_b
            r_w, r_b = r_w - length * h_w, r_b - length * h_b
            last, square = square, (r_w * r_w).sum() + (r_b * r_b).sum()
            if square < first * min(0.01, gap):
                break
            d_w, d_b = r_w + square / last * d_w, r_b + square / last * d_b
        scale = 1.0
        while best_intercept(w + scale * step_w, b + scale * step_b, c)[0] > value:
            scale /= 2
        w, b = w + scale * step_w, b + scale * step_b
    return value, gap  # not proven to the tolerance: the gap says how far


if args.facet:
    with open(args.facet) as file:
        ours = json.load(file)["path"]

path = []
for c in (float(text) for text in args.strengths.split(",")):
    model = LogisticRegression(C=c / 10**0.25, max_iter=args.iterations, warm_start=True)
    model.fit(x, y)
    model.C = c
    start = time.perf_counter()
    model.fit(x, y)
    seconds = time.perf_counter() - start
    entry = {"c": c, "seconds": seconds, "iterations": int(model.n_iter_[0]),
             "objective": objective_of(model, c)}
    if args.facet:
        facet = min(ours, key=lambda step: abs(np.log(step["c"] / c)))
        assert abs(facet["c"] / c - 1) < 1e-6, f"C = {c} is none of facet's"
        best, gap = optimum_of(model, c)
        entry.update(optimum=best, optimum_gap=gap, above=(entry["objective"] - best) / best,
                     facet=facet["objective"], facet_above=(facet["objective"] - best) / best)
    path.append(entry)
print(json.dumps({"path": path}))
