from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from harness import datasets
from harness.cli import main
from harness.reporting import report, summarise
from harness.reporting.page import gallery, render
from harness.reporting.page.matrix import matrices
from harness.reporting.page.pictures import arrows, difference, gain_of, png
from harness.reporting.page.render import POLICY
from harness.reporting.page.site import site
from harness.reporting.render.layout import lay_out
from harness.reporting.tables.comparison import contrast
from harness.results.load import read_run
from harness.results.record import Record
from harness.results.store import Store
from harness.threat import warp
from helpers.examples import examples

pytestmark = pytest.mark.slow

COUNT = 6
HOSTILE = "</script><script>window.stolen = true</script><img src=x onerror='window.stolen = true'>"


@pytest.fixture
def run(maker: Any, rec: Callable[..., Record]) -> Path:
    """Two defenses of six digits: one under noise and a flow, one stochastic with a hostile name."""
    maker.count = COUNT
    split = datasets.load("digits", "test")
    indices = list(range(100, 100 + COUNT))
    chosen = split.select(indices)
    flow = torch.zeros(COUNT, 8, 8, 2)
    flow[:, 2:6, 2:6, 0] = 0.25
    noisy = (chosen.images + 0.1).clamp(0, 1)
    noisy[0] = chosen.images[0]
    maker.cell("plain", "linf", [rec(i, "r", "rwwwrr"[i]) for i in range(COUNT)])
    maker.cell("plain", "stadv", [rec(i, "r", "w", flow=0.25) for i in range(COUNT)], threat="Flow 0.25")
    maker.cell("noisy", "linf", [rec(i, "rrr", "rrw") for i in range(COUNT)], stochastic=True, flags=["saturated"])
    maker.defenses["noisy"]["label"] = HOSTILE
    root: Path = maker.finish(
        votes=3,
        dataset={
            "name": "digits",
            "split": "test",
            "count": COUNT,
            "indices": indices,
            "fingerprint": datasets.fingerprint(chosen.images, chosen.labels),
        },
    )
    _picture(root, "plain", "linf", {"images": noisy})
    _picture(root, "noisy", "linf", {"images": noisy})
    _picture(root, "plain", "stadv", {"images": warp(chosen.images, flow), "flow": flow})
    return root


def _picture(root: Path, defense: str, attack: str, tensors: dict[str, Tensor]) -> None:
    """Writes a cell's shards again, with these tensors."""
    cell = Store(root).cell(defense, attack, f"{defense}-{attack}")
    for start, stop in cell.shards():
        records = cell.read(start, stop)
        assert records is not None
        cell.write(start, stop, records, {name: tensor[start:stop] for name, tensor in tensors.items()})


def page_of(root: Path, images: int | None = None) -> str:
    page = report(root, "html", images)
    assert isinstance(page, str)
    return page


