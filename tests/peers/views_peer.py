#!/usr/bin/env python3
"""Decoding and augmentation with torchvision and Pillow: the peer of `facet bench data`.

With --make N it only writes N pictures of --size W H into the folder: noise of a 1/f spectrum, as
photographs have it, quality 90, 4:2:0. Otherwise it makes views of them on one thread and prints one
JSON object; "mean" is over all decoded pixels.
"""
import argparse
import io
import json
import pathlib
import random
import time

import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision import transforms as T


def make(folder, count, width, height):
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    amplitude = 1 / np.maximum(np.hypot(fy, fx), 1 / max(width, height))
    for i in range(count):
        rng = np.random.default_rng(i)
        channels = []
        for _ in range(4):
            phase = np.exp(2j * np.pi * rng.random(amplitude.shape))
            wave = np.fft.irfft2(amplitude * phase, s=(height, width))
            channels.append(wave / wave.std())
        # Channels of photographs go together.
        pixels = np.stack([channels[3] + 0.4 * c for c in channels[:3]], axis=2) * 50 + 118
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        image.save(folder / f"{i:03}.jpg", quality=90, subsampling=2)


class PillowBlur:  # facebookresearch/moco, loader.py
    def __call__(self, image):
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--make", type=int, default=0)
    parser.add_argument("--size", type=int, nargs=2, default=(500, 375))
    parser.add_argument("--views", choices=["none", "supervised", "moco"], default="moco")
    parser.add_argument("--pillow-blur", action="store_true", help="not torchvision's own")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--seconds", type=float, default=3)
    args = parser.parse_args()
    if args.make:
        make(args.folder, args.make, *args.size)
        print(json.dumps({"made": args.make}))
        return

    torch.set_num_threads(1)
    blur = PillowBlur() if args.pillow_blur else T.GaussianBlur(23, (0.1, 2.0))
    last = [T.ToTensor(), T.Normalize((.485, .456, .406), (.229, .224, .225))]
    pipelines = {
        "none": [],
        "supervised": [T.Compose([T.RandomResizedCrop(args.image_size), T.RandomHorizontalFlip(),
                                  *last])],
        "moco": 2 * [T.Compose([
            T.RandomResizedCrop(args.image_size, scale=(0.2, 1.0)),
            T.RandomApply([T.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            T.RandomGrayscale(p=0.2),
            T.RandomApply([blur], p=0.5),
            T.RandomHorizontalFlip(), *last])],
    }[args.views]
    files = [path.read_bytes() for path in sorted(args.folder.iterdir())]

    def decode(data):
        return Image.open(io.BytesIO(data)).convert("RGB")

    mean = float(np.mean([np.asarray(decode(data), dtype=np.float64).mean() for data in files]))
    count, begin = 0, time.perf_counter()
    while count == 0 or time.perf_counter() - begin < args.seconds:
        image = decode(files[count % len(files)])
        for pipeline in pipelines:
            pipeline(image)
        count += 1
    rate = count / (time.perf_counter() - begin)
    print(json.dumps({"images_per_second": rate, "mean": mean}))


if __name__ == "__main__":
    main()
