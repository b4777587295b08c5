"""Where the prefix index of a cluster is kept, as both of its ends are told.

Engine replicas write what their caches hold, gateways follow. Both derive the namespace
from the same three: the application, the model, and the groups of its cache.
"""

from collections.abc import Sequence
from typing import Any, Self

from cache.settings import CacheSection
from cache.store.index_store import IndexStore
from cache.store.keys import Namespace
from cache.store.scrub import Scrubber
from cache.store.server_link import ServerLink
from cache.types import BlockGroup


class PrefixStore:
    """One server of the index, for all models of an application."""

    def __init__(self, section: CacheSection, url: str, app_name: str) -> None:
        self.section = section
        self._app_name = app_name
        self._link = ServerLink(section, url)

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any] | None) -> Self | None:
        """From what `deployments.app` binds; None where no index is kept."""
        if arguments is None:
            return None
        section = CacheSection.model_validate(arguments["cache"])
        return cls(section, arguments["url"], arguments["app_name"])

    def of_model(self, model: str, groups: Sequence[BlockGroup]) -> IndexStore:
        """The index of a model, by its reference, cached in blocks of these groups."""
        return IndexStore(self._link, Namespace.of(self._app_name, model, groups), self.section)

    def scrubber_of(self, index: IndexStore) -> Scrubber:
        """What makes the bits of ended epochs free again; any number may run."""
        return Scrubber(self._link, index)

    async def close(self) -> None:
        """Give the connections back."""
        await self._link.close()
