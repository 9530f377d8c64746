"""A backbone that needs no weights: two-order wavelet scattering of luminance and chroma, pooled to a token grid.

Knows float RGB in and tokens out; knows no uint8, no L2 normalisation (`graph.py`), no timm. Nothing here is fitted
to photographs: filters come from theory, the whitening from synthetic 1/f noise.
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
_DARK_OFFSET = 0.1
_LOG_OFFSET = 5e-4
_SHRINKAGE = 0.1
_BIAS = 2.0
_NOISE_IMAGES = 12


class ScatteringFeatures(nn.Module):
    """Scattering tokens on a grid.

    input_size: px, both sides, divisible by 16. grid: cells a side. `dim` is the token's length.
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
        self.register_buffer("whitening", whitening)
        self.register_buffer("bias", torch.full((1, grid * grid, 1), _BIAS * len(mean) ** 0.5))

    def forward(self, rgb: Tensor) -> Tensor:
        """Compute tokens.

        rgb: (B, 3, H, W) float32 in [0, 1]. Returns (B, grid·grid, dim) float32, row-major, not L2-normalised.
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
        linear, positive = self.pooled(rgb)
        logs = torch.log(positive + _LOG_OFFSET)
        return torch.cat([linear, logs], dim=1).transpose(1, 2)

    def pooled(self, rgb: Tensor) -> tuple[Tensor, Tensor]:
        """rgb: (B, 3, H, W). Returns (B, grid·grid, C)."""
        rgb = torch.log(rgb + _DARK_OFFSET) * (0.5 + _DARK_OFFSET)
        luminance = (rgb * self.luma).sum(dim=1, keepdim=True)
        chroma = torch.cat([rgb[:, 2:3] - luminance, rgb[:, 0:1] - luminance], dim=1)
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
        return linear, torch.cat(positive, dim=1)

    def _modulus(self, planes: Tensor) -> Tensor:
        """planes: (B, C, H, W). Returns (B, C·orientations, H, W), the orientation running fastest."""
        channels, height, width = planes.shape[1:]
        margin = KERNEL // 2
        single = functional.pad(planes.reshape(-1, 1, height, width), (margin,) * 4, mode="reflect")
        waves = functional.conv2d(single, self.bank)
        real, imaginary = waves[:, :_ORIENTATIONS], waves[:, _ORIENTATIONS:]
        modulus = torch.sqrt(real * real + imaginary * imaginary + 1e-12)
        return modulus.reshape(-1, channels * _ORIENTATIONS, height, width)

    def _pool(self, planes: Tensor, octave: int) -> Tensor:
        """planes: (B, C, H, W) at an octave. Returns (B, C, grid·grid)."""
        windows = self.get_buffer(f"windows{octave}")
        return (windows @ planes @ windows.T).flatten(start_dim=2)


def _relative_orientation_average() -> Tensor:
    """Average second-order paths over the first orientation: (orientations, orientations²), rows sum to one."""
    matrix = torch.zeros(_ORIENTATIONS, _ORIENTATIONS, _ORIENTATIONS)
    for first in range(_ORIENTATIONS):
        for turn in range(_ORIENTATIONS):
            matrix[turn, first, (first + turn) % _ORIENTATIONS] = 1.0 / _ORIENTATIONS
    return matrix.flatten(start_dim=1)


@lru_cache(maxsize=8)
def _noise_whitening(input_size: int, grid: int) -> tuple[Tensor, Tensor]:
    """Give mean (C,) and symmetric-shrunk whitening (C, C) of the coefficients over 1/f^a noise."""
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
