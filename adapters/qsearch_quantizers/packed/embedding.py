"""An embedding that keeps its table packed and dequantizes the rows that it looks up."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from qsearch.plugins.tensor_layout import Decoder, Elements, SupportsLookup
from qsearch.space.configuration import LayerConfiguration
from qsearch_quantizers.packed.bit_packing import elements_at
from qsearch_quantizers.packed.weight import BLOCK_WEIGHTS, PackedModule, PackedWeight


class PackedEmbedding(PackedModule, nn.Embedding):
    """Rows of W̃ (vocabulary × width), each times ``scale``, with W̃ held packed in buffers.

    Of a table whose quantizer looks rows up (:class:`~qsearch.plugins.tensor_layout
    .SupportsLookup`), the codes of these rows alone are unpacked. With another quantizer, all of it
    is dequantized at each look-up, by block where the quantizer can.

    Its ``weight`` is a stand-in of the type that rows have.
    """

    _blocks_on_gpu = True  # Of a large vocabulary, a float table may be most of the model.

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        configuration: LayerConfiguration,
        quantizer: Decoder,
        scale: float = 1.0,
        padding_idx: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        nn.Module.__init__(self)  # That of nn.Embedding makes a float table.
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = padding_idx
        self.scale = scale
        self.hold((num_embeddings, embedding_dim), configuration, quantizer, device)
        # Has no elements: it follows when the model's type is changed.
        like = torch.empty(0, dtype=dtype, device=device)
        self.register_buffer("like", like, persistent=False)

    @property
    def weight(self) -> PackedWeight:  # type: ignore[override]
        """What others ask for the table's device and type; no float table."""
        like = self.get_buffer("like")
        return PackedWeight(self.get_buffer(self.tensor_names[0]), like.dtype)

    def forward(self, input: Tensor) -> Tensor:
        """Return the rows of ids (… × width)."""
        dtype = self.get_buffer("like").dtype
        rows: Tensor = self.look_up(input.reshape(-1), dtype)
        if self.scale != 1.0:
            rows = rows * torch.tensor(self.scale, dtype=dtype, device=rows.device)
        return rows.view(*input.shape, self.embedding_dim)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def look_up(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the rows of ids (ids × width) in a type; each is dequantized once.

        Raises:
            IndexError: If there is no such row.
        """
        distinct, places = torch.unique(ids.long(), return_inverse=True)
        if len(distinct) and not 0 <= int(distinct[0]) <= int(distinct[-1]) < self.num_embeddings:
            raise IndexError(f"embedding of {self.num_embeddings} rows has no row of some id")
        rows = torch.empty(len(distinct), self.embedding_dim, dtype=dtype, device=ids.device)
        if isinstance(self.quantizer, SupportsLookup):
            step = max(1, BLOCK_WEIGHTS // self.embedding_dim)
            for first in range(0, len(distinct), step):
                part = slice(first, first + step)
                rows[part] = self.quantizer.look_up(
                    self._elements(), self.shape, self.configuration, distinct[part]
                )
        else:
            for block, weight in self.rows(dtype):
                first = block.start or 0
                inside = (distinct >= first) & (distinct < first + len(weight))
                rows[inside] = weight[distinct[inside] - first]
        return rows[places]

    def _elements(self) -> Mapping[str, Elements]:
        return {
            name: partial(elements_at, self.get_buffer(name), layout.bits)
            for name, layout in self._layouts.items()
        }

    def extra_repr(self) -> str:
        """Return the table's shape and layer configuration."""
        return f"{self.num_embeddings}, {self.embedding_dim}, {self.configuration!r}"


class TiedHead(nn.Linear):
    """An output head with the weight of a packed embedding: y = x·W̃ᵀ + b, by blocks of rows."""

    def __init__(self, table: PackedEmbedding, bias: nn.Parameter | None) -> None:
        nn.Module.__init__(self)  # That of nn.Linear makes a float weight.
        self.out_features, self.in_features = table.shape
        self._table = (table,)  # Not a module of this one: the table is saved once.
        self.register_parameter("bias", bias)

    @property
    def weight(self) -> PackedWeight:  # type: ignore[override]
        """What others ask for the weight's device and type; no float weight."""
        return self._table[0].weight

    def forward(self, input: Tensor) -> Tensor:
        """Return the outputs (… × vocabulary), in the type of the input."""
        outputs = self._table[0].products(input.reshape(-1, self.in_features))
        if self.bias is not None:
            outputs = outputs + self.bias
        return outputs.view(*input.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Return features; the layer configuration is the embedding's."""
        return f"{self.in_features}, {self.out_features}, tied"
