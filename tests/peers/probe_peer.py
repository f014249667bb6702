#!/usr/bin/env python3
"""A linear probe by scikit-learn on the features of `facet bench probe`: its peer.

Fits some of the 45 strengths, each from the solution of the strength before it on the path (a
quarter of a decade below, fitted first and not timed), as facet does. With --facet, what
`facet bench probe --json` printed, also fits each in f64 until nothing gets better (tol 1e-10, at
most 10000 iterations, and SciPy's own stop, which scikit-learn leaves at 2e-9, at 1e-15) and gives
how far above that optimum both objectives are, relative to it. Prints one JSON object."""
import argparse
import json
import os
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
def objective_of(model, c):
    w = model.coef_.astype(np.float64)
    logits = x.astype(np.float64) @ w.T + model.intercept_
    top = logits.max(axis=1)
    losses = top + np.log(np.exp(logits - top[:, None]).sum(axis=1)) - logits[np.arange(len(y)), y]
    return 0.5 * (w * w).sum() + c * losses.sum()


path = []
for c in (float(text) for text in args.strengths.split(",")):
    model = LogisticRegression(C=c / 10**0.25, max_iter=args.iterations, warm_start=True)
    model.fit(x, y)
    model.C = c
    start = time.perf_counter()
    model.fit(x, y)
    seconds = time.perf_counter() - start
    path.append({"c": c, "seconds": seconds, "iterations": int(model.n_iter_[0]),
                 "objective": objective_of(model, c)})

if args.facet:
    import scipy.optimize

    minimize = scipy.optimize.minimize

    def to_the_end(*positional, **named):
        named["options"] = {**named.get("options", {}), "ftol": 1e-15, "maxfun": 1000000}
        return minimize(*positional, **named)

    scipy.optimize.minimize = to_the_end
    with open(args.facet) as file:
        ours = json.load(file)["path"]
    wide = x.astype(np.float64)
    for entry in path:
        c = entry["c"]
        model = LogisticRegression(C=c, tol=1e-10, max_iter=10000).fit(wide, y)
        best = objective_of(model, c)
        facet = min(ours, key=lambda step: abs(np.log(step["c"] / c)))
        assert abs(facet["c"] / c - 1) < 1e-6, f"C = {c} is none of facet's"
        entry.update(optimum=best, optimum_iterations=int(model.n_iter_[0]),
                     above=(entry["objective"] - best) / best, facet=facet["objective"],
                     facet_above=(facet["objective"] - best) / best)
print(json.dumps({"path": path}))
