#!/usr/bin/env python3
"""A linear probe by scikit-learn on the features of `facet bench probe`: its peer.

Fits some of the 45 strengths, each from the solution of the strength before it on the path (a
quarter of a decade below, fitted first and not timed), as facet does. Prints one JSON object."""
import argparse
import json
import os
import time

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--folder", required=True, help="with x.npy and y.npy of facet bench probe")
parser.add_argument("--strengths", default="0.001,0.1,10", help="values of C")
parser.add_argument("--iterations", type=int, default=100, help="scikit-learn's max_iter")
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
path = []
for c in (float(text) for text in args.strengths.split(",")):
    model = LogisticRegression(C=c / 10**0.25, max_iter=args.iterations, warm_start=True)
    model.fit(x, y)
    model.C = c
    start = time.perf_counter()
    model.fit(x, y)
    seconds = time.perf_counter() - start
    w = model.coef_.astype(np.float64)
    logits = x.astype(np.float64) @ w.T + model.intercept_
    top = logits.max(axis=1)
    losses = top + np.log(np.exp(logits - top[:, None]).sum(axis=1)) - logits[np.arange(len(y)), y]
    path.append({"c": c, "seconds": seconds, "iterations": int(model.n_iter_[0]),
                 "objective": 0.5 * (w * w).sum() + c * losses.sum()})
print(json.dumps({"path": path}))
