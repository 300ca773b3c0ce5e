"""Interactive figures: live controls where a kernel runs, a plain HTML slider on a static page, offline."""

from __future__ import annotations

import base64
import html
import itertools
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # matplotlib is not needed to show what is already drawn
    from gleam.records.figures import Figure

STATIC = "GLEAM_STATIC"  # environment variable, set where a notebook is run to become a page
_COUNTER = itertools.count()  # of sliders, whose ids must differ on a page
_PLAY_SCRIPT = (
    "const b=this,s=b.closest('figure').querySelector('input');"
    "if(b.timer){clearInterval(b.timer);b.timer=0;b.textContent='Play';return}"
    "b.textContent='Pause';b.timer=setInterval(()=>{"
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
        # evenly apart, with the first and the last
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
        play = html.escape(f"Play or pause: {self.name}")
        button = f'<button type="button" aria-label="{play}" onclick="{html.escape(_PLAY_SCRIPT)}">Play</button>'
        return (
            f'<figure class="gleam-slider" id="{self.id}"><div class="gleam-frames">{images}</div><label>'
            f'{html.escape(self.name)} <output class="gleam-label">{labels}</output> <input type="range" min="0" '
            f'max="{last}" step="1" value="0" oninput="{html.escape(script)}" aria-label="{html.escape(self.name)}" '
            f'aria-valuetext="{html.escape(str(self.labels[0]))}"></label>'
            f"{button if self.play else ''}</figure>"
        )

    def __repr__(self) -> str:
        return f"Slider over {self.name}: {', '.join(map(str, self.labels))}"


class Explorer:
    """A figure that is drawn anew when a control is moved, for the last line of a cell.

    In JupyterLab the controls are live (ipywidgets), and every combination of their values is computed when it is asked
    for. In a notebook that is run to become a page (the environment variable GLEAM_STATIC is set), a :class:`Slider`
    over the first control is shown instead, the others at their first value.

    Parameters
    ----------
    draw : callable
        Of one keyword argument per control, to a :class:`gleam.records.figures.Figure`.
    controls : dict
        Of keyword to the values that can be chosen.
    alt : str
        Text for readers who do not see the picture.
    play : bool
        As in :class:`Slider`.
    """

    def __init__(
        self, draw: Callable[..., Figure], controls: dict[str, Sequence], *, alt: str, play: bool = False
    ) -> None:
        if not controls or not all(len(values) for values in controls.values()):
            raise ValueError(f"controls={controls!r}: expected at least one control, each with at least one value")
        self.draw, self.controls, self.alt, self.play = draw, controls, alt, play

    def static(self) -> Slider:
        """A slider over the first control."""
        (name, values), *others = self.controls.items()
        fixed = {other: choices[0] for other, choices in others}
        figures = {f"{value}": self.draw(**{name: value}, **fixed) for value in values}
        return Slider(figures, name=name, alt=self.alt, dpi=110, play=self.play)

    def live(self) -> Any:
        """A box of ipywidgets: one slider per control, and the picture."""
        import ipywidgets  # only a live figure needs it

        picture = ipywidgets.HTML()
        sliders = {
            name: ipywidgets.SelectionSlider(description=name, options=list(values), continuous_update=False)
            for name, values in self.controls.items()
        }

        def show(_=None):
            png = self.draw(**{name: slider.value for name, slider in sliders.items()}).png(110)
            data = base64.b64encode(png).decode()
            picture.value = f'<img alt="{html.escape(self.alt)}" src="data:image/png;base64,{data}">'

        for slider in sliders.values():
            slider.observe(show, "value")
        show()
        return ipywidgets.VBox([*sliders.values(), picture])

    def _ipython_display_(self):
        from IPython.display import display

        display(self.static() if os.environ.get(STATIC) else self.live())
