"""Tables of results in Markdown, one for each spacing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from statistics import mean, median
from typing import Any

Result = dict[str, Any]

UNIT = 'synonly'
"""The method whose time the others' is given in."""

HEADER = (
    'Method',
    'Threads',
    'Pairs',
    'Dice mean',
    'Dice worst',
    'Min. Jacobian',
    'Pairs with folds',
    'Inverse error (voxels): median',
    '99 %',
    'Energy drift (%)',
    'Time (s)',
    'CPU (s)',
    f'Time / {UNIT}',
    'Memory (MiB)',
)


def tables(results: Iterable[Result]) -> str:
    """Return Markdown tables, finest spacing last; methods in the order of their mean Dice."""
    by_spacing = sorted(results, key=lambda result: -result['spacing'])
    parts = [
        _table(spacing, list(group))
        for spacing, group in groupby(by_spacing, key=lambda result: result['spacing'])
    ]
    return '\n\n'.join(parts)


def _table(spacing: float, results: list[Result]) -> str:
    rows = _group(results)
    unit = {
        threads: median(r['seconds'] for r in group)
        for (method, threads, _), group in rows.items()
        if method == UNIT
    }
    body = [
        _row(f'{method} ({device})', threads, group, unit.get(threads))
        for (method, threads, device), group in sorted(
            rows.items(), key=lambda row: -mean(r['dice'] for r in row[1])
        )
    ]
    affine = {(r['moving'], r['fixed']): r['dice_affine'] for r in results}.values()
    before = f'Affine only: Dice mean {mean(affine):.4f}, worst {min(affine):.4f}.'
    lines = (f'| {" | ".join(cells)} |' for cells in (HEADER, ['---'] * len(HEADER), *body))
    return '\n'.join([f'### {spacing:g} mm', '', before, '', *lines])


def _group(results: list[Result]) -> dict[tuple[str, int, str], list[Result]]:
    groups: dict[tuple[str, int, str], list[Result]] = {}
    for result in results:
        key = result['method'], result['threads'], result['device']
        groups.setdefault(key, []).append(result)
    return groups


def _row(name: str, threads: int, group: list[Result], unit: float | None) -> list[str]:
    """Return the cells of a method; errors and drift of the worst pair, costs as medians."""

    def cell(key: str, over: Callable[[Sequence[float]], float], form: str) -> str:
        values = [r[key] for r in group if r.get(key) is not None]
        return format(over(values), form) if values else '–'

    seconds = median(r['seconds'] for r in group)
    drift = [100 * r['energy_drift'] for r in group if r['energy_drift'] is not None]
    return [
        name,
        str(threads),
        str(len(group)),
        cell('dice', mean, '.4f'),
        cell('dice', min, '.4f'),
        f'{min(_of_both(r, "min_jacobian", min) for r in group):.3f}',
        str(sum(_of_both(r, 'nonpositive', max) > 0 for r in group)),
        cell('inverse_median', max, '.4f'),
        cell('inverse_p99', max, '.3f'),
        f'{max(drift):.4f}' if drift else '–',
        f'{seconds:.1f}',
        cell('cpu_seconds', median, '.1f'),
        f'{seconds / unit:.2f}' if unit else '–',
        cell('device_mb' if 'cuda' in name else 'peak_mb', max, '.0f'),
    ]


def _of_both(result: Result, key: str, over: Callable[[Sequence[float]], float]) -> float:
    """Return the value of the map and of its inverse, if the inverse was scored."""
    return over([result[name] for name in (key, f'{key}_inverse') if name in result])
