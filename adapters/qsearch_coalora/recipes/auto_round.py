"""Recipes of AutoRound: its ``layer_config``, and reading it and the configuration of its exports.

Facts are those of auto-round 0.16.1: ``compressors/layer_config_resolver.py``, ``schemes.py``,
``utils/common.py`` (patterns), ``export/export_to_autoround/export.py`` and
``inference/convert_model.py`` (what it exported).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from qsearch.errors import InputError
from qsearch.plugins.exporters import ExportJob
from qsearch.plugins.recipes import RecipeText
from qsearch.space.layers import HEAD, LayerSpec
from qsearch_coalora.recipes.integers import IntegerRecipe, fields, flag, group_size, integer
from qsearch_coalora.recipes.matching import matches_regex
from qsearch_coalora.recipes.schemes import IntegerScheme

FILE = "layer_config.json"

_FLOAT = {"bits": 16, "act_bits": 16, "data_type": "float"}
_FIELDS = {
    *("bits", "group_size", "sym", "data_type", "scale_dtype", "scheme", "rotation_config"),
    *("act_bits", "act_group_size", "act_sym", "act_data_type", "act_dynamic"),
    *("super_bits", "super_group_size", "fixed_by_user", "in_blocks"),
}
_PRESET = re.compile(r"W([2-8])A16(?:G(\d+))?", re.IGNORECASE)
_DEFAULT = IntegerScheme(4, 128, symmetric=True)
_MARKS = (".*", *"^$|()[]?+")


class AutoRoundRecipe(IntegerRecipe):
    """Writes ``layer_config.json``."""

    name = "auto-round"
    package = "auto-round"
    version = "0.16.1"
    description = "the configuration as a recipe (layer_config), by which AutoRound quantizes"
    bits: ClassVar[tuple[int, ...]] = (2, 3, 4, 8)
    asymmetric_bits: ClassVar[tuple[int, ...]] = (2, 3, 4)
    multiple: ClassVar[int] = 32
    card = """\
# {model}: a recipe for AutoRound

`layer_config.json` has bits, group size and symmetry of each layer, and which layers stay in float.
It was written for {tool}:

```python
import json

from auto_round import AutoRound

layer_config = json.load(open("layer_config.json"))
tool = AutoRound("path/to/the/model", layer_config=layer_config, iters=0)
tool.quantize_and_save("path/to/write")
```

`iters=0` rounds to nearest, as the study did unless its quantizer says otherwise; with more,
AutoRound tunes the rounding.
"""

    def files(
        self, layers: Mapping[str, IntegerScheme], floats: Sequence[str], job: ExportJob
    ) -> dict[str, str]:
        """Return ``layer_config.json``; without them, AutoRound would quantize float layers."""
        config = {path: _entry(scheme) for path, scheme in layers.items()}
        config |= dict.fromkeys(floats, _FLOAT)
        return {FILE: json.dumps(config, indent=1) + "\n"}

    def reads(self, recipe: RecipeText) -> bool:
        """Return whether it is a ``layer_config``, or the configuration of an exported model."""
        values = recipe.values
        if not isinstance(values, dict) or not values:
            return False
        if _exported(values) is not None:
            return True
        return all(isinstance(name, str) for name in values) and all(
            (isinstance(one, str) and _PRESET.fullmatch(one) is not None)
            or (isinstance(one, dict) and bool(one) and set(map(str, one)) <= _FIELDS)
            for one in values.values()
        )

    def scheme(self, values: Any, path: str, layer: LayerSpec) -> IntegerScheme | None:
        """Return what it says of a layer: of patterns that match, the last one.

        In a model that was exported, a layer's own name counts first, then the first pattern.
        """
        exported = _exported(values)
        if exported is None:
            found = _scheme(values[path], _DEFAULT, path) if path in values else None
            for name, one in values.items():
                if name != path and matches_regex(_pattern(name), path):
                    found = _scheme(one, _DEFAULT, path)
            return found
        base = _scheme(exported, _DEFAULT, path)
        extra = fields(exported.get("extra_config") or {}, "extra_config")
        for name in (path, *extra):
            if name in extra and (name == path or matches_regex(name, path)):
                return _scheme(extra[name], base or _DEFAULT, path)
        return None if layer.role == HEAD else base


def _entry(scheme: IntegerScheme) -> dict[str, object]:
    return {
        "bits": scheme.bits,
        "group_size": -1 if scheme.group_size is None else scheme.group_size,
        "sym": scheme.symmetric,
        "data_type": "int",
        "act_bits": 16,
    }


def _exported(values: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the quantization config of a model that AutoRound exported, if it is one."""
    config = values.get("quantization_config", values)
    is_own = isinstance(config, dict) and config.get("quant_method") == "auto-round"
    return config if is_own else None


def _pattern(name: str) -> str:
    """Return the regular expression that AutoRound makes of a name that no layer has.

    Dots are dots but before a star, whatever precedes them; without any mark, all is literal.
    """
    if not any(mark in name for mark in _MARKS):
        return re.escape(name)
    return re.sub(r"\.(?!\*)", r"\\.", name)


def _scheme(one: Any, default: IntegerScheme, path: str) -> IntegerScheme | None:
    if isinstance(one, str):
        one = {"scheme": one}
    one = fields(one, path)
    preset = one.get("scheme")
    if preset is not None:
        match = _PRESET.fullmatch(str(preset))
        if match is None:
            raise InputError(
                f"{path}: scheme: {preset!r}; of AutoRound's presets, those of integers can be"
                " read: W2A16 to W8A16, with G32 or G64 after it"
            )
        default = IntegerScheme(int(match[1]), int(match[2] or 128), symmetric=True)
    bits = integer(one, "bits", path, default.bits)
    if bits >= 16:
        return None
    kind = one.get("data_type", "int")
    if kind != "int":
        raise InputError(f"{path}: data_type: {kind!r}; 'int' alone can be read")
    size = one.get("group_size", default.group_size)
    return IntegerScheme(bits, group_size(size, path), flag(one, "sym", path, default.symmetric))
