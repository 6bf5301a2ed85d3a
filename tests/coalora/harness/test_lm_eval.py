"""Tasks of lm_eval on packed exports, by a task file of its YAML format: no hub is needed."""

from __future__ import annotations

import importlib
import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from qsearch_quantizers.normal_float.quantizer import NormalFloat

from qsearch.errors import InputError
from qsearch.plugins.capabilities import SupportsTaskHarness
from qsearch.testing.samples import draw_configurations
from tests.coalora.conftest import WORDS

lm_eval = pytest.importorskip("lm_eval", reason="needs the extra lm-eval")

FOLDER = Path(lm_eval.__file__).parent / "tasks"

QUESTIONS = 30
TASK = """\
task: words
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
  cache_dir: {cache}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
metadata: {{version: 3.0}}
"""


def questions() -> list[dict[str, Any]]:
    draw = random.Random(0)
    return [
        {
            "question": " ".join(draw.sample(WORDS, 6)),
            "choices": draw.sample(WORDS, 3),
            "answer": draw.randrange(3),
        }
        for _ in range(QUESTIONS)
    ]


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    data = tmp_path / "questions.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in questions()))
    path = tmp_path / "words.yaml"
    path.write_text(TASK.format(data=data, cache=tmp_path / "cache"))
    return path


@pytest.fixture
def trainer(make_trainer: Any, make_causal_task: Any, llama_folder: Path) -> Any:
    plugin = NormalFloat(NormalFloat.Options())
    return make_trainer(
        plugin=plugin, task=make_causal_task(), model=llama_folder, learning_rate=2e-2
    )


@torch.no_grad()
def accuracy(module: Any, tokenizer: Any) -> float:
    """The share of questions whose answer has the highest log-likelihood, without lm_eval."""
    correct = 0
    for row in questions():
        ids = torch.tensor([tokenizer(row["question"])["input_ids"]])
        logs = module(input_ids=ids).logits[0, -1].float().log_softmax(-1)
        scores = [logs[tokenizer.convert_tokens_to_ids(word)].item() for word in row["choices"]]
        correct += scores.index(max(scores)) == row["answer"]
    return correct / QUESTIONS


