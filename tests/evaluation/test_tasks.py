"""Tasks against a plain way to score them, measures by hand, and every record that cannot be used."""

import gzip
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from task_helpers import ARC, BLIMP, HELLASWAG, LAMBADA, PIQA, RECORDS, WIKITEXT, plain_score, write_records

from smalllm.config import TASK_NAMES, ModelConfig
from smalllm.errors import DataError
from smalllm.evaluation.likelihood import Likelihood, score_requests
from smalllm.evaluation.questions import Question, standard_error
from smalllm.evaluation.requests import Encoder
from smalllm.evaluation.tasks import TASKS, OpenTask, open_task, spread
from smalllm.evaluation.tasks.wikitext import detokenize
from smalllm.model.gpt import GPT
from smalllm.tokenizers.bytes import build_bytes

BYTES = build_bytes()


def opened(name: str, folder: Path, records: list[Any] | None = None, *, suffix: str = ".jsonl") -> OpenTask:
    path = write_records(folder / f"{name}{suffix}", RECORDS[name] if records is None else records)
    return open_task(name, given=str(path), cache=folder / "cache", notice=print)


def likelihoods(*log_probs: float, n_tokens: int = 1) -> list[Likelihood]:
    return [Likelihood(float(log_prob), n_tokens, False) for log_prob in log_probs]


def test_the_names_are_those_of_the_configuration() -> None:
    assert tuple(TASKS) == TASK_NAMES


# --- against a plain way


@pytest.mark.parametrize("name", [name for name in TASK_NAMES if name != "wikitext"])
@pytest.mark.parametrize("opening", [(), (BYTES.eos_id,)], ids=["stream", "documents"])
def test_every_choice_scores_as_alone(
    name: str, opening: tuple[int, ...], any_config: ModelConfig, make_model: Callable[..., GPT], tmp_path: Path
) -> None:
    model = make_model(replace(any_config, context_length=64), vocab_size=257)
    task = opened(name, tmp_path)
    encoder = Encoder(tokenizer=BYTES, context_length=64, opening=opening)
    groups = [task.task.encode(item, encoder) for item in task.items]
    found = score_requests(model, groups, device="cpu", precision="fp32")
    assert any(len(request.inputs) == 64 for group in groups for request in group) or name in (
        "blimp",
        "arc_easy",
        "piqa",
    )
    for item, group in zip(task.items, found, strict=True):
        for choice, one in zip(item.choices, group, strict=True):
            log_prob, is_greedy = plain_score(model, BYTES, item.context, f" {choice}", opening=opening)
            assert one.log_prob == pytest.approx(log_prob, rel=1e-5)
            assert one.is_greedy == is_greedy


def test_wikitext_scores_every_byte_once(
    tiny_config: ModelConfig, make_model: Callable[..., GPT], tmp_path: Path
) -> None:
    model = make_model(replace(tiny_config, context_length=32), vocab_size=257)
    task = opened("wikitext", tmp_path)
    encoder = Encoder(tokenizer=BYTES, context_length=32)
    groups = [task.task.encode(page, encoder) for page in task.items]
    found = score_requests(model, groups, device="cpu", precision="fp32")
    assert [sum(one.n_tokens for one in group) for group in found] == [len(page.text.encode()) for page in task.items]
    assert len(groups[1]) > 2 and all(len(request.inputs) == 32 for request in groups[1])
    measures = task.task.measure(task.items, found, 257)
    nats = -sum(one.log_prob for group in found for one in group)
    n_bytes = sum(len(record["page"].encode()) for record in WIKITEXT)  # of the original, as is the number of words
    assert measures["bits_per_byte"] == pytest.approx(nats / n_bytes / math.log(2), abs=1e-9)
    assert measures["byte_perplexity"] == pytest.approx(2 ** measures["bits_per_byte"])
    n_words = sum(len(record["page"].strip().split()) for record in WIKITEXT) + 2  # "" before and after the first page
    assert measures["word_perplexity"] == pytest.approx(math.exp(nats / n_words))


def test_wikitext_loses_its_tokenizers_spaces() -> None:
    assert (
        detokenize(WIKITEXT[0]["page"])
        == ' = A Page =\n\nThe dog\'s tail-end (long) was 1,0 mm. It said "oh"; then 1 more.\n'
    )


# --- prompts


