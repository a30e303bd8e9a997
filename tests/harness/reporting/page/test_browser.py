"""The page and the leaderboard in a browser, where there is one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.reporting import summarise
from harness.reporting.page.site import site
from harness.results.load import read_run
from helpers.page import COUNT, page_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium, of the extra `test`")
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if not all(programs):
        pytest.skip("needs the programs chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for argument in ("--headless=new", "--window-size=1200,900", *(["--no-sandbox"] if os.geteuid() == 0 else [])):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser: Any, run: Path) -> Iterator[Any]:
    """The page in a browser; at the end, whatever the test did, nothing was asked for and nothing went wrong."""
    path = run / "page.html"
    path.write_text(page_of(run))
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(path.as_uri())
    yield browser
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert asked[0] == path.as_uri()
    assert [url for url in asked[1:] if not url.startswith("data:")] == []
    assert browser.get_log("browser") == []
    assert browser.execute_script("return window.stolen") is None


def column(opened: Any, place: int) -> list[str]:
    cells = opened.find_elements("css selector", f"table tbody tr > :nth-child({place})")[:2]
    return [cell.text.split("\n")[0] for cell in cells]


def test_a_click_sorts_and_another_reverses(opened: Any) -> None:
    head = opened.find_elements("css selector", "table.sortable th")[2]
    assert [row.split()[0] for row in column(opened, 3)] == ["50.0", "66.7"]
    for order, values in (("descending", ["66.7", "50.0"]), ("ascending", ["50.0", "66.7"])):
        head.find_element("tag name", "button").click()
        assert head.get_attribute("aria-sort") == order
        assert [row.split()[0] for row in column(opened, 3)] == values


def test_the_keyboard_sorts_and_what_is_no_number_goes_last(opened: Any) -> None:
    heads = opened.find_elements("css selector", "table.sortable th")
    for order in ("descending", "ascending"):
        heads[3].find_element("tag name", "button").send_keys("\n")
        assert heads[3].get_attribute("aria-sort") == order and heads[2].get_attribute("aria-sort") == "none"
        assert column(opened, 4) == ["0.0", "–"]


def test_groups_of_rows_are_sorted_each_by_itself(browser: Any, maker: Any, column: Callable[..., Any]) -> None:
    for name, adv in (("a", "rwww"), ("b", "rrrr"), ("c", "wwww"), ("d", "rrww")):
        maker.cell(name, "linf", column(adv))
    root = maker.finish(report={"groups": {"Theirs": ["a", "b"], "Ours": ["c", "d"]}})
    path = root / "page.html"
    path.write_text(page_of(root))
    browser.get(path.as_uri())
    browser.find_elements("css selector", "table.sortable th button")[2].click()
    names = [row.text for row in browser.find_elements("css selector", "table.sortable tbody th")]
    assert names == ["Theirs", "b", "a", "Ours", "d", "c"]


def test_a_number_leads_to_its_images_and_an_image_opens(opened: Any) -> None:
    opened.find_element("css selector", ".open[data-attack=stadv]").click()
    thumbs = opened.find_elements("css selector", ".thumb")
    assert len(thumbs) == COUNT
    thumbs[1].send_keys("\n")
    dialog = opened.find_element("id", "detail")
    assert dialog.is_displayed()
    names = [figure.text.split("\n")[0] for figure in dialog.find_elements("css selector", "figure")]
    assert names == ["Clean", "Adversarial", "Difference", "Flow"]
    loaded = "return [...document.querySelectorAll('.pictures img')].map((image) => image.naturalWidth)"
    assert opened.execute_script(loaded) == [8, 8, 8]
    assert dialog.find_element("css selector", "svg path").get_attribute("d").startswith("M")
    title = dialog.find_element("tag name", "h3")
    assert "Image 101" in title.text and "misclassified" in title.text
    dialog.send_keys("\ue014")  # right arrow
    assert "Image 102" in title.text
    dialog.send_keys("\ue00c")  # escape
    assert not dialog.is_displayed()


def test_every_draw_is_shown_before_and_after(opened: Any) -> None:
    opened.find_element("css selector", ".open[data-defense=noisy]").click()
    opened.find_element("css selector", ".thumb").click()
    rows = opened.find_elements("css selector", ".answers tbody tr")
    assert [row.text.split() for row in rows][2] == ["draw", "3", "✓", "1", "+1.00", "✗", "2", "+0.50"]


def test_an_image_has_an_address_that_opens_it(opened: Any, run: Path) -> None:
    title = opened.find_element("id", "detail-title")
    opened.find_element("css selector", ".open[data-attack=stadv]").click()
    opened.find_elements("css selector", ".thumb")[1].click()
    address = opened.current_url
    assert address.endswith("#0/plain/stadv/101")
    assert title.find_element("tag name", "a").get_attribute("href") == address
    opened.find_element("css selector", "[data-close]").click()
    assert not title.is_displayed() and "stadv" not in opened.current_url
    opened.execute_script("location.hash = '0/noisy/linf/103'")
    opened.execute_async_script("setTimeout(arguments[0], 100)")
    assert title.is_displayed() and "Image 103" in title.text
    record = next(link for link in opened.find_elements("css selector", ".record a"))
    assert record.get_attribute("href").startswith(f"{run.as_uri()}/cells/noisy/linf/")


def test_images_are_filtered_by_verdict(opened: Any) -> None:
    choose = opened.find_elements("css selector", ".explorer select")[2]
    choose.send_keys("misclassified")
    assert len(opened.find_elements("css selector", ".thumb.fooled")) == 3
    assert not opened.find_elements("css selector", ".thumb.robust")


def test_an_image_is_shown_under_every_attack_on_every_defense_and_a_click_goes_there(opened: Any) -> None:
    opened.find_element("css selector", ".open[data-attack=stadv]").click()
    opened.find_elements("css selector", ".thumb")[1].click()
    table = opened.find_element("css selector", ".everywhere table")
    rows = [
        [cell.text for cell in row.find_elements("css selector", "td")]
        for row in table.find_elements("css selector", "tbody tr")
    ]
    assert rows == [["misclassified", "misclassified"], ["robust", ""]]
    tiles = table.find_elements("css selector", ".tile")
    assert len({picture.size["width"] for picture in table.find_elements("css selector", ".tile img")}) == 1
    assert [("here" in tile.get_attribute("class")) for tile in tiles] == [False, True, False]
    tiles[2].click()
    assert "Image 101" in opened.find_element("id", "detail-title").text
    assert "under linf" in opened.find_element("css selector", "dialog .place").text


def test_a_table_of_eight_attacks_fits_1200_pixels_and_one_that_does_not_fit_says_so(
    browser: Any, maker: Any, column: Callable[..., Any]
) -> None:
    for attack in range(8):
        maker.cell("a", f"attack{attack}", column("rrww"))
        maker.cell("b", f"attack{attack}", column("rwww"))
    maker.defenses["a"]["label"] = "A defense of a few words"
    names = [f"attack{attack}" for attack in range(8)]
    root = maker.finish(report={"average": names, "worst": names})
    path = root / "page.html"
    path.write_text(page_of(root))
    wide = "return document.querySelector('.scroll').classList.contains('wide')"
    over = "const e = document.querySelector('.scroll'); return e.scrollWidth - e.clientWidth"
    browser.set_window_size(1200, 900)
    browser.get(path.as_uri())
    assert browser.execute_script(over) <= 0 and not browser.execute_script(wide)
    browser.set_window_size(520, 900)
    browser.get(path.as_uri())
    assert browser.execute_script(over) > 0 and browser.execute_script(wide)
    left = "return document.querySelector('tbody th').getBoundingClientRect().left"
    before = browser.execute_script(left)
    browser.execute_script("document.querySelector('.scroll').scrollLeft = 150")
    assert browser.execute_script(left) == before
    browser.set_window_size(1200, 900)


def test_the_leaderboard_is_filtered_and_sorted_within_its_divisions(
    browser: Any, maker: Any, column: Callable[..., Any], tmp_path: Path
) -> None:
    for name, threat, letters in (("a", "Linf 0.1", "rwww"), ("b", "Linf 0.1", "rrrw"), ("c", "L2 0.5", "rrww")):
        maker.cell(name, f"pgd-{name}", column(letters), threat=threat)
    root = maker.finish()
    path = tmp_path / "index.html"
    path.write_bytes(dict(site([summarise(read_run(root))], root, images=0))["index.html"])
    browser.get(path.as_uri())

    def shown() -> list[str]:
        return [
            row.text.split("\n")[0]
            for row in browser.find_elements("css selector", ".standing th")
            if row.is_displayed()
        ]

    assert shown() == ["b", "a", "c"]
    browser.find_elements("css selector", ".leaderboard thead button")[1].click()
    assert shown() == ["a", "b", "c"]
    browser.find_element("css selector", "[name=words]").send_keys("pgd-b")
    assert shown() == ["b"] and browser.find_element("css selector", ".told").text == "1 of 3 shown"
    browser.find_element("css selector", "[name=words]").clear()
    browser.execute_script("filters.elements.threat.value = 'L2 0.5'; filter()")
    assert shown() == ["c"]
