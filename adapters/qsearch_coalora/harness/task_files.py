"""Task files of users, in lm_eval's YAML format, read as data.

lm_eval would import what a ``!function`` names, evaluate templates without a sandbox, and let
``evaluate`` run a metric's script. So it never sees such a file: it gets the fields below.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from qsearch_quantizers.libraries.optional import optional_module

from qsearch.errors import InputError

_CODE = frozenset(
    {"class", "custom_dataset", "process_docs", "process_results", "unsafe_code", "use_prompt"}
)
_DATA = frozenset(
    {
        "task",
        "task_alias",
        "tag",
        "dataset_path",
        "dataset_name",
        "dataset_kwargs",
        "training_split",
        "validation_split",
        "test_split",
        "fewshot_split",
        "fewshot_config",
        "fewshot_delimiter",
        "num_fewshot",
        "description",
        "doc_to_text",
        "doc_to_target",
        "doc_to_choice",
        "target_delimiter",
        "gen_prefix",
        "output_type",
        "generation_kwargs",
        "repeats",
        "metric_list",
        "filter_list",
        "should_decontaminate",
        "doc_to_decontamination_query",
        "metadata",
    }
)
_FILE_FORMATS = ("json", "csv", "parquet", "text")
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_OPTIONS = {
    # load_dataset takes builders' options too, and generate() a custom_generate, which is code.
    "dataset_kwargs": frozenset(
        {
            "cache_dir",
            "column_names",
            "data_dir",
            "data_files",
            "delimiter",
            "encoding",
            "field",
            "header",
            "names",
            "quotechar",
            "revision",
            "sample_by",
            "sep",
        }
    ),
    "generation_kwargs": frozenset(
        {
            "do_sample",
            "max_gen_toks",
            "max_length",
            "max_new_tokens",
            "min_p",
            "num_beams",
            "repetition_penalty",
            "temperature",
            "top_k",
            "top_p",
            "until",
        }
    ),
}


def is_path(name: str) -> bool:
    """Return whether a task is given as a file or folder: no task of lm_eval has such a name."""
    return "/" in name or name.endswith((".yaml", ".yml")) or name.startswith((".", "~"))


def read_tasks(name: str, metrics: Collection[str]) -> list[dict[str, Any]]:
    """Return the tasks of a YAML file, or of those of a folder, as lm_eval takes them.

    ``metrics`` are lm_eval's own. In a folder, files without ``task`` are for others to include.

    Raises:
        InputError: If there is no task, or a file is damaged or names code.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in (".yaml", ".yml"))
        tasks = [task for file in files if "task" in (task := _checked(file, metrics))]
        if not tasks:
            raise InputError(f"--lm-eval {name}: no YAML file of this folder has a field 'task'")
        return tasks
    if not path.is_file():
        raise InputError(f"--lm-eval {name}: there is no such file or folder")
    task = _checked(path, metrics)
    if "task" not in task:
        raise InputError(f"--lm-eval {name}: is not a task of lm_eval: it has no field 'task'")
    return [task]


def _checked(path: Path, metrics: Collection[str]) -> dict[str, Any]:
    fields = _merged(path, ())
    for field in fields:
        if field in _CODE:
            raise InputError(f"--lm-eval {path}: field {field!r} names code, which is not run")
        if field == "group" or (field == "task" and not isinstance(fields["task"], str)):
            raise InputError(f"--lm-eval {path}: is a group; name its tasks instead")
        if field not in _DATA:
            raise InputError(
                f"--lm-eval {path}: field {field!r} is not one of a task:"
                f" {', '.join(sorted(_DATA))}"
            )
    for field, allowed in _OPTIONS.items():
        _require_options(path, field, fields.get(field), allowed)
    _require_metrics(path, fields.get("metric_list"), metrics)
    _require_data(path, fields)
    return fields


def _merged(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """Return a file's fields over those of the files that it includes, as lm_eval merges them."""
    path = path.resolve()
    if path in above:
        raise InputError(f"--lm-eval {above[0]}: {path} includes itself")
    fields = _read(path)
    includes = fields.pop("include", [])
    merged: dict[str, Any] = {}
    for include in includes if isinstance(includes, list) else [includes]:
        merged |= _merged(path.parent / str(include), (*above, path))
    return merged | fields


def _read(path: Path) -> dict[str, Any]:
    yaml = optional_module("yaml", "lm-eval", "--lm-eval")

    class Loader(yaml.SafeLoader):  # type: ignore[misc, name-defined]
        """YAML as lm_eval reads it, without tags that name code."""

    def refuse(loader: Any, suffix: str, node: Any) -> None:
        raise InputError(
            f"--lm-eval {path}: line {node.start_mark.line + 1} names code ({node.tag}"
            f" {getattr(node, 'value', '')}), which is not run; tasks of lm_eval's own go by name"
        )

    for prefix in ("!", "tag:"):
        Loader.add_multi_constructor(prefix, refuse)
    try:
        fields = yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--lm-eval {path}: cannot be read: {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(
            f"--lm-eval {path}: is not YAML: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(fields, dict) or not all(isinstance(name, str) for name in fields):
        raise InputError(f"--lm-eval {path}: is not a task of lm_eval: it has no fields")
    return fields


def _require_options(path: Path, field: str, options: Any, allowed: Collection[str]) -> None:
    if options is not None and not isinstance(options, dict):
        raise InputError(f"--lm-eval {path}: {field} must hold options")
    for option in options or ():
        if option not in allowed:
            raise InputError(
                f"--lm-eval {path}: {field}: {option!r} is not one of {', '.join(sorted(allowed))}"
            )


def _require_metrics(path: Path, entries: Any, metrics: Collection[str]) -> None:
    """Refuse a metric that ``evaluate`` would look for: on the hub, or in a script on this disk."""
    for entry in entries or ():
        name = entry.get("metric") if isinstance(entry, dict) else None
        if not isinstance(name, str) or name not in metrics or entry.get("hf_evaluate"):
            raise InputError(
                f"--lm-eval {path}: metric_list: {name!r} is not one of lm_eval's own metrics:"
                f" {', '.join(sorted(metrics))}"
            )


def _require_data(path: Path, fields: dict[str, Any]) -> None:
    if "task" not in fields:
        return
    source, options = fields.get("dataset_path"), fields.get("dataset_kwargs") or {}
    if not isinstance(source, str):
        raise InputError(
            f"--lm-eval {path}: dataset_path must be the name of a dataset, or one of"
            f" {', '.join(_FILE_FORMATS)} with dataset_kwargs: {{data_files: …}}"
        )
    # Other builders of datasets, such as pandas, unpickle; a folder's files say which builds them.
    is_hub = _HUB_NAME.fullmatch(source) is not None and not Path(source).exists()
    if not is_hub and source not in _FILE_FORMATS:
        raise InputError(
            f"--lm-eval {path}: dataset_path {source!r} must be one of {', '.join(_FILE_FORMATS)},"
            " or the full name of a hub dataset (owner/name)"
        )
    for file in _files(options.get("data_files") if source in _FILE_FORMATS else None):
        if not any(mark in file for mark in ("://", "*", "?", "[")) and not Path(file).is_file():
            raise InputError(f"--lm-eval {path}: data_files: there is no file {file}")


def _files(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _files(one)
