"""A draft host: runs a small model for the sequences of all engines that ask it."""

import json
import uuid
from pathlib import Path
from typing import Self

from deployments.drafts.host.desk import DeskSettings, DraftDesk
from deployments.drafts.host.loop import DraftLoop
from deployments.drafts.host.settings import DraftHostSettings
from deployments.drafts.model.draft_model import DraftModel
from deployments.drafts.tier_folder import draft_identity
from deployments.drafts.vocabulary import SameVocabulary, Vocabulary, vocabulary_between
from deployments.link_hosts.host import LinkHost
from experts.transport.hub import Hub
from experts.transport.link import Identity, Link
from experts.types import HostId
from infra.errors import ConfigError


class DraftHost(LinkHost):
    """One host, from `open` to `close`."""

    def __init__(
        self,
        host: HostId,
        hub: Hub,
        desk: DraftDesk[Link],
        settings: DraftHostSettings,
    ) -> None:
        """The hub becomes the host's."""
        super().__init__(host, hub, settings)
        self._loop = DraftLoop(hub, desk)

    @classmethod
    def open(cls, engine_model: Path, draft_model: Path, settings: DraftHostSettings) -> Self:
        """A host that drafts for engines of the one model by the other.

        Raises ConfigError where the draft model cannot be run, or an address cannot be had.
        """
        settings.check()
        section = settings.section
        model = DraftModel(
            draft_model, section.kv_cache_memory_bytes, section.device, section.precision
        )
        desk: DraftDesk[Link] = DraftDesk(
            model,
            _vocabulary(engine_model, draft_model),
            DeskSettings(section.context_tokens, section.ahead_tokens),
        )
        host = HostId(f"drafts-{uuid.uuid4().hex[:16]}")
        identity = Identity(host, draft_identity(str(engine_model)))
        hub = Hub(identity, settings.link, settings.secret)
        try:
            return cls(host, hub, desk, settings)
        except BaseException:
            hub.close()
            raise

    @property
    def loop(self) -> DraftLoop:
        """What is done, turn by turn."""
        return self._loop


def _vocabulary(engine_model: Path, draft_model: Path) -> Vocabulary:
    folders = engine_model, draft_model
    num_tokens = min(_vocab_size(folder) for folder in folders)
    same = [folder / "tokenizer.json" for folder in folders]
    if all(path.is_file() for path in same) and same[0].read_bytes() == same[1].read_bytes():
        return SameVocabulary(num_tokens)
    from transformers import AutoTokenizer  # noqa: PLC0415 - takes seconds

    theirs, own = (AutoTokenizer.from_pretrained(folder) for folder in folders)
    return vocabulary_between(theirs, own, num_tokens)


def _vocab_size(folder: Path) -> int:
    """Of a model of any kind: some have it in a part of their configuration."""
    fields = json.loads((folder / "config.json").read_bytes())
    part = fields if "vocab_size" in fields else fields.get("text_config", {})
    if "vocab_size" not in part:
        raise ConfigError(f"{folder}/config.json does not say vocab_size")
    return int(part["vocab_size"])
