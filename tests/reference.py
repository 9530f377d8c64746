"""Naive loop versions of the numerics, in float64: slow, short, and obviously right."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from orchestrator.domain.letterbox import Letterbox

Floats = NDArray[np.float64]


def clustered(n: int, dim: int, clusters: int, seed: int, spread: float = 0.5) -> NDArray[np.float32]:
    """Draw (n, dim) float32 unit rows around random unit centres."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((clusters, dim))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    rows = centres[rng.integers(0, clusters, n)] + spread / math.sqrt(dim) * rng.standard_normal((n, dim))
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def greedy_k_center(rows: NDArray[np.float32], count: int, first: int) -> list[int]:
    """Add the farthest row, one by one; ties go to the lowest row."""
    exact = rows.astype(np.float64)
    selected = [first]
    distances = ((exact - exact[first]) ** 2).sum(axis=1)
    while len(selected) < count:
        distances[selected[-1]] = -1
        farthest = int(np.argmax(distances))
        selected.append(farthest)
        distances = np.minimum(distances, ((exact - exact[farthest]) ** 2).sum(axis=1))
        distances[selected] = -1
    return selected


def greedy_extension(centres: NDArray[np.float32], rows: NDArray[np.float32], count: int) -> list[int]:
    """Add the row farthest from all centres and all added before it, one by one; ties go to the lowest."""
    exact = rows.astype(np.float64)
    distances = np.min([((exact - c) ** 2).sum(axis=1) for c in centres.astype(np.float64)], axis=0)
    selected: list[int] = []
    while len(selected) < count:
        selected.append(int(np.argmax(distances)))
        distances = np.minimum(distances, ((exact - exact[selected[-1]]) ** 2).sum(axis=1))
        distances[selected] = -1
    return selected


def greedy_shortfall(rows: NDArray[np.float32], selected: Sequence[int]) -> float:
    """Give by how much any pick was nearer than the farthest row at its turn, as a share of that distance."""
    exact = rows.astype(np.float64)
    distances = ((exact - exact[selected[0]]) ** 2).sum(axis=1)
    worst = 0.0
    for pick in selected[1:]:
        worst = max(worst, 1 - math.sqrt(distances[pick] / distances.max()))
        distances = np.minimum(distances, ((exact - exact[pick]) ** 2).sum(axis=1))
    return worst


def distance_table(queries: NDArray[np.float32], rows: NDArray[np.float32]) -> Floats:
    """Give every Euclidean distance, (N, M)."""
    table = np.empty((len(queries), len(rows)))
    for i, query in enumerate(queries.astype(np.float64)):
        for j, row in enumerate(rows.astype(np.float64)):
            table[i, j] = math.sqrt(float(((query - row) ** 2).sum()))
    return table


def nearest_neighbours(
    queries: NDArray[np.float32], rows: NDArray[np.float32], k: int
) -> tuple[Floats, NDArray[np.int64]]:
    """Sort all rows by squared distance, then by number: (N, K) each."""
    squared, index = np.empty((len(queries), k)), np.empty((len(queries), k), dtype=np.int64)
    for i, query in enumerate(queries.astype(np.float64)):
        apart = [(math.fsum((query - row) ** 2), j) for j, row in enumerate(rows.astype(np.float64))]
        for place, (distance, j) in enumerate(sorted(apart)[:k]):
            squared[i, place], index[i, place] = distance, j
    return squared, index


