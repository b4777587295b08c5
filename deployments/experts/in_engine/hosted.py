"""The tier of an engine rank whose experts live on expert hosts."""

import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from deployments.experts.checkpoint import DTYPES
from deployments.experts.in_engine.client.board import Board, KnownTier
from deployments.experts.in_engine.client.client import TierClient
from deployments.experts.in_engine.client.follower import Follower, run_follower
from deployments.experts.in_engine.client.lines import Lines
from deployments.experts.in_engine.dispatch_span import DispatchSpan
from deployments.experts.in_engine.local_experts import LocalExperts
from deployments.experts.in_engine.tier import Ticket
from deployments.experts.kernel_combine import combined
from deployments.experts.kernel_rounding import Rounding, write_rounded
from deployments.experts.kernel_scratch import bfloat16_rounding
from deployments.experts.rows import as_numpy
from deployments.experts.tier_config import TierConfig
from deployments.experts.tier_folder import TierFolder
from experts.checkpoint.reader import CheckpointReader
from experts.directory import DirectoryFile
from experts.tier_view import TierView
from experts.transport.hub import Hub
from experts.transport.link import Identity, LinkSettings
from experts.transport.messages import RowType

_ROW_TYPES = {
    torch.float32: RowType.FLOAT32,
    torch.bfloat16: RowType.BFLOAT16,
    torch.float16: RowType.FLOAT16,
}
_TICKET = Ticket(0)
_SET_UP_S = 0.5
"""A host that does not answer a dial holds up the model, and others have its copies."""


class HostedTier:
    """See `Tier`. Used by the thread that runs the model."""

    def __init__(
        self,
        client: TierClient,
        transformer_layers: tuple[int, ...],
        rounding: Rounding,
        close: Callable[[], None],
    ) -> None:
        self.client = client
        self._to_moe_layer = {layer: i for i, layer in enumerate(transformer_layers)}
        self._rounding = rounding
        self._close = close
        self._weights: NDArray[np.float32] | None = None
        self._pairs = np.empty(0, np.int32)
        self._span: DispatchSpan | None = None

    def begin(
        self, layer: int, rows: torch.Tensor, weights: torch.Tensor, experts: torch.Tensor
    ) -> Ticket:
        """See `Tier`."""
        self._span = DispatchSpan.begin(layer, len(rows), self.client.stats)
        self._weights = as_numpy(_here(weights, torch.float32))
        ids = as_numpy(_here(experts, torch.int32))
        self.client.begin(self._to_moe_layer[layer], as_numpy(_here(rows, rows.dtype)), ids)
        return _TICKET

    def finish(self, ticket: Ticket, out: torch.Tensor) -> None:
        """See `Tier`."""
        assert self._weights is not None, "begin first"
        results, weights = self.client.finish(), self._weights
        start_s = time.monotonic()
        if len(self._pairs) < weights.size:
            self._pairs = np.arange(weights.size, dtype=np.int32)
        pairs = self._pairs[: weights.size].reshape(weights.shape)
        write_rounded(combined(results, weights, pairs), out, self._rounding)
        self.client.stats.combine_s += time.monotonic() - start_s
        self._weights = None
        if self._span is not None:
            self._span.end(self.client.stats)

    def close(self) -> None:
        """End all links and the thread that follows the hosts."""
        self._close()


def _here(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """In this process's memory, without gaps, of this type; mostly it is so already."""
    if tensor.is_cpu and tensor.dtype == dtype and tensor.is_contiguous():
        return tensor.detach() if tensor.requires_grad else tensor
    return tensor.detach().to("cpu", dtype).contiguous()


_tiers: dict[str, HostedTier] = {}


def open_tier(config: TierConfig) -> HostedTier:
    """The tier of this process for the configuration's model, made at the first call.

    The environment names its `TierFolder`. Raises ConfigError.
    """
    if config.model_path not in _tiers:
        _tiers[config.model_path] = _opened(config, TierFolder.of_environment())
    return _tiers[config.model_path]


def _opened(config: TierConfig, folder: TierFolder) -> HostedTier:
    checkpoint = CheckpointReader.open(Path(config.model_path))
    shape = checkpoint.config.shape
    identity = Identity(f"engine-{os.getpid()}-{uuid.uuid4().hex[:8]}", checkpoint.digest)
    view = TierView(shape.num_layers, shape.num_experts)
    board = Board(KnownTier(view.map, {}, {}))
    secret = folder.secret

    def follower() -> Follower:
        hub = Hub(identity, secret=secret)
        return Follower(hub, DirectoryFile(folder.directory), view, board, time.monotonic)

    settings = LinkSettings(set_up_timeout_s=_SET_UP_S)
    lines = Lines(Hub(identity, settings, secret), time.monotonic)
    local = LocalExperts(checkpoint, config.dtype)
    row_type = _ROW_TYPES[DTYPES[config.dtype]]
    client = TierClient(board, lines, local, config.dispatch, row_type)
    end_following = run_follower(follower)

    def close() -> None:
        end_following()
        lines.close()

    layers = checkpoint.config.transformer_layers
    # Engines of another kind than vLLM's CPU build round to the nearest.
    return HostedTier(client, layers, bfloat16_rounding() or "nearest", close)
