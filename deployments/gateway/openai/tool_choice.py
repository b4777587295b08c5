"""What a request's tools ask of the model: what it is shown, held to, and read by.

| choice | the template shows the tools | output | read by |
|---|---|---|---|
| none | no | free | nobody |
| auto | yes: it must know tools | free | the parser of the model's section |
| required | if it knows tools | constrained to a JSON list of calls | `LIST_OF_CALLS` |
| a function | if it knows tools | constrained to its arguments | `ArgumentsParser` |
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import msgspec

from deployments.gateway.conversation_checks import check_tools
from deployments.gateway.openai.tool_parser import (
    LIST_OF_CALLS,
    TOOL_FORMS,
    ArgumentsParser,
    FormParser,
    ToolParser,
)
from deployments.gateway.schemas import NO_ARGUMENTS, schema_text
from deployments.gateway.service import InferenceService
from deployments.types import ModelCard, Sampling, StructuredOutput, Tool
from infra.errors import InvalidArgumentError, UnknownMethodError, field

Choice = Literal["none", "auto", "required", "function"]


class ToolWish(NamedTuple):
    """The tools of a request and which of them must be called.

    `function` is set where `choice` is "function".
    """

    tools: tuple[Tool, ...] = ()
    choice: Choice = "auto"
    function: str = ""
    is_parallel: bool = True


class ToolPlan(NamedTuple):
    """See the module; without `new_parser` all output is text."""

    shown: tuple[Tool, ...] = ()
    form: StructuredOutput | None = None
    new_parser: Callable[[], ToolParser] | None = None

    def fitted(self, sampling: Sampling) -> Sampling:
        """The sampling by which the model can do so.

        Raises InvalidArgumentError where the request asks for another form of output.
        """
        if self.new_parser is None:
            return sampling
        if sampling.structured_output is not None:
            raise InvalidArgumentError(
                f"{field('structured_output')} would keep the model from calling tools; leave "
                "it out, or set tool_choice to none",
                param="structured_output",
            )
        # The markers of calls are special tokens of some models.
        skips_special = sampling.skip_special_tokens and self.form is not None
        return msgspec.structs.replace(
            sampling, structured_output=self.form, skip_special_tokens=skips_special
        )


def plan_for_model(wish: ToolWish, service: InferenceService, model: str) -> ToolPlan:
    """What the wish asks of the model of this name.

    Raises what `plan_tools` and `check_tools` raise, UnknownModelError where there are
    tools; without, the service finds out when the request is submitted.
    """
    check_tools(wish.tools)
    return plan_tools(wish, service.model(model) if wish.tools else None)


def plan_tools(wish: ToolWish, card: ModelCard | None) -> ToolPlan:
    """What the wish asks of this model; without tools any model will do.

    Raises InvalidArgumentError for a function that is not among the tools,
    UnknownMethodError where the model cannot choose for itself.
    """
    if not wish.tools or wish.choice == "none":
        if wish.choice in ("required", "function"):
            raise InvalidArgumentError(
                f"tool_choice demands a call, but there are no {field('tools')}", param="tools"
            )
        return ToolPlan()
    assert card is not None, "tools need a model"
    shown = wish.tools if card.has_tool_template else ()
    max_calls = None if wish.is_parallel else 1
    if wish.choice == "auto":
        written = TOOL_FORMS[_parser_name(card)]
        return ToolPlan(shown, None, partial(FormParser, written, max_calls))
    if wish.choice == "required":
        return ToolPlan(
            shown,
            _to_form(list_schema(wish.tools, max_calls)),
            partial(FormParser, LIST_OF_CALLS, max_calls),
        )
    form = _to_form(_parameters_of(wish))
    return ToolPlan(shown, form, partial(ArgumentsParser, wish.function))


def list_schema(tools: Sequence[Tool], max_calls: int | None) -> dict[str, Any]:
    """JSON schema of a list of calls, one at least: vLLM's, so models see the same form.

    Definitions that the tools' schemas refer to move to the top. Raises
    InvalidArgumentError where two tools define the same name differently.
    """
    definitions: dict[str, Any] = {}
    items = [_call_schema(tool, definitions) for tool in tools]
    schema: dict[str, Any] = {
        "type": "array",
        "minItems": 1,
        "items": {"type": "object", "anyOf": items},
    }
    if max_calls is not None:
        schema["maxItems"] = max_calls
    if definitions:
        schema["$defs"] = definitions
    return schema


def _call_schema(tool: Tool, definitions: dict[str, Any]) -> dict[str, Any]:
    parameters = copy.copy(tool.parameters or NO_ARGUMENTS)
    own = parameters.pop("$defs", {})
    if not isinstance(own, dict) or any(
        definitions.setdefault(name, schema) != schema for name, schema in own.items()
    ):
        raise InvalidArgumentError(
            f"the $defs of tool {tool.name} are no object, or another tool defines one of "
            "them differently",
            param="tools",
        )
    return {
        "properties": {
            "name": {"type": "string", "enum": [tool.name]},
            "parameters": parameters,
        },
        "required": ["name", "parameters"],
        "additionalProperties": False,
    }


def _parser_name(card: ModelCard) -> str:
    if not card.has_tool_template:
        raise UnknownMethodError(
            "the model's chat template has no tools, so it cannot choose one; set tool_choice "
            "to required or to a function, or have the operator set chat_template_file",
            param="tools",
        )
    if card.tool_parser is None:
        raise UnknownMethodError(
            "the cluster does not know how this model writes tool calls; set tool_choice to "
            "required or to a function, or have the operator set tool_parser",
            param="tools",
        )
    return card.tool_parser


def _parameters_of(wish: ToolWish) -> dict[str, Any]:
    for tool in wish.tools:
        if tool.name == wish.function:
            return tool.parameters or NO_ARGUMENTS
    raise InvalidArgumentError(
        f"tool_choice names {wish.function[:64]!r}, which is not among the {field('tools')}",
        param="tool_choice",
    )


def _to_form(schema: dict[str, Any]) -> StructuredOutput:
    return StructuredOutput(json_schema=schema_text(schema, "tools"))
