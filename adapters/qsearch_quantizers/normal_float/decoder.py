"""Reading normal-float weights: codes of levels, and scales in two levels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from qsearch.plugins.protocols import QuantizedTensor
from qsearch.plugins.tensor_layout import Elements, LevelWeight, TensorLayout
from qsearch.space.configuration import LayerConfiguration
from qsearch_quantizers.decoding import KnobDecoder, Knobs

if TYPE_CHECKING:
    from torch import Tensor


class NormalFloatDecoder(KnobDecoder):
    """Reads what :class:`~qsearch_quantizers.normal_float.quantizer.NormalFloat` quantizes."""

    name = "normal-float"
    KNOBS: ClassVar[Knobs] = {
        "bits": (2, 3, 4, 8),
        "scale_bits": (2, 3, 4, 8),
        "scale_dtype": ("bfloat16", "float16", "float32"),
        "block_size": (16, 32, 64),
        "scale_block_size": (16, 64, 256),
    }
    UNREAD = frozenset({"rounding", "fit_scales", "dampening"})

    def dequantize(self, quantized: QuantizedTensor) -> Tensor:
        """Return the float32 weight (output features × input features)."""
        from qsearch_quantizers.normal_float.blocks import nf_decode
        from qsearch_quantizers.normal_float.scales import block_scales

        configuration = quantized.configuration
        scales = block_scales(
            quantized.tensors["scale_codes"], quantized.tensors["scales"], configuration
        )
        return nf_decode(
            quantized.tensors["codes"],
            scales,
            configuration.integer("bits"),
            configuration.integer("block_size"),
            quantized.shape,
        )

    def dequantize_rows(self, quantized: QuantizedTensor, first: int, last: int) -> Tensor:
        """Return some rows of the weight (last - first × input features), float32."""
        from qsearch_quantizers.normal_float.blocks import nf_decode
        from qsearch_quantizers.normal_float.scales import block_scales
        from qsearch_quantizers.packed.bit_packing import packed_bytes

        configuration, columns = quantized.configuration, quantized.shape[1]
        bits, size = configuration.integer("bits"), configuration.integer("block_size")
        per_scale = configuration.integer("scale_block_size")
        start, stop = first * columns, last * columns
        # From the first scale block that the rows touch: scales begin with it.
        scale_block = start // (size * per_scale)
        block, end = scale_block * per_scale, -(-stop // size)
        scales = block_scales(
            quantized.tensors["scale_codes"][block:end],
            quantized.tensors["scales"][scale_block : -(-end // per_scale)],
            configuration,
        )
        first_block = start // size
        begin = first_block * size
        end_weight = min(end * size, quantized.shape[0] * columns)
        codes = quantized.tensors["codes"][begin * bits // 8 : packed_bytes(end_weight, bits)]
        flat = nf_decode(codes, scales[first_block - block :], bits, size, (end_weight - begin,))
        return flat[start - begin : stop - begin].view(last - first, columns)

    def look_up(
        self,
        elements: Mapping[str, Elements],
        shape: tuple[int, int],
        configuration: LayerConfiguration,
        rows: Tensor,
    ) -> Tensor:
        """Return some rows of the weight (rows × input features), float32."""
        from qsearch_quantizers.normal_float.blocks import levels_at
        from qsearch_quantizers.packed.bit_packing import row_positions

        bits, size = configuration.integer("bits"), configuration.integer("block_size")
        positions = row_positions(rows, shape[1])
        blocks = positions // size
        units = elements["scales"](blocks // configuration.integer("scale_block_size")).float()
        units /= 2 ** configuration.integer("scale_bits")
        scales = elements["scale_codes"](blocks).float().add_(1).mul_(units)
        return levels_at(elements["codes"], bits, positions).mul_(scales)

    def as_levels(self, quantized: QuantizedTensor) -> LevelWeight | None:
        """Return a quantized weight as levels of codes, exactly; None if no group fits its rows."""
        import torch

        from qsearch_quantizers.normal_float.blocks import halves_swapped
        from qsearch_quantizers.normal_float.levels import normal_float_levels
        from qsearch_quantizers.normal_float.scales import block_scales
        from qsearch_quantizers.packed.bit_packing import unpack

        configuration, (rows, columns) = quantized.configuration, quantized.shape
        bits, size = configuration.integer("bits"), configuration.integer("block_size")
        tensors = quantized.tensors
        scales = block_scales(tensors["scale_codes"], tensors["scales"], configuration)
        packed = halves_swapped(tensors["codes"], bits)
        # A block that continues in the next row is several groups.
        common = math.gcd(size, columns)
        starts = torch.arange(0, rows * columns, common) // size
        return LevelWeight(
            unpack(packed, bits, rows * columns).view(rows, columns),
            scales[starts].view(rows, -1),
            None,
            normal_float_levels(bits),
            bits,
            common,
        )

    def layout(
        self, shape: tuple[int, int], configuration: LayerConfiguration
    ) -> Mapping[str, TensorLayout]:
        """Return how the tensors of a weight of this shape are stored."""
        import torch

        from qsearch_quantizers.normal_float.scales import DTYPES
        from qsearch_quantizers.packed.bit_packing import packed_bytes

        weights = shape[0] * shape[1]
        blocks = -(-weights // configuration.integer("block_size"))
        scale_blocks = -(-blocks // configuration.integer("scale_block_size"))
        code_bytes = packed_bytes(weights, configuration.integer("bits"))
        return {
            "codes": TensorLayout((code_bytes,), torch.uint8, None),
            "scale_codes": TensorLayout(
                (blocks,), torch.uint8, configuration.integer("scale_bits")
            ),
            "scales": TensorLayout(
                (scale_blocks,), DTYPES[configuration.text("scale_dtype")], None
            ),
        }
