"""The picture: processor time a call of gateway and nginx, one row a cell, on a logarithmic scale; plain SVG."""

from __future__ import annotations

import math
from typing import Any
from xml.sax.saxutils import escape

from bench.cells import CELLS

_WIDTH, _LEFT, _RIGHT, _ROW = 860, 250, 110, 54
_COLOURS = {"gateway": "#2563eb", "nginx": "#94a3b8"}


def draw(found: dict[str, Any], caption: str) -> str:
    """The SVG's text."""
    cells = [each for each in CELLS if each.name in found]
    values = [
        found[cell.name][target]["cpu_ms"]["median"]
        for cell in cells
        for target in ("gateway", "nginx")
        if target in found[cell.name]
    ]
    low = 10 ** math.floor(math.log10(min(values)))
    high = 10 ** math.ceil(math.log10(max(values)))
    scale = (_WIDTH - _LEFT - _RIGHT) / (math.log10(high) - math.log10(low))

    def across(value: float) -> float:
        return _LEFT + (math.log10(value) - math.log10(low)) * scale

    height = 70 + _ROW * len(cells) + 40
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
            'font-family="system-ui, sans-serif" font-size="13">'
        ),
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        '<text x="16" y="26" font-size="16" font-weight="600">Processor time a call, milliseconds (log scale)</text>',
    ]
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        x = across(10.0**power)
        parts += [
            f'<line x1="{x:.1f}" y1="44" x2="{x:.1f}" y2="{height - 44}" stroke="#e2e8f0"/>',
            f'<text x="{x:.1f}" y="{height - 30}" text-anchor="middle" fill="#64748b">{10.0**power:g}</text>',
        ]
    for row, cell in enumerate(cells):
        top = 54 + row * _ROW
        parts.append(f'<text x="{_LEFT - 10}" y="{top + 22}" text-anchor="end">{escape(cell.title)}</text>')
        for line, target in enumerate(name for name in ("gateway", "nginx") if name in found[cell.name]):
            at = found[cell.name][target]["cpu_ms"]
            y = top + line * 18
            parts += [
                (
                    f'<rect x="{_LEFT}" y="{y}" width="{across(at["median"]) - _LEFT:.1f}" height="14" '
                    f'fill="{_COLOURS[target]}"/>'
                ),
                (
                    f'<line x1="{across(at["least"]):.1f}" y1="{y + 7}" x2="{across(at["most"]):.1f}" y2="{y + 7}" '
                    'stroke="#0f172a"/>'
                ),
                f'<text x="{across(at["most"]) + 6:.1f}" y="{y + 12}">{at["median"]:.3g} {target}</text>',
            ]
    parts.append(
        f'<text x="16" y="{height - 10}" fill="#64748b" font-size="11">{escape(caption)}</text></svg>'
    )
    return "\n".join(parts) + "\n"
