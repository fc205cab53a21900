import hashlib
import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from metasearch.core.errors import DataError
from metasearch.tasks import datasets
from metasearch.tasks.omniglot_data import Drawings, load, read_zips, vinyals_splits

PICTURES = "255fbb66efe334ae4ffdf873a5d430b6232d966a38612f804baa3297751298c5"


def png(ink):
    buffer = io.BytesIO()
    Image.fromarray(ink == 0).save(buffer, format="png")  # one bit a pixel, ink stored as 0
    return buffer.getvalue()


@pytest.fixture
def archive(tmp_path):
    """Two characters in the layout of the authors' archives, written out of order."""
    ink = (np.random.default_rng(0).random((2, 20, 105, 105)) < 0.1).astype(np.uint8)
    path = tmp_path / "images_background.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("images_background/", "")
        for drawer in reversed(range(20)):
            for character in (1, 0):
                name = f"images_background/Greek/character{character + 1:02}/{410 + character:04}_{drawer + 1:02}.png"
                file.writestr(name, png(ink[character, drawer]))
    return path, ink


def test_an_archive_is_read_in_the_order_of_characters_and_drawers(archive):
    path, ink = archive
    drawings = read_zips([path])
    assert drawings.names == ("images_background/Greek/character01", "images_background/Greek/character02")
    assert np.array_equal(drawings.pictures(105), ink * 255)


def test_archive_and_bundle_store_a_drawing_alike(archive):
    path, ink = archive
    packed = read_zips([path]).packed
    bits = np.unpackbits(packed, axis=-1)[..., : 105 * 105]
    assert packed.shape == (2, 20, 1379)
    assert np.array_equal(bits.reshape(ink.shape), ink)


def test_a_bundled_drawing_survives_the_way_through_an_archive(tmp_path):
    names, pictures = load("bundled", 105)
    character = names.index("images_evaluation/Tibetan/character07")
    ink = pictures[character] // 255
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as file:
        for drawer in range(20):
            file.writestr(f"{names[character]}/1000_{drawer + 1:02}.png", png(ink[drawer]))
    again = read_zips([tmp_path / "one.zip"])
    assert again.names == (names[character],)
    assert np.array_equal(again.pictures(28)[0], load("bundled", 28)[1][character])
    load.cache_clear()


def test_the_bundled_data_are_the_published_ones():
    path = datasets.locate("omniglot")
    datasets.verify("omniglot", path)
    names, pictures = load("bundled", 28)
    assert len(names) == 1623
    assert list(names) == sorted(names)
    assert pictures.shape == (1623, 20, 28, 28)
    assert not pictures.flags.writeable
    assert hashlib.sha256(pictures.tobytes()).hexdigest() == PICTURES


def test_the_published_split_covers_every_character_once():
    splits = vinyals_splits()
    names = {name.split("/", 1)[1] for name in load("bundled", 28)[0]}
    assert {split: len(members) for split, members in splits.items()} == {"train": 1028, "validation": 172, "test": 423}
    assert frozenset.union(*splits.values()) == names


def test_a_missing_drawing_is_named(tmp_path, archive):
    path, _ = archive
    short = tmp_path / "short.zip"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(short, "w") as new:
        for name in old.namelist():
            if not name.endswith("character02/0411_13.png"):
                new.writestr(name, old.read(name))
    with pytest.raises(DataError, match="Greek/character02: expected 20 drawings, found 19"):
        read_zips([short])


def test_pictures_of_another_size_and_broken_archives_are_refused(tmp_path):
    wrong = tmp_path / "wrong.zip"
    with zipfile.ZipFile(wrong, "w") as file:
        file.writestr("images_background/Greek/character01/0001_01.png", png(np.zeros((28, 28), dtype=np.uint8)))
    with pytest.raises(DataError, match=r"\(28, 28\) pixels, expected \(105, 105\)"):
        read_zips([wrong])
    wrong.write_bytes(b"not an archive")
    with pytest.raises(DataError, match=r"cannot read .*wrong\.zip"):
        read_zips([wrong])


def test_a_folder_without_all_characters_is_refused(tmp_path, archive):
    path, _ = archive
    with pytest.raises(DataError, match=r"lacks images_evaluation\.zip"):
        load(str(tmp_path), 28)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "images_evaluation.zip", "w") as new:
        for name in old.namelist():
            new.writestr(name.replace("images_background", "images_evaluation"), old.read(name))
    with pytest.raises(DataError, match="expected 1623 characters, found 4"):
        load(str(tmp_path), 28)


def test_pictures_do_not_depend_on_their_neighbours():
    packed = np.random.default_rng(1).integers(0, 256, (9, 20, 1379), dtype=np.uint8)
    everything = Drawings(tuple("abcdefghi"), packed).pictures(14)
    assert np.array_equal(Drawings(("c",), packed[2:3]).pictures(14)[0], everything[2])
