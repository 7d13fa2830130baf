"""The figure: how much faster the sparse layer is than the dense one, measured beside predicted; plain SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 760, 420, 60, 60, 150, 60


def draw(
    batches: Sequence[int], measured: Sequence[float], predicted: Sequence[float], title: str, caption: str
) -> str:
    """The SVG's text. Batch sizes run along a logarithmic axis."""
    top = math.ceil(max(*measured, *predicted, 1.0) + 0.2)
    span = math.log2(batches[-1] / batches[0]) or 1.0

    def x(batch: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * math.log2(batch / batches[0]) / span

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * value / top

    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
            f'height="{_HEIGHT}" font-family="system-ui, sans-serif" font-size="13">'
        ),
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        f'<text x="16" y="26" font-size="16" font-weight="600">{escape(title)}</text>',
        '<text x="16" y="46" fill="#64748b">times faster than the equal dense layer, by tokens in the batch</text>',
    ]
    for value in range(top + 1):
        parts += [
            f'<line x1="{_LEFT}" y1="{y(value):.1f}" x2="{_WIDTH - _RIGHT}" y2="{y(value):.1f}" stroke="#e2e8f0"/>',
            f'<text x="{_LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end" fill="#64748b">{value}</text>',
        ]
    parts += [
        f'<text x="{x(batch):.1f}" y="{_HEIGHT - _BOTTOM + 20}" text-anchor="middle" fill="#64748b">{batch}</text>'
        for batch in batches
    ]
    for name, values, colour, dashes in (
        ("predicted", predicted, "#94a3b8", ' stroke-dasharray="6 4"'),
        ("measured", measured, "#2563eb", ""),
    ):
        line = " ".join(
            f"{x(batch):.1f},{y(value):.1f}" for batch, value in zip(batches, values, strict=True)
        )
        parts += [
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>',
            *(
                f'<circle cx="{x(batch):.1f}" cy="{y(value):.1f}" r="3" fill="{colour}"/>'
                for batch, value in zip(batches, values, strict=True)
            ),
            (
                f'<text x="{_WIDTH - _RIGHT + 10}" y="{y(values[-1]) + (16 if name == "predicted" else -8):.1f}" '
                f'fill="{colour}">{name}</text>'
            ),
        ]
    parts.append(
        f'<text x="16" y="{_HEIGHT - 12}" fill="#64748b" font-size="11">{escape(caption)}</text></svg>'
    )
    return "\n".join(parts) + "\n"
