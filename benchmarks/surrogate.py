"""How well surrogates predict losses that they have not seen, from 20 training losses up.

Three sets of losses: of random configurations of MiniLM-L6 on SST-2 (36 layers); of what all
recorded searches evaluated of SmolLM2 on WikiText-2 (210 layers); and the stand-in's of random
configurations, for up to 2,000 training losses. Each surrogate gets the same training losses;
figures are means over repeated splits.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.models.map_saas import AdditiveMapSaasSingleTaskGP
from gpytorch.mlls import ExactMarginalLogLikelihood
from scipy import stats
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import BayesianRidge

from benchmarks.objectives import BITS, DATA, Objective, known_objective
from benchmarks.recording import Benchmark
from benchmarks.search_runs import distinct, indices_of, recorded_runs
from benchmarks.stand_in import stand_in
from qsearch._arrays import Floats, Integers
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.space.sampling import sample_configurations
from qsearch.surrogate.features import score_features
from qsearch.surrogate.surrogate import fit_surrogate

HELD_OUT = 200
SAAS = "SAAS on ordinal knobs"
SAAS_REPEATS = 3
"""Splits of SAAS from 120 losses up, where a fit takes 40 s and more."""

Prediction = tuple[Floats, Floats]
"""Means and standard deviations of observed losses (n), (n)."""

Surrogate = Callable[[Integers, Floats, Integers], Prediction]


def qsearch_surrogate(objective: Objective) -> Surrogate:
    """Return qsearch's own."""
    features = score_features(objective.space, objective.scores, objective.correlation)

    def predict(index: Integers, loss: Floats, unseen: Integers) -> Prediction:
        fitted = fit_surrogate(features, index, loss, objective.examples)
        mean, std = fitted.predict_observed(unseen)
        return mean.numpy(), std.numpy()

    return predict


def proxy_alone(space: ConfigurationSpace, scores: Floats) -> Surrogate:
    """Return least squares on the proxy, one feature."""
    groups = np.arange(len(scores))

    def predict(index: Integers, loss: Floats, unseen: Integers) -> Prediction:
        fit = stats.linregress(scores[groups, index].sum(axis=1), loss)
        residual = loss - fit.intercept - fit.slope * scores[groups, index].sum(axis=1)
        std = np.sqrt((residual**2).sum() / (len(loss) - 2))
        mean = fit.intercept + fit.slope * scores[groups, unseen].sum(axis=1)
        return mean, np.full(len(unseen), std)

    return predict


def ordinal_gp(space: ConfigurationSpace, saas: bool) -> Surrogate:
    """Return BoTorch's default process on the ordinal knobs, or its additive SAAS (MAP)."""
    model_class = AdditiveMapSaasSingleTaskGP if saas else SingleTaskGP

    def inputs(index: Integers) -> torch.Tensor:
        code = space.to_code(index) / np.maximum(space.sizes - 1, 1)
        return torch.from_numpy(code.reshape(len(index), -1))

    def predict(index: Integers, loss: Floats, unseen: Integers) -> Prediction:
        model = model_class(inputs(index), torch.from_numpy(loss)[:, None])
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        with torch.no_grad():
            posterior = model.posterior(inputs(unseen), observation_noise=True)
        return posterior.mean[:, 0].detach().numpy(), posterior.variance[
            :, 0
        ].detach().sqrt().numpy()

    return predict


def ridge(space: ConfigurationSpace, scores: Floats) -> Surrogate:
    """Return Bayesian ridge on the groups' scores, which sum to the proxy."""
    groups = np.arange(len(scores))
    scale = np.sqrt(scores.var(axis=1).sum())

    def predict(index: Integers, loss: Floats, unseen: Integers) -> Prediction:
        model = BayesianRidge().fit(
            np.column_stack([scores[groups, index], scores[groups, index].sum(1)]) / scale, loss
        )
        mean, std = model.predict(
            np.column_stack([scores[groups, unseen], scores[groups, unseen].sum(1)]) / scale,
            return_std=True,
        )
        return mean, std

    return predict


def forest(space: ConfigurationSpace, scores: Floats) -> Surrogate:
    """Return a random forest on the groups' scores and the proxy."""
    groups = np.arange(len(scores))

    def features(index: Integers) -> Floats:
        return np.column_stack([scores[groups, index], scores[groups, index].sum(axis=1)])

    def predict(index: Integers, loss: Floats, unseen: Integers) -> Prediction:
        model = RandomForestRegressor(300, max_features=1 / 3, oob_score=True, random_state=0)
        model.fit(features(index), loss)
        trees = np.array([tree.predict(features(unseen)) for tree in model.estimators_])
        noise = np.mean((model.oob_prediction_ - loss) ** 2) - trees.var(axis=0).mean()
        return trees.mean(axis=0), np.sqrt(trees.var(axis=0) + max(noise, 0.0))

    return predict


