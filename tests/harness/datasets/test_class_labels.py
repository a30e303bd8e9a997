"""Class folders become labels as a reader of their names would number them, or as the user says."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from harness.datasets.class_labels import Classes, label_folders
from harness.errors import UserError

ORDERS = {
    "one digit": [str(n) for n in range(10)],
    "two digits": [str(n) for n in range(12)],
    "from one": [str(n) for n in range(1, 101)],
    "zero-padded": [f"{n:03d}" for n in range(120)],
    "signed": ["-10", "-9", "-1", "0", "1", "2", "10"],
    "decimals": ["0.25", "0.5", "1.5", "10.25"],
    "class_10": [f"class_{n}" for n in range(12)],
    "WordNet": ["n01440764", "n01443537", "n01484850", "n12998815"],
    "words": ["airplane", "automobile", "bird", "cat"],
    "mixed": ["2", "10", "Cat", "cat1", "cat2", "cat10", "dog"],
    "several numbers": ["a1b2", "a1b10", "a2b1", "a10b1"],
    "longer than an integer may be": ["v9", "v1" + "0" * 5000],
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_folders_are_labelled_in_natural_order(order: list[str]) -> None:
    shuffled = random.Random(0).sample(order, len(order))
    found = label_folders(shuffled, None, None)
    assert list(found.of) == order
    assert list(found.of.values()) == list(range(len(order)))
    assert (found.num_classes, found.names) == (len(order), order)


def test_it_is_said_where_others_would_order_them_otherwise() -> None:
    for order in ORDERS.values():
        assert bool(label_folders(order, None, None).remark) == (sorted(order) != order)
    told = label_folders(ORDERS["class_10"], None, None).remark
    assert "'class_2' has label 2 and 'class_10' label 10. torchvision's ImageFolder" in told
    assert not label_folders(ORDERS["class_10"], ORDERS["class_10"], None).remark


def test_equal_numbers_are_refused() -> None:
    with pytest.raises(UserError, match=r"'0?1' and '0?1' are the same number"):
        label_folders(["0", "01", "1"], None, None)


def test_a_part_of_the_folders_has_the_labels_of_the_whole_list() -> None:
    whole = [f"n{n:08d}" for n in range(1000)]
    found = label_folders(["n00000007", "n00000999"], whole, None)
    assert found.of == {"n00000007": 7, "n00000999": 999}
    assert (found.num_classes, len(found.names), found.names[7], found.names[8]) == (1000, 1000, "n00000007", "8")


def test_labels_may_be_given_one_by_one() -> None:
    found = label_folders(
        ["tabby", "beagle", "tiger cat"], {"tabby": 3, "tiger cat": 3, "beagle": 5, "not here": 9}, 10
    )
    assert found.of == {"tabby": 3, "tiger cat": 3, "beagle": 5}
    assert (found.num_classes, found.names[3:6]) == (10, ["tabby", "4", "beagle"])
    assert label_folders(["tabby"], {"tabby": 3}, None).num_classes is None


def test_a_file_names_the_classes_one_a_line(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes("\ufeffcat\r\nÖl baron\ndog\n\n".encode())
    found = label_folders(["dog", "Öl baron"], path, None)
    assert (found.of, found.num_classes) == ({"Öl baron": 1, "dog": 2}, 3)


@pytest.mark.parametrize(
    ("folders", "classes", "num_classes", "told"),
    [
        (["a", "b"], ["a", "c"], None, "does not name the folder 'b'"),
        (["n01440765"], ["n01440764", "x"], None, "folder 'n01440765'. Did you mean 'n01440764'"),
        (["a"], ["a", "a"], None, "'a' appears twice"),
        (["a"], ["a", "b", "c"], 2, "gives 'c' the label 2, of at most 2 classes"),
        (["a"], {"a": 10}, 10, "gives 'a' the label 10"),
        (["a"], {"a": -1}, None, "gives 'a' the label -1"),
        (["a"], {"a": 2**40}, None, "gives 'a' the label"),
        (["a", "b"], None, 10, "there are 2 class folders, and num_classes is 10. .*`classes:`"),
        (["0", "7"], None, 10, "there are 2 class folders, and num_classes is 10"),
    ],
)
def test_what_does_not_fit_is_refused(folders: list[str], classes: Any, num_classes: int | None, told: str) -> None:
    with pytest.raises(UserError, match=told):
        label_folders(folders, classes, num_classes)


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"a\n\nb\n", r"classes.txt:2: the line is empty"), (b"\xff\xfe", "cannot be read"), (None, "there is no file")],
)
def test_a_file_that_names_no_classes_is_told(content: bytes | None, told: str, tmp_path: Path) -> None:
    path: Classes = tmp_path / "classes.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=told):
        label_folders(["a"], path, None)
