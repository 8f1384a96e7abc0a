"""Entries of public checkpoints of residual networks, translated to torchvision's names, which are ours.

Read in the public code, each as it saves state dicts:

- CoViAR (``chaoyuaw/pytorch-coviar``), TSM (``mit-han-lab/temporal-shift-module``): ``base_model.``, ``data_bn.``, ...
- mmaction2 (``open-mmlab/mmaction2``): ``backbone.``, ``cls_head.fc_cls.``, with convolution and norm in one module.
- ResKD (``CVMI-Lab/ResKD``), on it: the student in ``backbone.low_res_path.``; its teacher is left out.

CoViAR's residual network saw blue, green, red, as its loader decodes them: it is turned to our red, green, blue. (The
standard deviations of red and blue, by which inputs are divided, differ by 2% and stay as they are.)
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from torch import Tensor

# Applied one after the other: a pattern, and what takes its place.
RULES = (
    (r"^base_model\.", ""),
    (r"^data_bn\.", "input_bn."),
    (r"^new_fc\.", "fc."),
    (r"^backbone\.(low_res_path\.)?", ""),
    (r"^cls_head\.fc_cls\.", "fc."),
    (r"\bconv(\d)\.conv\.", r"conv\1."),
    (r"\bconv(\d)\.bn\.", r"bn\1."),
    (r"\bconv(\d)\.net\.", r"conv\1."),  # what is shifted in time
    (r"\bdownsample\.conv\.", "downsample.0."),
    (r"\bdownsample\.bn\.", "downsample.1."),
)
TEACHER = re.compile(r"(backbone\.high_res_path|cls_head\.fc_cls_t)\.")


@dataclass
class Translation:
    """Entries of a checkpoint under the names of a network.

    Args:
        weights: all entries but those left out; those that no rule leads into the network keep their names.
        translated: the new names.
        turned: those of ``weights`` whose channels were turned from blue, green, red.
        left_out: what belongs to another network.
    """

    weights: dict[str, Tensor] = field(default_factory=dict)
    translated: list[str] = field(default_factory=list)
    turned: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def translate(weights: Mapping[str, Tensor], names: Collection[str]) -> Translation:
    """Bring the entries of a public checkpoint under the names that a network knows.

    Args:
        weights: entries by name; what the network knows by that name is left as it is.
        names: those of the network.
    """
    result = Translation()
    colors = _blue_green_red(weights)
    for name, value in weights.items():
        if name not in names and TEACHER.match(name):
            result.left_out.append(name)
            continue
        known = name if name in names else _translated(name)
        if known not in names or (known != name and (known in weights or known in result.weights)):
            known = name  # none of the network's, or one that has an entry
        if known != name:
            result.translated.append(known)
        if name in colors:
            result.turned.append(known)
        result.weights[known] = value.flip(colors[name]) if name in colors else value
    return result


def _translated(name: str) -> str:
    for pattern, replacement in RULES:
        name = re.sub(pattern, replacement, name)
    return name


def _blue_green_red(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """What CoViAR's network of residuals has by colours, and along which dimension; of other networks nothing.

    It is the only one with a norm on three channels of input.
    """
    norm = [name for name, value in weights.items() if name.startswith("data_bn.") and value.shape == (3,)]
    return {**dict.fromkeys(norm, 0), "base_model.conv1.weight": 1} if norm else {}
