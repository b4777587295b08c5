"""Products in 8 bits against those in float32."""

import pytest
import torch

from deployments.models.products import full_product, has_int8, int8_product

pytestmark = pytest.mark.skipif(not has_int8(), reason="torch was built without 8 bits")

NUM_ROWS, NUM_INPUTS, NUM_OUTPUTS = 7, 64, 48


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.randn(NUM_OUTPUTS, NUM_INPUTS, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.randn(NUM_ROWS, NUM_INPUTS, generator=torch.Generator().manual_seed(2))


def error_of(found: torch.Tensor, exact: torch.Tensor) -> float:
    """The largest of all rows, as a part of its row's length."""
    return float(((found - exact).norm(dim=-1) / exact.norm(dim=-1)).max())


@pytest.mark.parametrize("has_bias", [False, True])
def test_it_is_nearly_the_product(
    weight: torch.Tensor, inputs: torch.Tensor, has_bias: bool
) -> None:
    bias = torch.linspace(-9, 9, NUM_OUTPUTS) if has_bias else None
    found = int8_product(weight, bias)(inputs)
    assert error_of(found, full_product(weight, bias)(inputs)) < 0.03


def test_a_row_of_large_numbers_does_not_coarsen_the_others(
    weight: torch.Tensor, inputs: torch.Tensor
) -> None:
    inputs[3, 5] = 1e4
    found = int8_product(weight)(inputs)
    assert error_of(found, full_product(weight)(inputs)) < 0.03


def test_zeros_give_the_bias_alone(weight: torch.Tensor) -> None:
    bias = torch.linspace(-9, 9, NUM_OUTPUTS)
    found = int8_product(weight, bias)(torch.zeros(2, 3, NUM_INPUTS))
    torch.testing.assert_close(found, bias.expand(2, 3, NUM_OUTPUTS))
