"""A run as a model of lm-evaluation-harness, and our tasks against its own; needs the extra `[lm-eval]`."""

import json
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from task_helpers import RECORDS, write_records

import smalllm
from run_helpers import prepared_config
from smalllm.api.harness import _continue
from smalllm.api.tasks import task_encoder
from smalllm.evaluation.harness import cut_at, make_language_model
from smalllm.evaluation.likelihood import score_requests
from smalllm.evaluation.tasks import open_task

THEIRS = {
    "hellaswag": "hellaswag", "lambada": "lambada_openai", "blimp": "wh_island", "piqa": "piqa",
    "arc_easy": "arc_easy", "wikitext": "wikitext",
}  # fmt: skip
SPLITS = {"lambada": "test_split", "arc_easy": "test_split", "wikitext": "test_split"}
MEASURES = ("acc", "acc_norm", "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte")


PUNCTUATED = "( a ) [ b ] { c } \" d \" ' e ' ; f : g ! h ? i , j's boys ' k 1 @.@ 5 – 2 @,@ 000 km @-@ wide \n "


def question(stem: str, answer: str, **choices: str) -> dict[str, Any]:
    labels = [label.removeprefix("_") for label in choices]
    return {"question": stem, "choices": {"text": list(choices.values()), "label": labels}, "answerKey": answer}


MORE: dict[str, list[Any]] = {
    "arc_easy": [
        question("What melts?", "B", A="Stone", B="Ice in the sun", C="Air"),
        question("What falls? ", "1", _1="Rain", _2="Light", _3="Time", _4="A smell"),
        question("Où est l’été ?", "E", A="là", B="là-bas", C="ici", D="partout", E="nulle part, dit-on"),
        question("Which two are equal?", "B", A="the same", B="the same", C="another", D="the other"),
        question("One two three four five six seven eight nine ten. " * 3, "D", A="1", B="two", C="3", D="4 or more"),
    ],
    "piqa": [
        *RECORDS["piqa"],
        {"goal": "how do you tie a knot?", "sol1": "Cut the rope. Then\ntie it.", "sol2": "Tie the rope.", "label": 1},
        {"goal": "", "sol1": " two spaces", "sol2": "none", "label": 0},
        {"goal": "Open a door, then close it, then open it again " * 3, "sol1": "é", "sol2": "push", "label": 0},
    ],
    "wikitext": [
        *RECORDS["wikitext"],
        {"page": ""},
        {"page": " \n = Valkyria = \n \n = = Play = = \n \n = = = Of N = = = \n = = = = I = = = = \n dogs ' 5 ° C . "},
        {"page": PUNCTUATED * 3},
    ],
}  # fmt: skip


def test_text_ends_before_the_first_of_its_ends() -> None:
    assert cut_at("one. two\nthree", ["\n", "."]) == "one" and cut_at("one", ["x"]) == "one"


@pytest.fixture(scope="module")
def lm_eval() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("lm_eval", reason="needs pip install 'smalllm[lm-eval]'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2-shaped run, its export, and a file of questions for each task."""
    folder = tmp_path_factory.mktemp("harness")
    shape = {
        "model.position": "learned",
        "model.bias": True,
        "model.context_length": 64,
        "train.max_steps": 4,
        "train.micro_batch_size": 1,
    }
    config = prepared_config(folder, {**shape, "tokenizer.kind": "huggingface", "tokenizer.vocab_size": 300})
    smalllm.train(config, out=folder / "run")
    smalllm.export(folder / "run", format="hf", out=folder / "hf")
    for name, records in RECORDS.items():
        write_records(folder / f"{name}.jsonl", records[:-1] if name == "blimp" else records)  # the last is a tie
    for name, more in MORE.items():
        write_records(folder / f"{name}.jsonl", more)
    return folder


def their_task(lm_eval: Any, name: str, path: Path) -> str:
    """One of their tasks as a YAML file that reads local questions in place of the Hub."""
    own = next(
        (Path(lm_eval.__file__).parent / "tasks").glob(f"*/{'wh_island' if name == 'blimp' else THEIRS[name]}.yaml")
    )
    unused = {"training_split", "validation_split", "test_split"} - {SPLITS.get(name, "validation_split")}
    lines = [
        f"include: {own}", f"task: local_{name}", "dataset_path: json", "dataset_name: null",
        *(f"{split}: null" for split in unused), f"{SPLITS.get(name, 'validation_split')}: held",
        f"dataset_kwargs: {json.dumps({'data_files': {'held': str(path)}})}",
    ]  # fmt: skip
    file = path.with_suffix(".yaml")
    file.write_text("\n".join(lines) + "\n")
    return str(file)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(THEIRS))
