"""The report in a real browser, without a window and without a network: what a reader sees of it.

Skipped where Debian's chromium and chromium-driver are not installed.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import ppvae
from ppvae.report.write import write_report

if TYPE_CHECKING:
    from selenium import webdriver
    from selenium.webdriver.remote.webelement import WebElement
else:
    webdriver = pytest.importorskip("selenium.webdriver")

BROWSER, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER.exists() and DRIVER.exists()), reason="needs chromium and chromium-driver")

FLAGS = (
    "headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking",
    "disable-component-update", "disable-sync",
)  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one small model of images with two families, and gaps."""
    place = tmp_path_factory.mktemp("browser") / "run"
    ppvae.compare(
        {"<i>vae</i>": {"model": "vae", "latent_dim": 2, "hidden": [8]}}, "amortized", "digits", seeds=[0],
        families=["own", "full-covariance"], num_train=50, num_test=30, epochs=2, num_samples=40,
        method="importance", num_gaps=3, run_dir=place,
    )  # fmt: skip
    return write_report(place)


@pytest.fixture(scope="module")
def driver(report: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in FLAGS:
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # with both paths given, nothing is looked for, or fetched
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    # focus is the window's, and there is none
    driver.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
    yield driver
    driver.quit()


@pytest.fixture
def page(driver: webdriver.Chrome, report: Path) -> webdriver.Chrome:
    """The report, freshly opened in a wide window."""
    widen(driver, 1100)
    driver.get(report.as_uri())
    return driver


def widen(driver: webdriver.Chrome, width: int) -> None:
    """The page's own width: a window cannot be made as narrow as a telephone."""
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def tip(page: webdriver.Chrome) -> dict[str, object] | None:
    """What is shown beside a point: words, and place and size of its image in the sprite."""
    return page.execute_script("""
        const tip = document.querySelector('.tip'), pixels = tip.querySelector('.pixels');
        const box = tip.getBoundingClientRect();
        return tip.hidden ? null : {
            words: tip.innerText, place: pixels.style.backgroundPosition, visible: pixels.checkVisibility(),
            sprite: getComputedStyle(pixels).backgroundImage.slice(0, 26), left: box.left, right: box.right,
        };
    """)


def point(page: webdriver.Chrome, datum: int) -> WebElement:
    found = page.find_element("css selector", f"[data-datum='{datum}']")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", found)
    return found


def test_it_opens_without_errors_and_without_requests(page: webdriver.Chrome) -> None:
    assert page.get_log("browser") == []
    assert "Comparison" in page.title
    assert "amortization" in page.find_element("tag name", "ul").text
    fetched = page.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [url for url in fetched if not url.startswith("data:")] == []
    broken = "return [...document.images].filter(image => !image.complete || !image.naturalWidth).length"
    assert page.execute_script(broken) == 0
    assert page.find_elements("tag name", "i") == []  # a model's name is no HTML


@pytest.mark.parametrize("datum", [0, 23])
def test_hovering_shows_the_image_of_a_datum(page: webdriver.Chrome, datum: int) -> None:
    assert tip(page) is None
    webdriver.ActionChains(page).move_to_element(point(page, datum)).perform()
    found = tip(page)
    assert found is not None
    assert found["visible"]
    assert found["sprite"] == 'url("data:image/png;base64'
    # the nearest point is shown, which may be another that lies upon it
    shown = int(str(found["words"]).split()[2].rstrip(","))
    column, row = shown % 20, shown // 20
    assert found["place"] == f"{-112 * column}px {-112 * row}px"
    heading = page.find_element("tag name", "h1")
    webdriver.ActionChains(page).scroll_to_element(heading).move_to_element(heading).perform()
    assert tip(page) is None


def test_arrow_keys_go_from_datum_to_datum(page: webdriver.Chrome) -> None:
    """One point is a tab stop; Escape puts the image away."""
    (stop,) = page.find_elements("css selector", "[data-datum][tabindex='0']")
    page.execute_script("arguments[0].focus()", stop)
    seen = []
    for _ in range(3):
        found, focused = tip(page), page.switch_to.active_element
        assert found is not None
        assert str(found["words"]).startswith(f"test datum {focused.get_attribute('data-datum')},")
        seen.append(focused.get_attribute("transform"))
        focused.send_keys(webdriver.Keys.ARROW_RIGHT)
    across = [float(str(place).removeprefix("translate(").split()[0]) for place in seen]
    assert across == sorted(across)
    assert len(set(seen)) == 3
    page.switch_to.active_element.send_keys(webdriver.Keys.ESCAPE)
    assert tip(page) is None


def test_a_narrow_screen_need_not_scroll_sideways(page: webdriver.Chrome) -> None:
    """Tables scroll within themselves, and an image beside a point stays on the screen."""
    widen(page, 360)
    width = "return document.documentElement.scrollWidth"
    assert page.execute_script(width) <= 360
    (table, *_) = page.find_elements("css selector", ".wide")
    inner, outer = page.execute_script("return [arguments[0].scrollWidth, arguments[0].clientWidth]", table)
    assert inner > outer
    for mark in page.find_elements("css selector", "[data-datum]")[::7]:
        page.execute_script("arguments[0].focus()", mark)
        found = tip(page)
        assert found is not None
        assert 0 <= float(str(found["left"])) < float(str(found["right"])) <= 360
    assert page.execute_script(width) <= 360


def test_it_prints(page: webdriver.Chrome) -> None:
    """To a PDF of some pages, without the image beside a point, and no table wider than the paper."""
    page.execute_script("document.querySelector('[data-datum]').focus()")
    assert base64.b64decode(page.print_page()).startswith(b"%PDF-")
    widen(page, 680)  # a sheet of A4 within its margins
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert not page.find_element("css selector", ".tip").is_displayed()
        assert page.execute_script("return document.documentElement.scrollWidth") <= 680
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
