"""Tasks of lm_eval, run on configurations as they are deployed: packed, loaded by transformers."""

from __future__ import annotations

import difflib
import io
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from qsearch_quantizers.libraries.optional import optional_module

from qsearch.errors import EvaluationError, InputError
from qsearch.plugins.harness import HarnessResults, HarnessScore
from qsearch.space.configuration import Configuration
from qsearch_coalora.export.formats import PackedExporter
from qsearch_coalora.export.job import AdapterJob
from qsearch_coalora.harness.task_files import is_path, read_tasks
from qsearch_coalora.models.loading import first_line, from_pretrained, load_pretrained
from qsearch_coalora.models.source import ModelSource
from qsearch_coalora.models.tokenizers import load_tokenizer
from qsearch_coalora.settings.memory import clear_memory_errors
from qsearch_coalora.tasks.causal_lm import CausalLanguageModelling
from qsearch_coalora.training.study_model import StudyModel

_AUTO_CLASS = "AutoModelForCausalLM"
_BATCH_SIZE = 8
_RECORD = ("versions", "n-shot", "n-samples", "higher_is_better", "group_subtasks")
"""What is kept of lm_eval's results, next to the scores."""


@dataclass(frozen=True)
class StudyHarness:
    """Tasks that are loaded, and what makes a study's models; called with a configuration."""

    study: StudyModel
    export_job: Callable[[Configuration], AdapterJob]
    tasks: Sequence[Any]
    limit: int | None

    def __call__(self, configuration: Configuration | None) -> HarnessResults:
        """Run the tasks on a configuration, or on the unquantized model.

        Raises:
            EvaluationError: If lm_eval cannot run a task on the model.
        """
        if configuration is None:
            module, _ = load_pretrained(self.study.model, _AUTO_CLASS)
            return self._run(module, load_tokenizer(self.study.model))
        with TemporaryDirectory(prefix="qsearch-lm-eval-") as name:
            PackedExporter().write(self.export_job(configuration), Path(name))
            import torch

            source = ModelSource(name, None, is_local=True)
            module = from_pretrained(source, _AUTO_CLASS, dtype=torch.float32)
            return self._run(module, from_pretrained(source, "AutoTokenizer"))

    def _run(self, module: Any, tokenizer: Any) -> HarnessResults:
        library = optional_module("lm_eval", "lm-eval", "--lm-eval")
        models = optional_module("lm_eval.models.huggingface", "lm-eval", "--lm-eval")
        module = module.to(self.study.options.device).eval()
        try:
            with _prepared(), clear_memory_errors():
                model = models.HFLM(
                    pretrained=module,
                    tokenizer=tokenizer,
                    batch_size=_BATCH_SIZE,
                    prefix_token_id=_prefix(tokenizer),
                )
                results = library.simple_evaluate(
                    model, tasks=list(self.tasks), limit=self.limit, task_manager=_no_tasks()
                )
        except EvaluationError:
            raise
        except Exception as error:
            raise EvaluationError(
                f"--lm-eval: the tasks cannot be run: {first_line(error)}"
            ) from error
        return _results(results)


def load_harness(
    study: StudyModel,
    export_job: Callable[[Configuration], AdapterJob],
    tasks: Sequence[str],
    limit: int | None,
) -> StudyHarness:
    """Return what runs tasks on a study's models; their data are loaded, the model is not.

    Raises:
        InputError: If the study has no packed language models, lm_eval is not installed, or a task
            does not exist, names code or cannot be loaded.
    """
    if not isinstance(study.task, CausalLanguageModelling):
        raise InputError(
            "--lm-eval is for causal language models (task 'causal-lm'), not for task"
            f" {study.task.name!r}"
        )
    if study.model.remote_code is not None:
        raise InputError("--lm-eval runs no code that comes with a model (model.remote_code)")
    PackedExporter().require_quantizer(study.quantizer)
    return StudyHarness(study, export_job, _load_tasks(tasks), limit)


def _load_tasks(names: Sequence[str]) -> list[Any]:
    """Return tasks, and groups of tasks, of lm_eval's own names and of YAML files."""
    library = optional_module("lm_eval.tasks", "lm-eval", "--lm-eval")
    optional_module("lm_eval.models.huggingface", "lm-eval", "--lm-eval")
    metrics = optional_module("lm_eval.api.registry", "lm-eval", "--lm-eval").metric_registry
    own = [name for name in names if not is_path(name)]
    specs: dict[str, Any] = {}
    for name in names:
        if name in own:
            _add(specs, name, name)
            continue
        for task in read_tasks(name, tuple(metrics.keys())):
            _add(specs, task["task"], task)
    with _prepared():
        # Reading the names of its own tasks takes seconds.
        manager = library.TaskManager(include_defaults=bool(own))
        for name in own:
            _require_own(name, manager.all_tasks)
        loaded = [task for name, spec in specs.items() for task in _loaded(manager, name, spec)]
        try:
            manager.load(loaded)
        except ValueError as error:  # A task is in two of the groups.
            raise InputError(f"--lm-eval: {first_line(error)}") from error
        return loaded