def test_our_tasks_are_theirs_question_by_question(name: str, folder: Path, lm_eval: Any) -> None:
    from lm_eval.models.huggingface import HFLM

    theirs = HFLM(pretrained=str(folder / "hf"), batch_size=2, device="cpu", dtype="float32")
    path = folder / f"{name}.jsonl"
    asked = lm_eval.simple_evaluate(
        theirs, tasks=[their_task(lm_eval, name, path)], bootstrap_iters=0, log_samples=True
    )
    samples = sorted(asked["samples"][f"local_{name}"], key=lambda sample: sample["doc_id"])
    run = smalllm.load_run(folder / "run", precision="fp32")
    task = open_task(name, given=str(path), cache=folder, notice=print)
    encoder = task_encoder(run.tokenizer, run.config)
    groups = [task.task.encode(item, encoder) for item in task.items]
    found = score_requests(run.model, groups, device="cpu", precision="fp32")
    assert len(samples) == len(found)
    for sample, ours in zip(samples, found, strict=True):
        if name == "wikitext":  # theirs is one number for a page, ours one for each window
            assert sum(one.log_prob for one in ours) == pytest.approx(float(sample["resps"][0][0]), rel=1e-6)
            continue
        for (answer,), one in zip(sample["resps"], ours, strict=True):
            log_prob, is_greedy = answer
            assert one.log_prob == pytest.approx(float(log_prob), rel=1e-6)  # FP32 sums in another order
            assert str(one.is_greedy) == str(is_greedy)
    measures = task.task.measure(task.items, found, run.tokenizer.vocab_size)
    theirs_by_name = {key.removesuffix(",none"): value for key, value in asked["results"][f"local_{name}"].items()}
    compared = [key for key in MEASURES if key in theirs_by_name and name != "blimp"]
    assert len(compared) >= (0 if name == "blimp" else 2)
    for key in compared:
        assert measures[key] == pytest.approx(theirs_by_name[key], rel=1e-6), key
    if name == "wikitext":
        assert any(len(group) > 2 for group in groups) and "" in [page.text for page in task.items]
        raw = [encoder.rolling(record["page"]) for record in MORE[name]]  # the partner: with the tokenizer's spaces
        scored = score_requests(run.model, raw, device="cpu", precision="fp32")
        of_raw = task.task.measure(task.items, scored, run.tokenizer.vocab_size)
        assert of_raw["bits_per_byte"] != pytest.approx(theirs_by_name["bits_per_byte"], rel=1e-3)


@pytest.mark.filterwarnings("ignore")
def test_their_tasks_on_a_run(folder: Path, lm_eval: Any) -> None:
    common = f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {folder}/NAME.jsonl\ntest_split: test\n"
    forms = {
        "piqa": 'output_type: multiple_choice\ndoc_to_text: "Question: {{goal}}\\nAnswer:"\ndoc_to_target: label\n'
        'doc_to_choice: "{{[sol1, sol2]}}"\nmetric_list:\n  - metric: acc\n  - metric: acc_norm\n',
        "lambada": 'output_type: generate_until\ndoc_to_text: "{{text}}"\ndoc_to_target: "x"\n'
        "generation_kwargs:\n  until: ['\\n']\n  max_gen_toks: 4\nmetric_list:\n  - metric: exact_match\n",
        "wikitext": 'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{page}}"\n'
        "metric_list:\n  - metric: byte_perplexity\n",
    }
    for name, form in forms.items():
        (folder / f"my_{name}.yaml").write_text(f"task: my_{name}\n{common.replace('NAME', name)}{form}")
    tasks = [f"lm-eval:{folder}/my_{name}.yaml" for name in forms]
    found = smalllm.evaluate(folder / "run", tasks=tasks)["results"]
    ours = smalllm.evaluate(folder / "run", tasks=[f"piqa={folder}/piqa.jsonl"])["results"]["piqa"]
    piqa, written, wikitext = (found[task] for task in tasks)
    assert (piqa["n"], piqa["acc"], piqa["acc_norm"]) == (5, ours["acc"], ours["acc_norm"])
    assert written["n"] == 3 and written["exact_match"] == 0.0
    pages = [record["page"] for record in MORE["wikitext"]]
    (folder / "pages.jsonl").write_text("".join(json.dumps({"text": page}) + "\n" for page in pages))
    text = smalllm.evaluate(folder / "run", text=folder / "pages.jsonl")["results"]["loss"]
    assert wikitext["byte_perplexity"] == pytest.approx(2 ** text["bits_per_byte"], rel=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_samples_of_one_prompt_differ(folder: Path, lm_eval: Any) -> None:
    """And greedy ones do not."""
    run = smalllm.load_run(folder / "run", device="cpu", precision="fp32")
    model = make_language_model(
        run.model,
        task_encoder(run.tokenizer, run.config),
        device="cpu",
        precision="fp32",
        generate=partial(_continue, run),
    )
    sampled, greedy = [
        f"task: {name}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {folder}/lambada.jsonl\n"
        'test_split: test\noutput_type: generate_until\nrepeats: 4\ndoc_to_text: "{{text}}"\ndoc_to_target: "x"\n'
        "filter_list:\n  - name: all\n    filter:\n      - function: take_first\n"
        f"generation_kwargs: {json.dumps(options)}\nmetric_list:\n  - metric: exact_match\n"
        for name, options in (
            ("sampled", {"until": ["", "e"], "max_gen_toks": 20, "do_sample": True, "temperature": 1.0}),
            ("greedy", {"until": ["e"], "max_gen_toks": 20}),
        )
    ]
    (folder / "sampled.yaml").write_text(sampled)
    (folder / "greedy.yaml").write_text(greedy)
    for name, n_texts in (("sampled", 4), ("greedy", 1)):
        found = lm_eval.simple_evaluate(model, tasks=[str(folder / f"{name}.yaml")], bootstrap_iters=0)
        for sample in found["samples"][name]:
            ((texts),) = sample["resps"]
            assert len(texts) == 4 and len(set(texts)) == n_texts and not any("e" in text for text in texts)


@pytest.mark.filterwarnings("ignore")
def test_tasks_of_theirs_that_cannot_be_run(folder: Path, lm_eval: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(smalllm.errors.ConfigError, match='did you mean "lm-eval:hellaswag"'):
        smalllm.evaluate(folder / "run", tasks=["lm-eval:hellaswg"])
    (folder / "bad.yaml").write_text("task: bad\ndataset_path: json\ndataset_kwargs:\n  data_files: no.jsonl\n")
    with pytest.raises(smalllm.errors.DataError, match=r"lm-evaluation-harness could not run it"):
        smalllm.evaluate(folder / "run", tasks=[f"lm-eval:{folder}/bad.yaml"])
