"""Options of quantizers that suit a weight to its layer's inputs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qsearch.errors import InputError
from qsearch_quantizers.knobs import KnobOptions

Rounding = Literal["nearest", "gptq"]


class InputOptions(KnobOptions):
    """How codes and scales follow from the moments of a layer's inputs. They cost no bits.

    So they are not knobs: a search would have nothing to weigh.

    Args:
        rounding: ``nearest``, or ``gptq`` (:mod:`~qsearch_quantizers.gptq`).
        fit_scales: Whether scales, once the codes are found, are those that bring the layer's
            outputs nearest to the original's (:mod:`~qsearch_quantizers.fitted_scales`).
        dampening: What both add to each input's mean square, as a share of their mean.
    """

    rounding: Rounding = "nearest"
    fit_scales: bool = False
    dampening: float = Field(default=0.01, gt=0, allow_inf_nan=False)

    @property
    def need_inputs(self) -> bool:
        """Whether a weight depends on the moments of its layer's inputs."""
        return self.rounding == "gptq" or self.fit_scales

    def missing_inputs_error(self) -> InputError:
        """Return the error of a weight whose inputs nobody gives.

        Quantized without them, a caller would get, and perhaps publish, other weights than the
        study's.
        """
        option = "rounding 'gptq'" if self.rounding == "gptq" else "fit_scales"
        return InputError(
            f"quantizer.{option} needs the second moment of the layer's inputs, which was not"
            " given here; where nothing measures inputs, use rounding 'nearest' without fit_scales"
        )
