from __future__ import annotations

import csv
import html
import inspect
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from harness import cli
from harness.errors import UserError
from harness.process.visible_text import is_hidden
from harness.reporting import formats, report, summarise
from harness.reporting.formats import csv as csv_format
from harness.reporting.formats import latex
from harness.reporting.render import markdown
from harness.results.load import read_run
from harness.results.record import Record
from helpers.examples import examples

FOR_PROGRAMS = ("robustbench", "autoattack", "junit", "sarif")
"""Formats of which other programs say what they hold; they have tests of their own."""

TEXTS = [name for name in formats.names() if name not in ("png", "pdf", *FOR_PROGRAMS)]

NASTY = "a|b_&[bold]x[/bold] <i>*#%$~^\\{}"


@pytest.fixture
def run(maker: Any, rec: Callable[..., Record], column: Callable[..., list[Record]]) -> Path:
    """A final row, one with a cell that failed and one that is unfinished, and a stochastic one."""
    maker.cell("plain", "linf", column("rrww"))
    maker.cell("plain", "l2", column("rwww"), threat="L2 0.5")
    crashed = rec(3, adv="", verdict="error", error="ValueError: x (mine.py:3)")
    maker.cell("marked", "linf", [*column("rrr"), crashed], method="autoattack rand")
    maker.cell("marked", "l2", column("rrr"[:2]), threat="L2 0.5")
    draws = [rec(i, "rr", "rw") for i in range(4)]
    for attack, threat in (("linf", "Linf 8/255"), ("l2", "L2 0.5")):
        maker.cell("noisy", attack, draws, stochastic=True, threat=threat, flags=["logits are saturated"])
    maker.defenses["plain"]["label"] = NASTY
    both = {"average": ["linf", "l2"], "worst": ["linf", "l2"]}
    root: Path = maker.finish(votes=2, report=both)
    return root


def text(root: Path, format: str) -> str:
    found = report(root, format)
    assert isinstance(found, str)
    return found


def shown(root: Path, width: int = 100) -> str:
    sink = io.StringIO()
    Console(file=sink, width=width).print(report(root))
    return sink.getvalue()


def test_the_terminal_shows_values_above_intervals_with_marks(run: Path) -> None:
    lines = shown(run).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("marked"))
    assert lines[at].split() == ["marked", "100.0", "failed", "a,b", "2/4", "failed", "c", "failed", "c"]
    assert lines[at + 1].split() == ["51.0–100"]
    assert any(line.startswith("noisy d,e") for line in lines)


def test_the_terminal_explains_its_marks(run: Path) -> None:
    lines = [line.rstrip() for line in shown(run).splitlines()]
    for note in (
        "a: autoattack rand",
        "b: failed: 1 of 4 images ended in an error: ValueError: x (mine.py:3)",
        "c: failed, since linf failed",
        "d: stochastic: mean of 2 draws",
        "e: logits are saturated",
        "Accuracy in % on 4 images of digits (test), with 95% Wilson intervals.",
        "linf, l2: pgd 20 steps, unless a footnote says otherwise.",
        "Unfinished: 1 of 6 pairings (shown as images done / all, or – for none); run the suite again.",
        "Failed: 1 of 6 pairings, where more than 5% of the images ended in errors. They and the averages and",
        "Suite tiny, seed 7, 2 votes on stochastic defenses, harness 0.1.0.",
    ):
        assert note in lines


def test_the_terminal_never_reads_markup(run: Path) -> None:
    assert "[bold]x[/bold]" in shown(run)


def test_six_defenses_and_two_attacks_fit_into_eighty_columns(
    maker: Any, rec: Callable[..., Record], column: Callable[..., list[Record]]
) -> None:
    """A marked column of 100% is the widest there is."""
    for number in range(6):
        for attack in ("linf", "l2"):
            maker.cell(f"a_defense_{number}", attack, column("rrrr"), method=f"way {number}")
    lines = shown(maker.finish(report={"average": ["linf", "l2"], "worst": ["linf", "l2"]}), width=80).splitlines()
    assert sum(line.startswith("a_defense") for line in lines) == 6
    for number in range(6):
        assert any(line.startswith(f"a_defense_{number}") and line.count("100.0") == 5 for line in lines)


def test_a_narrow_terminal_gets_several_tables_each_with_all_names(run: Path) -> None:
    wide, narrow = shown(run), shown(run, width=34)
    first = narrow.split("Stochastic defenses")[0]
    assert max(map(len, narrow.splitlines())) <= 34
    assert first.count("marked") == first.count("Defense") >= 2
    assert all(word in first for word in ("100.0", "failed", "2/4", "Avg", "Worst", "15.0–85.0"))
    assert wide.split("Stochastic defenses")[0].count("marked") == 1