def patch_touches(mask: NDArray[np.bool_], box: Letterbox, grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Intersect every patch's rectangle with every true pixel's, both in crop coordinates."""
    touched = np.zeros(grid, dtype=np.bool_)
    for row in range(grid[0]):
        for column in range(grid[1]):
            top = (row * box.canvas[0] / grid[0] - box.top) * box.crop[0] / box.height
            bottom = ((row + 1) * box.canvas[0] / grid[0] - box.top) * box.crop[0] / box.height
            left = (column * box.canvas[1] / grid[1] - box.left) * box.crop[1] / box.width
            right = ((column + 1) * box.canvas[1] / grid[1] - box.left) * box.crop[1] / box.width
            touched[row, column] = any(
                min(bottom, y + 1) - max(top, y) > 1e-6 and min(right, x + 1) - max(left, x) > 1e-6
                for y, x in np.argwhere(mask)
            )
    return touched


def anomaly_map(
    distances: NDArray[np.float32], valid: NDArray[np.bool_], box: Letterbox, sigma: float
) -> Floats:
    """Fill from the nearest valid patch, read each pixel off its four patches, then blur."""
    grid = distances.shape
    places = [(int(r), int(c)) for r, c in np.argwhere(valid)]
    filled = np.empty(grid)
    for r in range(grid[0]):
        for c in range(grid[1]):
            filled[r, c] = distances[min(places, key=lambda p: (p[0] - r) ** 2 + (p[1] - c) ** 2)]
    drawn = np.empty(box.crop)
    for y in range(box.crop[0]):
        for x in range(box.crop[1]):
            row = ((y + 0.5) * box.height / box.crop[0] + box.top) * grid[0] / box.canvas[0] - 0.5
            column = ((x + 0.5) * box.width / box.crop[1] + box.left) * grid[1] / box.canvas[1] - 0.5
            row, column = min(max(row, 0), grid[0] - 1), min(max(column, 0), grid[1] - 1)
            r0, c0 = int(row), int(column)
            r1, c1 = min(r0 + 1, grid[0] - 1), min(c0 + 1, grid[1] - 1)
            v, u = row - r0, column - c0
            upper = (1 - u) * filled[r0, c0] + u * filled[r0, c1]
            lower = (1 - u) * filled[r1, c0] + u * filled[r1, c1]
            drawn[y, x] = (1 - v) * upper + v * lower
    return gaussian_blur(drawn, sigma)


def gaussian_blur(image: Floats, sigma: float) -> Floats:
    """Blur with a kernel of round(3 sigma) * 2 + 1, mirrored at the border without repeating the edge."""
    reach = round(3 * sigma)
    if reach == 0:
        return image
    weights = np.array([math.exp(-(k * k) / (2 * sigma * sigma)) for k in range(-reach, reach + 1)])
    weights /= weights.sum()
    padded = np.pad(image, reach, mode="reflect") if min(image.shape) > 1 else _pad_thin(image, reach)
    height, width = image.shape
    blurred = np.zeros_like(image)
    for i, a in enumerate(weights):
        for j, b in enumerate(weights):
            blurred += a * b * padded[i : i + height, j : j + width]
    return blurred


def _pad_thin(image: Floats, reach: int) -> Floats:
    for axis in (0, 1):
        mode = "edge" if image.shape[axis] == 1 else "reflect"
        image = np.pad(image, [(reach, reach) if a == axis else (0, 0) for a in (0, 1)], mode=mode)  # type: ignore[call-overload]
    return image


def percentile(values: Sequence[float], q: float) -> float:
    """Interpolate linearly between the two order statistics around q percent."""
    ordered = sorted(float(v) for v in values)
    place = (len(ordered) - 1) * q / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def reweighted_score(queries: NDArray[np.float32], rows: NDArray[np.float32], neighbours: int) -> float:
    """Scale the largest distance to a nearest row by 1 minus its share among that row's neighbours."""
    table = distance_table(queries, rows)
    patch = int(np.argmax(table.min(axis=1)))
    row = int(np.argmin(table[patch]))
    between = distance_table(rows[[row]], rows)[0]
    between[row] = -1
    around = sorted(range(len(rows)), key=lambda other: float(between[other]))[:neighbours]
    shares = [math.exp(table[patch, other]) for other in around]
    return float((1 - shares[0] / sum(shares)) * table[patch, row])


def heat_map(anomaly: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Stretch [p1, p99] of the in-mask values to 0..255, pixel by pixel."""
    inside = [float(v) for v in anomaly[mask]]
    low, high = percentile(inside, 1), percentile(inside, 99)
    heat = np.zeros(anomaly.shape, dtype=np.uint8)
    for y, x in np.argwhere(mask):
        heat[y, x] = round(min(max((float(anomaly[y, x]) - low) / (high - low), 0), 1) * 255)
    return heat


def components(binary: NDArray[np.bool_]) -> list[set[tuple[int, int]]]:
    """Flood-fill the 8-connected sets of true pixels, as (y, x)."""
    left = {(int(y), int(x)) for y, x in np.argwhere(binary)}
    found = []
    while left:
        stack, part = [left.pop()], set()
        while stack:
            y, x = stack.pop()
            part.add((y, x))
            around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= around
            stack.extend(around)
        found.append(part)
    return found


def lowest_certified(ok: Sequence[float], max_rate: float, confidence: float) -> float | None:
    """Try every OK score from below; None where none keeps the false-reject rate."""
    n = len(ok)
    for t in sorted(set(ok)):
        m = sum(s >= t for s in ok)
        if stats.beta(m, n - m + 1).ppf(confidence) <= max_rate:
            return t
    return None


def expected_cost(
    ok: Sequence[float], ng: Sequence[float], t: float, prevalence: float, escape: float, reject: float
) -> float:
    """Count the wrong verdicts of a threshold and weigh them."""
    escapes = sum(s < t for s in ng) / len(ng)
    rejects = sum(s >= t for s in ok) / len(ok)
    return prevalence * escape * escapes + (1 - prevalence) * reject * rejects


def near_groups(rows: Sequence[NDArray[np.float32]], share: float, quantile: float) -> list[int]:
    """Join whoever is near, pair by pair, over and over. rows: (N, D) unit rows of each photograph."""
    n = len(rows)
    distance = {(a, b): float(np.linalg.norm(rows[a] - rows[b])) for a in range(n) for b in range(a + 1, n)}
    limit = share * float(np.quantile(list(distance.values()), quantile))
    group = list(range(n))
    for (a, b), apart in distance.items():
        if apart <= limit:
            group = [group[a] if g == group[b] else g for g in group]
    return group
