"""Entries of public checkpoints, translated to torchvision's names, which are ours.

Read in the public code, each as it saves state dicts:

- CoViAR (``chaoyuaw/pytorch-coviar``), TSM (``mit-han-lab/temporal-shift-module``): ``base_model.``, ``data_bn.``, ...
- mmaction2 (``open-mmlab/mmaction2``): ``backbone.``, ``cls_head.fc_cls.``, with convolution and norm in one module.
- ResKD (``CVMI-Lab/ResKD``), on it: the student in ``backbone.low_res_path.``; its teacher is left out.
- Swin (``microsoft/Swin-Transformer``, ``SwinTransformer/Video-Swin-Transformer``), by itself or in the last two.

CoViAR's residual network saw blue, green, red, as its loader decodes them: it is turned to our red, green, blue. (The
standard deviations of red and blue, by which inputs are divided, differ by 2% and stay as they are.)
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

# A pattern, and what takes its place.
Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]

WRAPPERS: Rules = ((r"^base_model\.", ""), (r"^backbone\.(low_res_path\.)?", ""))
RESIDUAL: Rules = (
    (r"^data_bn\.", "input_bn."),
    (r"^(new_fc|cls_head\.fc_cls)\.", "fc."),
    (r"\bconv(\d)\.(conv\.)?net\.", r"conv\1."),  # what is shifted in time
    (r"\bconv(\d)\.conv\.", r"conv\1."),
    (r"\bconv(\d)\.bn\.", r"bn\1."),
    (r"\bdownsample\.conv\.", "downsample.0."),
    (r"\bdownsample\.bn\.", "downsample.1."),
)
SWIN: Rules = (
    (r"^cls_head\.fc_cls\.", "head."),
    (r"^layers\.(\d)\.blocks\.", lambda stage: f"features.{2 * int(stage[1])}."),
    (r"^layers\.(\d)\.downsample\.", lambda stage: f"features.{2 * int(stage[1]) + 1}."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.3."),
)
# Teachers, and masks that Swin makes by itself.
NOT_NEEDED = re.compile(r"(backbone\.high_res_path|cls_head\.fc_cls_t)\.|.*\.attn_mask$")


@dataclass
class Translation:
    """Entries of a checkpoint under the names of a network.

    Args:
        weights: all entries but those left out; those that no rule leads into the network keep their names.
        translated: the new names.
        turned: those of ``weights`` whose channels were turned from blue, green, red.
        left_out: what belongs to another network, or is made anew.
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
        if name not in names and NOT_NEEDED.match(name):
            result.left_out.append(name)
            continue
        known = name if name in names else _translated(name, names)
        if known != name and (known in weights or known in result.weights):
            known = name  # that one has an entry
        if known != name:
            result.translated.append(known)
        if name in colors:
            result.turned.append(known)
        result.weights[known] = value.flip(colors[name]) if name in colors else value
    return result


def _translated(name: str, names: Collection[str]) -> str:
    """What the network calls a public entry; its own name where no rules lead to one of the network's."""
    for rules in (RESIDUAL, SWIN):
        known = name
        for pattern, replacement in (*WRAPPERS, *rules):
            known = re.sub(pattern, replacement, known)
        if known in names:
            return known
    return name


def _blue_green_red(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """What CoViAR's network of residuals has by colours, and along which dimension; of other networks nothing.

    It is the only one with a norm on three channels of input.
    """
    norm = [name for name, value in weights.items() if name.startswith("data_bn.") and value.shape == (3,)]
    return {**dict.fromkeys(norm, 0), "base_model.conv1.weight": 1} if norm else {}
