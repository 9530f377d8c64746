"""Fixed filters: Morlet wavelets, the pyramid's low-pass and Gaussian pooling windows.

Knows signal processing only: nothing of tokens or networks. Every constant is computed, none is learned.
Source: Bruna & Mallat 2013, "Invariant Scattering Convolution Networks"; Burt & Adelson 1983 (pyramid).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_CENTRE_FREQUENCY = 1.9
"""Radians per pixel of each octave: above the low-pass's half-band edge, below Nyquist."""

_ENVELOPE_SIGMA = 1.1
"""Pixels along the wave; the ring that the orientations cover is one octave wide."""

_SLANT = 0.5
"""Envelope across the wave over along it, inverted: neighbouring orientations meet at half their maximum."""

KERNEL = 9
"""Pixels: the envelope has fallen below 2 % (across) and 0.2 % (along) at the border."""


def morlet_bank(orientations: int) -> Tensor:
    """Build complex Morlet wavelets over half a turn.

    Returns (2·orientations, 1, KERNEL, KERNEL) float32: all real parts, then all imaginary parts. Each wavelet
    has zero mean, so a flat image gives no response, and unit L1 norm, so responses keep the image's units.
    """
    radius = KERNEL // 2
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float64)
    bank = []
    for index in range(orientations):
        angle = math.pi * index / orientations
        along = x * math.cos(angle) + y * math.sin(angle)
        across = y * math.cos(angle) - x * math.sin(angle)
        envelope = np.exp(-(along**2 + (_SLANT * across) ** 2) / (2 * _ENVELOPE_SIGMA**2))
        wavelet = envelope * np.exp(1j * _CENTRE_FREQUENCY * along)
        wavelet -= envelope * (wavelet.sum() / envelope.sum())
        bank.append(wavelet / np.abs(wavelet).sum())
    stacked = np.stack(bank)
    return torch.from_numpy(np.concatenate([stacked.real, stacked.imag])[:, None].astype(np.float32))


def gaussian_windows(cells: int, pixels: int, sigma_cells: float) -> Tensor:
    """Build the matrix that pools one image axis to a grid axis.

    sigma_cells: standard deviation in grid cells. Returns (cells, pixels) float32, rows summing to one: at the
    border a window is cut, not padded. Any size pools to any grid, so octaves need no integer stride.
    """
    centres = (np.arange(cells) + 0.5) / cells
    places = (np.arange(pixels) + 0.5) / pixels
    weights = np.exp(-(((centres[:, None] - places[None, :]) * cells / sigma_cells) ** 2) / 2)
    return torch.from_numpy((weights / weights.sum(axis=1, keepdims=True)).astype(np.float32))


def halve(planes: Tensor, low_pass: Tensor) -> Tensor:
    """Blur and keep every second pixel.

    planes: (B, C, H, W). low_pass: (5,) taps. Returns (B, C, H/2, W/2).
    """
    height, width = planes.shape[-2:]
    channels = planes.shape[1]
    single = functional.pad(planes.reshape(-1, 1, height, width), (2, 2, 2, 2), mode="reflect")
    single = functional.conv2d(single, low_pass.view(1, 1, 5, 1), stride=(2, 1))
    single = functional.conv2d(single, low_pass.view(1, 1, 1, 5), stride=(1, 2))
    return single.reshape(-1, channels, single.shape[-2], single.shape[-1])


def binomial_low_pass() -> Tensor:
    """Give the five binomial taps, (5,) float32, summing to one: a small low-pass close to a Gaussian."""
    return torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16.0
