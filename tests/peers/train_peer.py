#!/usr/bin/env python3
"""Training steps in plain PyTorch: the peer of `facet bench train`.

Starts from the weights and the batch that `facet bench train --save-start FILE` wrote, so that the
losses can be compared, and prints one JSON object. SGD with momentum 0.9 and weight decay 1e-4 on
all parameters, cross entropy. "As it comes" is this script without --channels-last.
"""
import argparse
import json
import os
import resource
import statistics
import struct
import time

import numpy as np
import torch
import torchvision

TYPES = {"F32": np.float32, "I64": np.int64}


def seconds_since_start():
    with open("/proc/self/stat") as file:
        ticks = int(file.read().rsplit(")", 1)[1].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def read_safetensors(path):
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = file.read()
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        values = np.frombuffer(data[begin:end], TYPES[entry["dtype"]])
        tensors[name] = torch.from_numpy(values.reshape(entry["shape"]).copy())
    return tensors


def make_network(args, classes):
    network = getattr(torchvision.models, args.arch)(num_classes=classes)
    if args.stem == "small":
        network.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        network.maxpool = torch.nn.Identity()
    return network


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--stem", choices=("imagenet", "small"), default="imagenet")
    parser.add_argument("--image-size", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--warmup-steps", type=int, default=2)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--start", required=True)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--precision", choices=("f32", "bf16"), default="f32",
                        help="bf16: autocast")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True

    tensors = read_safetensors(args.start)
    x, labels = tensors.pop("input"), tensors.pop("labels")
    assert x.shape == (args.batch_size, 3, args.image_size, args.image_size), x.shape
    network = make_network(args, len(tensors["fc.bias"]))
    network.load_state_dict(tensors)
    network = network.to(args.device).train()
    x, labels = x.to(args.device), labels.to(args.device)
    if args.channels_last:
        network = network.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), args.lr, momentum=0.9, weight_decay=1e-4)
    forward = torch.compile(network) if args.compile else network
    autocast = torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16")

    start_up, first_step = seconds_since_start(), None
    seconds, losses = [], []
    for step in range(args.warmup_steps + args.steps):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            loss = torch.nn.functional.cross_entropy(forward(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        first_step = first_step or seconds_since_start()
        if step >= args.warmup_steps:
            seconds.append(time.perf_counter() - start)
    step = statistics.median(seconds)
    print(json.dumps({"images_per_second": args.batch_size / step, "step_seconds": step,
                      "start_up_seconds": start_up, "first_step_seconds": first_step,
                      "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                      "losses": losses[:10], "torch": torch.__version__}))


if __name__ == "__main__":
    main()
