"""The network of an experiment's configuration, as it is built without its weights."""

from collections.abc import Mapping
from typing import Any

from lightning_modules.checkpoints import without_weights


def network_section(config: Any, *, of: object) -> dict[str, Any]:
    """``class_path`` and ``init_args`` of ``model.init_args.network``, without the weights it starts from.

    Args:
        config: of an experiment, as YAML has it.
        of: the file, for messages.

    Raises:
        ValueError: there is no such network.
    """
    section = lookup(config, "model", "init_args", "network")
    if not isinstance(section, Mapping):
        raise ValueError(f"{of}: expected a network in `model.init_args.network`, came {section!r}")
    return without_weights(section)


def lookup(values: Any, *keys: str) -> Any:
    """What stands under nested keys, or None."""
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values