class Parsed(HTMLParser):
    """What a browser would load, the policy, the tables' texts, and the data of the explorer."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.policy: str | None = None
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.addresses += [found[name] or "" for name in ("src", "href", "srcset", "action", "data") if name in found]
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"]
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] == ["script"] and self.scripts[-1] == "":
            self.scripts[-1] = data
        if data.strip():
            self.texts.append(" ".join(data.split()))


def test_the_page_asks_for_nothing_and_forbids_it(run: Path) -> None:
    parsed = Parsed(page_of(run))
    assert all(address.startswith(("data:", "#")) for address in parsed.addresses)
    assert parsed.policy == POLICY
    required = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    assert POLICY.startswith(required)
    assert not {"link rel=stylesheet", "iframe", "object", "form"} & set(parsed.tags)


def test_a_hostile_name_is_text(run: Path) -> None:
    parsed = Parsed(page_of(run))
    assert parsed.tags.count("script") == 2 and "img" not in parsed.tags
    assert HOSTILE in parsed.texts
    found = json.loads(parsed.scripts[0])
    assert HOSTILE in {pairing["labels"][0] for pairing in found[0]["pairings"]}


def test_the_page_holds_every_number_interval_footnote_and_note_of_the_other_formats(run: Path) -> None:
    sheet = lay_out(summarise(read_run(run)))
    texts = Parsed(page_of(run)).texts
    assert sheet.main and sheet.draws and sheet.footnotes
    for grid in (sheet.main, sheet.draws):
        for shown in (shown for line in (grid.head, *grid.lines) for shown in line):
            assert not shown.text or shown.text in texts
            assert not shown.detail or shown.detail in texts
            assert not shown.marks or shown.marks in texts
    for text in (*(part for note in sheet.footnotes for part in note), *sheet.notes):
        assert text in texts


def test_a_misleading_naive_evaluation_stands_above_the_table(maker: Any, column: Callable[..., list[Record]]) -> None:
    maker.count = 8
    maker.cell("masked", "naive", column("r" * 8))
    maker.cell("masked", "strong", column("w" * 8))
    texts = Parsed(page_of(maker.finish(report={"naive": ["naive"]}))).texts
    at = next(place for place, text in enumerate(texts) if "naive evaluation was misleading" in text)
    assert at < texts.index("Results") and texts[at - 1] == "masked"


def test_a_cell_that_failed_leads_to_its_images_and_says_why(maker: Any, rec: Callable[..., Record]) -> None:
    maker.cell("d", "a", [rec(i, adv="", verdict="error", error="ValueError: x (mine.py:3)") for i in range(4)])
    page = page_of(maker.finish())
    texts = Parsed(page).texts
    assert "failed" in texts and "failed: 4 of 4 images ended in an error: ValueError: x (mine.py:3)" in texts
    assert 'class="number failed" data-sort="failed"' in page
    assert re.search(r'<small class="reason" title="[^"]*ended in an error[^"]*">', page)
    assert 'class="open" data-run="0" data-defense="d" data-attack="a">failed</button>' in page


def test_differences_to_a_cell_that_failed_are_not_shown(maker: Any, rec: Callable[..., Record]) -> None:
    maker.cell("fine", "a", [rec(i) for i in range(4)])
    maker.cell("broken", "a", [rec(i, adv="", verdict="error", error="x") for i in range(4)])
    run = read_run(maker.finish())
    (matrix,) = matrices(contrast(run).matches, run.manifest)
    assert [[place.text for place in line] for _, line in matrix.lines] == [["", "failed"], ["failed", ""]]


def test_the_explorer_decides_ties_and_errors_for_no_class(maker: Any, rec: Callable[..., Record]) -> None:
    records = [rec(0, adv="rrw"), rec(1, adv="rw"), rec(2, adv="r", verdict="error", error="x"), rec(3, adv="ww")]
    maker.cell("d", "a", records, stochastic=True)
    (pairing,) = gallery.gallery(read_run(maker.finish(votes=2)))["pairings"]
    assert [image["answer"] for image in pairing["images"]] == ["1", "tie", "error", "2"]
    assert [image["decided"] for image in pairing["images"]] == [True, False, False, True]


@pytest.mark.slow
def test_published_numbers_stand_beside_ours(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "pub." not in page_of(run)
    sheet = lay_out(summarise(read_run(run)))
    assert sheet.main
    beside = replace(sheet.main.lines[0][1], published="pub. 71.00, −4.0")
    main_grid = replace(sheet.main, lines=[[sheet.main.lines[0][0], beside]])
    monkeypatch.setattr(render, "lay_out", lambda table: replace(sheet, main=main_grid))
    assert "pub. 71.00, −4.0" in Parsed(page_of(run)).texts


def test_the_same_results_give_the_same_page(run: Path) -> None:
    assert page_of(run) == page_of(run)


def test_pictures_are_the_stored_images(run: Path) -> None:
    found = gallery.gallery(read_run(run))
    stored = Store(run).cell("plain", "linf", "plain-linf").images(2, 4)["images"]
    shown = next(p for p in found["pairings"] if (p["defense"], p["attack"]) == ("plain", "linf"))["images"][2]
    assert np.array_equal(_decoded(shown["adv"]), (stored[0, 0] * 255).round().numpy())
    clean = datasets.load("digits", "test").images[shown["index"], 0]
    assert np.array_equal(_decoded(found["clean"][shown["index"]]), (clean * 255).round().numpy())
    assert shown["before"][0][1:] == [True, "+1.00"] and shown["after"][0][1:] == [False, "+0.50"]


def _decoded(uri: str) -> np.ndarray:
    head, _, data = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_an_image_that_the_attack_left_alone_is_embedded_once(run: Path) -> None:
    images = gallery.gallery(read_run(run))["pairings"][0]["images"]
    assert images[0]["adv"] is None and images[0]["difference"] is None and images[1]["adv"]


def test_only_so_many_images_are_embedded_and_only_their_originals(run: Path) -> None:
    found = gallery.gallery(read_run(run), most=3)
    assert [len(pairing["images"]) for pairing in found["pairings"]] == [3, 3, 3]
    assert all(pairing["total"] == COUNT for pairing in found["pairings"]) and len(found["clean"]) == 3
    assert gallery.gallery(read_run(run), most=0)["clean"] == {}


def test_large_images_are_embedded_in_smaller_numbers(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "PIXELS", 3 * 2 * 3 * 2 * 64)
    assert [len(pairing["images"]) for pairing in gallery.gallery(read_run(run))["pairings"]] == [6, 6, 6]
    monkeypatch.setattr(gallery, "PIXELS", 0)
    assert [len(pairing["images"]) for pairing in gallery.gallery(read_run(run))["pairings"]] == [4, 4, 4]


def test_without_the_dataset_the_adversarial_images_are_shown_and_it_is_said(run: Path) -> None:
    manifest = json.loads((run / "run.json").read_text())
    for change, words in (({"fingerprint": "other"}, "not the one"), ({"name": "npz"}, "was not on the machine")):
        changed = {**manifest, "dataset": {**manifest["dataset"], **change}}
        changed["resolved"]["dataset"]["name"] = changed["dataset"]["name"]
        (run / "run.json").write_text(json.dumps(changed))
        found = gallery.gallery(read_run(run))
        assert words in found["missing"] and found["clean"] == {}
        assert all(image["adv"] and not image["difference"] for image in found["pairings"][0]["images"])


def test_an_unfinished_pairing_shows_what_is_there(run: Path) -> None:
    for suffix in ("parquet", "safetensors"):
        (run / "cells" / "plain" / "linf" / f"00000-00002.{suffix}").unlink()
    shown = gallery.gallery(read_run(run))["pairings"][0]
    assert [image["index"] for image in shown["images"]] == [102, 103, 104, 105] and shown["total"] == COUNT


@settings(max_examples=examples(100), deadline=None)
@given(st.floats(1e-3, 1.0))
def test_the_gain_is_round_and_keeps_the_largest_difference_on_the_scale(largest: float) -> None:
    gain = gain_of(largest)
    assert gain == 1 or gain * largest <= 0.5 * (1 + 1e-5)
    assert int(str(gain).rstrip("0")) in (1, 2, 5)
    assert gain == 1 or 2.6 * gain * largest > 0.5 or gain >= 500


def test_no_difference_is_grey_and_colour_channels_keep_their_places() -> None:
    x = torch.full((3, 2, 2), 0.5)
    x_adv = x.clone()
    x_adv[0] += 0.1
    shown = _decoded(png(difference(x, x_adv, gain=5)))
    assert shown.shape == (2, 2, 3) and (shown == [255, 128, 128]).all()


def test_an_arrow_leads_from_where_a_pixel_was_taken() -> None:
    flow = torch.zeros(4, 4, 2)
    flow[1, 2, 0] = 2 / 4  # one pixel to the right: half the width of 4 pixels is 2
    x, y, dx, dy = arrows(flow)[1 * 4 + 2]
    assert (x, y, dx, dy) == (2.5, 1.5, 1.0, 0.0)
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 1, 3] = 1
    assert warp(image, flow[None])[0, 0, 1, 2] == 1


def test_large_flows_are_averaged_over_blocks() -> None:
    flow = torch.rand(32, 32, 2, generator=torch.Generator().manual_seed(0))
    found = arrows(flow)
    assert len(found) == 256 and found[0][:2] == [1.0, 1.0]
    assert found[0][2] == pytest.approx(float(flow[:2, :2, 0].mean() * 16), abs=0.01)


@pytest.mark.slow
def test_the_command_writes_one_file(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, path in ((), run / "report.html"), (("--output", str(run / "mine.html")), run / "mine.html"):
        with pytest.raises(SystemExit) as end:
            main(["report", str(run), "--format", "html", *arguments])
        assert end.value.code == 0 and path.read_text() == page_of(run)
        assert str(path) in capsys.readouterr().out.replace("\n", "")


def test_every_image_leads_to_its_record(run: Path) -> None:
    (found,) = gallery.gallery(read_run(run), folder=run.parent)["pairings"][:1]
    for image in found["images"]:
        (words, address) = next(rest for name, *rest in image["facts"] if name == "Record")
        row, place = int(words.split()[1]), run.parent / unquote(address)
        assert pq.read_table(place).column("index")[row].as_py() == image["index"]
        assert words.endswith(f" of {place.relative_to(run).as_posix()}")


def test_a_page_that_lies_elsewhere_names_the_records_without_linking_them(run: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["report", str(run), "--format", "html", "--output", str(tmp_path / "elsewhere" / "page.html")])
    (found, *_) = json.loads(Parsed((tmp_path / "elsewhere" / "page.html").read_text()).scripts[0])[0]["pairings"]
    records = [rest for image in found["images"] for name, *rest in image["facts"] if name == "Record"]
    assert len(records) == COUNT and all(len(rest) == 1 for rest in records)


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


@pytest.mark.slow
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