def test_prompts(tmp_path: Path) -> None:
    first, second, third = opened("hellaswag", tmp_path).items
    assert first.context == "Baking bread: A man puts flour into a bowl. He"
    assert first.choices[2] == "adds water and flies away." and first.answer == 1
    assert second.context == "Home and Garden: How to plant a tree. Dig a hole." and second.answer == 3
    assert second.choices[0] == " Été." and third.context == "Running: A woman runs The woman"
    raw = opened("hellaswag_nanogpt", tmp_path).items
    assert raw[0].context == HELLASWAG[0]["ctx"] and raw[0].choices == tuple(HELLASWAG[0]["endings"])
    assert [(q.context, q.choices) for q in opened("lambada", tmp_path).items][1] == (
        "She said: “go home”, and he", ("went\nhome",)
    )  # fmt: skip
    nested = opened("arc_easy", tmp_path).items[1]
    assert (nested.context, nested.choices[1], nested.answer) == ("Question: What falls?\nAnswer:", "Light", 0)
    assert opened("piqa", tmp_path).items[1].context == "Question: Boil water \nAnswer:"
    assert [q.group for q in opened("blimp", tmp_path).items] == ["agreement", "agreement", "island", "island"]


# --- measures by hand


def test_accuracies_by_hand() -> None:
    questions = [
        Question("", ("ab", "abcd"), 1, "x"),
        Question("", ("é", ""), 0, "x"),
        Question("", ("a", "b"), 0, "x"),
    ]
    found = [
        [Likelihood(-3.0, 1, False), Likelihood(-4.0, 4, False)],  # by sum the first, by length and by token the second
        likelihoods(-5.0, -4.0),  # an empty choice is never the likeliest by length
        likelihoods(-1.0, -1.0),  # of equal ones the first
    ]
    measures = TASKS["hellaswag"].measure(questions, found, 257)
    assert measures["acc"] == pytest.approx(1 / 3) and measures["acc_norm"] == 1.0
    assert measures["acc_token"] == pytest.approx(2 / 3)
    assert measures["acc_stderr"] == pytest.approx(math.sqrt((4 + 1 + 1) / 9 / 2) / math.sqrt(3))
    assert measures["acc_norm_stderr"] == 0.0 and measures["chance"] == 0.5 and measures["n"] == 3
    assert standard_error([1.0]) is None


def test_a_tie_is_not_won_in_blimp(tmp_path: Path) -> None:
    task = opened("blimp", tmp_path)
    found = [likelihoods(-1, -2), likelihoods(-2, -1), likelihoods(-1, -2), likelihoods(-1, -1)]
    measures = task.task.measure(task.items, found, 257)
    assert measures["sets"] == {"agreement": 0.5, "island": 0.5} and measures["ties"] == 1
    assert measures["acc"] == 0.5 and measures["acc_stderr"] == pytest.approx(math.sqrt(0.5**2 + 0.5**2) / 2)
    all_equal = task.task.measure(task.items, [likelihoods(-7, -7)] * 4, 257)
    assert all_equal["acc"] == 0.0 and all_equal["ties"] == 4
    uneven = task.task.measure(task.items[:3], found[:3], 257)
    assert uneven["acc"] == pytest.approx((0.5 + 1) / 2) and uneven["acc_stderr"] is None  # not (1 + 0 + 1) / 3


def test_lambada_by_hand(tmp_path: Path) -> None:
    task = opened("lambada", tmp_path)
    found = [[Likelihood(-1.0, 2, True)], [Likelihood(-2.0, 1, False)], [Likelihood(-6.0, 1, False)]]
    measures = task.task.measure(task.items, found, 10)
    assert measures["acc"] == pytest.approx(1 / 3) and measures["perplexity"] == pytest.approx(math.exp(3))
    assert measures["chance"] == pytest.approx((0.01 + 0.1 + 0.1) / 3)
    assert measures["perplexity_stderr"] == pytest.approx(math.exp(3) * math.sqrt(14 / 2 / 3))


# --- where records come from


