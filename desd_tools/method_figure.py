"""The figure of the method: student and teacher, four stages, heads, and the deepest target. Drawn by code.

Where from: ours, after Ye et al., "DeSD", MICCAI 2022. An SVG whose colours follow the reader's light or dark theme by
themselves, for a README shows it as a picture and hands it no style; fonts are generic.
"""

from __future__ import annotations

from pathlib import Path

from desd_components.base.files import write_atomically

STYLE = """
svg { font-family: system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; }
.ink { fill: #1d2227; } .soft { fill: #59636d; } .card { fill: #ffffff; stroke: #d5d1ca; }
.student { fill: #dce8f6; stroke: #2368b8; } .teacher { fill: #fbe6d7; stroke: #d0611a; }
.head { fill: #ffffff; stroke: #2368b8; } .target { fill: #ffffff; stroke: #d0611a; }
.line { stroke: #7d858d; fill: none; } .blue { stroke: #2368b8; fill: none; } .orange { stroke: #d0611a; fill: none; }
.tip { fill: #7d858d; } .tipblue { fill: #2368b8; } .tiporange { fill: #d0611a; }
@media (prefers-color-scheme: dark) {
.ink { fill: #e6e8ea; } .soft { fill: #a5aeb7; } .card { fill: #1b1f23; stroke: #3a4148; }
.student { fill: #1d2f45; stroke: #6cabf7; } .teacher { fill: #43291a; stroke: #f79a5c; }
.head { fill: #14171a; stroke: #6cabf7; } .target { fill: #14171a; stroke: #f79a5c; }
.line { stroke: #8f99a3; } .blue { stroke: #6cabf7; } .orange { stroke: #f79a5c; }
.tip { fill: #8f99a3; } .tipblue { fill: #6cabf7; } .tiporange { fill: #f79a5c; } }
"""
STAGES = (1, 2, 3, 4)
LEFT, STEP, WIDTH = 268, 132, 104  # of the row of stages, in pixels
STUDENT, HEADS, LOSS, TEACHER = 66, 178, 262, 366  # tops of the rows
SIZES = {1: 64, 2: 56, 3: 48, 4: 40}  # heights: a deeper stage has fewer voxels
ALT = (
    "A scan is cropped into two views. The student, an encoder of four stages, sees both; a projection head on each "
    "stage makes logits. The teacher, a moving average of the student, gives the target from its deepest stage alone. "
    "The loss compares every stage of the student with that target, across views."
)


def method_figure(output: str = "docs/figures/method.svg") -> None:
    """Write the figure of the method (docs/figures/method.svg), readable in light and dark."""
    write_atomically(Path(str(output)), method_svg().encode())
    print(output)


def method_svg() -> str:
    """The figure as a file of SVG."""
    parts = [*_scan(), *_encoder("student", STUDENT), *_heads(), *_loss(), *_encoder("teacher", TEACHER), *_target()]
    markers = "".join(_marker(name) for name in ("tip", "tipblue", "tiporange"))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 478" role="img" aria-labelledby="alt">'
        f'<title id="alt">{ALT}</title><style>{STYLE}</style><defs>{markers}</defs>{"".join(parts)}</svg>\n'
    )


def _marker(name: str) -> str:
    return (
        f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path class="{name}" d="M0 0 8 4 0 8z"/></marker>'
    )


def _box(x: float, y: float, width: float, height: float, kind: str, radius: float = 8) -> str:
    size = f'width="{width:g}" height="{height:g}" rx="{radius:g}"'
    return f'<rect class="{kind}" x="{x:g}" y="{y:g}" {size} stroke-width="1.6"/>'


