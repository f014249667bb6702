#!/usr/bin/env python3
"""Writes the seeds of the data readers' fuzz targets into corpus/: what SciPy, tarfile and Python 2
would write, whole and damaged. Needs python3-scipy. The pictures come from tests/golden/pictures."""
import io
import json
import pathlib
import struct
import tarfile

import numpy as np
from scipy.io import savemat

HERE = pathlib.Path(__file__).parent / "corpus"


def write(kind, name, data):
    (HERE / kind).mkdir(parents=True, exist_ok=True)
    (HERE / kind / name).write_bytes(data)


def mat(name, variables, **options):
    out = io.BytesIO()
    savemat(out, variables, **options)
    data = bytearray(out.getvalue())
    data[:116] = b"MATLAB 5.0 MAT-file".ljust(116)  # without the date
    write("mat", name, bytes(data))
    return bytes(data)


def texts(*names):
    cells = np.empty((len(names), 1), dtype=object)
    cells[:, 0] = names
    return cells


def make_mat():
    cars = np.zeros((1, 2), dtype=[("bbox_x1", object), ("class", object), ("fname", object)])
    cars[0, 0] = (39, 14, "00001.jpg")
    cars[0, 1] = (36, 3, "00002.jpg")
    for packed in (False, True):
        suffix = "_compressed" if packed else ""
        mat(f"cars{suffix}.mat", {"annotations": cars}, do_compression=packed)
        mat(f"flowers{suffix}.mat", {"labels": np.array([[77, 77, 1]], dtype=np.uint8),
                                     "trnid": np.array([[2.0, 3.0]])}, do_compression=packed)
        mat(f"dogs{suffix}.mat", {"file_list": texts("n02/a.jpg", "n03/b é.jpg"),
                                  "labels": np.array([[1], [2]])}, do_compression=packed)
    whole = mat("names.mat", {"class_names": texts("AM General", "Ram C/V")})
    write("mat", "cut.mat", whole[:len(whole) // 2])
    write("mat", "v73.mat", b"MATLAB 7.3 MAT-file".ljust(128) + b"\x89HDF")
    write("mat", "endless.mat", whole[:132] + b"\xff\xff\xff\xff" + whole[136:])


def make_tar():
    def archive(form, names, size=3):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as tar:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = size
                tar.addfile(info, io.BytesIO(b"x" * size))
        return out.getvalue()

    long = "n01440764/" + "a" * 120 + ".JPEG"
    ustar = archive(tarfile.USTAR_FORMAT, ["n01/a.JPEG", "n01/b.JPEG"])
    write("tar", "ustar", ustar)
    write("tar", "gnu_long_name", archive(tarfile.GNU_FORMAT, [long, "b"]))
    write("tar", "pax", archive(tarfile.PAX_FORMAT, [long, "é"]))
    write("tar", "prefix", archive(tarfile.USTAR_FORMAT, ["p" * 90 + "/" + "q" * 90]))
    write("tar", "nested", archive(tarfile.USTAR_FORMAT, ["a.tar"], 512))
    write("tar", "cut", ustar[:700])

    def with_field(at, value):
        data = bytearray(ustar)
        data[at:at + len(value)] = value
        data[148:156] = b" " * 8
        data[148:156] = b"%06o\0 " % sum(data[:512])
        return bytes(data)

    write("tar", "base256", with_field(124, b"\x80" + struct.pack(">QHB", 0, 0, 3)))
    write("tar", "huge", with_field(124, b"\x80\0\0\0\xff" + b"\xff" * 7))
    write("tar", "negative", with_field(124, b"\xff" * 12))
    write("tar", "pax_size", with_field(156, b"x"))


def make_coco():
    images = [{"id": 9, "file_name": "9.jpg", "height": 4}, {"id": 25, "file_name": "é.jpg"}]
    notes = [{"image_id": 9, "category_id": 90, "id": 900100000000, "iscrowd": 1,
              "segmentation": {"counts": [1, 2], "size": [3, 4]}},
             {"image_id": 25, "category_id": 1, "id": 1, "segmentation": [[1.5, 2, 3]]}]
    kinds = [{"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}]
    whole = {"info": {"year": 2014}, "images": images, "annotations": notes, "categories": kinds}
    text = json.dumps(whole).encode()
    write("coco", "whole.json", text)
    write("coco", "backwards.json", json.dumps(dict(reversed(whole.items()))).encode())
    write("coco", "cut.json", text[:len(text) // 2])
    write("coco", "deep.json", b"[" * 5000)
    write("coco", "huge_id.json", text.replace(b"900100000000", b"9" * 30))
    write("coco", "twice.json", text.replace(b'"id": 25', b'"id": 9'))


def make_idx():
    labels = bytes([0, 0, 8, 1]) + struct.pack(">I", 4) + bytes([1, 2, 3, 4])
    images = bytes([0, 0, 8, 3]) + struct.pack(">III", 2, 2, 2) + bytes(range(8))
    write("idx", "labels", labels)
    write("idx", "images", images)
    write("idx", "huge", images[:4] + b"\xff" * 12 + b"1234")
    write("idx", "floats", bytes([0, 0, 13, 1]) + struct.pack(">If", 1, 1.0))
    write("idx", "longer", labels + b"x")


def make_lists():
    write("lists", "unix", b"apple_pie/1005649\nwaffles 3 F/A-18\n1025794 707-320\n")
    write("lists", "windows", b"\xef\xbb\xbfa 1\r\nb 2\r\n\r\nc10 3")
    write("lists", "nul", b"a\0b\n")
    write("lists", "latin1", b"caf\xe9 1\nA10\na2\na02\n")


def make_cifar():
    def short(text):
        return b"U" + bytes([len(text)]) + text

    pixels = bytes(i % 251 for i in range(2 * 12))
    array = (b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\0\x85U\x01b\x87R"
             b"(K\x01K\x02K\x0c\x86cnumpy\ndtype\nU\x02u1K\0K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xff"
             b"J\xff\xff\xff\xffK\0tb\x89T" + struct.pack("<I", len(pixels)) + pixels + b"tb")
    whole = (b"\x80\x02}q\0(" + short(b"data") + array + short(b"labels") + b"](K\x06K\x09e" +
             short(b"batch_label") + short(b"training batch 1 of 5") + short(b"filenames") +
             b"](" + short(b"a.png") + short(b"b.png") + b"eu.")
    write("cifar_pickle", "batch", whole)
    write("cifar_pickle", "cut", whole[:100])
    write("cifar_pickle", "system", b"\x80\x02cos\nsystem\nU\x02ls\x85R.")
    write("cifar_pickle", "marks", b"(" * 1000 + b"e" * 1000)
    write("cifar_pickle", "memo", b"\x80\x02Nr\xff\xff\xff\xff.")


make_mat()
make_tar()
make_coco()
make_idx()
make_lists()
make_cifar()
