"""Networks of other packages as encoders: those of MONAI and of nnU-Net, without what decodes.

Where from: ``monai.networks.nets``, and the package dynamic_network_architectures, imported when one of nnU-Net's
encoders is asked for; anatomix's U-Net is built here from torch's layers, for no package holds it. Tensors keep the
names that they have in their network, behind ``network.``, so that they go back into it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import monai.networks.nets as monai_nets
import torch
from torch import nn
from torch.nn import functional

from .encoders import OURS
from .errors import UserError, optional_module

STAGES = (2, 8)  # fewest and most


class Parts(NamedTuple):
    """A network without its decoder; of each stage the channels, and the stride after the stage before."""

    network: nn.Module
    channels: Sequence[int]
    strides: Sequence[int | Sequence[int]]


class Adapter(NamedTuple):
    """How a network becomes an encoder.

    Attributes:
        build: from its number of input channels, and the arguments that the network has in its own package.
        maps: the network, a volume (B, C, X, Y, Z) -> the maps of its stages, shallow to deep.
        modules: the network -> what computes each stage.
        even: whether it takes only volumes that the strides divide.
    """

    build: Callable[..., Parts]
    maps: Callable[[Any, torch.Tensor], Sequence[torch.Tensor]]
    modules: Callable[[Any], list[nn.Module]]
    even: bool = False


def _without(network: nn.Module, *names: str) -> nn.Module:
    for name in names:
        delattr(network, name)
    return network


def _segresnet(in_channels: int, **arguments: Any) -> Parts:
    whole = monai_nets.SegResNet(in_channels=in_channels, **arguments)
    channels = [whole.init_filters * 2**stage for stage in range(len(whole.down_layers))]
    return Parts(_without(whole, "up_layers", "up_samples", "conv_final"), channels, [1, *[2] * (len(channels) - 1)])


def _dynunet(in_channels: int, strides: Sequence[Any] = (1, 2, 2, 2), kernel_size: Any = 3, **arguments: Any) -> Parts:
    kernels = [kernel_size] * len(strides) if isinstance(kernel_size, int) else kernel_size
    whole = monai_nets.DynUNet(3, in_channels, 1, kernels, strides, strides[1:], **arguments)
    return Parts(_without(whole, "upsamples", "output_block", "skip_layers"), whole.filters, strides)


def _in_a_row(modules: Callable[[Any], list[nn.Module]]) -> Callable[[Any, torch.Tensor], list[torch.Tensor]]:
    return lambda network, x: list(accumulate(modules(network), lambda below, stage: stage(below), initial=x))[1:]


def _dynunet_stages(network: Any) -> list[nn.Module]:
    return [network.input_block, *network.downsamples, network.bottleneck]


def _swin_unetr(in_channels: int, feature_size: int = 24, patch_size: int = 2, **arguments: Any) -> Parts:
    # its absence would show in the first step
    optional_module("einops", "einops is not installed: pip install einops, or choose another encoder.")
    with torch.device("cpu"):  # it reads numbers off tensors while it is built, which those without memory refuse
        whole = monai_nets.SwinUNETR(in_channels, 1, patch_size, feature_size=feature_size, **arguments)
    network: Any = whole.swinViT
    network.normalize = whole.normalize
    return Parts(network, [feature_size * 2**stage for stage in range(5)], [patch_size, 2, 2, 2, 2])


def _swin_stages(network: Any) -> list[nn.Module]:
    kinds = ("c", "") if network.use_v2 else ("",)
    layers = [nn.ModuleList(getattr(network, f"layers{n}{kind}") for kind in kinds) for n in (1, 2, 3, 4)]
    return [network.patch_embed, *layers]


def _resnet(in_channels: int, model_name: str = "resnet18", dilated: bool = False) -> Parts:
    """MONAI's ResNet; `dilated` as MedicalNet is: layers 3 and 4 keep their resolution, and reach as far by gaps."""
    network = monai_nets.ResNetFeatures(model_name, pretrained=False, in_channels=in_channels)
    for layer, gap in ((network.layer3, 2), (network.layer4, 4)) if dilated else ():
        if isinstance(layer[0].downsample, partial):  # a shortcut without tensors
            layer[0].downsample.keywords["stride"] = 1
        for module in layer.modules():
            if isinstance(module, nn.Conv3d):
                module.stride = (1, 1, 1)
                if module.kernel_size == (3, 3, 3):
                    module.padding = module.dilation = (gap, gap, gap)
    norms = [[m for m in stage.modules() if isinstance(m, nn.BatchNorm3d)] for stage in _resnet_stages(network)]
    return Parts(network, [of_stage[-1].num_features for of_stage in norms], [2, 2, 2, *[1 if dilated else 2] * 2])