def test_forms_of_files(tmp_path: Path) -> None:
    expected = opened("piqa", tmp_path).items
    lines = (tmp_path / "piqa.jsonl").read_bytes()
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "p.json").write_text(json.dumps(PIQA))
    (tmp_path / "p.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.replace(b"\n", b"\r\n\r\n"))
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    parquet.write_table(pyarrow.Table.from_pylist(PIQA), tmp_path / "p.parquet")
    for name in ("p.jsonl.gz", "p.json", "p.jsonl", "p.parquet"):
        found = open_task("piqa", given=str(tmp_path / name), cache=tmp_path, notice=print).items
        assert [replace(q, where="") for q in found] == [replace(q, where="") for q in expected], name
    assert found[1].where.endswith("p.parquet, row 2")


def test_a_folder_a_url_and_a_checksum(tmp_path: Path) -> None:
    for name, rows in (("a", BLIMP[:2]), ("b", BLIMP[2:])):
        (tmp_path / "set" / name).mkdir(parents=True)
        write_records(tmp_path / "set" / name / "data.jsonl", rows)
    whole = open_task("blimp", given=str(tmp_path / "set"), cache=tmp_path / "cache", notice=print)
    assert [q.group for q in whole.items] == ["agreement", "agreement", "island", "island"]
    url = write_records(tmp_path / "q.jsonl", BLIMP).as_uri()
    assert len(open_task("blimp", given=url, cache=tmp_path / "cache", notice=print).items) == 4
    with pytest.raises(DataError, match=r"blimp: .* has the sha256 .*expected 00.*nyu-mll/blimp .*--tasks blimp=PATH"):
        open_task("blimp", given=f"{url}#sha256={'0' * 64}", cache=tmp_path / "cache", notice=print)


def test_without_a_connection_the_message_says_what_to_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(
        DataError, match=r"piqa: HF_HUB_OFFLINE is set.*https://huggingface.co/datasets/baber/piqa.*=PATH"
    ):
        open_task("piqa", given=None, cache=tmp_path, notice=print)


def test_examples_are_spread() -> None:
    assert spread(list(range(10)), 0) == spread(list(range(10)), 10) == list(range(10))
    assert spread(list(range(10)), 4) == [0, 2, 5, 7] and len(set(spread(list(range(1000)), 333))) == 333


@pytest.mark.parametrize(
    ("name", "line", "says"),
    [
        ("hellaswag", "{", ":2 is not JSON"),
        ("hellaswag", "[1]", ":2 is list, not a JSON object"),
        ("hellaswag", '"\\ud800', ":2 is not JSON"),
        ("hellaswag", {**HELLASWAG[0], "ctx_a": None}, ":2: expected text under 'ctx_a', but its 'ctx_a' is None"),
        ("hellaswag", {"text": "x"}, ":2: expected text under 'activity_label', but it has only 'text'"),
        ("hellaswag", {**HELLASWAG[0], "label": ""}, ":2: the answer is ''; expected one of 0, 1, 2, 3"),
        ("hellaswag", {**HELLASWAG[0], "label": True}, ":2: the answer is True"),
        ("hellaswag", {**HELLASWAG[0], "label": 4}, ":2: the answer is 4"),
        ("hellaswag", {**HELLASWAG[0], "endings": "x"}, ":2: expected a list of texts under 'endings', found 'x'"),
        ("hellaswag", {**HELLASWAG[0], "endings": [1, 2]}, ":2: expected a list of texts"),
        ("lambada", {"text": "word"}, ":2: expected a passage and its last word"),
        ("lambada", {"text": "ends with a space "}, ":2: expected a passage and its last word"),
        ("arc_easy", {**ARC[0], "choices": None}, ":2: expected 'choices' with 'text' and 'label'"),
        ("arc_easy", {**ARC[0], "choices": {"text": ["a"], "label": ["A", "B"]}}, ":2: expected 'choices'"),
        ("arc_easy", {**ARC[0], "answerKey": "E"}, ":2: the answer is 'E'; expected one of A, B, C"),
        ("piqa", {**PIQA[0], "label": -1}, ":2: the answer is -1; expected one of 0, 1. A set without answers"),
        ("blimp", {"sentence_good": "a", "sentence_bad": "b"}, ":2: expected text under 'UID'"),
    ],
)  # fmt: skip
def test_records_that_cannot_be_used(name: str, line: Any, says: str, tmp_path: Path) -> None:
    good = json.dumps(RECORDS[name][0])
    path = tmp_path / "q.jsonl"
    path.write_text(f"{good}\n{line if isinstance(line, str) else json.dumps(line)}\n")
    with pytest.raises(DataError) as found:
        open_task(name, given=str(path), cache=tmp_path, notice=print)
    assert says in str(found.value) and str(path) in str(found.value)
    path.write_text(good + "\n")
    assert len(open_task(name, given=str(path), cache=tmp_path, notice=print).items) == 1


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    cases: dict[str, tuple[bytes, str]] = {
        "empty.jsonl": (b"\n\n", "holds no record"),
        "bad.parquet": (b"PAR1", "is not a whole Parquet file"),
        "object.json": (b"{}", "holds dict; expected a list"),
        "bad.json": (b"[", "is not JSON in UTF-8"),
        "latin.jsonl": ('{"text": "é"}'.encode("latin-1"), ":1 is not JSON in UTF-8"),
    }  # fmt: skip
    for name, (content, says) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=says):
            open_task("lambada", given=str(tmp_path / name), cache=tmp_path, notice=print)
    with pytest.raises(DataError, match=r"no such file or folder here; fetch https.*sha256 4aa8d02c"):
        open_task("lambada", given=str(tmp_path / "no.jsonl"), cache=tmp_path, notice=print)
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=r"lambada: folder: has no file like \*lambada_test.jsonl"):
        open_task("lambada", given=str(tmp_path / "folder"), cache=tmp_path, notice=print)


def test_an_ending_longer_than_the_context_is_refused(tmp_path: Path) -> None:
    task = opened("lambada", tmp_path, LAMBADA)
    with pytest.raises(DataError, match=r"lambada.jsonl:2: a continuation has 10 tokens, and the model reads 9"):
        [task.task.encode(item, Encoder(tokenizer=BYTES, context_length=9)) for item in task.items]
