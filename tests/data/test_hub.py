"""Files of a data set from a Hub on this machine, from a folder and from the cache; with every kind of failure."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_helpers import COMMIT, Hub, made_texts, serve_hub, write_tinystories
from smalllm.data import hub as hub_module
from smalllm.data.hub import ATTEMPTS, HubSet, fetch_file, open_set, read_card
from smalllm.errors import DataError

NAME = "roneneldan/TinyStories"
TRAIN = "data/train-00000-of-00004-2d5a1467fff1081b.parquet"


def silent(_: str) -> None:
    pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve_hub(tmp_path / "cache", monkeypatch) as served:
        served.sets[NAME] = write_tinystories(tmp_path / "TinyStories", made_texts(20), made_texts(5, seed=1))
        yield served


def opened(name: str = NAME, **arguments: object) -> HubSet:
    return open_set(name, revision=None, notice=silent, first_wait_s=0.001, **arguments)  # type: ignore[arg-type]


def fetched(found: HubSet, name: str = TRAIN) -> Path:
    return fetch_file(found, name, notice=silent, first_wait_s=0.001)


def test_from_the_hub(hub: Hub) -> None:
    found = opened()
    assert found.name == NAME and found.revision == COMMIT and found.folder is None
    assert found.sizes[TRAIN] == (hub.sets[NAME] / TRAIN).stat().st_size
    assert read_card(found, notice=silent)["dataset_info"]["features"] == [{"name": "text", "dtype": "string"}]
    path = fetched(found)
    assert path.read_bytes() == (hub.sets[NAME] / TRAIN).read_bytes() and path.parts[-2:] == tuple(TRAIN.split("/"))
    n_requests = len(hub.requests)
    assert fetched(found) == path and len(hub.requests) == n_requests  # the commit is pinned: nobody is asked
    assert not any("validation" in request for request in hub.requests)


def test_from_a_folder(hub: Hub, tmp_path: Path) -> None:
    (hub.sets[NAME] / ".cache").mkdir()
    (hub.sets[NAME] / ".cache" / "x.txt").write_text("no")
    found = opened(str(hub.sets[NAME]))
    assert found.name == "TinyStories" and not any(name.startswith(".cache") for name in found.sizes)
    assert fetched(found) == hub.sets[NAME] / TRAIN and hub.requests == []


def test_from_the_cache(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network, what an earlier call has left; `HF_HUB_OFFLINE` does not even try."""
    path = fetched(opened())
    hub.failures[NAME] = hub.failures["main"] = [500] * 99
    said: list[str] = []
    found = open_set(NAME, revision=None, notice=said.append, first_wait_s=0.001)
    assert fetched(found) == path and list(found.sizes) == [TRAIN]
    assert f"in {ATTEMPTS} attempts" in said[-1] and "using the 1 files" in said[-1]
    hub.requests.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert fetched(opened()) == path and hub.requests == []
    with pytest.raises(
        DataError, match=r"HF_HUB_OFFLINE is set, and the cache .* holds nothing of wikimedia/wikipedia"
    ):
        opened("wikimedia/wikipedia")


def test_it_tries_again(hub: Hub) -> None:
    said: list[str] = []
    hub.failures[NAME] = [500, 503]
    found = open_set(NAME, revision=None, notice=said.append, first_wait_s=0.001)
    assert len(said) == 2 and "the list of files of" in said[0] and "attempt 1 of 5 failed" in said[0]
    assert "trying again in 0.001 s" in said[0] and "in 0.002 s" in said[1]
    hub.failures[TRAIN] = [502, 502]
    assert fetched(found).read_bytes() == (hub.sets[NAME] / TRAIN).read_bytes()


def test_a_download_that_breaks_off_is_finished(hub: Hub) -> None:
    found = opened()
    hub.failures[TRAIN] = [0]
    assert fetched(found).read_bytes() == (hub.sets[NAME] / TRAIN).read_bytes()
    assert len([r for r in hub.requests if r.startswith("GET") and r.endswith(TRAIN)]) >= 2


def test_no_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataError) as caught:
        opened()
    for part in (f"the list of files of {NAME} in 5 attempts", "holds nothing of", "--data.hub_name FOLDER", "HF_HOME"):
        assert part in str(caught.value)


def test_the_network_goes_away_between_files(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    found = opened()
    monkeypatch.setattr(hub_module, "ATTEMPTS", 2)
    monkeypatch.setattr("huggingface_hub.file_download._DEFAULT_RETRY_ON_STATUS_CODES", ())
    hub.failures[TRAIN] = [503] * 99
    with pytest.raises(DataError, match=rf"did not give {TRAIN} of {NAME} in 2 attempts .* run the same command again"):
        fetched(found)
    hub.failures.clear()
    assert fetched(found).stat().st_size == found.sizes[TRAIN]


def test_no_such_set(hub: Hub) -> None:
    with pytest.raises(DataError, match=r'has no roneneldan/TinyStory, .* did you mean "roneneldan/TinyStories"\?'):
        opened("roneneldan/TinyStory")
    assert len(hub.requests) == 1  # waiting would not mend it
    with pytest.raises(DataError, match="no such folder here, and not a name on the Hugging Face Hub"):
        opened("no such/folder/here")


def test_a_gated_set(hub: Hub) -> None:
    hub.gated.add(NAME)
    with pytest.raises(DataError, match=rf"{NAME} is gated.*https://huggingface.co.*hf auth login"):
        fetched(opened())


def test_a_set_that_changes_on_the_way(hub: Hub) -> None:
    found = opened()
    hub.failures[TRAIN] = [404] * 9
    with pytest.raises(DataError, match=rf"has no {TRAIN} of {NAME}; the set has changed"):
        fetched(found)


def test_a_cache_that_cannot_be_written(hub: Hub, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        (tmp_path / "cache").write_text("a file where the folder should be")
    else:
        (tmp_path / "cache").mkdir(mode=0o500)
    with pytest.raises(DataError, match="could not be written to the Hub's cache"):
        fetched(opened())


@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "file"),
    [
        (NAME, "TinyStories-valid.txt"),
        ("wikimedia/wikipedia", "20231101.en/train-00000-of-00041.parquet"),
        ("HuggingFaceFW/fineweb-edu", "sample/10BT/000_00000.parquet"),
    ],
)
def test_the_real_hub_has_these_files(name: str, file: str) -> None:
    found = open_set(name, revision=None, notice=print)
    assert found.sizes[file] > 1_000_000 and found.revision
    if found.sizes[file] < 50_000_000:
        path = fetch_file(found, file, notice=print)
        assert path.stat().st_size == found.sizes[file] and hashlib.sha256(path.read_bytes())


def test_in_a_process_where_nothing_else_has_imported_the_library(tmp_path: Path) -> None:
    """Its modules are no attributes until they are imported; in these tests they always are."""
    code = "from smalllm.data.hub import open_set; open_set('no/set', revision=None, notice=print)"
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert "DataError: HF_HUB_OFFLINE is set, and the cache" in done.stderr