def _words(x: float, y: float, words: str, kind: str = "ink", size: int = 13, bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="middle"{weight}>{words}</text>'


def _arrow(path: str, kind: str = "line", tip: str = "tip", dashed: bool = False) -> str:
    dashes = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<path class="{kind}" d="{path}" stroke-width="1.6" marker-end="url(#{tip})"{dashes}/>'


def _center(stage: int) -> float:
    return LEFT + (stage - 1) * STEP + WIDTH / 2


def _scan() -> list[str]:
    """The scan and its two views, each of which goes to the student, and to the teacher."""
    views = [_box(146, 92, 62, 62, "card"), _box(154, 100, 62, 62, "card"), _words(185, 136, "views")]
    below = [_box(146, 362, 62, 62, "card"), _box(154, 370, 62, 62, "card"), _words(185, 406, "views")]
    scan = [_box(20, 214, 92, 92, "card"), _words(66, 256, "scan", bold=True), _words(66, 275, "no label", "soft", 12)]
    ways = [_arrow("M84 212 C92 160 108 132 142 128"), _arrow("M84 308 C92 360 108 390 142 396")]
    words = [_words(48, 166, "crop, blur,", "soft", 12), _words(48, 182, "noise, gamma", "soft", 12)]
    return [*scan, *ways, *words, *views, *below]


def _encoder(kind: str, top: float) -> list[str]:
    """A row of four stages, from left to right."""
    middle = top + SIZES[1] / 2
    parts = [_arrow(f"M218 {middle:g} H{LEFT - 4}")]
    for stage in STAGES:
        height, x = SIZES[stage], LEFT + (stage - 1) * STEP
        parts.append(_box(x, middle - height / 2, WIDTH, height, kind))
        parts.append(_words(x + WIDTH / 2, middle + 5, f"stage {stage}", bold=True))
        if stage < max(STAGES):
            parts.append(_arrow(f"M{x + WIDTH:g} {middle:g} H{x + STEP - 4:g}"))
    notes = {
        "student": "student: the encoder that is trained",
        "teacher": "teacher: moving average of the student, no gradient",
    }
    place = top - 22 if kind == "student" else top + SIZES[1] + 30
    return [*parts, _words((_center(1) + _center(4)) / 2, place, notes[kind], "soft", 14)]


def _heads() -> list[str]:
    """A projection head below each stage of the student."""
    parts = []
    for stage in STAGES:
        x, bottom = _center(stage), STUDENT + (SIZES[1] + SIZES[stage]) / 2
        parts.append(_arrow(f"M{x:g} {bottom:g} V{HEADS - 4}", "blue", "tipblue"))
        parts += [_box(x - 40, HEADS, 80, 32, "head", 16), _words(x, HEADS + 21, f"head {stage}")]
        parts.append(_arrow(f"M{x:g} {HEADS + 32} V{LOSS - 4}", "blue", "tipblue"))
    return parts


def _loss() -> list[str]:
    """The bar in which each stage's logits meet the one target."""
    left, right = LEFT - 8, LEFT + 3 * STEP + WIDTH + 8
    words = "loss: every stage against the deepest target, across views"
    return [_box(left, LOSS, right - left, 40, "card"), _words((left + right) / 2, LOSS + 25, words, bold=True)]


def _target() -> list[str]:
    """The teacher's head above its deepest stage alone, and the moving average between the encoders."""
    x, top = _center(4), TEACHER + (SIZES[1] - SIZES[4]) / 2
    head = [_box(x - 40, 322, 80, 32, "target", 16), _words(x, 343, "head")]
    ways = [
        _arrow(f"M{x:g} {top:g} V358", "orange", "tiporange"),
        _arrow(f"M{x:g} 322 V{LOSS + 44}", "orange", "tiporange"),
    ]
    words = [
        _words(x - 152, 336, "target: centred, sharpened,", "soft", 12),
        _words(x - 152, 352, "from the deepest stage", "soft", 12),
    ]
    side, end = LEFT + 3 * STEP + WIDTH, TEACHER + SIZES[1] / 2
    average = [
        _arrow(
            f"M{side + 2} {STUDENT + SIZES[1] / 2} H{side + 44} V{end:g} H{side + 5}",
            "orange",
            "tiporange",
            dashed=True,
        )
    ]
    beside = [_words(side + 68, 226, "EMA", "soft", 13)]
    return [*head, *ways, *words, *average, *beside]
