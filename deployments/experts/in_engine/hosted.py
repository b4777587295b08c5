"""The tier of an engine rank whose experts live on expert hosts."""

import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from deployments.experts.checkpoint import DTYPES
from deployments.experts.in_engine.client.board import Board, KnownTier
from deployments.experts.in_engine.client.client import TierClient
from deployments.experts.in_engine.client.follower import Follower, run_follower
from deployments.experts.in_engine.client.lines import Lines
from deployments.experts.in_engine.local_experts import LocalExperts
from deployments.experts.in_engine.tier import Ticket, TierConfig
from deployments.experts.kernel_combine import combined
from deployments.experts.tier_folder import TierFolder
from experts.checkpoint.digest import model_digest
from experts.checkpoint.reader import CheckpointReader
from experts.checkpoint.types import Dtype
from experts.directory import DirectoryFile
from experts.tier_view import TierView
from experts.transport.hub import Hub
from experts.transport.link import Identity, LinkSettings
from experts.transport.messages import RowType
from infra.errors import ConfigError
from router.dispatch.settings import DispatchSection

_ROW_TYPES = {
    torch.float32: RowType.FLOAT32,
    torch.bfloat16: RowType.BFLOAT16,
    torch.float16: RowType.FLOAT16,
}
_TICKET = Ticket(0)
_SET_UP_S = 0.5
"""A host that does not answer a dial holds up the model, and others have its copies."""


@dataclass(frozen=True)
class HostedOptions:
    """The options of `TierConfig`."""

    directory: Path
    """See `experts.directory`."""
    secret: str | None
    """What the cluster's processes share; links between nodes need it."""
    dtype: Dtype
    """The engine's."""
    dispatch: DispatchSection

    def as_options(self) -> dict[str, Any]:
        """JSON types alone."""
        return {
            "directory": str(self.directory),
            "secret": self.secret,
            "dtype": self.dtype,
            "dispatch": self.dispatch.model_dump(mode="json"),
        }

    @classmethod
    def of(cls, config: TierConfig) -> "HostedOptions":
        """What the options do not say of the directory, the environment does.

        Raises ConfigError for a dtype that no host computes in.
        """
        options = config.options
        if options["dtype"] not in get_args(Dtype):
            raise ConfigError(
                f"expert hosts compute in {', '.join(get_args(Dtype))}, not {options['dtype']}"
            )
        directory, secret = options.get("directory"), options.get("secret")
        if directory is None:
            folder = TierFolder.of_environment()
            directory, secret = folder.directory, folder.secret
        return cls(
            Path(directory),
            secret,
            options["dtype"],
            DispatchSection.model_validate(options["dispatch"]),
        )


class HostedTier:
    """See `Tier`. Used by the thread that runs the model."""

    def __init__(
        self,
        client: TierClient,
        local: "RowsAsTensors",
        transformer_layers: tuple[int, ...],
        close: Callable[[], None],
    ) -> None:
        self.client = client
        self._local = local
        self._to_moe_layer = {layer: i for i, layer in enumerate(transformer_layers)}
        self._close = close
        self._weights: NDArray[np.float32] | None = None
        self._pairs = np.empty(0, np.int32)

    def begin(
        self, layer: int, rows: torch.Tensor, weights: torch.Tensor, experts: torch.Tensor
    ) -> Ticket:
        """See `Tier`."""
        rows = rows.detach().to("cpu").contiguous()
        self._weights = weights.to("cpu", torch.float32).contiguous().numpy()
        self._local.rows = rows
        ids = experts.to("cpu", torch.int32).contiguous().numpy()
        self.client.begin(self._to_moe_layer[layer], _as_numpy(rows), ids)
        return _TICKET

    def finish(self, ticket: Ticket, out: torch.Tensor) -> None:
        """See `Tier`."""
        assert self._weights is not None, "begin first"
        results, weights = self.client.finish(), self._weights
        start_s = time.monotonic()
        if len(self._pairs) < weights.size:
            self._pairs = np.arange(weights.size, dtype=np.int32)
        pairs = self._pairs[: weights.size].reshape(weights.shape)
        out.copy_(torch.from_numpy(combined(results, weights, pairs)))
        self.client.stats.combine_s += time.monotonic() - start_s
        self._weights = None

    def close(self) -> None:
        """End all links and the thread that follows the hosts."""
        self._close()


class RowsAsTensors:
    """Gives the experts of the engine's process the layer's rows as torch has them."""

    def __init__(self, experts: LocalExperts) -> None:
        self._experts = experts
        self.rows = torch.empty(0)

    def compute(
        self,
        layer: int,
        rows: NDArray[Any],
        pair_to_row: NDArray[np.int32],
        experts: NDArray[np.int32],
    ) -> NDArray[np.float32]:
        """See `client.LocalExperts`."""
        return self._experts.compute(layer, self.rows, pair_to_row, experts)


def open_hosted_tier(config: TierConfig) -> HostedTier:
    """What `TierConfig.opener` names. Raises ConfigError."""
    options = HostedOptions.of(config)
    checkpoint = CheckpointReader.open(Path(config.model_path))
    shape = checkpoint.config.shape
    identity = Identity(
        f"engine-{os.getpid()}-{uuid.uuid4().hex[:8]}", model_digest(checkpoint.config)
    )
    view = TierView(shape.num_layers, shape.num_experts)
    board = Board(KnownTier(view.map, {}, {}))
    settings = LinkSettings(set_up_timeout_s=_SET_UP_S)

    def follower() -> Follower:
        hub = Hub(identity, secret=options.secret)
        directory = DirectoryFile(options.directory)
        return Follower(hub, directory, view, board, time.monotonic)

    lines = Lines(Hub(identity, settings, options.secret), time.monotonic)
    local = RowsAsTensors(LocalExperts(checkpoint, options.dtype))
    row_type = _ROW_TYPES[DTYPES[options.dtype]]
    client = TierClient(board, lines, local, options.dispatch, row_type)
    end_following = run_follower(follower)

    def close() -> None:
        end_following()
        lines.close()

    return HostedTier(client, local, checkpoint.config.transformer_layers, close)


def _as_numpy(rows: torch.Tensor) -> NDArray[Any]:
    """The same memory; numpy has no bfloat16, so that comes as its bits."""
    return rows.view(torch.uint16).numpy() if rows.dtype == torch.bfloat16 else rows.numpy()
