"""Take all pictures of the report that README and docs show, from studies that have run.

Usage: python docs/report_pictures.py STUDY [STUDY ...] [--out docs] [--only NAME ...]

Pictures of one study show the first; pictures of several need two or more, and the index page is of
the folder that holds the first. Needs what docs/screenshot.py needs.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qsearch_reports import write_report
from qsearch_reports.page.index import write_index
from screenshot import WebDriver, capture, chromium, open_report, page_height
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

MAX_BYTES = 300_000
"""Of a picture; larger ones do not belong into a repository."""

SETTLE_SECONDS = 0.5
"""Until figures have been drawn again after an action."""

MARGIN = 12
"""Pixels of the page around a cropped element."""


@dataclass(frozen=True)
class Click:
    """A click into the middle of the first element of a selector, or some pixels from there."""

    selector: str
    across: int = 0
    down: int = 0


@dataclass(frozen=True)
class Press:
    """Keys pressed in the first element of a selector: names as in Selenium, or texts to type."""

    selector: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """A picture to take.

    Args:
        name: Its file, without the suffix.
        page: A key of ``PAGES``.
        width: Of the window, in CSS pixels; below 600 it is a phone's.
        height: Of the picture; None for the whole page. Has no effect with ``crop``.
        dark: Whether the screen is dark.
        actions: What is done before, in order.
        crop: Selector of elements: the picture holds them all and little more.
    """

    name: str
    page: str
    width: int = 1400
    height: int | None = 1500
    dark: bool = False
    actions: tuple[Click | Press, ...] = ()
    crop: str | None = None


PIN_AND_SELECT = (
    Click('[data-part="pin"]'),
    Press('[data-part="slider"]', ("ARROW_RIGHT",) * 24),
    Click('[data-part="select-front"]'),
)
"""Pin the first choice, choose another for a larger budget, and select the front."""

PICTURES = (
    Picture("report", "study"),
    Picture("report-dark", "study", height=1000, dark=True),
    Picture(
        "report-linked",
        "study",
        actions=(*PIN_AND_SELECT, Click('[data-figure="parallel"]')),
        crop='article:has([data-figure="parallel"])',
    ),
    Picture("report-compare", "study", actions=PIN_AND_SELECT, crop='[data-part="compare"]'),
    Picture("report-narrow", "study", width=390, height=1200),
    Picture("report-several", "several"),
    Picture("report-index", "index", height=700),
)


def one_study(studies: Sequence[Path], out: Path) -> None:
    """Write the report of the first study."""
    write_report(studies[:1], out)


def several_studies(studies: Sequence[Path], out: Path) -> None:
    """Write the report of all studies."""
    if len(studies) < 2:
        sys.exit("a picture of several studies needs at least two")
    write_report(studies, out)


def index(studies: Sequence[Path], out: Path) -> None:
    """Write the index page of the first study's folder."""
    write_index(studies[0].parent, out)


PAGES: dict[str, Callable[[Sequence[Path], Path], None]] = {
    "study": one_study,
    "several": several_studies,
    "index": index,
}
"""What writes a page, from the studies into a file."""


def do(driver: WebDriver, action: Click | Press) -> None:
    """Do what a reader would."""
    element = driver.find_element(By.CSS_SELECTOR, action.selector)
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    if isinstance(action, Click):
        chain = ActionChains(driver)
        chain.move_to_element_with_offset(element, action.across, action.down).click().perform()
    else:
        element.send_keys(*(getattr(Keys, key, key) for key in action.keys))
    time.sleep(SETTLE_SECONDS)


def box_of(driver: WebDriver, picture: Picture) -> tuple[float, float, float, float]:
    """Return left, top, width and height of what a picture must hold."""
    if picture.crop is None:
        return 0, 0, picture.width, picture.height or page_height(driver)
    boxes = driver.execute_script(
        """return [...document.querySelectorAll(arguments[0])]
        .filter((node) => node.offsetParent !== null)
        .map((node) => node.getBoundingClientRect())
        .map(({left, top, right, bottom}) => [left, top, right, bottom])
        .map((box) => box.map((at, side) => at + (side % 2 ? scrollY : scrollX)))
        """,
        picture.crop,
    )
    if not boxes:
        sys.exit(f"{picture.name}: nothing visible matches {picture.crop!r}")
    left, top = (max(0, min(box[at] for box in boxes) - MARGIN) for at in (0, 1))
    right, bottom = (max(box[at] for box in boxes) + MARGIN for at in (2, 3))
    return left, top, min(right, picture.width) - left, bottom - top


def smaller(png: bytes) -> bytes:
    """Return a picture with 256 colours, if Pillow is installed and that is smaller."""
    try:
        from PIL import Image
    except ModuleNotFoundError:
        return png
    stream = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGB")
    # By coverage: by medians, rare colours such as those of marks become others.
    few = image.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=4, dither=Image.Dither.NONE)
    few.save(stream, "PNG", optimize=True)
    return min(png, stream.getvalue(), key=len)


def main() -> None:
    """Read the command line and take the pictures."""
    parser = argparse.ArgumentParser(description="Take all pictures of README and docs.")
    parser.add_argument("studies", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--only", nargs="+", choices=[picture.name for picture in PICTURES])
    options = parser.parse_args()
    pictures = [p for p in PICTURES if options.only is None or p.name in options.only]
    with tempfile.TemporaryDirectory() as folder, chromium() as driver:
        for name in dict.fromkeys(picture.page for picture in pictures):
            PAGES[name](options.studies, Path(folder, f"{name}.html"))
        for picture in pictures:
            page = Path(folder, f"{picture.page}.html")
            open_report(driver, page, picture.width, picture.height, dark=picture.dark)
            for action in picture.actions:
                do(driver, action)
            png = smaller(capture(driver, box_of(driver, picture)))
            if len(png) > MAX_BYTES:
                sys.exit(f"{picture.name} takes {len(png):,} bytes; crop it, or show less")
            (options.out / f"{picture.name}.png").write_bytes(png)
            print(f"{options.out / picture.name}.png {len(png):,} bytes")


if __name__ == "__main__":
    main()
