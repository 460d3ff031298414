"""Which files of a data set are read, from their names and the card alone."""

from typing import Any

import pytest

from smalllm.config import DataConfig
from smalllm.data.hub_layout import card_configs, choose_files, is_data
from smalllm.errors import DataError

STORIES = [
    ".gitattributes", "Evaluation prompts.yaml", "README.md", "TinyStories-train.txt", "TinyStories-valid.txt",
    "TinyStoriesV2-GPT4-train.txt", "TinyStoriesV2-GPT4-valid.txt", "TinyStories_all_data.tar.gz",
    *(f"data/train-{i:05d}-of-00004-2d5a1467fff1081b.parquet" for i in range(4)),
    "data/validation-00000-of-00001-869c898b519ad725.parquet",
]  # fmt: skip
WIKIPEDIA = [f"20231101.{code}/train-{i:05d}-of-00012.parquet" for code in ("de", "en", "simple") for i in range(12)]
WIKIPEDIA_CARD = {
    "configs": [
        {"config_name": f"20231101.{code}", "data_files": [{"split": "train", "path": f"20231101.{code}/train-*"}]}
        for code in ("de", "en", "simple")
    ]
}
FINEWEB = [
    *(f"sample/{size}/{i:03d}_00000.parquet" for size in ("10BT", "100BT") for i in range(14)),
    *(f"data/CC-MAIN-20{y}-20/train-00000-of-00014.parquet" for y in (13, 24)),
]
FINEWEB_CARD = {
    "configs": [
        {"config_name": "default", "data_files": [{"split": "train", "path": "data/*/*"}]},
        {"config_name": "sample-10BT", "data_files": [{"split": "train", "path": "sample/10BT/*"}]},
        {"config_name": "sample-100BT", "data_files": [{"split": "train", "path": ["sample/100BT/*"]}]},
    ]
}


def choose(names: list[str], card: dict[str, Any] | None = None, **fields: Any) -> tuple[list[str], list[str]]:
    choice = choose_files(names, card or {}, DataConfig(source="hub", **fields), where="set")
    return list(choice.train), list(choice.val)


def test_tinystories() -> None:
    train, val = choose(STORIES, val_split="validation")
    assert train == STORIES[8:12] and val == [STORIES[12]]
    assert choose(STORIES) == (train, [])
    assert choose(STORIES, val_split="valid", shards=2) == (train[:2], val)


def test_tinystories_by_file() -> None:
    v2 = ["TinyStoriesV2-GPT4-train.txt"], ["TinyStoriesV2-GPT4-valid.txt"]
    named = {"hub_files": tuple(v2[0]), "hub_val_files": tuple(v2[1])}
    assert choose(STORIES, val_split="validation", **named) == v2
    # A file held out is not trained on, whatever the glob says.
    assert choose(STORIES, hub_files=("TinyStoriesV2-*.txt",), hub_val_files=("*V2-GPT4-valid.txt",)) == v2
    assert choose(STORIES, hub_files=("*.tar.gz",), val_split="validation") == (["TinyStories_all_data.tar.gz"], [])


@pytest.mark.parametrize("card", [WIKIPEDIA_CARD, {}], ids=["card", "names"])
def test_wikipedia(card: dict[str, Any]) -> None:
    train, val = choose(WIKIPEDIA, card, hub_config="20231101.en", shards=9)
    assert train == [f"20231101.en/train-{i:05d}-of-00012.parquet" for i in range(9)] and val == []


@pytest.mark.parametrize("card", [FINEWEB_CARD, {}], ids=["card", "names"])
def test_fineweb_edu(card: dict[str, Any]) -> None:
    train, _ = choose(FINEWEB, card, hub_config="sample-10BT")
    assert train == [f"sample/10BT/{i:03d}_00000.parquet" for i in range(14)]
    apart = choose(FINEWEB, card, hub_config="sample-10BT", hub_val_files=("sample/10BT/013_*",))
    assert apart == (train[:13], train[13:])


def test_the_default_configuration() -> None:
    assert choose(FINEWEB, FINEWEB_CARD)[0] == sorted(FINEWEB[28:])
    only = {"configs": WIKIPEDIA_CARD["configs"][1:2]}
    assert choose(WIKIPEDIA, only)[0] == WIKIPEDIA[12:24]
    marked = {"configs": [*FINEWEB_CARD["configs"][:2], {**FINEWEB_CARD["configs"][2], "default": True}]}
    assert choose(FINEWEB, marked)[0][0].startswith("sample/100BT/")