def test_packed_models_score_as_the_studys_weights_do(
    trainer: Any, task_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert isinstance(trainer, SupportsTaskHarness)
    first, second = draw_configurations(trainer.layers(), trainer.study.quantizer.choices(), 2)
    run = trainer.load_harness([str(task_file)], None)
    assert "loaded" not in vars(trainer.study)  # Tasks are refused before a model is loaded.
    trainer.train([first, second], 1)
    tokenizer, adapted = trainer.study.loaded.tokenizer, trainer.study.adapted

    def forward(input_ids: torch.Tensor) -> Any:
        batch = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
        return SimpleNamespace(logits=adapted.logits(batch))

    expected = []
    for configuration in (first, second):
        trainer.place(configuration)
        expected.append(accuracy(forward, tokenizer))
    with adapted.base_model():
        expected.append(accuracy(forward, tokenizer))
    adapted.projections.clear()
    results = [run(model) for model in (first, second, None)]
    found = [{score.metric: score for score in one.scores} for one in results]
    assert [scores["acc"].value for scores in found] == pytest.approx(expected)
    assert len(set(expected)) > 1  # Else any model would do.
    share = expected[0]
    deviation = (share * (1 - share) / (QUESTIONS - 1)) ** 0.5
    assert found[0]["acc"].standard_error == pytest.approx(deviation)
    record = results[0].record
    assert record["versions"] == {"words": 3.0}
    assert record["n-samples"] == {"words": {"original": QUESTIONS, "effective": QUESTIONS}}
    assert record["task_hashes"] == results[2].record["task_hashes"]
    assert json.loads(json.dumps(record)) == record
    output = capfd.readouterr()
    assert output.out == output.err == ""


def test_a_limit_takes_the_first_examples(trainer: Any, task_file: Path) -> None:
    results = trainer.load_harness([str(task_file)], 10)(None)
    assert results.record["n-samples"]["words"]["effective"] == 10


def test_a_folder_has_the_tasks_of_its_files(trainer: Any, task_file: Path) -> None:
    (task_file.parent / "_shared.yaml").write_text("num_fewshot: 0\nmetadata: {version: 7.0}\n")
    (task_file.parent / "second.yaml").write_text(
        "include: [words.yaml, _shared.yaml]\ntask: second\n"
    )
    results = trainer.load_harness([str(task_file.parent)], 2)(None)
    assert {score.task for score in results.scores} == {"words", "second"}
    assert results.record["versions"] == {"second": 7.0, "words": 3.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"": "process_docs: !function code.run"}, "names code (!function code.run)"),
        ({"": "x: !!python/name:os.system ''"}, "names code (tag:yaml.org,2002:python/name"),
        ({"": "class: code.Task"}, "field 'class' names code"),
        ({"": "use_prompt: 'prompts.yaml:x'"}, "field 'use_prompt' names code"),
        ({"": "unsafe_code: true"}, "field 'unsafe_code' names code"),
        ({"": "surprise: 1"}, "field 'surprise' is not one of a task"),
        ({"": "include: code.yaml"}, "names code (!function code.run)"),
        ({"": "include: words.yaml"}, "includes itself"),
        ({"metric: acc": "metric: ./code.py"}, "'./code.py' is not one of lm_eval's own metrics"),
        ({"metric: acc": "metric: acc, hf_evaluate: true"}, "is not one of lm_eval's own metrics"),
        ({"path: json": "path: pandas"}, "dataset_path 'pandas' must be one of json, csv"),
        ({"path: json": "path: ./folder"}, "dataset_path './folder' must be one of json, csv"),
        ({"  cache_dir": "  trust_remote_code: true\n  cache_dir"}, "'trust_remote_code' is not"),
        (
            {"": "generation_kwargs: {custom_generate: ., trust_remote_code: true}"},
            "generation_kwargs: 'custom_generate' is not one of",
        ),
        ({"questions.jsonl": "none.jsonl"}, "data_files: there is no file"),
        ({"task: words": "group: words"}, "is a group; name its tasks instead"),
        ({"task: words": "tag: words"}, "has no field 'task'"),
        ({"test_split: test": "test_split: other"}, "--lm-eval words: cannot be loaded"),
        ({"output_type: multiple_choice": "output_type: [}"}, "is not YAML"),
        (
            {"{{question}}": "{{ question.__class__.__mro__[1].__subclasses__() }}"},
            "cannot be loaded: SecurityError",
        ),
    ],
)
def test_a_file_that_is_no_task_or_names_code_is_refused(
    trainer: Any, task_file: Path, change: dict[str, str], message: str
) -> None:
    marker = task_file.parent / "ran"
    code = f"open({str(marker)!r}, 'w').close()\ndef run(docs): return docs\n"
    (task_file.parent / "code.py").write_text(code)
    (task_file.parent / "code.yaml").write_text("process_docs: !function code.run\n")
    text = task_file.read_text()
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new) if old else f"{text}{new}\n"
    task_file.write_text(text)
    with pytest.raises(InputError) as error:
        trainer.load_harness([str(task_file)], None)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not marker.exists()
    assert "loaded" not in vars(trainer.study)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere.yaml", "there is no such file or folder"),
        ("arc_eazy", "did you mean arc_easy"),
    ],
)
def test_a_name_of_no_task_is_refused(
    trainer: Any, name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = importlib.import_module("lm_eval.tasks")
    # One folder of them: reading the names of all takes half a minute.
    few = tasks.TaskManager(include_defaults=False, include_path=str(FOLDER / "arc"))
    monkeypatch.setattr(tasks, "TaskManager", lambda include_defaults: few)
    with pytest.raises(InputError, match=message):
        trainer.load_harness([name], None)


def test_two_tasks_of_one_name_are_refused(trainer: Any, task_file: Path) -> None:
    with pytest.raises(InputError, match="two tasks are named 'words'"):
        trainer.load_harness([str(task_file), str(task_file)], None)


def test_a_hub_that_cannot_be_reached_is_named(
    trainer: Any, task_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*arguments: object, **options: object) -> None:
        raise ConnectionError("Couldn't reach 'owner/words' on the Hub")

    monkeypatch.setattr("datasets.load_dataset", offline)
    task_file.write_text(task_file.read_text().replace("path: json", "path: owner/words"))
    with pytest.raises(InputError, match="words: its data are on the hub, which cannot be reached"):
        trainer.load_harness([str(task_file)], None)
