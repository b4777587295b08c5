"""A target in 8 bits against itself."""

from pathlib import Path

import pytest

from tests.deployments.models.carve.tiny_llama import write_tiny_llama

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]


@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
def test_in_8_bits_it_is_nearly_the_same_and_the_original_is_left_alone(
    model_type: str, tmp_path: Path
) -> None:
    import torch  # noqa: PLC0415 - takes seconds

    from deployments.models.distill.llama import load_llama  # noqa: PLC0415
    from deployments.models.distill.rounded import in_8_bits  # noqa: PLC0415
    from deployments.models.products import has_int8  # noqa: PLC0415

    if not has_int8():
        pytest.skip("torch was built without 8 bits")
    target = load_llama(write_tiny_llama(tmp_path / "target", model_type=model_type))
    text = torch.tensor([[5, 60, 7, 200, 9, 33]])
    with torch.inference_mode():
        before = target(text).logits
        rounded = in_8_bits(target)(text).logits
        assert target(text).logits.equal(before)
    assert 0 < (rounded - before).norm() / before.norm() < 0.1