def _resnet_stages(network: Any) -> list[nn.Module]:
    stem = nn.ModuleList([network.conv1, network.bn1])
    return [stem, network.layer1, network.layer2, network.layer3, network.layer4]


def _anatomix(in_channels: int, channels: Sequence[int] = (16, 32, 64, 128, 256)) -> Parts:
    """The first half of a U-Net of two convolutions a stage, the first three; borders are reflected."""
    layers: list[nn.Module] = []
    source = in_channels
    for stage, width in enumerate(channels):
        layers += [nn.MaxPool3d(2)] if stage else []
        for _ in range(2 if stage else 3):
            layers.append(nn.Conv3d(source, width, 3, padding=1, padding_mode="reflect", bias=False))
            layers += [nn.BatchNorm3d(width), nn.ReLU(inplace=True)]
            source = width
    return Parts(nn.Sequential(*layers), channels, [1, *[2] * (len(channels) - 1)])


def _anatomix_stages(network: Any) -> list[nn.Module]:
    pools = [place for place, layer in enumerate(network) if isinstance(layer, nn.MaxPool3d)]
    return [network[start:end] for start, end in pairwise([0, *pools, len(network)])]


def _nnunet(module: str, kind: str, **defaults: Any) -> Callable[..., Parts]:
    """A builder of one of nnU-Net's encoders, from the ``arch_kwargs`` of a plan, initialised as nnU-Net does."""

    def build(in_channels: int, n_stages: int = 4, **arguments: Any) -> Parts:
        package = "dynamic_network_architectures"
        missing = f"{package} is not installed: pip install {package}, or choose an encoder of MONAI."
        encoders = optional_module(f"{package}.building_blocks.{module}", missing)
        init = optional_module(f"{package}.initialization.weight_init", missing)
        settings = {
            "features_per_stage": [min(32 * 2**stage, 320) for stage in range(n_stages)],
            "strides": [1, *[2] * (n_stages - 1)],
            **{name: value[:n_stages] if isinstance(value, list) else value for name, value in defaults.items()},
            **{"conv_op": "Conv3d", "kernel_sizes": 3, "conv_bias": True},
            **{"norm_op": "InstanceNorm3d", "norm_op_kwargs": {"eps": 1e-5, "affine": True}},
            **{"nonlin": "LeakyReLU", "nonlin_kwargs": {"inplace": True}},
            **arguments,
        }
        network = getattr(encoders, kind)(in_channels, n_stages, return_skips=True, **with_layers(settings))
        network.apply(init.InitWeights_He(1e-2)).apply(init.init_last_bn_before_add_to_0)
        return Parts(network, network.output_channels, network.strides)

    return build


