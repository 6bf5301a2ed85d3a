"""An exported adapter fits the packed weights that it belongs to, and on no others."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModel, AutoModelForSequenceClassification

from qsearch.errors import InputError
from tests.coalora.exported import export, loaded_logits

TWICE = "has its adapter in it, and 'default' would add it once more"
FOREIGN = "'default' belongs to another configuration than this packed model"


def load(folder):
    return AutoModelForSequenceClassification.from_pretrained(folder)


@pytest.mark.parametrize(
    ("base", "adapter", "message"),
    [
        ("packed", "adapter", TWICE),
        ("packed", "foreign", FOREIGN),
        ("packed-base", "foreign", FOREIGN),
    ],
)
def test_nothing_runs_with_an_adapter_where_it_does_not_belong(
    packing_study, exports, base, adapter, message
) -> None:
    with pytest.raises(InputError, match=message):
        PeftModel.from_pretrained(load(exports / base), str(exports / adapter))
    # What transformers does when it loads an adapter cannot be refused; running it can.
    model = load(exports / base)
    model.load_adapter(str(exports / adapter))
    with pytest.raises(InputError, match=message):
        loaded_logits(model, packing_study[2])


def test_transformers_loads_an_adapter_where_it_belongs(packing_study, exports) -> None:
    _, _, batch, expected = packing_study
    model = load(exports / "packed-base")
    model.load_adapter(str(exports / "adapter"))
    torch.testing.assert_close(loaded_logits(model, batch), expected, atol=1e-5, rtol=1e-4)


def test_an_adapter_that_is_refused_leaves_those_before_it(packing_study, exports) -> None:
    _, _, batch, expected = packing_study
    model = PeftModel.from_pretrained(load(exports / "packed-base"), str(exports / "adapter"))
    with pytest.raises(InputError, match="'other' belongs to another configuration"):
        model.load_adapter(str(exports / "foreign"), "other")
    model.load_adapter(str(exports / "adapter"), "again")
    torch.testing.assert_close(loaded_logits(model.eval(), batch), expected, atol=1e-5, rtol=1e-4)


def test_an_adapter_that_was_trained_on_a_packed_model_goes_on_it_again(
    packing_study, exports, tmp_path
) -> None:
    batch = packing_study[2]
    config = LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS", init_lora_weights=False)
    tuned = get_peft_model(load(exports / "packed"), config).eval()
    expected = loaded_logits(tuned, batch)
    tuned.save_pretrained(tmp_path / "tuned")
    again = PeftModel.from_pretrained(load(exports / "packed"), str(tmp_path / "tuned")).eval()
    assert torch.equal(loaded_logits(again, batch), expected)


def test_peft_keeps_what_an_adapter_belongs_to(exports, tmp_path) -> None:
    model = PeftModel.from_pretrained(load(exports / "packed-base"), str(exports / "adapter"))
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=TWICE):
        PeftModel.from_pretrained(load(exports / "packed"), str(tmp_path))


def test_a_base_that_was_saved_without_its_head_takes_the_adapter_too(
    packing_study, exports, tmp_path
) -> None:
    _, _, batch, expected = packing_study
    AutoModel.from_pretrained(exports / "packed-base").save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(load(tmp_path), str(exports / "adapter")).eval()
    torch.testing.assert_close(loaded_logits(model, batch), expected, atol=1e-5, rtol=1e-4)


def test_an_adapter_of_weights_that_cannot_be_packed_bears_no_mark(
    make_trainer, make_configuration, tmp_path
) -> None:
    trainer = make_trainer()
    export(trainer, make_configuration(trainer, 0), tmp_path, "adapter")
    assert json.loads((tmp_path / "adapter_config.json").read_text())["auto_mapping"] is None