def test_stochastic_defenses_show_every_rule_beside_its_baseline(run: Path) -> None:
    lines = shown(run).splitlines()
    at = next(i for i, line in enumerate(lines) if "Single draw" in line)
    assert re.split(r"\s{2,}", lines[at].strip())[2:] == ["Single draw", "Mean of 2", "Majority of 2", "Worst of 2"]
    robust, benign = lines[at + 2].split(), lines[at + 4].split()
    assert robust == ["noisy", "linf", "robust", "100.0", "50.0", "0.0", "0.0"]
    assert benign == ["benign", *["100.0"] * 4]
    assert all(len(lines[at + below].split()) == 4 for below in (3, 5)), "every number has its interval below"


def test_without_several_votes_there_is_no_second_table(maker: Any, column: Callable[..., list[Record]]) -> None:
    maker.cell("d", "a", column("rrrr"), stochastic=True)
    assert "Single draw" not in shown(maker.finish(votes=1))


@pytest.fixture
def grouped(maker: Any, column: Callable[..., list[Record]]) -> Path:
    """Four rows, of which three have headings, in another order."""
    for name in ("c", "a", "alone", "b"):
        maker.cell(name, "linf", column("rrww"))
    root: Path = maker.finish(report={"groups": {"First & best": ["a", "b"], "Gone": ["nobody"], "Second": ["c"]}})
    return root


def test_rows_stand_below_the_headings_of_their_groups(grouped: Path) -> None:
    order = ["alone", "First & best", "a", "b", "Second", "c"]
    told = shown(grouped)
    starts = [
        next(i for i, line in enumerate(told.splitlines()) if line.rstrip().split("  ")[0] == name) for name in order
    ]
    assert starts == sorted(starts) and "Gone" not in told
    rows = re.findall(r"^\| (.*?) \|", text(grouped, "md"), re.M)
    assert rows == ["Defense", ":--", "alone", "**First &amp; best**", "a", "b", "**Second**", "c"]
    latex = text(grouped, "latex")
    assert latex.index(r"\multicolumn{3}{l}{\emph{First \& best}} \\") < latex.index("    a & ")
    assert latex.count(r"\midrule") == 3


def test_markdown_is_a_table_of_the_same_numbers(run: Path) -> None:
    lines = text(run, "md").splitlines()
    assert lines[0] == "**A tiny suite**"
    assert lines[2] == "| Defense | Clean | linf<br>Linf 8/255 | l2<br>L2 0.5 | Avg | Worst |"
    assert lines[3] == "| :-- | --: | --: | --: | --: | --: |"
    assert lines[5] == (
        "| marked | 100.0 <sub>51.0–100</sub> | failed<sup>a,b</sup> | 2/4 | failed<sup>c</sup> | failed<sup>c</sup> |"
    )
    assert "- <sup>a</sup> autoattack rand" in lines


def test_markdown_renders_as_one_row_per_defense(run: Path) -> None:
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(text(run, "md"))
    main = page.split("</table>")[0]
    rows = re.findall(r"<tr>\n(.*?)</tr>", main, re.S)
    assert [row.count("<td") for row in rows[1:]] == [6, 6, 6]
    assert html.unescape(re.findall(r"<td[^>]*>(.*?)</td>", rows[1])[0]) == NASTY


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12))
@settings(deadline=None, max_examples=examples(200))
def test_markdown_shows_any_name_as_it_is(name: str) -> None:
    page = (
        MarkdownIt("commonmark")
        .enable(["table", "strikethrough"])
        .render(f"| x | {markdown.escape(name)} |\n| - | - |\n\n- {markdown.escape(name)}\n")
    )
    cells = re.findall(r"<th>(.*?)</th>|<li>(.*?)</li>", page)
    assert [html.unescape(a or b) for a, b in cells] == ["x", name, name]


def test_latex_is_a_booktabs_table_of_the_same_numbers(run: Path) -> None:
    lines = [line.strip() for line in text(run, "latex").splitlines()]
    assert "\\begin{tabular}{lrrrrr}" in lines and "\\label{tab:tiny}" in lines
    assert lines.count("\\toprule") == lines.count("\\midrule") == lines.count("\\bottomrule") == 2
    assert (
        "marked & 100.0 {\\scriptsize 51.0--100} & failed\\textsuperscript{a,b} & 2/4"
        " & failed\\textsuperscript{c} & failed\\textsuperscript{c} \\\\"
    ) in lines
    assert "\\textsuperscript{a}~autoattack rand." in lines
    assert "Accuracy in \\% on 4 images of digits (test), with 95\\% Wilson intervals." in lines


