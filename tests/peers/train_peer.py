#!/usr/bin/env python3
"""Training steps in plain PyTorch: the peer of `facet bench train`.

Starts from the weights and the batch that `facet bench train --save-start FILE` wrote, so that the
losses can be compared (but MAE's, whose masks are drawn anew), and prints one JSON object. SGD with
momentum 0.9 and weight decay 1e-4 on all parameters. "As it comes" is this script without
--channels-last.
"""
import argparse
import json
import math
import os
import resource
import statistics
import struct
import time

import numpy as np
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

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


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width),
                                   "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width),
                                  "fc2": nn.Linear(4 * width, width)})

    def forward(self, x):
        n, tokens, width = x.shape
        qkv = self.attn["qkv"](self.norm1(x)).reshape(n, tokens, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if hasattr(F, "scaled_dot_product_attention"):  # since PyTorch 2
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v
        x = x + self.attn["proj"](y.transpose(1, 2).reshape(n, tokens, width))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class Vit(nn.Module):
    """timm's, as its version 0.4 computes it."""
    WIDTHS = {"vit_tiny": 192, "vit_small": 384, "vit_base": 768}

    def __init__(self, arch, patch, image_size, classes=0):
        super().__init__()
        self.width = width = self.WIDTHS[arch]
        self.patch, self.grid = patch, image_size // patch
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid ** 2, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.blocks = nn.ModuleList(Block(width, width // 64) for _ in range(12))
        self.norm = nn.LayerNorm(width, 1e-6)
        if classes:
            self.head = nn.Linear(width, classes)

    def position(self, grid):
        if grid == self.grid:
            return self.pos_embed
        patches = self.pos_embed[:, 1:].reshape(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        patches = F.interpolate(patches, scale_factor=(grid + .1) / self.grid, mode="bicubic",
                                recompute_scale_factor=False)
        patches = patches.permute(0, 2, 3, 1).reshape(1, grid * grid, -1)
        return torch.cat([self.pos_embed[:, :1], patches], 1)

    def tokens(self, x, kept=None):
        position = self.position(x.shape[-1] // self.patch)
        x = self.patch_embed["proj"](x).flatten(2).transpose(1, 2) + position[:, 1:]
        if kept is not None:
            x = torch.gather(x, 1, kept[..., None].expand(-1, -1, x.shape[2]))
        x = torch.cat([(self.cls_token + position[:, :1]).expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, x):
        first = self.tokens(x)[:, 0]
        return self.head(first) if hasattr(self, "head") else first


def make_network(args, classes):
    """With `classes` outputs; features where it is 0."""
    if args.arch.startswith("vit"):
        return Vit(args.arch, args.patch_size, args.image_size, classes)
    network = getattr(torchvision.models, args.arch)(num_classes=classes or 1000)
    if args.stem == "small":
        network.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        network.maxpool = nn.Identity()
    network.width = network.fc.in_features
    if not classes:
        network.fc = nn.Identity()
    return network


def crops(network, views):
    """Features of all views, one forward for each run of views of one size."""
    parts, start = [], 0
    for i in range(1, len(views) + 1):
        if i == len(views) or views[i].shape != views[start].shape:
            parts.append(network(torch.cat(views[start:i])))
            start = i
    return torch.cat(parts)


class ScaleNorm(nn.BatchNorm1d):
    """A batch norm without offset."""
    def __init__(self, width):
        super().__init__(width)
        self.bias = None


class Supervised(nn.Module):
    def __init__(self, args, tensors):
        super().__init__()
        head = "head.bias" if args.arch.startswith("vit") else "fc.bias"
        self.encoder = make_network(args, len(tensors["encoder." + head]))

    def loss(self, views, labels):
        return F.cross_entropy(self.encoder(views[0]), labels)


class Simclr(nn.Module):
    def __init__(self, args, tensors):
        super().__init__()
        self.encoder = make_network(args, 0)
        width = self.encoder.width
        self.head = nn.ModuleDict({"layer0": nn.Linear(width, width, bias=False),
                                   "bn0": nn.BatchNorm1d(width),
                                   "layer1": nn.Linear(width, 128, bias=False),
                                   "bn1": ScaleNorm(128)})

    def loss(self, views, labels):
        h = self.head["bn0"](self.head["layer0"](self.encoder(torch.cat(views))))
        z = F.normalize(self.head["bn1"](self.head["layer1"](F.relu(h))))
        scores = (z @ z.T / 0.1).fill_diagonal_(-math.inf)
        n = len(labels)
        return F.cross_entropy(scores, torch.arange(2 * n, device=z.device).roll(n))


class Moco(nn.Module):
    def __init__(self, args, tensors):
        super().__init__()
        self.encoder, self.key_encoder = make_network(args, 0), make_network(args, 0)
        width = self.encoder.width
        head = lambda: nn.ModuleDict({"layer0": nn.Linear(width, width),
                                      "layer1": nn.Linear(width, 128)})
        self.head, self.key_head = head(), head()
        self.register_buffer("queue", torch.zeros_like(tensors["queue"]))
        self.register_buffer("queue_pointer", torch.zeros_like(tensors["queue_pointer"]))
        for parameter in [*self.key_encoder.parameters(), *self.key_head.parameters()]:
            parameter.requires_grad_(False)

    def project(self, encoder, head, x):
        return F.normalize(head["layer1"](F.relu(head["layer0"](encoder(x)))))

    def loss(self, views, labels):
        q = self.project(self.encoder, self.head, views[0])
        with torch.no_grad():
            for key, query in ((self.key_encoder, self.encoder), (self.key_head, self.head)):
                for k, p in zip(key.parameters(), query.parameters()):
                    k.mul_(0.999).add_(p, alpha=0.001)
            k = self.project(self.key_encoder, self.key_head, views[1])
            old = self.queue.clone()
            at = int(self.queue_pointer)
            self.queue[at:at + len(k)] = k
            self.queue_pointer.fill_((at + len(k)) % len(old))
        scores = torch.cat([(q * k).sum(1, keepdim=True), q @ old.T], 1) / 0.2
        return F.cross_entropy(scores, torch.zeros_like(labels))


class Swav(nn.Module):
    def __init__(self, args, tensors):
        super().__init__()
        self.encoder = make_network(args, 0)
        width = self.encoder.width
        self.head = nn.ModuleDict({"layer0": nn.Linear(width, width),
                                   "bn0": nn.BatchNorm1d(width),
                                   "layer1": nn.Linear(width, 128)})
        self.prototypes = nn.Linear(128, args.prototypes, bias=False)

    @torch.no_grad()
    def assign(self, scores):
        q = torch.exp((scores - scores.max()) / 0.05).T
        q /= q.sum()
        for _ in range(3):
            q /= q.sum(1, keepdim=True) * q.shape[0]
            q /= q.sum(0, keepdim=True) * q.shape[1]
        return q.T * q.shape[1]

    def loss(self, views, labels):
        with torch.no_grad():
            self.prototypes.weight.copy_(F.normalize(self.prototypes.weight))
        h = self.head["bn0"](self.head["layer0"](crops(self.encoder, views)))
        scores = self.prototypes(F.normalize(self.head["layer1"](F.relu(h))))
        parts = scores.split(len(labels))
        loss = 0
        for i in range(2):
            q = self.assign(parts[i].detach())
            for v in range(len(views)):
                if v != i:
                    loss = loss - (q * F.log_softmax(parts[v] / 0.1, 1)).sum(1).mean()
        return loss / (2 * (len(views) - 1))


class DinoHead(nn.Module):
    def __init__(self, width, out):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, 2048), nn.GELU(), nn.Linear(2048, 2048),
                                 nn.GELU(), nn.Linear(2048, 256))
        self.last_layer = nn.ParameterDict({"weight_g": nn.Parameter(torch.ones(out, 1), False),
                                            "weight_v": nn.Parameter(torch.ones(out, 256))})

    def forward(self, x):
        last = self.last_layer
        return F.normalize(self.mlp(x)) @ (last["weight_g"] * F.normalize(last["weight_v"])).T


class Dino(nn.Module):
    def __init__(self, args, tensors):
        super().__init__()
        self.student, self.teacher = make_network(args, 0), make_network(args, 0)
        self.student_head = DinoHead(self.student.width, args.out_dim)
        self.teacher_head = DinoHead(self.student.width, args.out_dim)
        self.register_buffer("center", torch.zeros(1, args.out_dim))
        for parameter in [*self.teacher.parameters(), *self.teacher_head.parameters()]:
            parameter.requires_grad_(False)

    def loss(self, views, labels):
        with torch.no_grad():
            teacher = self.teacher_head(crops(self.teacher, views[:2]))
            targets = ((teacher - self.center) / 0.04).softmax(1).chunk(2)
            self.center.mul_(0.9).add_(teacher.mean(0, keepdim=True), alpha=0.1)
        parts = (self.student_head(crops(self.student, views)) / 0.1).split(len(labels))
        loss = 0
        for i in range(2):
            for v in range(len(views)):
                if v != i:
                    loss = loss - (targets[i] * F.log_softmax(parts[v], 1)).sum(1).mean()
        return loss / (2 * (len(views) - 1))

    @torch.no_grad()
    def after_step(self):
        for teacher, student in ((self.teacher, self.student),
                                 (self.teacher_head, self.student_head)):
            for t, p in zip(teacher.parameters(), student.parameters()):
                t.mul_(0.996).add_(p, alpha=0.004)


class Mae(nn.Module):
    def __init__(self, args, tensors):
        super().__init__()
        self.encoder = make_network(args, 0)
        patches, values = self.encoder.grid ** 2, 3 * self.encoder.patch ** 2
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 512))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, 1 + patches, 512), False)
        self.encoder.pos_embed.requires_grad_(False)
        self.decoder_embed = nn.Linear(self.encoder.width, 512)
        self.decoder_blocks = nn.ModuleList(Block(512, 16) for _ in range(8))
        self.decoder_norm = nn.LayerNorm(512, 1e-6)
        self.decoder_pred = nn.Linear(512, values)

    def loss(self, views, labels):
        x, p, grid = views[0], self.encoder.patch, self.encoder.grid
        n, patches = len(x), grid * grid
        order = torch.rand(n, patches, device=x.device).argsort(1)
        restore, keep = order.argsort(1), patches // 4
        y = self.decoder_embed(self.encoder.tokens(x, order[:, :keep]))
        rest = self.mask_token.expand(n, patches - keep, -1)
        body = torch.cat([y[:, 1:], rest], 1)
        body = torch.gather(body, 1, restore[..., None].expand(-1, -1, body.shape[2]))
        y = torch.cat([y[:, :1], body], 1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            y = block(y)
        pred = self.decoder_pred(self.decoder_norm(y))[:, 1:]
        target = x.reshape(n, 3, grid, p, grid, p).permute(0, 2, 4, 3, 5, 1).reshape(pred.shape)
        target = (target - target.mean(-1, keepdim=True)) / (
            target.var(-1, keepdim=True) + 1e-6) ** .5
        mask = (restore >= keep).float()
        return (((pred - target) ** 2).mean(-1) * mask).sum() / mask.sum()


METHODS = {"supervised": Supervised, "simclr": Simclr, "moco": Moco, "swav": Swav, "dino": Dino,
           "mae": Mae}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", choices=METHODS, default="supervised")
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--patch-size", type=int, default=16)
    parser.add_argument("--prototypes", type=int, default=3000)
    parser.add_argument("--out-dim", type=int, default=65536)
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
    parser.add_argument("--compile", metavar="MODE", default="",
                        help="torch.compile in this mode: default, max-autotune ...")
    args, _ = parser.parse_known_args()  # the rest is the same as ours for every method
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True

    tensors = read_safetensors(args.start)
    labels = tensors.pop("labels")
    views = [tensors.pop(f"input{i}") for i in range(100) if f"input{i}" in tensors]
    assert views[0].shape == (args.batch_size, 3, args.image_size, args.image_size), views[0].shape
    model = METHODS[args.method](args, tensors)
    for name in ("queue_rows",):  # no queue in these rows
        tensors.pop(name, None)
    if args.method == "swav":
        tensors.pop("queue", None)
    model.load_state_dict(tensors)
    model = model.to(args.device).train()
    views, labels = [view.to(args.device) for view in views], labels.to(args.device)
    if args.channels_last:
        model = model.to(memory_format=torch.channels_last)
        views = [view.contiguous(memory_format=torch.channels_last) for view in views]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], args.lr,
                                momentum=0.9, weight_decay=1e-4,
                                **({"fused": True} if args.device == "cuda" else {}))
    loss_of = torch.compile(model.loss, mode=args.compile) if args.compile else model.loss
    autocast = torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16")

    start_up, first_step = seconds_since_start(), None
    seconds, losses = [], []
    for step in range(args.warmup_steps + args.steps):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            loss = loss_of(views, labels)
        loss.backward()
        optimizer.step()
        if hasattr(model, "after_step"):
            model.after_step()
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
