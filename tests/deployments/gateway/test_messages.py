"""Between messages of `coterie.v1` and this room's types."""

import pytest

from coterie.v1 import inference_pb2 as pb
from deployments.gateway.rpc.messages import to_sampling
from deployments.types import StructuredOutput
from infra.errors import InvalidArgumentError


def asking_for(form: pb.StructuredOutput) -> pb.SamplingParameters:
    return pb.SamplingParameters(structured_output=form)


def test_a_json_object_that_is_asked_for_is_the_output_s_form() -> None:
    found = to_sampling(asking_for(pb.StructuredOutput(json_object=True)), pb.OutputOptions())
    assert found.structured_output == StructuredOutput(json_object=True)


@pytest.mark.parametrize(
    "form", [pb.StructuredOutput(), pb.StructuredOutput(json_object=False)]
)
def test_a_structured_output_without_a_form_is_refused(form: pb.StructuredOutput) -> None:
    with pytest.raises(InvalidArgumentError, match="set") as refused:
        to_sampling(asking_for(form), pb.OutputOptions())
    assert refused.value.param == "structured_output"
