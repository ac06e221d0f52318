"""A picture of what was answered around each fault: bars over time, one row a fault, in one SVG file."""

from collections.abc import Iterator, Sequence
from html import escape

import msgspec

_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 1000, 230, 20, 64, 40
_ROW, _GAP = 90, 26
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#222}.dim{fill:#777;font-size:12px}.bold{font-weight:600}"
    ".lost{fill:#1f6fb4}.other{fill:#c9d6e2}"
    ".fault{stroke:#c0392b;stroke-width:1.5}.grid{stroke:#e4e4e4}.back{stroke:#2e8b57;stroke-dasharray:4 3}"
)


class Row(msgspec.Struct, frozen=True):
    """One fault: answers in each bar, those of the actors that lived on the lost silo and those of all others."""

    title: str
    subtitle: str
    lost: Sequence[int]
    other: Sequence[int]
    back: float
    """Seconds from the fault until the last of the lost silo's actors had answered."""


def draw(rows: Sequence[Row], *, seconds_a_bar: float, lead: float, title: str) -> str:
    """The picture; ``lead`` seconds of each row are before the fault."""
    seconds = max(len(row.lost) for row in rows) * seconds_a_bar
    height = _TOP + len(rows) * (_ROW + _GAP) + _BOTTOM
    scale = (_WIDTH - _LEFT - _RIGHT) / seconds
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
        _text("bold", 20, 26, title),
        *_legend(seconds_a_bar),
        *_grid(seconds, lead, scale, height),
    ]
    for number, row in enumerate(rows):
        bottom = _TOP + number * (_ROW + _GAP) + _ROW
        back = _LEFT + (lead + row.back) * scale
        parts += [
            *_bars(row, bottom, scale * seconds_a_bar),
            _text("bold", 20, bottom - 44, row.title),
            _text("dim", 20, bottom - 26, row.subtitle),
            _line("back", back, bottom - _ROW, bottom),
            _text("dim", back + 4, bottom - _ROW + 8, f"{row.back:.2f} s"),
        ]
    parts.append(_line("fault", _LEFT + lead * scale, _TOP - 6, height - _BOTTOM))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _legend(seconds_a_bar: float) -> list[str]:
    of_lost = f"answers in {seconds_a_bar * 1000:.0f} ms of the actors that lived on the lost silo"
    return [
        _bar("lost", 20, 38, 10, 10),
        _text("dim", 36, 48, of_lost),
        _bar("other", 400, 38, 10, 10),
        _text("dim", 416, 48, "of all others"),
        _line("fault", 530, 38, 50),
        _text("dim", 538, 48, "the fault"),
        _line("back", 620, 38, 50),
        _text("dim", 628, 48, "all have answered elsewhere"),
    ]


def _grid(seconds: float, lead: float, scale: float, height: int) -> Iterator[str]:
    for second in range(-int(lead), int(seconds - lead) + 1):
        x = _LEFT + (second + lead) * scale
        yield _line("grid", x, _TOP, height - _BOTTOM)
        yield _text("dim", x - 8, height - _BOTTOM + 16, f"{second} s")


def _bars(row: Row, bottom: float, width: float) -> Iterator[str]:
    tallest = max([lost + other for lost, other in zip(row.lost, row.other, strict=True)], default=0) or 1
    for number, (lost, other) in enumerate(zip(row.lost, row.other, strict=True)):
        x, y = _LEFT + number * width, bottom
        for kind, count in (("lost", lost), ("other", other)):
            tall = count / tallest * _ROW
            y -= tall
            if count:
                yield _bar(kind, x, y, width * 0.9, tall)


def _line(kind: str, x: float, top: float, bottom: float) -> str:
    return f'<line class="{kind}" x1="{x:.1f}" y1="{top:.1f}" x2="{x:.1f}" y2="{bottom:.1f}"/>'


def _bar(kind: str, x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.2f}" height="{height:.1f}"/>'


def _text(kind: str, x: float, y: float, words: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'
