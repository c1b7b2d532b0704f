"""The network of Quicksilver: two encoders, three decoders, patches in, momenta out."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HINTS = 9
"""Channels that tell a network, beside the images, what an optimiser would see; see `Scene`."""

REACH = 5
"""Voxels over which hints act upon the output directly."""

WINDOW = 5
"""Voxels over which `correlation_forces` looks at the images."""

FLOOR = 0.001
"""Variance below which there is nothing to be seen."""

Drop = Callable[[], nn.Module]
"""Makes a layer of dropout."""

_SLOPE = 0.25
"""That a PReLU begins with."""


class QuicksilverNet(nn.Module):
    """Map a pair of image patches to the patch of a vector field (Yang et al., 2017, figure 2).

    One encoder for each image, no weights shared; one decoder for each component of the field.
    Prediction, correction and the probabilistic network are all of this kind.

    Parameters
    ----------
    features : int
        f, the channels of the first layer; 64 in the original.
    patch : int
        Voxels along each side of a patch.
    channels : int
        Channels of each image.
    hints : bool
        Show both encoders what an optimiser would see, too, and add that to the output by a
        convolution: the rest of the network has to learn what one step of descent leaves.
    dropout : float
        Share of values that are dropped after an activation while in training mode, which makes
        the network probabilistic. As in the original, not after those that change the resolution.
        A network with hints drops whole channels: what single values add to a momentum, the
        metric's kernel smooths away.
    """

    def __init__(
        self,
        features: int = 64,
        *,
        patch: int = 15,
        channels: int = 1,
        hints: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if patch < 3:
            raise ValueError(f'patch must be at least 3, got {patch}')
        self.features, self.patch, self.channels = features, patch, channels
        self.hints, self.dropout = hints, dropout
        inputs = channels + HINTS * hints
        # Sizes on the way down: a convolution of two voxels, stride two, with a border of one.
        half = patch // 2 + 1
        quarter = half // 2 + 1
        drop = functools.partial(nn.Dropout3d if hints else nn.Dropout, dropout)
        self.encoders = nn.ModuleDict(
            {
                image: nn.Sequential(
                    _encoder(inputs, features, drop),
                    _encoder(features, 2 * features, drop),
                )
                for image in ('moving', 'fixed')
            }
        )
        self.decoders = nn.ModuleDict(
            {
                axis: nn.Sequential(
                    _decoder(4 * features, 2 * features, quarter, half, drop),
                    _decoder(2 * features, 1, half, patch, drop),
                )
                for axis in 'xyz'
            }
        )

        self.apply(_initialise)
        if hints:
            self.shortcut = nn.Conv3d(HINTS, 3, REACH, padding=REACH // 2, bias=False)
            nn.init.zeros_(self.shortcut.weight)

    def forward(self, patches: Tensor) -> Tensor:
        """Predict.

        Parameters
        ----------
        patches : Tensor, shape (batch, 2 * channels [+ HINTS], patch, patch, patch)
            The channels of the moving image, those of the fixed one, then the hints. Where a
            network that wants hints is given none, all are zero. Any sides of the form 4 n + 3
            will do in place of `patch`.

        Returns
        -------
        Tensor, shape (batch, 3, patch, patch, patch)
        """
        images = 2 * self.channels
        moving, fixed = patches[:, : self.channels], patches[:, self.channels : images]
        if self.hints:
            hints = patches[:, images:]
            if not hints.shape[1]:
                hints = patches.new_zeros(len(patches), HINTS, *patches.shape[2:])
            moving, fixed = (torch.cat([image, hints], dim=1) for image in (moving, fixed))
        code = torch.cat([self.encoders['moving'](moving), self.encoders['fixed'](fixed)], dim=1)
        field = torch.cat([decoder(code) for decoder in self.decoders.values()], dim=1)
        return field + self.shortcut(hints) if self.hints else field


def correlation_forces(moving: Tensor, fixed: Tensor) -> Tensor:
    """What draws each voxel of the moving image to where the images correlate better around it.

    With a and b the images less their local mean and over their local standard deviation, and r
    the local correlation: ``r (b - r a) grad I / sd(I)``, the derivative of r^2 but for a factor
    (Avants et al., Medical Image Analysis 2008, section 3.2). Contrast does not matter to it.

    Parameters
    ----------
    moving, fixed : Tensor, shape (batch, 1, X, Y, Z)

    Returns
    -------
    Tensor, shape (batch, 3, X, Y, Z)
        Per voxel.
    """
    moving_mean, fixed_mean = _local_mean(moving), _local_mean(fixed)
    moving_deviation = _deviation(moving, moving_mean)
    fixed_deviation = _deviation(fixed, fixed_mean)
    a = (moving - moving_mean) / moving_deviation
    b = (fixed - fixed_mean) / fixed_deviation
    covariance = _local_mean(moving * fixed) - moving_mean * fixed_mean
    correlation = covariance / (moving_deviation * fixed_deviation)
    gradient = torch.cat(torch.gradient(moving, dim=(2, 3, 4)), dim=1)
    return correlation * (b - correlation * a) * gradient / moving_deviation


def _deviation(image: Tensor, mean: Tensor) -> Tensor:
    """Local standard deviation, no smaller than that of nothing."""
    variance = _local_mean(image.square()) - mean.square()
    return (variance.clamp_min(0) + FLOOR).sqrt()


def _local_mean(image: Tensor) -> Tensor:
    return F.avg_pool3d(image, WINDOW, stride=1, padding=WINDOW // 2, count_include_pad=False)


def _initialise(layer: nn.Module) -> None:
    """Draw weights that keep the variance of what passes through (He et al., ICCV 2015).

    With PyTorch's own, which halve it in every layer, sixteen layers leave nothing of the images
    to learn from.
    """
    if isinstance(layer, (nn.Conv3d, nn.ConvTranspose3d)):
        inputs = layer.in_channels * math.prod(layer.kernel_size)
        if isinstance(layer, nn.ConvTranspose3d):
            inputs //= math.prod(layer.stride)
        gain = nn.init.calculate_gain('leaky_relu', _SLOPE)
        nn.init.normal_(layer.weight, std=gain / math.sqrt(max(1, inputs)))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _encoder(inputs: int, outputs: int, drop: Drop) -> nn.Sequential:
    """Three convolutions and one that halves the resolution."""
    layers: list[nn.Module] = []
    for width in (inputs, outputs, outputs):
        layers += [nn.Conv3d(width, outputs, 3, padding=1), *_activation(drop)]
    return nn.Sequential(*layers, nn.Conv3d(outputs, outputs, 2, stride=2, padding=1), nn.PReLU())


def _decoder(inputs: int, outputs: int, size: int, target: int, drop: Drop) -> nn.Sequential:
    """One convolution that doubles the resolution, from `size` to `target` voxels, and three."""
    kernel = target - 2 * size + 4
    layers: list[nn.Module] = [
        nn.ConvTranspose3d(inputs, inputs, kernel, stride=2, padding=1),
        nn.PReLU(),
    ]
    for _ in range(2):
        layers += [nn.Conv3d(inputs, inputs, 3, padding=1), *_activation(drop)]
    layers.append(nn.Conv3d(inputs, outputs, 3, padding=1))
    # The last of all is a component of the field, which has either sign.
    return nn.Sequential(*layers, *(_activation(drop) if outputs > 1 else []))


def _activation(drop: Drop) -> list[nn.Module]:
    # Also where nothing is dropped, so that all networks name their layers alike.
    return [nn.PReLU(), drop()]
