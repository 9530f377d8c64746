"""A backbone that needs no weights: two-order wavelet scattering, pooled to a token grid.

Knows float RGB in and tokens out; knows no uint8, no L2 normalisation (`graph.py`), no timm. Nothing here is
fitted to photographs: filters come from theory, the whitening from synthetic power-law noise.
Source: Bruna & Mallat 2013, "Invariant Scattering Convolution Networks".
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from export.wavelets import KERNEL, binomial_low_pass, gaussian_windows, halve, morlet_bank

_ORIENTATIONS = 8
_OCTAVES = 5

_POOL_SIGMA_CELLS = 0.5
"""A Gaussian of half a cell: neighbouring windows overlap, so a structure on a cell's border is in both."""

_DARK_OFFSET = 0.1
"""Added to [0, 1] light before its logarithm: contrast counts relative to brightness (Weber), until the black
level, where sensor noise would be magnified."""

_LOG_OFFSET = 5e-4
"""Contrast below which a coefficient counts as none: about an eighth of a grey level at mid-grey."""

_SHRINKAGE = 0.1
"""Share of the identity in the noise's correlation: directions that noise hardly fills stay bounded, at √10."""

_BIAS = 2.0
"""A constant coefficient, in units of the length of a token of noise: L2 normalisation then keeps the contrast
that it would otherwise divide away, and distances stay close to Euclidean ones."""

_NOISE_IMAGES = 12


class ScatteringFeatures(nn.Module):
    """Scattering tokens on a grid, whitened by noise; deterministic, without parameters.

    input_size: px a side, divisible by 16. grid: cells a side. `dim` is the length of a token.
    """

    dim: int
    mean: Tensor
    whitening: Tensor
    bias: Tensor

    def __init__(self, input_size: int = 448, grid: int = 32) -> None:
        super().__init__()
        self.scattering = _LogScattering(input_size, grid)
        mean, whitening = _noise_whitening(input_size, grid)
        self.dim = len(mean) + 1
        self.register_buffer("mean", mean)
        # A token of noise gets length √(1 + 1/_BIAS²): parity is measured on values near one.
        self.register_buffer("whitening", whitening / (_BIAS * len(mean) ** 0.5))
        self.register_buffer("bias", torch.ones(1, grid * grid, 1))

    def forward(self, rgb: Tensor) -> Tensor:
        """Compute tokens.

        rgb: (B, 3, H, W) float32 in [0, 1], H = W = input_size. Returns (B, grid·grid, dim) float32,
        row-major, not L2-normalised.
        """
        white = (self.scattering(rgb) - self.mean) @ self.whitening
        return torch.cat([white, self.bias.expand(white.shape[0], -1, -1)], dim=2)


class _LogScattering(nn.Module):
    """Log-compressed scattering coefficients before whitening."""

    bank: Tensor
    low_pass: Tensor
    luma: Tensor
    relative: Tensor

    def __init__(self, input_size: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.register_buffer("bank", morlet_bank(_ORIENTATIONS))
        self.register_buffer("low_pass", binomial_low_pass())
        self.register_buffer("luma", torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1))
        self.register_buffer("relative", _relative_orientation_average())
        for octave in range(_OCTAVES):
            windows = gaussian_windows(grid, input_size >> octave, _POOL_SIGMA_CELLS)
            self.register_buffer(f"windows{octave}", windows)

    def forward(self, rgb: Tensor) -> Tensor:
        """Compute (B, grid·grid, C) from (B, 3, H, W): 3 means, first orders and second orders by octave."""
        # The factor gives the logarithm the slope of the identity at mid-grey.
        light = torch.log(rgb + _DARK_OFFSET) * (0.5 + _DARK_OFFSET)
        luminance = (light * self.luma).sum(dim=1, keepdim=True)
        chroma = torch.cat([light[:, 2:3] - luminance, light[:, 0:1] - luminance], dim=1)
        linear = self._pool(torch.cat([luminance, chroma], dim=1), 0)
        positive: list[Tensor] = []
        carried: list[Tensor] = []
        for octave in range(_OCTAVES):
            first = self._modulus(luminance)
            positive.append(self._pool(first, octave))
            if octave > 0:
                responses = self._modulus(chroma)
                positive += [
                    self._pool(responses[:, side : side + _ORIENTATIONS].mean(dim=1, keepdim=True), octave)
                    for side in (0, _ORIENTATIONS)
                ]
            for earlier in carried:
                positive.append(self.relative @ self._pool(self._modulus(earlier), octave))
            carried.append(first)
            if octave + 1 < _OCTAVES:
                luminance, chroma = halve(luminance, self.low_pass), halve(chroma, self.low_pass)
                carried = [halve(planes, self.low_pass) for planes in carried]
        logs = torch.log(torch.cat(positive, dim=1) + _LOG_OFFSET)
        return torch.cat([linear, logs], dim=1).transpose(1, 2)

    def _modulus(self, planes: Tensor) -> Tensor:
        """Take (B, C, H, W) to wavelet moduli (B, C·orientations, H, W), the orientation running fastest."""
        channels, height, width = planes.shape[1:]
        margin = KERNEL // 2
        single = functional.pad(planes.reshape(-1, 1, height, width), (margin,) * 4, mode="reflect")
        waves = functional.conv2d(single, self.bank)
        real, imaginary = waves[:, :_ORIENTATIONS], waves[:, _ORIENTATIONS:]
        modulus = torch.sqrt(real * real + imaginary * imaginary + 1e-12)
        return modulus.reshape(-1, channels * _ORIENTATIONS, height, width)

    def _pool(self, planes: Tensor, octave: int) -> Tensor:
        """Pool planes (B, C, H, W) of an octave to (B, C, grid·grid)."""
        windows = self.get_buffer(f"windows{octave}")
        return (windows @ planes @ windows.T).flatten(start_dim=2)


