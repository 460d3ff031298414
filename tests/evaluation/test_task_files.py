"""The tasks' own data sets, laid out as on the Hugging Face Hub: from a Hub on this machine, its cache, a folder.

The layouts are those of the Hub in November 2026; every set has decoys: other splits, configurations and languages.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from task_helpers import ARC, BLIMP, HELLASWAG, LAMBADA, PIQA, RECORDS, WIKITEXT, write_records

from hub_helpers import Hub, serve_hub, write_parquet
from smalllm.errors import DataError
from smalllm.evaluation.tasks import TASKS, OpenTask, open_task

UIDS = ("agreement", "island")
WRONG = [{"split": "another one"}]
HUB: dict[str, tuple[str, dict[str, list[Any]]]] = {
    "hellaswag": (
        "Rowan/hellaswag",
        {
            "data/validation-00000-of-00001.parquet": [{**one, "label": str(one["label"])} for one in HELLASWAG],
            "data/train-00000-of-00001.parquet": WRONG,
            "data/test-00000-of-00001.parquet": WRONG,
        },
    ),
    "lambada": (
        "EleutherAI/lambada_openai",
        {
            "data/lambada_test.jsonl": LAMBADA,
            **{f"data/lambada_test_{language}.jsonl": WRONG for language in ("de", "en", "es", "fr", "it")},
        },
    ),
    "blimp": (
        "nyu-mll/blimp",
        {f"{uid}/train-00000-of-00001.parquet": [r for r in BLIMP if r["UID"] == uid] for uid in UIDS},
    ),
    "arc_easy": (
        "allenai/ai2_arc",
        {
            "ARC-Easy/test-00000-of-00001.parquet": ARC[:1],
            "ARC-Easy/train-00000-of-00001.parquet": WRONG,
            "ARC-Easy/validation-00000-of-00001.parquet": WRONG,
            "ARC-Challenge/test-00000-of-00001.parquet": WRONG,
        },
    ),
    "piqa": (
        "baber/piqa",
        {"piqa_validation.parquet": PIQA, "piqa_train.parquet": WRONG, "piqa_test.parquet": WRONG},
    ),
    "wikitext": (
        "EleutherAI/wikitext_document_level",
        {
            f"{config}/{config}-{split}.parquet": WIKITEXT if f"{config} {split}" == "wikitext-2-raw-v1 test" else WRONG
            for config in ("wikitext-2-raw-v1", "wikitext-2-v1", "wikitext-103-raw-v1", "wikitext-103-v1")
            for split in ("train", "validation", "test")
        },
    ),
}  # fmt: skip
HUB["hellaswag_nanogpt"] = HUB["hellaswag"]


def write_set(folder: Path, files: dict[str, list[Any]]) -> Path:
    for name, records in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            write_parquet(folder / name, {key: [record[key] for record in records] for key in records[0]})
        else:
            write_records(folder / name, records)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve_hub(tmp_path / "cache", monkeypatch) as served:
        for name, files in HUB.values():
            served.sets[name] = tmp_path / "sets" / name
            if not served.sets[name].exists():
                write_set(served.sets[name], files)
        yield served


def items_of(opened: OpenTask) -> list[Any]:
    """What is asked, without where it stands."""
    return [
        getattr(item, "text", None) or (item.context, item.choices, item.answer, item.group) for item in opened.items
    ]


def expected(name: str, tmp_path: Path) -> list[Any]:
    records = ARC[:1] if name == "arc_easy" else RECORDS[name]
    return items_of(task_from(name, write_records(tmp_path / f"{name}.jsonl", records), tmp_path))


def task_from(name: str, given: Path | str | None, tmp_path: Path) -> OpenTask:
    return open_task(name, given=None if given is None else str(given), cache=tmp_path / "urls", notice=lambda _: None)


@pytest.mark.parametrize("name", list(TASKS))
def test_the_right_files_of_the_hub(name: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo, files = HUB[name]
    given = repo if name == "lambada" else None  # its own address is the same file at OpenAI's
    assert name == "lambada" or TASKS[name].address == repo
    assert items_of(task_from(name, given, tmp_path)) == expected(name, tmp_path)
    fetched = {
        request.rpartition("/resolve/")[2].partition("/")[2] for request in hub.requests if "/resolve/" in request
    }
    assert fetched == {file for file, records in files.items() if records is not WRONG}
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert items_of(task_from(name, given, tmp_path)) == expected(name, tmp_path) and hub.requests == []


@pytest.mark.parametrize("name", list(TASKS))
def test_a_folder_laid_out_as_on_the_hub(name: str, tmp_path: Path) -> None:
    repo, files = HUB[name]
    folder = write_set(tmp_path / repo, files)
    assert items_of(task_from(name, folder, tmp_path)) == expected(name, tmp_path)


@pytest.mark.parametrize("name", [name for name in TASKS if name != "blimp"])  # whose sets have one split
def test_a_folder_without_the_right_split_is_not_taken(name: str, tmp_path: Path) -> None:
    """The partner: the decoys hold good records here, and would be scored if any file were taken."""
    repo, files = HUB[name]
    good = next(records for records in files.values() if records is not WRONG)
    decoys = {file: good for file, records in files.items() if records is WRONG and "_en." not in file}
    folder = write_set(tmp_path / repo, decoys)
    with pytest.raises(DataError, match=rf"{name}: {folder.name}: has no file like .*; it has .* Give the file itself"):
        task_from(name, folder, tmp_path)
    assert items_of(task_from(name, folder / min(decoys), tmp_path)) == expected(name, tmp_path)


def test_a_folder_of_files_without_splits(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "mine", {"b.jsonl": PIQA[1:], "a.jsonl": PIQA[:1], "more/c.jsonl": PIQA})
    assert items_of(task_from("piqa", folder, tmp_path)) == 2 * expected("piqa", tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "records"),
    [
        ("hellaswag", "hellaswag_val.jsonl", HELLASWAG),
        ("lambada", "data/lambada_test_en.jsonl", LAMBADA),
        ("blimp", "data/agreement.jsonl", BLIMP),
        ("arc_easy", "ARC-V1-Feb2018-2/ARC-Easy/ARC-Easy-Test.jsonl", ARC),
        ("piqa", "plain_text/validation-00000-of-00001.parquet", PIQA),
        ("piqa", "data/validation.jsonl", PIQA),
        ("wikitext", "wikitext-2-raw-v1-test.parquet", WIKITEXT),
    ],
)
def test_other_layouts_that_are_about(name: str, file: str, records: list[Any], tmp_path: Path) -> None:
    """The authors' own archives, mirrors, and a file that was copied without its folder."""
    folder = write_set(tmp_path / "set", {file: records})
    assert items_of(task_from(name, folder, tmp_path)) == items_of(
        task_from(name, write_records(tmp_path / "given.jsonl", records), tmp_path)
    )
