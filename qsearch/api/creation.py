"""Where studies begin: created for an objective, loaded from a directory, or run from a YAML."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from qsearch.api.model_space import Space
from qsearch.api.study import Study
from qsearch.errors import InputError
from qsearch.execution.workers import Workers
from qsearch.monitoring.events import Observer
from qsearch.plugins.evaluation import Metric
from qsearch.plugins.trial_columns import require_names
from qsearch.spec.sections import OBJECTIVE
from qsearch.spec.study_spec import StudySpec
from qsearch.spec.validation import validate
from qsearch.storage.directory import has_results, load_study_file, read_study_yaml
from qsearch.storage.paths import STUDY_YAML
from qsearch.storage.study_record import Size, read_facts
from qsearch.study.opening import claim_directory
from qsearch.study.run import run_spec


def create_study(
    space: Space,
    directory: str | Path | None = None,
    *,
    bits: tuple[float, float] | None = None,
    bytes: tuple[int | str, int | str] | None = None,
    size: Size | None = None,
    name: str | None = None,
    seed: int = 0,
    initial: int = 8,
    segments: int = 40,
    metrics: Sequence[Metric] = (),
) -> Study:
    """Return the study of an objective over a space, which continues if its directory has it.

    Args:
        space: The model's configurations.
        directory: Where results are kept, made when the first trial is asked for. Without, they are
            deleted with the study.
        bits: Interval of average bits to search.
        bytes: Interval of bytes of weight files, such as ``("20MB", "30MB")``, instead.
        size: What fronts and reports have losses against, ``"average_bits"`` or ``"bytes"``; by
            default, that of the interval. Bytes are an affine function of average bits but for a
            few, so that the search and normalised hypervolumes are those of both.
        name: Of the study; the directory's by default.
        seed: Of the first set and of the search's starting points.
        initial: Configurations that are tried before the search starts: a third each uniform,
            allocated by quantization error, and random.
        segments: Of average bits; each should get candidates.
        metrics: Those of the objective's metrics that reports show, the main one first; every
            observation must have them.

    Raises:
        InputError: If an argument is not what it may be, or the directory holds another study.

    >>> import qsearch
    >>> study = qsearch.create_study(space, "runs/mine", bits=(3.0, 7.0))
    >>> study.name
    'mine'
    """
    if not isinstance(space, Space):
        raise InputError(f"space: make one by qsearch.Space.from_model, not {type(space).__name__}")
    interval = _interval(space, bits, bytes)
    _require_metrics(metrics)
    keep = tempfile.TemporaryDirectory(prefix="qsearch-") if directory is None else None
    # The working directory may change while trials wait.
    folder = Path(keep.name if keep else str(directory)).absolute()
    before = read_study_yaml(folder / STUDY_YAML).name if has_results(folder) else None
    of_metrics = {metric.name: metric.better for metric in metrics}
    values = {
        "name": name or before or ("study" if keep else folder.name),
        "seed": seed,
        "model": space.model_section,
        "task": {"name": OBJECTIVE, "metrics": of_metrics},
        "quantizer": space.quantizer_section,
        "trainer": {"name": OBJECTIVE},
        "space": space.space_section,
        "search": {
            "rounds": 1,
            "initial": initial,
            "candidates": 0,
            "segments": segments,
            "size": size or ("average_bits" if bytes is None else "bytes"),
            **interval,
        },
    }
    spec = validate(StudySpec, values, "create_study")
    if has_results(folder):
        claim_directory(spec, folder)  # Reads alone, where there are results.
    return Study(folder, spec, space, keep)


def load_study(directory: str | Path, space: Space | None = None) -> Study:
    """Return the study in a directory, whoever ran it, such as ``qsearch run``.

    Args:
        directory: The study's.
        space: Of the same model, to continue the study of an objective; not needed to read it.

    Raises:
        InputError: If the directory holds no study, or the space is not the study's.

    >>> import qsearch
    >>> qsearch.load_study(study.directory).front()[0].loss == study.front()[0].loss
    True
    """
    folder = Path(directory).absolute()
    if space is not None and not isinstance(space, Space):
        raise InputError(f"space: make one by qsearch.Space.from_model, not {type(space).__name__}")
    read_facts(folder)
    spec = read_study_yaml(folder / STUDY_YAML)
    if space is not None:
        own = {
            "model": space.model_section,
            "quantizer": space.quantizer_section,
            "space": space.space_section,
        }
        claim_directory(spec.model_copy(update=own), folder)
    return Study(folder, spec, space)


def run_study(
    study: str | Path | StudySpec,
    directory: str | Path,
    *,
    overrides: Sequence[str] = (),
    storage: str | None = None,
    observer: Observer | None = None,
    workers: Workers | None = None,
) -> Study:
    """Run the study of a YAML file, or resume it, as ``qsearch run`` does.

    Args:
        study: Path of the YAML.
        directory: Where results are kept.
        overrides: Fields to replace, such as ``["search.rounds=2"]``.
        storage: SQLAlchemy URL of the database; without, it is in the directory.
        observer: Called with each event.
        workers: Who evaluates; without, this process.

    Raises:
        InputError: If a field is not what it may be, or the directory holds another study.

    >>> import qsearch
    >>> qsearch.run_study("missing.yaml", "runs/mine")
    Traceback (most recent call last):
    qsearch.errors.InputError: missing.yaml: no such file
    """
    source = "study" if isinstance(study, StudySpec) else str(study)
    spec = study if isinstance(study, StudySpec) else load_study_file(Path(study), overrides)
    folder = Path(directory)
    run_spec(spec, folder, storage, observer, source, workers)
    return load_study(folder)


def _interval(space: Space, bits: object, nbytes: object) -> dict[str, tuple[float, float]]:
    """Return the section's interval to search, of the one size that was given."""
    if (bits is None) == (nbytes is None):
        raise InputError("give where to search, as bits=(low, high) or as bytes=(low, high)")
    if nbytes is None:
        return {"average_bits": space.interval(bits)}
    return {"bytes": space.file_bytes_interval(nbytes)}


def _require_metrics(metrics: object) -> None:
    if not isinstance(metrics, Sequence) or isinstance(metrics, str):
        raise InputError(f"metrics: give a list of metrics, not {metrics!r}")
    for metric in metrics:
        if not isinstance(metric, Metric) or metric.better not in ("higher", "lower"):
            raise InputError(
                'metrics: give such as [qsearch.Metric("accuracy", better="higher")], not'
                f" {metric!r}"
            )
    require_names([metric.name for metric in metrics], "metrics")
