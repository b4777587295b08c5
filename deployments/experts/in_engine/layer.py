"""vLLM's layer of routed experts, whose experts are elsewhere.

It stands in for every mixture-of-experts layer of an engine whose configuration names an
expert tier, and is vLLM's own in all other engines.
"""

from typing import Any

import torch
from vllm.config import get_current_vllm_config
from vllm.model_executor.layers.fused_moe.config import (
    FUSED_MOE_UNQUANTIZED_CONFIG,
    FusedMoEConfig,
    FusedMoEQuantConfig,
)
from vllm.model_executor.layers.fused_moe.fused_moe_method_base import FusedMoEMethodBase
from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts
from vllm.model_executor.layers.fused_moe.runner.shared_experts import (
    SharedExperts,
    SharedExpertsOrder,
)
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig
from vllm.model_executor.models.utils import extract_layer_index
from vllm.model_executor.utils import set_weight_attrs

from deployments.experts.in_engine import ops
from deployments.experts.tier_config import TierConfig
from infra.errors import ConfigError

_WEIGHTS = ("w13_weight", "w2_weight")


class TierMethod(FusedMoEMethodBase):  # type: ignore[misc]  # vLLM is read as Any
    """Has the experts of one layer computed by the tier."""

    def __init__(self, moe: FusedMoEConfig, config: TierConfig, layer: int) -> None:
        # numba comes with it. When vLLM sets a worker up it looks through all modules, and
        # cannot take what it finds in numba's; a model is built after that.
        from deployments.experts.in_engine.hosted import open_tier  # noqa: PLC0415

        super().__init__(moe)
        ranks = moe.moe_parallel_config
        rank = ops.Rank(ranks.tp_rank, ranks.tp_size)
        self._tier = ops.register(open_tier(config), rank)
        self._layer = layer
        self._overlaps_shared = config.dispatch.overlap_shared

    @property
    def mk_can_overlap_shared_experts(self) -> bool:
        """Whether `apply` computes the shared experts while it waits; else vLLM has done so
        before."""
        return self._overlaps_shared

    def create_weights(self, layer: RoutedExperts, **_: Any) -> None:
        """None, but for what the checkpoint's loader looks for."""
        for name in _WEIGHTS:
            placeholder = torch.nn.Parameter(torch.empty(0), requires_grad=False)
            layer.register_parameter(name, placeholder)
            set_weight_attrs(placeholder, {"weight_loader": _discard})

    def get_fused_moe_quant_config(self, layer: RoutedExperts) -> FusedMoEQuantConfig:
        """Of nothing."""
        return FUSED_MOE_UNQUANTIZED_CONFIG

    def apply(
        self,
        layer: RoutedExperts,
        x: torch.Tensor,
        topk_weights: torch.Tensor,
        topk_ids: torch.Tensor,
        shared_experts: SharedExperts | None,
        shared_experts_input: torch.Tensor | None,
    ) -> torch.Tensor:
        """Each token's weighted sum of its experts. Shape: [num_tokens, hidden_size]."""
        ticket = ops.begin(x, topk_weights, topk_ids, self._tier, self._layer)
        shared = None
        if shared_experts is not None:
            shared_experts(shared_experts_input, SharedExpertsOrder.MK_INTERNAL_OVERLAPPED)
            shared = shared_experts._output[shared_experts._output_idx]
        return ops.finish(ticket, x, shared, self._tier)


class TierRoutedExperts(RoutedExperts):  # type: ignore[misc]
    """vLLM's layer with `TierMethod` where the engine has an expert tier."""

    def _get_quant_method(
        self, prefix: str, quant_config: QuantizationConfig | None, moe_config: FusedMoEConfig
    ) -> FusedMoEMethodBase:
        config = TierConfig.of(get_current_vllm_config().additional_config)
        if config is None:
            return super()._get_quant_method(prefix, quant_config, moe_config)
        _refuse(self, quant_config, moe_config)
        return TierMethod(moe_config, config, extract_layer_index(prefix))


def _refuse(
    layer: RoutedExperts, quant_config: QuantizationConfig | None, moe: FusedMoEConfig
) -> None:
    """Raises ConfigError for what a tier would compute otherwise than the engine."""
    reasons = {
        "its checkpoint is quantised": quant_config is not None,
        "its experts have biases": moe.has_bias,
        "its experts have no gate": not moe.is_act_and_mul,
        f"its activation is {moe.activation.value}": moe.activation.value != "silu",
        "it weighs the experts' input": layer.apply_router_weight_on_input,
        "it bounds its activations": layer.swiglu_limit is not None,
        "expert parallelism is on in the engine": moe.moe_parallel_config.use_ep,
        "its ranks have different tokens": moe.is_sequence_parallel,
        "the engine has several data-parallel ranks": moe.moe_parallel_config.dp_size > 1,
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise ConfigError(
            f"the experts of this model cannot be placed on expert hosts: {found[0]}; "
            "set experts.placement: engine"
        )


def _discard(*_: Any, return_success: bool = False, **__: Any) -> bool | None:
    return True if return_success else None