def _add(specs: dict[str, Any], name: str, spec: Any) -> None:
    if name in specs:
        raise InputError(f"--lm-eval: two tasks are named {name!r}")
    specs[name] = spec


def _require_own(name: str, names: Sequence[str]) -> None:
    if name in names:
        return
    near = difflib.get_close_matches(name, names)
    hint = f"did you mean {', '.join(near)}?" if near else "'lm-eval ls tasks' lists them"
    raise InputError(
        f"--lm-eval {name}: lm_eval has no such task, group or tag; {hint}"
        " (a YAML file of yours needs its path)"
    )


def _loaded(manager: Any, name: str, spec: Any) -> list[Any]:
    """Return a task with its data, or the groups and tasks of a name."""
    try:
        found = manager.load([spec])
    except InputError:
        raise
    except Exception as error:
        if _unreachable(error):
            raise InputError(
                f"--lm-eval {name}: its data are on the hub, which cannot be reached:"
                f" {first_line(error)}"
            ) from error
        raise InputError(f"--lm-eval {name}: cannot be loaded: {first_line(error)}") from error
    groups = found.get("groups") or {}
    return [groups[name]] if name in groups else list(found["tasks"].values())


def _unreachable(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ConnectionError) or "Offline" in type(error).__name__:
            return True
        error = error.__cause__
    return False


def _prefix(tokenizer: Any) -> int:
    """Return the token before a text of no context: as lm_eval takes it, or padding if none is."""
    tokens = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return next(int(token) for token in tokens if token is not None)


def _no_tasks() -> Any:
    """Return a manager of no names: tasks are given as they are loaded."""
    library = optional_module("lm_eval.tasks", "lm-eval", "--lm-eval")
    return library.TaskManager(include_defaults=False)


@contextmanager
def _prepared() -> Iterator[None]:
    """Render templates in a sandbox, and keep back warnings, and bars where there is no terminal.

    Templates come from task files, and lm_eval's own environment lets them reach any Python object.
    Nor does lm_eval ask git and pip what they know of this machine, which takes seconds.
    """
    from jinja2 import BaseLoader, StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    utils = optional_module("lm_eval.utils", "lm-eval", "--lm-eval")
    evaluator = optional_module("lm_eval.evaluator", "lm-eval", "--lm-eval")
    sandbox = SandboxedEnvironment(
        loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True
    )
    sandbox.filters |= utils.env.filters
    disabled = logging.root.manager.disable
    with ExitStack() as stack:
        if not sys.stderr.isatty():
            stack.enter_context(redirect_stderr(io.StringIO()))
        stack.enter_context(_replaced(utils, "env", sandbox))
        stack.enter_context(_replaced(evaluator, "get_git_commit_hash", lambda: None))
        stack.enter_context(_replaced(evaluator, "add_env_info", lambda results: None))
        stack.callback(logging.disable, disabled)
        logging.disable(max(disabled, logging.WARNING))
        yield


@contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def _results(results: Mapping[str, Any]) -> HarnessResults:
    scores = []
    for task, values in results["results"].items():
        for key, value in values.items():
            metric, _, filter = key.partition(",")
            if not filter or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            name = metric if filter == "none" else f"{metric} ({filter})"
            error = _number(values.get(f"{metric}_stderr,{filter}"))
            scores.append(HarnessScore(task, name, float(value), error))
    hashes = {task: _task_hash(samples) for task, samples in results.get("samples", {}).items()}
    record = {name: results[name] for name in _RECORD if name in results}
    version = optional_module("lm_eval", "lm-eval", "--lm-eval").__version__
    return HarnessResults(
        tuple(scores),
        _json({"lm_eval_version": version, **record, "task_hashes": hashes}),
    )


def _task_hash(samples: Sequence[Mapping[str, str]]) -> str:
    """Return the hash of a task's examples as lm_eval's own results files have it."""
    utils = optional_module("lm_eval.utils", "lm-eval", "--lm-eval")
    parts = ("doc_hash", "prompt_hash", "target_hash")
    text = "".join(sample[part] for sample in samples for part in parts)
    digest: str = utils.hash_string(text)
    return digest


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if known else None


def _json(value: Any) -> Any:
    """Return JSON values; what is none is its text."""
    if isinstance(value, Mapping):
        return {str(name): _json(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_json(one) for one in value]
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)
