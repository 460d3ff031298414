"""lm-evaluation-harness over HTTP: its `local-completions` asks the server, and finds what `smalllm evaluate` finds."""

import warnings
from pathlib import Path
from typing import Any

import pytest
from task_helpers import RECORDS, write_records

import smalllm
from run_helpers import prepared_config, train_until
from serving_helpers import running

FORMS = {
    "piqa": 'output_type: multiple_choice\ndoc_to_text: "Question: {{goal}}\\nAnswer:"\ndoc_to_target: label\n'
    'doc_to_choice: "{{[sol1, sol2]}}"\nmetric_list:\n  - metric: acc\n  - metric: acc_norm\n',
    "lambada": 'output_type: generate_until\ndoc_to_text: "{{text}}"\ndoc_to_target: "x"\n'
    "generation_kwargs:\n  until: ['\\n']\n  max_gen_toks: 8\nmetric_list:\n  - metric: exact_match\n",
    "page": 'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{page}}"\n'
    "metric_list:\n  - metric: byte_perplexity\n",
}
PAGES = [{"page": "The cat saw the old dog. "}, {"page": "\u201cHome\u201d, he said"}]


@pytest.fixture(scope="module")
def lm_eval() -> Any:
    pytest.importorskip("tenacity", reason="needs pip install 'lm-eval[api]'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("lm_eval", reason="needs pip install 'smalllm[lm-eval]'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    shape = {"model.context_length": 64, "model.position": "learned", "model.bias": True, "train.micro_batch_size": 1}
    config = prepared_config(folder, {**shape, "tokenizer.kind": "huggingface", "tokenizer.vocab_size": 300})
    train_until(8, config, folder / "run")
    smalllm.export(folder / "run", format="hf", out=folder / "hf")
    write_records(folder / "piqa.jsonl", RECORDS["piqa"])
    write_records(folder / "lambada.jsonl", RECORDS["lambada"])
    write_records(folder / "page.jsonl", PAGES)
    common = f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {folder}/NAME.jsonl\ntest_split: test\n"
    for name, form in FORMS.items():
        (folder / f"my_{name}.yaml").write_text(f"task: my_{name}\n{common.replace('NAME', name)}{form}")
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_harness_finds_the_same_over_http(batch_size: int, folder: Path, lm_eval: Any) -> None:
    from lm_eval.models.huggingface import HFLM
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    def samples_of(model: Any) -> dict[str, list[Any]]:
        tasks = [str(folder / f"my_{name}.yaml") for name in FORMS]
        found = lm_eval.simple_evaluate(model, tasks=tasks, bootstrap_iters=0, log_samples=True)["samples"]
        return {name: sorted(found[f"my_{name}"], key=lambda sample: sample["doc_id"]) for name in FORMS}

    with running([folder / "run"]) as web:
        served = samples_of(
            LocalCompletionsAPI(
                base_url=f"http://127.0.0.1:{web.port}/v1/completions",
                model="run",
                tokenizer=str(folder / "hf"),
                tokenizer_backend="huggingface",
                max_length=64,
                batch_size=batch_size,
                max_retries=1,
            )
        )
    theirs = samples_of(HFLM(pretrained=str(folder / "hf"), batch_size=2, device="cpu", dtype="float32", max_length=64))
    for name in FORMS:
        assert len(served[name]) == len(theirs[name]) > 0
        for ours, other in zip(served[name], theirs[name], strict=True):
            for (one,), (two,) in zip(ours["resps"], other["resps"], strict=True):
                if name == "lambada":
                    assert one.rstrip("\n") == two.rstrip("\n")
                elif name == "page":
                    assert float(one) == pytest.approx(float(two), rel=1e-5)
                else:
                    assert float(one[0]) == pytest.approx(float(two[0]), rel=1e-5) and str(one[1]) == str(two[1])
    tasks = [f"lm-eval:{folder}/my_{name}.yaml" for name in ("piqa", "page")]
    piqa, page = smalllm.evaluate(folder / "run", tasks=tasks)["results"].values()
    assert piqa["acc"] == sum(sample["acc"] for sample in served["piqa"]) / 2
    nats = -sum(float(sample["resps"][0][0]) for sample in served["page"])
    n_bytes = sum(len(record["page"].encode()) for record in PAGES)
    assert page["byte_perplexity"] == pytest.approx(2.718281828459045 ** (nats / n_bytes), rel=1e-5)
