"""YAML as people read it."""

from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as such, and nothing by reference."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _string(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _string)


def text_of(*documents: Any) -> str:
    """One after the other."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=96)
