"""YAML is read with its lines, and no file, however odd, ends in anything but a value or a user's error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config.yaml_file import MOST, parse, read
from harness.errors import UserError
from helpers.examples import examples

pytestmark = pytest.mark.slow

FILE = Path("some.yaml")


def data(text: str) -> dict[str, object]:
    return parse(text, FILE).data


def refusal(text: str) -> str:
    with pytest.raises(UserError) as caught:
        parse(text, FILE)
    return str(caught.value)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("8/255", "8/255"),
        ("off", "off"),
        ("yes", "yes"),
        ("true", True),
        ("1e-3", 0.001),
        (".5", 0.5),
        ("-3", -3),
        ("010", 10),
        ("0x10", 16),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("~", None),
        ("", None),
        ("''", ""),
        ("'3'", "3"),
        ("[1, a]", [1, "a"]),
        ("<<", "<<"),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(written: str, value: object) -> None:
    found = data(f"key: {written}")["key"]
    assert found == value and type(found) is type(value)


def test_each_value_and_key_knows_its_line() -> None:
    document = parse("a: 1\nb:\n  - x\n  - {y: 2}\nc:\n  d:\n    3\n", FILE)
    assert str(document.place("a")) == "some.yaml:1"
    assert str(document.place("b")) == "some.yaml:2"
    assert str(document.place("b", 1, "y")) == "some.yaml:4"
    assert str(document.place("c", "d")) == "some.yaml:7"
    assert str(document.key_place("c", "d")) == "some.yaml:6"


def test_an_unknown_path_has_the_line_of_its_nearest_ancestor() -> None:
    document = parse("a: 1\nb:\n  c: [x]\n", FILE)
    assert str(document.place("b", "c", 7, "z")) == "some.yaml:3"
    assert str(document.place("nothing")) == "some.yaml:1"


def test_merged_values_keep_the_lines_they_were_written_on() -> None:
    document = parse("base: &base\n  x: 1\n  y: 2\nother:\n  <<: *base\n  y: 3\n", FILE)
    assert document.data["other"] == {"x": 1, "y": 3}
    assert document.place("other", "x").line == 2
    assert document.place("other", "y").line == 6


def test_the_first_of_several_merged_mappings_wins_and_own_keys_win_over_all() -> None:
    text = "a: &a {x: 1, y: 1, z: 1}\nb: &b {x: 2, y: 2, w: 2}\nc: {<<: [*a, *b], z: 3}\n"
    assert data(text)["c"] == {"x": 1, "y": 1, "z": 3, "w": 2}


def test_aliases_are_copies() -> None:
    found = data("a: &a [1]\nb: *a\n")
    found["a"].append(2)  # type: ignore[attr-defined]
    assert found["b"] == [1]


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("a: 1\nb: [", 2, "not YAML"),
        ("a:\n\t- 1", 2, "spaces"),
        ("a: 1\na: 2", 2, "'a' appears twice"),
        ("<<: {a: 1}\n<<: {b: 1}", 2, "'<<' appears twice"),
        ("a: 1\n3: b", 2, "'3' is not text"),
        ("null: b", 1, "'null' is not text"),
        ("? [a]\n: b", 1, "must be text"),
        ("a: &a\n  - *a", 1, "contains itself"),
        ("a: &a\n  <<: *a", 1, "contains itself"),
        ("a: *b", 1, "undefined alias"),
        ("a: !!python/object:os.system x", 1, "tag"),
        ("a: !mine [x]", 1, "tag"),
        ("a: !!bool maybe", 1, "'maybe'"),
        ("a: .inf", 1, "finite"),
        ("a: 1e999", 1, "finite"),
        ("a: " + "9" * 5000, 1, "999"),
        ('a: "\\ud800"', 1, "surrogates"),
        ('a: "\\UFFFFFFFF"', None, "not YAML"),
        ("a: 1\nb: \x01", 2, "\\x01"),
        ("--- {a: 1}\n--- {b: 1}", 2, "single document"),
        ("- a", 1, "not a mapping"),
        ("text", 1, "not a mapping"),
        ("", None, "empty"),
        ("# nothing", None, "empty"),
        ("a: " + "[" * 60 + "]" * 60, 1, "levels"),
        ("[" * 5000, None, "not YAML"),
        ("<<: 3", 1, "takes a mapping"),
        ("extends: 3", 1, "takes a file"),
        ("extends: [{}]", 1, "takes a file"),
        ("a: 1\nextends: nowhere.yaml", 2, "nowhere.yaml"),
        ('extends: "\\0"', 1, "cannot be read"),
        ("extends: .", 1, "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_refused_at_its_line(text: str, line: int | None, told: str) -> None:
    message = refusal(text)
    assert message.startswith(f"some.yaml:{line}: " if line else "some.yaml: ")
    assert told in message


def test_aliases_that_would_fill_the_memory_are_refused() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    assert f"more than {MOST} values" in refusal("\n".join(lines))


def test_files_extend_others_and_the_later_one_wins(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("a: {x: 1, y: {p: 1, q: 2}}\nb: [1, 2]\nc: 1\n")
    (tmp_path / "more.yaml").write_text("a: {x: 2}\nd: 4\n")
    (tmp_path / "own").mkdir()
    own = tmp_path / "own" / "own.yaml"
    own.write_text("extends:\n  - ../base.yaml\n  - ../more.yaml\na: {y: {q: 3}}\nb: [9]\nc: null\n")
    document = read(own)
    assert document.data == {"a": {"x": 2, "y": {"p": 1, "q": 3}}, "b": [9], "d": 4}
    assert (document.place("a", "x").file.name, document.place("a", "x").line) == ("more.yaml", 1)
    assert document.place("a", "y", "p").file.name == "base.yaml"
    assert document.place("a", "y", "q") == document.place("a")
    assert document.place("a", "y", "q").line == 4


def test_a_null_that_lies_on_nothing_stays_a_null(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("a: {x: 1}\n")
    (tmp_path / "own.yaml").write_text("extends: base.yaml\na: {y: null}\n")
    assert read(tmp_path / "own.yaml").data == {"a": {"x": 1, "y": None}}


def test_extending_in_a_circle_is_refused_with_the_circle(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("x: 1\nextends: ./a.yaml\n")
    with pytest.raises(UserError, match=r"b\.yaml:2: .*a\.yaml -> b\.yaml -> a\.yaml"):
        read(tmp_path / "a.yaml")


def test_one_file_may_be_reached_by_two_ways(tmp_path: Path) -> None:
    (tmp_path / "root.yaml").write_text("x: 1\n")
    for name in ("left", "right"):
        (tmp_path / f"{name}.yaml").write_text(f"extends: root.yaml\n{name}: 1\n")
    (tmp_path / "own.yaml").write_text("extends: [left.yaml, right.yaml]\n")
    assert read(tmp_path / "own.yaml").data == {"x": 1, "left": 1, "right": 1}


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text("a: 1")
    with pytest.raises(UserError, match=r"no file .*quickstrat\.yaml\. Did you mean 'quickstart\.yaml'\?"):
        read(tmp_path / "quickstrat.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        read(Path("a\0b"))


@pytest.mark.parametrize("content", ["a: 1\nb: é\n".encode("latin-1"), "a: 1\n".encode("utf-16")])
def test_other_encodings_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.yaml:\d: .*UTF-8"):
        read(tmp_path / "a.yaml")


def test_a_byte_order_mark_and_windows_line_ends_are_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfa: 1\r\nb: x\r\n")
    document = read(tmp_path / "a.yaml")
    assert document.data == {"a": 1, "b": "x"}
    assert document.place("b").line == 2


TEXT = st.text(alphabet="ab1.:-#'\"\\ é€😀\n\t", max_size=8)
TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(-1e30, 1e30) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=examples(100))
@given(st.dictionaries(TEXT, TREES, max_size=4))
def test_what_json_can_say_is_read_unchanged(tree: dict[str, object]) -> None:
    assert data(json.dumps(tree, ensure_ascii=False)) == tree


@settings(deadline=None, max_examples=examples(200))
@given(st.text(alphabet=st.sampled_from("ab:,[]{}&*<>|!%'\"#?- \n\t~.@`\\1\x85\u2028"), max_size=40))
def test_no_text_ends_in_anything_but_data_or_a_users_error(text: str) -> None:
    try:
        assert isinstance(parse(text, FILE).data, dict)
    except UserError as error:
        assert "some.yaml" in str(error)