def _relative_orientation_average() -> Tensor:
    """Build the average of second-order paths over their first orientation, the turn between both kept.

    Returns (orientations, orientations²) float32, rows summing to one.
    """
    matrix = torch.zeros(_ORIENTATIONS, _ORIENTATIONS, _ORIENTATIONS)
    for first in range(_ORIENTATIONS):
        for turn in range(_ORIENTATIONS):
            matrix[turn, first, (first + turn) % _ORIENTATIONS] = 1.0 / _ORIENTATIONS
    return matrix.flatten(start_dim=1)


@lru_cache(maxsize=8)
def _noise_whitening(input_size: int, grid: int) -> tuple[Tensor, Tensor]:
    """Give the mean (C,) and a shrunk symmetric whitening (C, C) of the coefficients over power-law noise.

    Neighbouring scales and orientations overlap, so their raw coefficients repeat each other; after whitening a
    distance counts what is unlike noise. Symmetric (ZCA), so the sign of an eigenvector cannot matter.
    """
    scattering = _LogScattering(input_size, grid)
    margin = grid // 8
    rows = []
    with torch.no_grad():
        for index in range(_NOISE_IMAGES):
            tokens = scattering(_noise_image(input_size, index)).unflatten(1, (grid, grid))
            rows.append(tokens[0, margin : grid - margin, margin : grid - margin].flatten(0, 1))
    samples = torch.cat(rows).double().numpy()
    mean, deviation = samples.mean(axis=0), samples.std(axis=0)
    standard = (samples - mean) / deviation
    correlation = standard.T @ standard / len(standard)
    values, vectors = np.linalg.eigh((1 - _SHRINKAGE) * correlation + _SHRINKAGE * np.eye(len(correlation)))
    whitening = (np.eye(len(correlation)) / deviation[:, None]) @ (vectors / np.sqrt(values)) @ vectors.T
    return torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(whitening.astype(np.float32))


def _noise_image(size: int, seed: int) -> Tensor:
    """Draw colour noise with a power-law spectrum and a random contrast: (1, 3, size, size) in [0, 1]."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = 1 / size
    slope, contrast = random.uniform(0.6, 1.6), 2.0 ** random.uniform(-2.0, 0.5)
    planes = []
    for amplitude in (0.2, 0.04, 0.04):
        spectrum = random.standard_normal((2, *frequency.shape))
        plane = np.fft.irfft2((spectrum[0] + 1j * spectrum[1]) / frequency**slope, s=(size, size))
        planes.append(plane * (amplitude / plane.std()))
    luminance, red, blue = planes
    image = np.stack([luminance + red, luminance - 0.3 * (red + blue), luminance + blue])
    return torch.from_numpy(np.clip(0.5 + contrast * image, 0, 1).astype(np.float32))[None]
