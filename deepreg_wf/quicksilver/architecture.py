"""Quicksilver network: two encoders and three decoders map image patches to momentum patches."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

N_GRADIENT_CHANNELS = 9
"""Input channels beside the images: correlation forces, energy gradient and momentum, 3 each."""

SHORTCUT_KERNEL_SIZE = 5
"""Voxels along each side of the convolution from the gradient channels to the output."""

CORRELATION_WINDOW = 5
"""Voxels along each side of the window of `correlation_forces`."""

VARIANCE_FLOOR = 0.001
"""Variance added to the local variance of an image, against division by zero."""

DropoutFactory = Callable[[], nn.Module]
"""Callable that makes a dropout layer."""

_PRELU_SLOPE = 0.25
"""Initial negative slope of a PReLU."""


class QuicksilverNet(nn.Module):
    """Map a pair of image patches to a patch of a vector field (Yang et al., 2017, figure 2).

    There is one encoder for each image and one decoder for each component of the field, without
    shared weights. The prediction, correction and probabilistic networks have this architecture.

    Parameters
    ----------
    features : int
        Channels f of the first layer; 64 in the original.
    patch_size : int
        Voxels along each side of a patch.
    channels : int
        Channels of each image.
    gradient_channels : bool
        Give the gradient channels to both encoders, and add a convolution of them to the output.
        The convolution can represent a step of gradient descent, so that the rest of the network
        learns the residual. See `deepreg_wf.quicksilver.inputs.RegistrationState`.
    dropout : float
        Dropout rate, which makes the network probabilistic in training mode.

    Notes
    -----
    The dropout layers follow each activation, except those of the strided and the transposed
    convolutions, as in the original (Yang et al., 2017, section 2.4). A network with gradient
    channels drops whole channels (`torch.nn.Dropout3d`): noise that is independent from voxel to
    voxel has hardly any effect on the map, because the kernel of the metric is a low-pass filter.
    """

    def __init__(
        self,
        features: int = 64,
        *,
        patch_size: int = 15,
        channels: int = 1,
        gradient_channels: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if patch_size < 3:
            raise ValueError(f'patch_size must be at least 3, got {patch_size}')
        self.features, self.patch_size, self.channels = features, patch_size, channels
        self.gradient_channels, self.dropout = gradient_channels, dropout
        inputs = channels + N_GRADIENT_CHANNELS * gradient_channels
        # A convolution with kernel 2, stride 2 and padding 1 maps n voxels to n // 2 + 1.
        half = patch_size // 2 + 1
        quarter = half // 2 + 1
        make_dropout = functools.partial(
            nn.Dropout3d if gradient_channels else nn.Dropout, dropout
        )
        self.encoders = nn.ModuleDict(
            {
                image: nn.Sequential(
                    _encoder(inputs, features, make_dropout),
                    _encoder(features, 2 * features, make_dropout),
                )
                for image in ('moving', 'fixed')
            }
        )
        self.decoders = nn.ModuleDict(
            {
                axis: nn.Sequential(
                    _decoder(4 * features, 2 * features, quarter, half, make_dropout),
                    _decoder(2 * features, 1, half, patch_size, make_dropout),
                )
                for axis in 'xyz'
            }
        )

        self.apply(_initialise)
        if gradient_channels:
            self.shortcut = nn.Conv3d(
                N_GRADIENT_CHANNELS,
                3,
                SHORTCUT_KERNEL_SIZE,
                padding=SHORTCUT_KERNEL_SIZE // 2,
                bias=False,
            )
            nn.init.zeros_(self.shortcut.weight)

    def forward(self, patches: Tensor) -> Tensor:
        """Map patches of images to patches of the field.

        Parameters
        ----------
        patches : Tensor, shape (batch, 2 * channels [+ N_GRADIENT_CHANNELS], P, Q, R)
            Channels of the moving image, channels of the fixed image, gradient channels. If the
            gradient channels are left out, they are zero. The sides P, Q, R equal `patch_size`
            or have the form 4 k + 3.

        Returns
        -------
        Tensor, shape (batch, 3, P, Q, R)
        """
        n_images = 2 * self.channels
        moving, fixed = patches[:, : self.channels], patches[:, self.channels : n_images]
        if self.gradient_channels:
            gradients = patches[:, n_images:]
            if not gradients.shape[1]:
                gradients = patches.new_zeros(
                    len(patches), N_GRADIENT_CHANNELS, *patches.shape[2:]
                )
            moving, fixed = (torch.cat([image, gradients], dim=1) for image in (moving, fixed))
        code = torch.cat([self.encoders['moving'](moving), self.encoders['fixed'](fixed)], dim=1)
        field = torch.cat([decoder(code) for decoder in self.decoders.values()], dim=1)
        return field + self.shortcut(gradients) if self.gradient_channels else field


def correlation_forces(moving: Tensor, fixed: Tensor) -> Tensor:
    """Compute forces that raise the squared local correlation of two images.

    Parameters
    ----------
    moving, fixed : Tensor, shape (batch, 1, X, Y, Z)
        Images on the same grid.

    Returns
    -------
    Tensor, shape (batch, 3, X, Y, Z)
        Force on each voxel of the moving image, per voxel.

    Notes
    -----
    Let a and b be the moving image I and the fixed image J, less their local mean and divided by
    their local standard deviation s, and r the local correlation coefficient. The derivative of
    r^2 with respect to the displacement is, up to a constant factor,

        r (b - r a) grad I / s(I)

    (Avants et al., Medical Image Analysis 2008, section 3.2). It does not depend on a local linear
    change of contrast.
    """
    moving_mean, fixed_mean = _local_mean(moving), _local_mean(fixed)
    moving_deviation = _local_deviation(moving, moving_mean)
    fixed_deviation = _local_deviation(fixed, fixed_mean)
    a = (moving - moving_mean) / moving_deviation
    b = (fixed - fixed_mean) / fixed_deviation
    covariance = _local_mean(moving * fixed) - moving_mean * fixed_mean
    correlation = covariance / (moving_deviation * fixed_deviation)
    gradient = torch.cat(torch.gradient(moving, dim=(2, 3, 4)), dim=1)
    return correlation * (b - correlation * a) * gradient / moving_deviation


def _local_deviation(image: Tensor, mean: Tensor) -> Tensor:
    """Return the local standard deviation, bounded below by `VARIANCE_FLOOR`."""
    variance = _local_mean(image.square()) - mean.square()
    return (variance.clamp_min(0) + VARIANCE_FLOOR).sqrt()


def _local_mean(image: Tensor) -> Tensor:
    """Return the mean over `CORRELATION_WINDOW`, of the voxels inside the grid."""
    return F.avg_pool3d(
        image,
        CORRELATION_WINDOW,
        stride=1,
        padding=CORRELATION_WINDOW // 2,
        count_include_pad=False,
    )


def _initialise(layer: nn.Module) -> None:
    """Initialise the weights of a convolution so that it keeps the variance of its input.

    This is the normal initialisation of He et al. (ICCV 2015) for PReLU. The default of PyTorch
    halves the variance in every layer; after sixteen layers the output hardly depends on the
    images any more, and training does not start.
    """
    if isinstance(layer, (nn.Conv3d, nn.ConvTranspose3d)):
        inputs = layer.in_channels * math.prod(layer.kernel_size)
        if isinstance(layer, nn.ConvTranspose3d):
            inputs //= math.prod(layer.stride)
        gain = nn.init.calculate_gain('leaky_relu', _PRELU_SLOPE)
        nn.init.normal_(layer.weight, std=gain / math.sqrt(max(1, inputs)))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _encoder(inputs: int, outputs: int, make_dropout: DropoutFactory) -> nn.Sequential:
    """Make three convolutions and one that halves the resolution."""
    layers: list[nn.Module] = []
    for width in (inputs, outputs, outputs):
        layers += [nn.Conv3d(width, outputs, 3, padding=1), *_activation(make_dropout)]
    return nn.Sequential(*layers, nn.Conv3d(outputs, outputs, 2, stride=2, padding=1), nn.PReLU())


def _decoder(
    inputs: int, outputs: int, size: int, target_size: int, make_dropout: DropoutFactory
) -> nn.Sequential:
    """Make one convolution from `size` to `target_size` voxels a side, and three at that size."""
    # A transposed convolution with stride 2 and padding 1 maps n voxels to 2 n - 4 + kernel.
    kernel_size = target_size - 2 * size + 4
    layers: list[nn.Module] = [
        nn.ConvTranspose3d(inputs, inputs, kernel_size, stride=2, padding=1),
        nn.PReLU(),
    ]
    for _ in range(2):
        layers += [nn.Conv3d(inputs, inputs, 3, padding=1), *_activation(make_dropout)]
    layers.append(nn.Conv3d(inputs, outputs, 3, padding=1))
    # The last layer gives a component of the field, which has either sign.
    return nn.Sequential(*layers, *(_activation(make_dropout) if outputs > 1 else []))


def _activation(make_dropout: DropoutFactory) -> list[nn.Module]:
    """Make an activation and its dropout layer."""
    # The layer is there at a rate of zero too, so that all networks number their layers alike.
    return [nn.PReLU(), make_dropout()]
