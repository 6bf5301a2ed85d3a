"""Configurations as parameters of Ax."""

from __future__ import annotations

import numpy as np
import pytest

from qsearch.errors import InputError
from qsearch.experiment.parameters import (
    ax_parameters,
    from_parameters,
    parameter_values,
    to_parameters,
)
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.space.sampling import sample_configurations
from tests.engine.fake_study import INTEGER, make_space, uniform

SPACES = [make_space(2), make_space(2, fused=True), make_space(1, INTEGER)]


@pytest.mark.parametrize("space", SPACES)
def test_parameters_are_ordered_choices_of_the_knobs_and_come_back(
    space: ConfigurationSpace,
) -> None:
    values = parameter_values(space)
    assert [(p.name, tuple(p.values), p.is_ordered) for p in ax_parameters(space)] == [
        (name, of_knob, True) for name, of_knob in values.items()
    ]
    for index in sample_configurations(space, 9, (2.5, 6.0), np.random.default_rng(0)):
        parameters = to_parameters(space, index)
        assert parameters.keys() == values.keys()
        assert all(parameters[name] in of_knob for name, of_knob in values.items())
        assert (from_parameters(space, parameters) == index).all()


def test_a_knob_of_one_value_is_not_a_parameter() -> None:
    types = {parameter.parameter_type for parameter in ax_parameters(SPACES[0])}
    assert types == {"int", "str"}
    assert not any("symmetric" in name for name in parameter_values(SPACES[2]))


def test_parameters_of_another_space_are_refused() -> None:
    space = SPACES[2]
    parameters = to_parameters(space, uniform(space, 3.0))
    name = next(iter(parameters))
    with pytest.raises(InputError, match="allowed"):
        from_parameters(space, {**parameters, name: 7})
    del parameters[name]
    with pytest.raises(InputError, match="is missing"):
        from_parameters(space, parameters)
