"""A draft host: runs a small model for the sequences of all engines that ask it."""

import json
import logging
import os
import threading
import time
import uuid
from pathlib import Path
from typing import Self

from deployments.drafts.host.desk import DeskSettings, DraftDesk
from deployments.drafts.host.loop import DraftLoop
from deployments.drafts.host.settings import DraftHostSettings
from deployments.drafts.model.draft_model import DraftModel
from deployments.drafts.tier_folder import draft_identity
from deployments.drafts.vocabulary import SameVocabulary, Vocabulary, vocabulary_between
from deployments.experts.host.threads import compute_with
from experts.transport.hub import Hub
from experts.transport.link import Identity, Link
from experts.types import HostId
from infra.errors import ConfigError

log = logging.getLogger(__name__)


class DraftHost:
    """One host, from `open` to `close`. `run` serves; the others are for any thread."""

    def __init__(
        self,
        host: HostId,
        hub: Hub,
        desk: DraftDesk[Link],
        settings: DraftHostSettings,
    ) -> None:
        """The hub becomes the host's."""
        self.host = host
        self.addresses = _listened(host, hub, settings)
        """As they are dialled; the best first."""
        self.loop = DraftLoop(hub, desk)
        self.failure: BaseException | None = None
        """What has ended `run`, if it was not `close`."""
        self._hub = hub
        self._settings = settings
        self._guard = threading.RLock()
        self._is_running = self._is_closing = False

    @classmethod
    def open(cls, engine_model: Path, draft_model: Path, settings: DraftHostSettings) -> Self:
        """A host that drafts for engines of the one model by the other.

        Raises ConfigError where the draft model cannot be run, or an address cannot be had.
        """
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
    def turn_s(self) -> float:
        """How long its loop has been in the turn that it is in."""
        return time.monotonic() - self.loop.turned_s

    def close(self) -> None:
        """Have `run` return, after the turn that it is in; peers are told."""
        with self._guard:
            self._is_closing = True
            if self._is_running:
                self._hub.wake()
                return
        self._hub.close()

    def run(self) -> None:
        """Serve until `close`; the calling thread is the one that computes. Once."""
        with self._guard:
            assert not self._is_running, "run is called once"
            if self._is_closing:
                return
            self._is_running = True
        try:
            if self._settings.cores is not None:
                os.sched_setaffinity(0, self._settings.cores)
            compute_with(self._settings.num_threads, self._settings.cores)
            while not self._is_closing:
                self.loop.turn()
        except Exception as error:  # the thread's boundary; a health check reads it
            log.exception("the draft host %s has failed", self.host)
            self.failure = error
        finally:
            self._hub.close()


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


def _listened(host: HostId, hub: Hub, settings: DraftHostSettings) -> tuple[str, ...]:
    near = hub.listen(f"unix://{settings.unix_folder}/{host}")
    if settings.tcp_host is None:
        return (near,)
    name = f"[{settings.tcp_host}]" if ":" in settings.tcp_host else settings.tcp_host
    return near, hub.listen(f"tcp://{name}:0")
