"""Export formats: which there are, and which of them are for a study."""

from __future__ import annotations

from typing import cast

from qsearch.errors import InputError
from qsearch.plugins.exporters import Exporter
from qsearch.plugins.recipes import SupportsRecipe
from qsearch.plugins.registry import installed_plugins, load_plugin


def installed_formats() -> tuple[tuple[str, str], ...]:
    """Return name and description of each installed format; of a broken one, why it is."""
    formats = []
    for plugin in installed_plugins("exporters"):
        try:
            formats.append((plugin.name, _exporter(plugin.name).description))
        except InputError as error:
            formats.append((plugin.name, str(error)))
    return tuple(formats)


def recipe_formats() -> dict[str, SupportsRecipe]:
    """Return the installed formats whose recipes a study can start from, by name."""
    formats: dict[str, SupportsRecipe] = {}
    for plugin in installed_plugins("exporters"):
        try:
            exporter = _exporter(plugin.name)
        except InputError:
            continue  # A broken package must not hide the others.
        if isinstance(exporter, SupportsRecipe):
            formats[plugin.name] = exporter
    return formats


def formats_with_adapter_bits(bits: int) -> tuple[str, ...]:
    """Return the names of the installed formats that store an adapter in codes of some bits."""
    formats = []
    for plugin in installed_plugins("exporters"):
        try:
            exporter = _exporter(plugin.name)
        except InputError:
            continue  # A broken package must not hide the others.
        if bits in getattr(exporter, "adapter_bits", ()):
            formats.append(plugin.name)
    return tuple(formats)


def load_exporter(format: str, trainer: str, quantizer: str) -> Exporter:
    """Return the exporter of a format for a study, whose trainer and quantizer are not imported.

    Raises:
        InputError: If no exporter has that name, or it is not for such a study; the message names
            the formats that are.
    """
    if format not in (plugin.name for plugin in installed_plugins("exporters")):
        raise _refused(format, "no exporter is called so", trainer, quantizer)
    exporter = _exporter(format)
    if not _fits(trainer, exporter.trainers):
        why = f"it is for trainers {list(exporter.trainers or ())}, not {trainer!r}"
        raise _refused(format, why, trainer, quantizer)
    if not _fits(quantizer, exporter.quantizers):
        why = f"it is for quantizers {list(exporter.quantizers or ())}, not {quantizer!r}"
        raise _refused(format, why, trainer, quantizer)
    return exporter


def _refused(format: str, why: str, trainer: str, quantizer: str) -> InputError:
    formats = []
    for plugin in installed_plugins("exporters"):
        try:
            exporter = _exporter(plugin.name)
        except InputError:
            continue  # A broken package must not hide the others.
        if _fits(trainer, exporter.trainers) and _fits(quantizer, exporter.quantizers):
            formats.append(plugin.name)
    return InputError(
        f"--format {format!r}: {why}; trainer {trainer!r} and quantizer {quantizer!r} have"
        f" {formats}"
    )


def _exporter(format: str) -> Exporter:
    exporter = load_plugin("exporters", format)()
    for name in ("description", "trainers", "quantizers", "weight_files", "write"):
        if not hasattr(exporter, name):
            raise InputError(
                f"exporter {format!r} has no {name!r}; its package must add what"
                " qsearch.plugins.exporters.Exporter says"
            )
    return cast(Exporter, exporter)


def _fits(name: str, allowed: tuple[str, ...] | None) -> bool:
    return allowed is None or name in allowed
