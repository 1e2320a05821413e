"""The picture of what so many users take, in the style of the others."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from benchmarks import pictures
from benchmarks.sizing import Size

NAME = "capacity"
#: From few users to many.
COLOURS = ("#8fbff0", "#2377d9", "#cf4c1a")
#: Of a row's height, all bars of it.
BARS = 0.78
WIDTH, HEIGHT = 7.6, 4.4


def draw(sizes: Sequence[Size], folder: Path) -> list[Path]:
    """How much of what each machine may use is in use; returns the files."""
    with style.context(pictures.STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT))
        _uses(figure.subplots(), sizes)
        figure.legend(loc="outside lower center", ncols=len(sizes))
        folder.mkdir(exist_ok=True)
        return pictures._save(figure, folder / NAME)


def _uses(axes: Axes, sizes: Sequence[Size]) -> None:
    names = list(sizes[0].uses)
    height = BARS / len(sizes)
    for number, (each, colour) in enumerate(zip(sizes, COLOURS, strict=False)):
        machines = "machine" if each.machines == 1 else "machines"
        axes.barh(
            [row + height * (number - (len(sizes) - 1) / 2) for row in range(len(names))],
            [each.uses[name] for name in names],
            height=height,
            color=colour,
            label=f"{_people(each.demand.users)}: {each.machines:,} {machines}",
        )
    axes.axvline(1, color=pictures.SOFT, linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    axes.set(title="In use at the peak, of what a machine may use, by users")


def _people(users: int) -> str:
    return f"{users / 1e9:g} billion" if users >= 10**9 else f"{users / 1e6:g} million"
