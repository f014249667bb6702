#!/usr/bin/env python3
"""Writes the pictures of picture_test and, as NAME.ppm, what Pillow makes of them.

Needs Pillow (Debian's python3-pil) and NumPy; the results are committed.
"""
import io
import pathlib
import struct
import zlib

import numpy as np
from PIL import Image

HERE = pathlib.Path(__file__).resolve().parent
H, W = 37, 53


def picture(channels, high=255):
    y, x, c = np.meshgrid(np.arange(H), np.arange(W), np.arange(channels), indexing="ij")
    noise = np.random.default_rng(channels).integers(-20, 20, (H, W, channels))
    wave = 127 + 90 * np.sin(x / 9 + c) * np.cos(y / 7 - c) + noise
    return np.clip(wave * high / 255, 0, high).astype(np.uint8 if high < 256 else np.uint16)


def png(rows, depth, colour, interlaced=False, extra=b""):
    """`rows`: (H, W, channels) values; Pillow writes no interlaced files and no 16-bit RGB."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def lines(part):
        for row in part:
            values = row.reshape(-1)
            if depth == 16:
                yield b"\0" + values.astype(">u2").tobytes()
            elif depth == 8:
                yield b"\0" + values.astype(np.uint8).tobytes()
            else:
                bits = np.unpackbits(values.astype(np.uint8)[:, None], axis=1)[:, 8 - depth:]
                yield b"\0" + np.packbits(bits.reshape(-1)).tobytes()

    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
                  (1, 0, 2, 1)]
    data = b"".join(line for y, x, dy, dx in passes for line in lines(rows[y::dy, x::dx]))
    head = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], depth, colour, 0, 0, interlaced)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(data, 9))
            + chunk(b"IEND", b""))


def chunk_of(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def main():
    rgb, grey = Image.fromarray(picture(3)), Image.fromarray(picture(1)[:, :, 0])
    cmyk = Image.fromarray(picture(4), "CMYK")
    alpha = Image.fromarray(picture(4), "RGBA")
    palette = rgb.quantize(16)
    rotated = Image.Exif()
    rotated[0x0112] = 6
    cmyk_jpeg = encoded(cmyk, "JPEG", quality=90)
    adobe = cmyk_jpeg.index(b"Adobe")
    ycck = bytearray(cmyk_jpeg)
    ycck[adobe + 11] = 2  # the same samples, declared as YCCK
    colours = (np.arange(16)[:, None] * [16, 11, 7]).astype(np.uint8).tobytes()
    files = {
        "420.jpg": encoded(rgb, "JPEG", quality=90, subsampling=2),
        "422.jpg": encoded(rgb, "JPEG", quality=90, subsampling=1),
        "444.jpg": encoded(rgb, "JPEG", quality=90, subsampling=0),
        "progressive.jpg": encoded(rgb, "JPEG", quality=80, progressive=True),
        "grey.jpg": encoded(grey, "JPEG", quality=90),
        "cmyk.jpg": cmyk_jpeg,
        "ycck.jpg": bytes(ycck),
        "rotated.jpg": encoded(rgb, "JPEG", quality=90, exif=rotated.tobytes()),
        "junk_after.jpg": encoded(rgb, "JPEG", quality=90) + b"\0junk" * 9,
        "rgb.png": encoded(rgb, "PNG"),
        "rgba.png": encoded(alpha, "PNG"),
        "grey_alpha.png": encoded(Image.fromarray(picture(2), "LA"), "PNG"),
        "palette.png": encoded(palette, "PNG"),
        "palette_transparent.png": encoded(palette, "PNG", transparency=3),
        "rgb16.png": png(picture(3, 65535), 16, 2),
        "grey1.png": png(picture(1, 1), 1, 0),
        "grey2.png": png(picture(1, 3), 2, 0),
        "palette4.png": png(picture(1, 15), 4, 3, extra=chunk_of(b"PLTE", colours)),
        "interlaced.png": png(picture(3), 8, 2, interlaced=True),
        "palette.gif": encoded(palette, "GIF"),
        "grey.gif": encoded(grey, "GIF"),
        "rgb.bmp": encoded(rgb, "BMP"),
        "palette.bmp": encoded(palette, "BMP"),
        "grey.bmp": encoded(grey, "BMP"),
    }
    for name, data in files.items():
        (HERE / name).write_bytes(data)
        Image.open(io.BytesIO(data)).convert("RGB").save(HERE / (name + ".ppm"))
    # Pillow clips 16-bit grey to 255; here its upper 8 bits count.
    (HERE / "grey16.png").write_bytes(png(picture(1, 65535), 16, 0))
    high = Image.fromarray((picture(1, 65535)[:, :, 0] >> 8).astype(np.uint8))
    high.convert("RGB").save(HERE / "grey16.png.ppm")


if __name__ == "__main__":
    main()
