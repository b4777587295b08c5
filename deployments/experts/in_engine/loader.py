"""Loads a checkpoint but for its routed experts, which are not even read."""

import dataclasses

from vllm.config import ModelConfig
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader


class NoExpertsLoader(DefaultModelLoader):  # type: ignore[misc]  # vLLM is read as Any
    """vLLM's loader for an expert-parallel rank that has none of the experts."""

    def __init__(self, load_config: LoadConfig) -> None:
        super().__init__(dataclasses.replace(load_config, load_format="safetensors"))

    def _init_ep_weight_filter(self, model_config: ModelConfig) -> None:
        self.local_expert_ids: set[int] | None = set()