def test_latex_escapes_what_it_would_otherwise_obey(run: Path) -> None:
    row = next(line for line in text(run, "latex").splitlines() if line.strip().startswith("a\\textbar{}"))
    assert row.strip().split(" & ")[0] == (
        "a\\textbar{}b\\_\\&{[}bold{]}x{[}/bold{]} \\textless{}i\\textgreater{}{*}\\#\\%\\$"
        "\\textasciitilde{}\\textasciicircum{}\\textbackslash{}\\{\\}"
    )
    assert row.replace("\\&", "").count("&") == 5


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12))
@settings(deadline=None, max_examples=examples(200))
def test_escaped_latex_has_balanced_braces_and_no_bare_special(name: str) -> None:
    rest = re.sub(r"\\text[a-z]+\{\}|\\[&%$#_{}]", "", latex.escape(name))
    depths = [rest[: i + 1].count("{") - rest[: i + 1].count("}") for i in range(len(rest))]
    assert all(depth >= 0 for depth in depths) and (not depths or depths[-1] == 0)
    assert not re.search(r"[&%$#_^~\\<>|\"`]|--", rest)


def test_csv_reads_back_as_the_very_numbers(run: Path) -> None:
    table = summarise(read_run(run))
    rows = list(csv.DictReader(io.StringIO(text(run, "csv"))))
    lines = list(csv_format.lines(table))
    assert len(rows) == len(lines) == 3 * 5 + 3 * 5  # the headline, and three more rules of one defense
    for row, line in zip(rows, lines, strict=True):
        for name, known in vars(line).items():
            if isinstance(known, float):
                assert float(row[name]) == known
            else:
                assert row[name] == ("" if known is None else str(known))


def test_csv_tells_all_of_a_cell(run: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(text(run, "csv"))))
    cell = next(row for row in rows if (row["defense"], row["attack"]) == ("marked", "linf"))
    expected = {
        "kind": "attack",
        "status": "failed",
        "accuracy": "",
        "low": "",
        "high": "",
        "benign": "",
        "n": "4",
        "total": "4",
        "errors": "1",
        "key": "marked-linf",
        "threat": "Linf 8/255",
        "method": "autoattack rand",
        "flags": "autoattack rand; failed: 1 of 4 images ended in an error: ValueError: x (mine.py:3)",
    }
    assert {name: cell[name] for name in expected} == expected
    for kind in ("average", "worst"):
        needs = next(row for row in rows if (row["defense"], row["kind"]) == ("marked", kind))
        assert (needs["status"], needs["accuracy"], needs["errors"]) == ("failed", "", "1")
    unfinished = next(row for row in rows if (row["defense"], row["attack"]) == ("marked", "l2"))
    assert (unfinished["status"], unfinished["accuracy"], unfinished["n"]) == ("unfinished", "", "2")


def test_json_holds_the_csvs_lines_and_the_manifest(run: Path) -> None:
    document = json.loads(text(run, "json"))
    assert document["schema_version"] == 1 and len(document["runs"]) == 1
    rows = csv.DictReader(io.StringIO(text(run, "csv")))
    for line, row in zip(document["runs"][0]["lines"], rows, strict=True):
        assert {name: "" if known is None else str(known) for name, known in line.items()} == row
    assert document["runs"][0]["manifest"]["protocol"]["seed"] == 7


@pytest.mark.parametrize("format", TEXTS)
def test_all_runs_below_a_directory_are_reported(
    maker: Any, column: Callable[..., list[Record]], format: str, tmp_path: Path
) -> None:
    maker.cell("d", "a", column("rrrr"))
    maker.finish()
    maker.root, maker.cells = tmp_path / "another", []
    maker.cell("d", "a", column("rrrr"))
    maker.finish(title="Another suite")
    found = shown(tmp_path) if format == "table" else text(tmp_path, format)
    for name in ("another", "run") if format in ("csv", "json") else ("A tiny suite", "Another suite"):
        assert name in found


def test_an_unknown_format_is_refused_with_the_nearest(run: Path) -> None:
    with pytest.raises(UserError, match=r"'jsn'.*Did you mean 'json'"):
        report(run, "jsn")


SHOUT = """
def render(tables, images=None):
    return "".join(f"{table.run.manifest.title.upper()}!\\n" for table in tables)
"""


def test_a_file_beside_the_others_is_a_format(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "shout.py").write_text(SHOUT)
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path / "more")])
    assert "shout" in formats.names() and report(run, "shout") == "A TINY SUITE!\n"
    for name, status, told in (("shout", 0, "A TINY SUITE!\n"), ("whisper", 2, "shout")):
        with pytest.raises(SystemExit) as ended:
            cli.main(["report", str(run), "--format", name])
        out, err = capsys.readouterr()
        assert ended.value.code == status
        assert told in (err if status else out)


def test_every_format_is_called_in_one_way(run: Path) -> None:
    for name in formats.names():
        module = formats.find(name)
        more = ["judgements"] * getattr(module, "JUDGES", False) + ["folder"] * getattr(module, "LINKS", False)
        assert list(inspect.signature(module.render).parameters) == ["tables", "images", *more]