@dataclass(frozen=True, eq=False)
class LossSet:
    """Losses that surrogates are compared on.

    Args:
        objective: The objective that they are of.
        index: Choice indices (n × groups).
        loss: Losses (n).
        sizes: Training sizes.
        repeats: Splits at each.
        on_knobs: Whether the surrogates on ordinal knobs are compared too.
    """

    objective: Objective
    index: Integers
    loss: Floats
    sizes: tuple[int, ...]
    repeats: int
    on_knobs: bool

    def surrogates(self) -> dict[str, Surrogate]:
        """Return what is compared, by name."""
        space, scores = self.objective.space, self.objective.scores
        on_scores = {
            "qsearch": qsearch_surrogate(self.objective),
            "proxy alone": proxy_alone(space, scores),
            "ridge on scores": ridge(space, scores),
            "random forest on scores": forest(space, scores),
        }
        if not self.on_knobs:
            return on_scores
        knobs = ordinal_gp(space, saas=False)
        return {**on_scores, "GP on ordinal knobs": knobs, SAAS: ordinal_gp(space, saas=True)}


def random_minilm() -> LossSet:
    """Real losses of random configurations of MiniLM."""
    recorded = pd.read_parquet(DATA / "minilm-sst2" / "random.parquet")
    index, loss = indices_of(recorded), recorded["loss"].to_numpy()
    sizes = (20, 30, 60, 120, 240)
    return LossSet(known_objective("minilm-sst2"), index, loss, sizes, repeats=10, on_knobs=True)


def searched_smollm2() -> LossSet:
    """Real losses of what all recorded searches evaluated of SmolLM2, each configuration once."""
    name = "smollm2-wikitext2"
    rows = distinct(pd.concat(recorded_runs(name).values()))
    index, loss = indices_of(rows), rows["loss"].to_numpy()
    sizes = (20, 60, 240)
    return LossSet(known_objective(name), index, loss, sizes, repeats=10, on_knobs=False)


def random_stand_in() -> LossSet:
    """Losses of random configurations by the stand-in, which gives as many as are asked for."""
    objective, sizes = stand_in(), (500, 1000, 2000)
    index = sample_configurations(
        objective.space, max(sizes) + HELD_OUT, BITS, np.random.default_rng(7)
    )
    loss = np.array([objective.evaluate(row) for row in index])
    return LossSet(objective, index, loss, sizes, repeats=3, on_knobs=False)


def measure(predict: Surrogate, losses: LossSet, size: int, repeats: int) -> pd.DataFrame:
    """Return figures of one surrogate at one training size, one row a split."""
    index, loss = losses.index, losses.loss
    rows = []
    for repeat in range(repeats):
        order = np.random.default_rng(repeat).permutation(len(index))
        held_out, training = order[:HELD_OUT], order[HELD_OUT : HELD_OUT + size]
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mean, std = predict(index[training], loss[training], index[held_out])
        truth = loss[held_out]
        standardised = np.abs(truth - mean) / std
        rows.append(
            {
                "r2": 1 - ((truth - mean) ** 2).mean() / truth.var(),
                "spearman": stats.spearmanr(truth, mean).statistic,
                "coverage_50": (standardised < stats.norm.ppf(0.75)).mean(),
                "coverage_90": (standardised < stats.norm.ppf(0.95)).mean(),
                "seconds": time.perf_counter() - started,
            }
        )
    return pd.DataFrame(rows)


def report(benchmark: Benchmark, losses: LossSet) -> None:
    """Compare surrogates on a set of losses."""
    surrogates, name = losses.surrogates(), losses.objective.name
    for size in losses.sizes:
        tables = {}
        for method, surrogate in surrogates.items():
            slow = method == SAAS and size >= 120
            repeats = min(SAAS_REPEATS, losses.repeats) if slow else losses.repeats
            tables[method] = table = measure(surrogate, losses, size, repeats)
            figures = {str(key): round(float(value), 3) for key, value in table.mean().items()}
            benchmark.row(
                objective=name, training_size=size, surrogate=method, splits=repeats, **figures
            )
        own = tables.pop("qsearch")
        best = max(tables, key=lambda method: float(tables[method]["r2"].mean()))
        difference = (own["r2"] - tables[best]["r2"]).dropna()
        half = stats.t.ppf(0.975, len(difference) - 1) * difference.std(ddof=1)
        benchmark.claim(
            f"{name}: held-out R² less that of the best peer ({best}) at {size} losses, upper end"
            " of the 95 % interval over splits (0 or more: best or tied)",
            float(difference.mean() + half / np.sqrt(len(difference))),
            0.0,
            "higher",
        )
        for share in (50, 90):
            off = abs(float(own[f"coverage_{share}"].mean()) - share / 100)
            benchmark.claim(
                f"{name}: {share} % intervals at {size} losses: distance of their coverage from"
                f" {share} %",
                off,
                0.1,
                "lower",
            )


def main() -> None:
    """Compare surrogates on all sets of losses and write the result file."""
    benchmark = Benchmark("surrogate")
    for losses in (random_minilm(), searched_smollm2(), random_stand_in()):
        report(benchmark, losses)
    benchmark.write()


if __name__ == "__main__":
    main()