def with_layers(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of an nnU-Net network, the names of its layers replaced by classes of ``torch.nn``, and no others.

    Raises:
        UserError: when torch.nn has no such class.
    """
    found = dict(arguments)
    for key in ("conv_op", "norm_op", "dropout_op", "nonlin"):
        if (name := found.get(key)) is not None:
            found[key] = getattr(nn, str(name).rpartition(".")[2], None)
            if not isinstance(found[key], type):
                raise UserError(f"{key}={name!r} is no layer of torch.nn: give one, as nnU-Net's plans do.")
    return found


def _of(name: str) -> Callable[[Any], list[nn.Module]]:
    """The modules that a network holds as stages under this name."""
    return lambda network: list(getattr(network, name))


def _called(network: Any, x: torch.Tensor) -> list[torch.Tensor]:
    return list(network(x))


_PLAIN = _nnunet("plain_conv_encoder", "PlainConvEncoder", n_conv_per_stage=2)
_RESIDUAL = _nnunet("residual_encoders", "ResidualEncoder", n_blocks_per_stage=[1, 3, 4, *[6] * 5])
#: name -> how it becomes an encoder
NETWORKS = {
    "SegResNet": Adapter(_segresnet, lambda network, x: network.encode(x)[1], _of("down_layers")),
    "DynUNet": Adapter(_dynunet, _in_a_row(_dynunet_stages), _dynunet_stages),
    "SwinUNETR": Adapter(_swin_unetr, lambda network, x: network(x, network.normalize), _swin_stages),
    "ResNetFeatures": Adapter(_resnet, _called, _resnet_stages),
    "Anatomix": Adapter(_anatomix, _in_a_row(_anatomix_stages), _anatomix_stages, even=True),
    "PlainConvEncoder": Adapter(_PLAIN, _called, _of("stages")),
    "ResidualEncoder": Adapter(_RESIDUAL, _called, _of("stages"), even=True),
}


def known_network(name: Any) -> str:
    """The name of one of `NETWORKS`.

    Raises:
        UserError: when there is no such network, or it has no stages.
    """
    if name in NETWORKS:
        return str(name)
    names = [OURS, *NETWORKS]
    if isinstance(name, str) and hasattr(monai_nets, name):
        raise UserError(f"encoder={name!r}: has no stages that could be taught: choose one of {', '.join(names)}.")
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.0)[0]
    raise UserError(f"encoder={name!r} does not exist: did you mean {near}? There are {', '.join(names)}.")


class NetworkEncoder(nn.Module):
    """A network of `NETWORKS` as an encoder.

    Args:
        network: its name.
        in_channels: channels of the volume.
        arguments: of the network in its own package, JSON-able; those of decoders mean nothing.

    Raises:
        UserError: when there is no such network, its package is not installed, it takes no such argument, or has fewer
            than two stages or more than eight.

    Attributes:
        network: the network without its decoder.
        architecture: the arguments: what a manifest needs to build this encoder again.
        stage_channels: channels of the stage maps.
    """

    def __init__(self, network: str, in_channels: int = 1, **arguments: Any) -> None:
        super().__init__()
        self.architecture = {"network": known_network(network), "in_channels": in_channels, **arguments}
        self.in_channels, self._adapter = in_channels, NETWORKS[network]
        try:
            parts = self._adapter.build(in_channels, **arguments)
        except UserError:
            raise
        except (TypeError, ValueError, AssertionError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"encoder={network!r}: cannot be built so ({reason}): see its package.") from error
        fewest, most = STAGES
        if not fewest <= len(parts.channels) <= most:
            raise UserError(f"encoder={network!r}: has {len(parts.channels)} stages: give it {fewest} to {most}.")
        self.network, self.stage_channels = parts.network, tuple(parts.channels)
        steps = [(step,) * 3 if isinstance(step, int) else tuple(step) for step in parts.strides]
        self._strides = list(accumulate(steps, lambda a, b: tuple(x * y for x, y in zip(a, b, strict=True))))

    @property
    def stage_modules(self) -> list[nn.Module]:
        """What computes each stage."""
        return self._adapter.modules(self.network)

    def stages(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The feature pyramid of a volume (B, C, X, Y, Z): a map for each stage, shallow to deep.

        Where the network takes only volumes that its strides divide, others are continued at their far ends.
        """
        size = x.shape[2:]
        if self._adapter.even:
            missing = [-side % step for side, step in zip(size, self._strides[-1], strict=True)]
            x = functional.pad(x, [n for more in reversed(missing) for n in (0, more)], mode="replicate")
        maps = self._adapter.maps(self.network, x)
        if self._adapter.even:
            maps = [m[:, :, :a, :b, :c] for m, (a, b, c) in zip(maps, self.stage_shapes(size), strict=True)]
        return list(maps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The deepest stage's map of a volume (B, C, X, Y, Z)."""
        return self.stages(x)[-1]

    def stage_shapes(self, spatial_shape: Sequence[int]) -> list[tuple[int, ...]]:
        """Spatial shapes of the stage maps for an input of `spatial_shape` voxels (x, y, z)."""
        return [tuple(-(-side // s) for side, s in zip(spatial_shape, stride, strict=True)) for stride in self._strides]