def test_naming_the_formats_imports_neither_them_nor_torch() -> None:
    code = "import sys; from harness.reporting import formats; formats.names(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "pandas", "matplotlib", "harness.reporting.formats.csv"} & set(loaded)


@pytest.mark.slow
def test_many_images_earn_two_decimals(maker: Any, column: Callable[..., list[Record]]) -> None:
    maker.count = 128
    maker.cell("d", "a", column("r" * 100 + "w" * 28))
    assert "78.12 <sub>70.2–84.4</sub>" in text(maker.finish(), "md")


def test_a_pairing_not_begun_is_a_dash(maker: Any) -> None:
    maker.cell("d", "a", [])
    assert "| d | – | – |" in text(maker.finish(), "md")


def test_footnotes_beyond_z_go_on_with_two_letters(maker: Any, column: Callable[..., list[Record]]) -> None:
    for number in range(30):
        maker.cell(f"d{number}", "a", [], flags=[f"remark {number}"])
    found = text(maker.finish(), "md")
    assert "<sup>z</sup> remark 25" in found and "<sup>ad</sup> remark 29" in found


def test_a_column_attacked_in_one_way_needs_no_exceptions(maker: Any, column: Callable[..., list[Record]]) -> None:
    maker.cell("d", "a", column("rrrr"))
    assert "- a: pgd 20 steps.\n" in text(maker.finish(), "md")


HOSTILE = "\x1b[31m\x9b2J\nerror:\r\u202e\u2028"
VISIBLE = r"\x1b[31m\x9b2J\nerror:\r\u202e\u2028"


@pytest.mark.slow
@pytest.mark.parametrize("format", TEXTS)
def test_a_strangers_results_show_what_they_hold_and_command_nothing(
    format: str, maker: Any, rec: Callable[..., Record], column: Callable[..., list[Record]]
) -> None:
    records = [*column("rrr"), rec(3, verdict="error", error=HOSTILE, flags=[HOSTILE])]
    for defense in ("a", "b"):
        maker.cell(defense, "linf", records, method=f"pgd{HOSTILE}", flags=[HOSTILE])
        maker.cell(defense, "l2", records)
        maker.defenses[defense]["label"] = HOSTILE
    maker.attacks["linf"]["label"] = HOSTILE
    folder = maker.finish(title=HOSTILE, report={"groups": {HOSTILE: ["a"]}, "average": ["linf", "l2"]})
    told = shown(folder) if format == "table" else text(folder, format)
    if format == "json":
        told = json.dumps(json.loads(told)["runs"][0]["lines"], ensure_ascii=False)
    assert not {character for character in told if is_hidden(character) and character != "\n"}
    assert "\nerror:" not in told
    plain = {"latex": latex.escape(VISIBLE), "md": markdown.escape(VISIBLE), "html": html.escape(VISIBLE)}
    joined = re.sub(r"\s", "", told) if format == "table" else told  # a narrow column breaks lines
    assert plain.get(format, json.dumps(VISIBLE)[1:-1] if format == "json" else VISIBLE) in joined


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_of_a_csv_is_a_formula(start: str, maker: Any, column: Callable[..., list[Record]]) -> None:
    formula = f'{start}HYPERLINK("http://x";"y")'
    for defense in ("a", "b"):
        maker.cell(defense, "linf", column("rrww"), method=formula, flags=[formula])
    maker.defenses["a"]["label"] = formula
    rows = list(csv.DictReader(io.StringIO(text(maker.finish(), "csv"))))
    assert {row["defense_label"][0] for row in rows} == {"'" if start in "=+-@" else "\\", "b"}
    for row in rows:
        for cell in row.values():
            if cell.startswith(("=", "+", "-", "@", "\t", "\r")):
                float(cell)


def test_a_negative_number_of_a_csv_stays_a_number() -> None:
    line = csv_format._harmless({"difference": -0.25, "label": "-0.25", "n": 3, "accuracy": None})
    assert line == {"difference": -0.25, "label": "'-0.25", "n": 3, "accuracy": None}


def test_every_format_marks_a_defense_whose_noise_the_attacker_knows(
    maker: Any, column: Callable[..., list[Record]]
) -> None:
    maker.cell("leaked", "pgd", column("rwrr"))
    maker.cell("secret", "pgd", column("rrrr"))
    maker.defenses["leaked"] |= {"noise_seed": 5, "label": "Leaked"}
    root = maker.finish()
    for name in (*TEXTS, "junit", "sarif"):
        told = " ".join((shown(root) if name == "table" else text(root, name)).split())
        assert "known to the attacker" in told or "noise known" in told, name
        assert "secret (noise known)" not in told.lower()
    assert summarise(read_run(root)).rows[0].label == "Leaked (noise known)"
