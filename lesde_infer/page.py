"""What pages have in common: templates, numbers and pictures in them, and writing them whole.

Pages load nothing from anywhere, run no script but one that sorts tables, which their content security policy knows by
its digest, read well on a phone, in dark mode, on paper and aloud, and are the same, byte for byte, for the same
results. Everything that comes from a recording is escaped.
"""

import base64
import hashlib
import io
import math
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data_tools.new_file import written_whole
from lesde_infer.verdict import say_probability

PACKAGES = ("lesde-infer", "numpyro", "jax", "numpy", "scipy", "scikit-learn", "arviz-stats", "matplotlib")

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Image:
    """A picture in a page."""

    uri: str
    alt: str
    caption: str


def format_number(value: float) -> str:
    """Write a number to three significant digits, as prose does: 0.0123, 12,300, 4.56×10⁻⁷, not defined."""
    if not math.isfinite(value):
        return "not defined" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    mantissa, exponent = f"{abs(value):.2e}".split("e")
    sign, power = "−" if value < 0 else "", int(exponent)
    if value == 0:
        return "0"
    if -4 < power < 6:
        return f"{sign}{float(f'{abs(value):.2e}'):,.{max(0, 2 - power)}f}"
    return f"{sign}{mantissa}×10{str(power).translate(_SUPERSCRIPTS)}"


format_probability = partial(say_probability, decimals=3)
"""Write a probability as tables do, to three decimals."""


def format_interval(interval: Any) -> str:
    """Write a mean with its central 90 % interval."""
    return f"{format_number(interval.mean)} ({format_number(interval.q05)} to {format_number(interval.q95)})"


def template(name: str) -> Template:
    """Return a template of the package, which escapes what it is given."""
    environment = Environment(
        loader=PackageLoader("lesde_infer"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=format_number, probability=format_probability, interval=format_interval)
    return environment.get_template(name)


def draw(plot: Callable[[Axes], object], *, alt: str, caption: str, size: tuple[float, float] = (5.6, 3.4)) -> Image:
    """Draw a picture of one plot."""
    # Margins in inches that hold two lines of a label: a constrained layout would draw each picture twice.
    left, bottom, right, top = 1.0, 0.55, 0.12, 0.12
    figure = Figure(figsize=size)
    figure.subplots_adjust(left / size[0], bottom / size[1], 1 - right / size[0], 1 - top / size[1])
    plot(figure.add_subplot())
    return encode(figure, alt=alt, caption=caption)


def encode(figure: Figure, *, alt: str, caption: str) -> Image:
    """Make a picture of a figure."""
    buffer = io.BytesIO()
    # A fixed salt and no date: the same fit gives the same page. Letters as paths: no font is needed to show it.
    with mpl.rc_context({"svg.hashsalt": "lesde", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", dpi=200, metadata={"Date": None, "Creator": None})
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Image(uri=f"data:image/svg+xml;base64,{encoded}", alt=alt, caption=caption)


def versions_used() -> dict[str, str]:
    """Return the versions of what a page was made with."""
    versions = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


@dataclass(frozen=True)
class Script:
    """The script of a page.

    Attributes
    ----------
    source : Markup
        What runs.
    digest : Markup
        By which a content security policy allows it and nothing else.
    """

    source: Markup
    digest: Markup


def sorting_script() -> Script:
    """Return the script that lets readers sort tables by a column; pages are whole without it."""
    source = (files("lesde_infer") / "templates" / "sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    return Script(Markup(source), Markup(f"sha256-{digest}"))  # noqa: S704  (both are ours)


def write_page(path: Path, name: str, *, force: bool, **content: Any) -> Path:
    """Fill a template, and write the page, which appears complete or not at all."""
    html = template(name).render(versions=versions_used(), script=sorting_script(), **content)
    with written_whole(path, force) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path
