import hashlib

import pytest

from metasearch.core.errors import ConfigError, DataError
from metasearch.tasks import datasets
from metasearch.tasks.datasets import Dataset, File

CONTENT = b"forty-two numbers"


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A data set whose one file is served from a folder, with empty search places."""
    source = tmp_path / "served" / "numbers.bin"
    source.parent.mkdir()
    source.write_bytes(CONTENT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("METASEARCH_DATA", raising=False)
    checksum = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
    dataset = Dataset("numbers", "Numbers", "CC0", "nowhere", (File("numbers.bin", checksum, source.as_uri()),))
    monkeypatch.setitem(datasets.DATASETS, "numbers", dataset)
    return source


def test_get_downloads_once_into_the_cache(served, tmp_path):
    assert datasets.place("numbers") is None
    path = datasets.get("numbers")
    assert path == tmp_path / "cache" / "metasearch" / "numbers"
    assert (path / "numbers.bin").read_bytes() == CONTENT
    assert [file.name for file in path.iterdir()] == ["numbers.bin"]
    served.unlink()
    assert datasets.get("numbers") == path
    assert datasets.place("numbers") == ("cache", path)


def test_a_download_with_another_checksum_leaves_nothing_behind(served, tmp_path):
    served.write_bytes(b"tampered")
    with pytest.raises(DataError, match=r"numbers\.bin: expected sha256 .*, got .*"):
        datasets.get("numbers")
    assert not list((tmp_path / "cache" / "metasearch" / "numbers").iterdir())


def test_a_failed_download_says_what_to_do(served):
    served.unlink()
    with pytest.raises(DataError, match=r"could not download file://.*Fetch it by hand"):
        datasets.get("numbers")


def test_the_users_folders_come_before_bundle_and_cache(served, tmp_path, monkeypatch):
    datasets.get("numbers")
    own = tmp_path / "data" / "numbers"
    own.mkdir(parents=True)
    (own / "numbers.bin").write_bytes(b"my own")
    monkeypatch.setenv("METASEARCH_DATA", str(tmp_path / "data"))
    assert datasets.place("numbers") == ("METASEARCH_DATA", own)
    assert datasets.place("numbers", served.parent) == ("folder", served.parent)
    with pytest.raises(DataError, match="expected sha256"):
        datasets.verify("numbers", own)
    datasets.verify("numbers", served.parent)


def test_a_missing_data_set_names_its_places_files_and_remedy(served, tmp_path):
    with pytest.raises(
        DataError, match=r"(?s)cache.*lacks numbers\.bin.*metasearch datasets get numbers.*METASEARCH_DATA"
    ):
        datasets.locate("numbers")
    with pytest.raises(DataError, match=r"elsewhere \(lacks numbers\.bin\)"):
        datasets.locate("numbers", tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"numbers\.bin is missing"):
        datasets.verify("numbers", tmp_path)


def test_unknown_and_doubled_names_are_refused(served):
    with pytest.raises(ConfigError, match="did you mean 'omniglot'"):
        datasets.locate("omnigolt")
    with pytest.raises(ConfigError, match="already known"):
        datasets.add(Dataset("numbers", "Others", "CC0", "nowhere", ()))


@pytest.mark.parametrize("name", sorted(datasets.DATASETS))
def test_every_known_data_set_can_be_fetched_and_checked(name):
    dataset = datasets.describe(name)
    lengths = {"md5": 32, "sha256": 64}
    for file in dataset.files:
        algorithm, _, digest = file.checksum.partition(":")
        assert len(digest) == lengths[algorithm]
        assert dataset.bundled or file.url.startswith("https://")
    assert dataset.licence
    assert dataset.source
    if dataset.bundled:
        assert datasets.place(name)[0] in {"bundled", "METASEARCH_DATA"}
