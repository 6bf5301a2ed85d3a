"""What qsearch counts on of every quantizer."""

from qsearch_ternary.quantizer import Ternary

from qsearch.testing import QuantizerConformance


class TestTernary(QuantizerConformance):
    def make(self) -> Ternary:
        return Ternary(Ternary.Options())
