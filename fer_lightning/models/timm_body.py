"""TimmBody: any timm backbone with a classification head."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg, group_modules
from torch import Tensor, nn

from fer_lightning.models.layers import OutputLayer, init_weights


class TimmBody(nn.Module):
    """A timm backbone, its pooled features, and a head: [Linear, ReLU,] Dropout, Linear.

    Args:
        name: A timm name, with or without the tag of its weights: `resnet18`, `resnet18.a1_in1k`.
        num_classes: Number of logits.
        channels: Input channels; pretrained first convolutions are adapted by timm (3 to 1 by summing).
        image_size: Side of the input in pixels; transformers are built for it.
        pretrained: Whether to download timm's weights of this name.
        hidden: Units of a hidden layer with ReLU before the last one, 0 for none; a list for several layers.
        dropout: Probability of dropping an input of the last layer, or a unit of any hidden one.
        drop_path: Probability of dropping the last block's residual branch in training, increasing linearly from the
            first block; for backbones with stochastic depth.

    Raises:
        ValueError: timm has no such name, its weights cannot be downloaded, or it does not support this size.
    """

    def __init__(
        self,
        name: str,
        *,
        num_classes: int,
        channels: int,
        image_size: int,
        pretrained: bool = False,
        hidden: int | Sequence[int] = 0,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.name, self.channels, self.image_size, self.drop_path = name, channels, image_size, drop_path
        self.backbone: Any = self._pretrained_backbone() if pretrained else self._backbone()
        features = self._feature_count()
        self.head = nn.Sequential()
        layers = [hidden] if isinstance(hidden, int) else hidden
        for units in filter(None, layers):
            layer = nn.Linear(features, units).apply(init_weights)
            self.head.extend([layer, nn.ReLU(inplace=True), nn.Dropout(dropout)])
            features = units
        if not len(self.head):
            self.head.append(nn.Dropout(dropout))
        self.head.append(OutputLayer(features, num_classes))

    def stages(self) -> list[nn.Module]:
        """Return the backbone's stages from input to output, as timm groups them for layer-wise learning rates."""
        backbone = self.backbone
        if hasattr(backbone, "group_matcher"):
            try:
                groups = group_modules(backbone, backbone.group_matcher(coarse=True)).values()
            except AssertionError:  # a few model families fail with coarse groups
                groups = group_modules(backbone, backbone.group_matcher(coarse=False)).values()
        else:
            groups = [[name] for name, child in backbone.named_children() if list(child.parameters())]
        stages = [nn.ModuleList(backbone.get_submodule(name) for name in names) for names in groups]
        tokens = nn.ParameterList(backbone.parameters(recurse=False))  # class token, position embedding
        stages[0].append(tokens)
        return list(stages)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes) of normalised images (B, channels, image_size, image_size)."""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def load_backbone(self, weights: Mapping[str, Tensor]) -> None:
        """Load weights with timm's keys, as published for this name, without their classifier.

        Raises:
            RuntimeError: A tensor is missing, unexpected or of another shape.
        """
        own = self.backbone.state_dict()
        classifier = self.backbone.pretrained_cfg.get("classifier") or ()
        heads = {key.split(".")[0] for key in ([classifier] if isinstance(classifier, str) else classifier)}
        state_dict = {key: w for key, w in weights.items() if key in own or key.split(".")[0] not in heads}
        # with a classifier to drop, timm would also accept other missing keys
        self.backbone = self._backbone(
            pretrained=True, pretrained_cfg_overlay={"state_dict": state_dict, "classifier": None, "source": None}
        )
        self.backbone.pretrained_cfg.pop("state_dict")

    def _pretrained_cfg(self) -> PretrainedCfg:
        """Return the description of this name's weights in timm."""
        try:
            config = timm.get_pretrained_cfg(self.name, allow_unregistered=False)
            assert config is not None
            return config
        except RuntimeError:
            known = timm.list_models(pretrained="." in self.name)
            nearest = ", ".join(difflib.get_close_matches(self.name, known, cutoff=0.4))
            raise ValueError(
                f"model.name={self.name} is not a timm model; "
                f"the nearest names: {nearest or 'none, see timm.list_models()'}"
            ) from None

    def _backbone(self, **options: Any) -> nn.Module:
        if self._pretrained_cfg().fixed_input_size:
            options["img_size"] = self.image_size
        if self.drop_path:
            options["drop_path_rate"] = self.drop_path
        backbone: nn.Module = timm.create_model(self.name, num_classes=0, in_chans=self.channels, **options)
        return backbone

    def _pretrained_backbone(self) -> nn.Module:
        config = self._pretrained_cfg()
        try:
            if config.hf_hub_id:
                _check_connection(config.hf_hub_id, config.hf_hub_filename or "model.safetensors")
            return self._backbone(pretrained=True)
        except Exception as error:  # the exceptions of the hub's client differ between its versions
            hub = f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else None
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ValueError(
                f"the pretrained weights of {self.name} could not be downloaded from "
                f"{hub or config.url or 'anywhere'} ({reason}); give a copy of them as "
                "model.weights=path.safetensors, or set model.pretrained=false for random initialization"
            ) from error

    def _feature_count(self) -> int:
        """Return the number of features of one image; timm's own count leaves out layers after pooling."""
        self.backbone.eval()
        try:
            with torch.no_grad():
                features = self.backbone(torch.zeros(1, self.channels, self.image_size, self.image_size))
        except (RuntimeError, AssertionError, ValueError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ValueError(f"model.image_size={self.image_size} does not work with {self.name} ({reason})") from error
        self.backbone.train()
        if not isinstance(features, Tensor) or features.ndim != 2:
            raise ValueError(f"model.name={self.name} does not return one feature vector per image")
        return int(features.shape[1])


def _check_connection(repository: str, filename: str) -> None:
    """Raise the hub's connection error immediately; its download would retry for a minute first."""
    from huggingface_hub import file_exists, try_to_load_from_cache

    name, _, revision = repository.partition("@")
    if not isinstance(try_to_load_from_cache(name, filename, revision=revision or None), str):
        file_exists(name, filename, revision=revision or None)
