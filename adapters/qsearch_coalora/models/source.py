"""Where a model is, at which commit, and whether code that comes with it may run."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from qsearch.errors import InputError
from qsearch.spec.sections import ModelSpec
from qsearch_coalora.models.split_packages import joined_path, split_model

HUB_TIMEOUT_SECONDS = 10.0
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class ModelSource:
    """Where transformers finds a model: in the folder ``path``, or under that name on the hub."""

    path: str
    gguf_file: str | None
    is_local: bool
    revision: str | None = None
    remote_code: bool = False

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for every ``from_pretrained`` of this source."""
        optional = {"gguf_file": self.gguf_file, "revision": self.revision}
        return {
            "pretrained_model_name_or_path": self.path,
            "trust_remote_code": self.remote_code,
            **{name: value for name, value in optional.items() if value is not None},
        }


def locate_model(model: ModelSpec) -> ModelSource:
    """Say where a study's model is, without loading it, and what of it may run.

    Raises:
        InputError: If it does not exist, a revision is given for what is none of the hub's, or
            code of a hub model may run but is not pinned to a commit.
    """
    path = _local_path(model.name)
    remote_code = model.remote_code is not None
    if path is not None and model.revision is not None:
        raise InputError(
            f"model.revision {model.revision!r} is for models of the hub; {model.name!r} is on this"
            " machine: leave it out"
        )
    if remote_code and path is None and not _COMMIT.fullmatch(model.revision or ""):
        raise InputError(
            f"model.revision must be a full commit hash (40 hexadecimal digits), not"
            f" {model.revision!r}: model.remote_code lets the code of {model.name!r} run, which"
            " could change on the hub at any time; or download the model into a folder"
        )
    folder, gguf_file = model.name, None
    if path is not None:
        folder, gguf_file = (str(path), None) if path.is_dir() else (str(path.parent), path.name)
    return ModelSource(folder, gguf_file, path is not None, model.revision, remote_code=remote_code)


def _local_path(name: str) -> Path | None:
    """Return the folder or GGUF file that a model's name is of; None if it is a hub name."""
    try:
        path = _inside_package(name) if name.startswith("package:") else Path(name).expanduser()
        if path.is_dir():
            if not (path / "config.json").is_file():
                raise InputError(f"model.name {name!r}: the folder {path} holds no config.json")
            return path
        if path.exists():
            if path.suffix != ".gguf":
                raise InputError(f"model.name {name!r}: a model file must end in .gguf")
            return path
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"model.name {name[:80]!r} can be no path: {error}") from error
    if name.endswith(".gguf") or path.is_absolute() or name.startswith((".", "~")):
        raise InputError(f"model.name {name!r}: there is no such folder or file")
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # Untyped.

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise InputError(
            f"model.name {name!r} is neither a folder that exists nor a hub name"
            " (a hub name is 'name' or 'owner/name')"
        ) from error
    return None


def package_folders(package: str) -> tuple[Path, ...]:
    """Return the folders of a top-level Python package, without importing it.

    A name with a dot has none, since finding it would import what holds it. A namespace has more
    than one, an absent package none.
    """
    try:
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
    except (ImportError, ValueError):
        spec = None
    return tuple(map(Path, (spec and spec.submodule_search_locations) or ()))


def _inside_package(name: str) -> Path:
    split = split_model(name)
    if split is not None:
        return joined_path(name, split)
    module, _, inside = name.removeprefix("package:").partition("/")
    path = PurePosixPath(inside)
    if not module.isidentifier() or path.is_absolute() or ".." in path.parts:
        raise InputError(
            f"model.name {name!r} must be 'package:MODULE/PATH', with a top-level module and a path"
            " inside its folder"
        )
    roots = package_folders(module)
    if not roots:
        raise InputError(
            f"model.name {name!r}: the Python package {module!r} is not installed"
            f" (pip install {module.replace('_', '-')})"
        )
    for root in roots:
        if (root / inside).exists():
            return root / inside
    raise InputError(f"model.name {name!r}: package {module!r} has no {inside!r} in {roots[0]}")


def source_folder(source: ModelSource) -> Path | None:
    """Return the folder on this machine that holds a model, or None if it is on the hub alone."""
    if source.is_local:
        return Path(source.path)
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(source.path, "config.json", revision=source.revision)
    return Path(config).parent if isinstance(config, str) else None


def require_hub(source: ModelSource) -> None:
    """Raise InputError unless the hub has a model: transformers would try each file six times."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        HfApi().model_info(source.path, revision=source.revision, timeout=HUB_TIMEOUT_SECONDS)
    except RevisionNotFoundError as error:
        raise InputError(
            f"model.revision {source.revision!r}: the hub's model {source.path!r} has no such"
            " branch, tag or commit"
        ) from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"model.name {source.path!r} is not a folder here, nor a model on the hub"
            " (or it is private: log in with 'hf auth login')"
        ) from error
    except HfHubHTTPError as error:
        raise InputError(f"model.name {source.path!r}: the hub refuses: {error}") from error
    except Exception as error:
        raise InputError(
            f"model.name {source.path!r} is not a folder here, nor in the hub cache, and the hub"
            f" cannot be reached ({type(error).__name__}); give a folder, or connect and try again"
        ) from error
