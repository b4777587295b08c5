"""vLLM's entry point of the expert tier; runs in every process of every engine.

It changes nothing in an engine whose `additional_config` names no tier, and imports nothing
where the process that starts the engine has not asked for it.
"""

import os

ASKED_VARIABLE = "COTERIE_EXPERT_TIER"
"""Set in the environment of an engine's processes where its experts are elsewhere."""


def register_where_asked() -> None:
    """What vLLM calls: `register`, if `ASKED_VARIABLE` is set."""
    if os.environ.get(ASKED_VARIABLE):
        register()


def register() -> None:
    """Put our layer and our loader in place. May be called more than once."""
    # vLLM takes seconds to import, and asks its plug-ins early.
    from vllm.model_executor.custom_op import op_registry_oot  # noqa: PLC0415
    from vllm.model_executor.layers.fused_moe.routed_experts import (  # noqa: PLC0415
        RoutedExperts,
    )
    from vllm.model_executor.model_loader import register_model_loader  # noqa: PLC0415

    from deployments.experts.in_engine.layer import TierRoutedExperts  # noqa: PLC0415
    from deployments.experts.in_engine.loader import NoExpertsLoader  # noqa: PLC0415
    from deployments.experts.tier_config import LOAD_FORMAT  # noqa: PLC0415

    if RoutedExperts.__name__ not in op_registry_oot:
        RoutedExperts.register_oot(TierRoutedExperts)
        register_model_loader(LOAD_FORMAT)(NoExpertsLoader)
