"""What every section of the configuration file is: frozen, closed, documented."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of all configuration sections.

    A section cannot be changed once built, refuses unknown keys, and checks
    its defaults as it does given values. Each field's `description` is its
    documentation: `coterie config --show` prints it.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    unknown_key_hint: ClassVar[str] = ""
    """What to say of a key that is unknown here and resembles no known one."""

    @classmethod
    def place_elsewhere(cls, key: str) -> str:
        """Where a key goes that is none of the section's; empty where nobody knows it."""
        return ""
