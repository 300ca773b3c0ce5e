"""Interactive figures without a kernel: plain HTML with a native slider, which also works on a static page, offline."""

from __future__ import annotations

import base64
import html
import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # matplotlib is not needed to show what is already drawn
    from gleam.records.figures import Figure

_COUNTER = itertools.count()
_PLAY_SCRIPT = (
    "const b=this,s=b.closest('figure').querySelector('input');"
    "if(b.timer){clearInterval(b.timer);b.timer=0;b.firstChild.data='Play';return}"
    "b.firstChild.data='Pause';b.timer=setInterval(()=>{"
    "if(!b.isConnected)return clearInterval(b.timer);s.value=(+s.value+1)%(+s.max+1);s.oninput()},80)"
)
N_PRINTED = 4  # frames that stand side by side on paper


class Slider:
    """Figures to step through with a slider, for the last line of a cell. Frames are PNG images inside the page.

    Parameters
    ----------
    figures : dict
        Of label to :class:`gleam.records.figures.Figure`.
    name : str
        The quantity that the slider changes.
    alt : str
        Text for readers who do not see the picture.
    dpi : float
        Resolution of the frames.
    play : bool
        Add a button that shows the frames as a film, over and over.
    """

    def __init__(self, figures: dict[str, Figure], *, name: str, alt: str, dpi: float = 80, play: bool = False) -> None:
        self.labels = list(figures)
        self.frames = [base64.b64encode(figure.png(dpi)).decode() for figure in figures.values()]
        self.play = play
        self.name, self.alt, self.id = name, alt, f"gleam-slider-{next(_COUNTER)}"

    def _repr_html_(self) -> str:
        last = len(self.frames) - 1
        printed = {round(i * last / max(1, N_PRINTED - 1)) for i in range(N_PRINTED)}
        kinds = ["gleam-frame gleam-print" if i in printed else "gleam-frame" for i in range(last + 1)]
        images = "".join(
            f'<img class="{kind}" alt="{html.escape(f"{self.alt} {self.name}: {label}.")}" '
            f'src="data:image/png;base64,{frame}"{"" if i == 0 else " hidden"}>'
            for i, (kind, label, frame) in enumerate(zip(kinds, self.labels, self.frames, strict=True))
        )
        texts = (html.escape(str(label)) for label in self.labels)
        labels = "".join(f"<span{'' if i == 0 else ' hidden'}>{text}</span>" for i, text in enumerate(texts))
        script = (
            "const box=this.closest('figure'),at=+this.value;"
            "for(const part of box.querySelectorAll('.gleam-frames,.gleam-label'))"
            "[...part.children].forEach((child,i)=>child.hidden=i!==at);"
            "this.setAttribute('aria-valuetext',box.querySelector('.gleam-label').children[at].textContent)"
        )
        return (
            f'<figure class="gleam-slider" id="{self.id}"><div class="gleam-frames">{images}</div><label>'
            f'{html.escape(self.name)} <output class="gleam-label">{labels}</output> <input type="range" min="0" '
            f'max="{last}" step="1" value="0" oninput="{html.escape(script)}" aria-label="{html.escape(self.name)}" '
            f'aria-valuetext="{html.escape(str(self.labels[0]))}"></label>'
            f"{self._button() if self.play else ''}</figure>"
        )

    def _button(self):
        label = html.escape(f"Play or pause: {self.name}")
        return f'<button type="button" aria-label="{label}" onclick="{html.escape(_PLAY_SCRIPT)}">Play</button>'

    def __repr__(self) -> str:
        return f"Slider over {self.name}: {', '.join(map(str, self.labels))}"