@pytest.mark.parametrize(
    ("names", "train", "val"),
    [
        (["train.jsonl", "val.jsonl"], ["train.jsonl"], ["val.jsonl"]),
        (["a/train/1.txt", "a/train/2.txt", "a/dev/1.txt"], ["a/train/1.txt", "a/train/2.txt"], ["a/dev/1.txt"]),
        (["wiki.train.json.gz", "wiki.valid.json.gz"], ["wiki.train.json.gz"], ["wiki.valid.json.gz"]),
        (["one.parquet", "two.parquet"], ["one.parquet", "two.parquet"], []),
        (["train.parquet", "train.csv", "test.parquet", "LICENSE.txt"], ["train.parquet"], []),
        (["one.parquet", "two.parquet", "notes.txt"], ["one.parquet", "two.parquet"], []),
    ],
)
def test_splits_by_name(names: list[str], train: list[str], val: list[str]) -> None:
    assert choose(names, val_split="validation" if val else None) == (train, val)


def test_forms_that_smalllm_does_not_read() -> None:
    choice = choose_files(["train.csv", "test.csv", "x.py"], {}, DataConfig(), where="set")
    assert choice.train == ("train.csv",) and choice.foreign
    assert not choose_files(["train.jsonl.gz"], {}, DataConfig(), where="set").foreign
    assert [is_data(n) for n in ("a.jsonl.zst", "a.txt.gz", ".a.txt", "_x/a.txt", "a.md", "b/dataset_infos.json")] == [
        True, True, False, False, False, False,
    ]  # fmt: skip


def test_cards() -> None:
    entries = [
        {"config_name": "a", "data_files": "x/*"},
        {"config_name": "b", "data_files": ["x/*", "y.txt"]},
        {"config_name": "c", "data_dir": "/z/"},
        {"config_name": 2024, "data_files": [{"split": "train", "path": ["p", "q"]}, {"split": "test", "path": "r"}]},
    ]
    assert card_configs({"configs": entries}) == {
        "a": {"train": ["x/*"]},
        "b": {"train": ["x/*", "y.txt"]},
        "c": {"train": ["z/**"]},
        "2024": {"train": ["p", "q"], "test": ["r"]},
    }
    assert card_configs({}) == card_configs({"configs": None}) == {}


def test_stars_stay_in_a_folder() -> None:
    names = ["a/1.txt", "a/b/2.txt", "a/b/c/3.txt"]
    assert choose(names, hub_files=("a/*",))[0] == ["a/1.txt"]
    assert choose(names, hub_files=("a/**",))[0] == names
    assert choose(names, hub_files=("a/**/[23].txt",))[0] == names[1:]


@pytest.mark.parametrize(
    ("names", "card", "fields", "says"),
    [
        (WIKIPEDIA, WIKIPEDIA_CARD, {"hub_config": "20231101.em"},
         r"no configuration '20231101\.em'; did you mean \"20231101\.en\"\? it has: 20231101\.de, "),
        (WIKIPEDIA, {}, {"hub_config": "english"}, r"no configuration 'english'; it has: 20231101\.de, "),
        (WIKIPEDIA, WIKIPEDIA_CARD, {}, r"several configurations; choose one with data\.hub_config; it has: 20231101"),
        (WIKIPEDIA, {}, {}, r"several configurations; choose one with data\.hub_config; it has: 20231101\.de, "),
        (FINEWEB, {}, {"hub_config": "sample-10TB"}, r"did you mean \"sample-10BT\"\?"),
        (STORIES, {}, {"hub_split": "trian"}, r"no files for the split 'trian'; did you mean \"train\"\?.*hub_split"),
        (STORIES, {}, {"val_split": "test"}, r"no files for the split 'test'; it has: train, validation\. Set"),
        (STORIES, {}, {"hub_files": ("TinyStoriesV2-GPT4-tran.txt",)}, r"mean \"TinyStoriesV2-GPT4-train\.txt\"\?"),
        (STORIES, {}, {"hub_files": ("TinyStories-train.txt",), "hub_val_files": ("TinyStories-*.txt",)},
         "every file asked for is held out"),
        (["README.md"], {}, {}, r"no files for the split 'train'; it has: none"),
    ],
)  # fmt: skip
def test_what_is_not_there(names: list[str], card: dict[str, Any], fields: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        choose(names, card, **fields)
