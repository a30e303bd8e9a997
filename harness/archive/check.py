"""Checks an exported run without the software that made it: Python, numpy and pyarrow are all it needs.

    python check.py                                        hashes, budgets, and every accuracy of the table counted anew
    python check.py --model mine:classify --defense NAME   and the predictions, by a model of yours

`classify` takes images, a numpy array (N, C, H, W) float32 in [0, 1], and returns logits (N, K). Status 0: all holds;
1: something is contradicted; 3: something could not be checked. Nothing shows that an attack did its best.
"""

import argparse
import hashlib
import importlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

Row = dict[str, Any]
WRONG, OPEN = list[str](), list[str]()  # what is contradicted, and what could not be checked


def tensors(file: Path) -> Row:
    """A safetensors file: the length of a header, in eight bytes; the header, in JSON; the values of the arrays."""
    start = 8 + int.from_bytes((data := file.read_bytes())[:8], "little")
    parts = {name: (e, slice(*e["data_offsets"])) for name, e in json.loads(data[8:start]).items() if "dtype" in e}
    flat = {n: np.frombuffer(data[start:][at], "<f4" if e["dtype"] == "F32" else "<i8") for n, (e, at) in parts.items()}
    return {name: values.reshape(parts[name][0]["shape"]) for name, values in flat.items()}


def records(root: Path, name: str, threat: str, clean: Row) -> dict[int, Row]:
    """The records of a file by their places in the run, each with its adversarial image; checks both."""
    table, arrays = pq.read_table(root / name), tensors((root / name).with_suffix(".safetensors"))
    start, rows, x_adv = int(table.schema.metadata[b"shard"].split(b"-")[0]), dict[int, Row](), arrays["images"]
    change = abs(x_adv.astype("f8") - clean["images"][start:][: table.num_rows]).reshape(len(x_adv), -1)
    sizes = {"Linf": change.max(1), "L2": np.sqrt((change**2).sum(1)), "L1": change.sum(1), "L0": (change != 0).sum(1)}
    norm, above, below = (threat.replace("/", " ") + " 1").split()[:3]
    eps = float(above) / float(below) if norm in (*sizes, "Flow") or "parameters" in arrays else np.inf
    if norm not in sizes:
        OPEN.append(f"{name}: of the budget {threat}, at most the size of the flow or the parameters was checked")
        sizes[norm] = abs(arrays.get("flow", arrays.get("parameters", 0 * change))).reshape(len(change), -1).max(1)
    inside = (sizes[norm] <= eps + 1e-6 * max(1.0, eps)) & ((x_adv >= -1e-6) & (x_adv <= 1 + 1e-6)).all((1, 2, 3))
    for at, (row, image, fits) in enumerate(zip(table.to_pylist(), x_adv, inside, strict=True), start):
        (vote, first), (_, second) = [*Counter(row["adv_votes"]).most_common(2), (-1, 0), (-1, 0)][:2]
        verdict = "robust" if vote == row["label"] and first > second else "fooled"
        if not fits:
            WRONG.append(f"{name}, image {row['index']}: outside the budget {threat}, or outside [0, 1]")
        if (row["index"], row["label"]) != (clean["indices"][at], clean["labels"][at]):
            WRONG.append(f"{name}: the record of image {row['index']} of class {row['label']} is in another's place")
        if row["verdict"] not in ("error", verdict):
            WRONG.append(f"{name}, image {row['index']}: the verdict is {row['verdict']}, and {verdict} by its votes")
        rows[at] = {**row, "image": image}
    return rows


def success(row: Row, side: str, rule: str) -> tuple[float, list[float]]:
    """The success of an image under a rule, and whether each prediction is right, 0 or 1; NaN where there is none."""
    votes = [] if side == "adv" and row["verdict"] == "error" else row[f"{side}_votes"]
    right = [float(vote == row["label"]) for vote in votes] if votes and -1 not in votes else [np.nan]
    others = Counter(vote for vote in votes if vote != row["label"])
    majority = float(sum(right) > max(others.values(), default=0)) if right[0] >= 0 else np.nan
    rules = {"single": right[0], "mean": sum(right) / len(right), "worst": min(right), "majority": majority}
    return rules[rule], right


def accuracy(s: Any) -> float | None:
    """The mean of successes, (N,), NaN where there was an error; None if there were too many errors."""
    return float(np.nanmean(s)) if np.isnan(s).mean() <= 0.05 else None


def chosen(right: Any, judged: int) -> Any:
    """Success, (N,), under the attack that an image's other draws choose. right: (M attacks, N, V draws)."""
    votes, shares = right.sum(2), []
    others = np.maximum((~np.isnan(votes)).sum(1, keepdims=True) - ~np.isnan(votes), 1)
    elsewhere = (np.nansum(votes, 1, keepdims=True) - np.nan_to_num(votes)) / others
    for draw in right.transpose(2, 0, 1)[:judged]:
        tied = votes - draw == (votes - draw).min(0)
        tied &= elsewhere == np.where(tied, elsewhere, np.inf).min(0)
        shares.append((draw * tied).sum(0) / np.maximum(tied.sum(0), 1))
    return np.mean(shares, 0)


def recount(line: Row, count: int, parts: list[dict[int, Row]]) -> list[float | None]:
    """The accuracy of a line of the table, and that on the clean images; None where there is no number."""
    rule, kind, places = line["rule"], line["kind"], range(count)
    first = [sorted((p[at] for p in parts if at in p), key=lambda row: not row["clean_votes"])[:1] for at in places]
    clean = accuracy([success(row[0], "clean", rule)[0] for row in first]) if all(first) else None
    if kind == "clean" or not all(len(rows) == count for rows in parts):
        return [clean, clean] if kind == "clean" else [None, None]
    told = [[success(rows[at], "adv", rule) for at in places] for rows in parts]
    s = np.array([[share for share, _ in each] for each in told])
    whole = s.max(0) if line["stochastic"] else np.where((s == 0).any(0), 0.0, s.min(0))
    if None in [accuracy(each) for each in [*s, *[whole] * (kind == "worst")]]:
        return [None, None]
    if kind != "worst" or not line["stochastic"]:
        return [accuracy(whole) if kind == "worst" else float(np.nanmean(s, axis=1).mean()), clean]
    draws = min(len(right) for each in told for _, right in each if right[0] >= 0)
    right = np.array([[right[:draws] * (right[0] >= 0) or [np.nan] * draws for _, right in each] for each in told])
    others = [chosen(right, 1 if rule == "single" else draws)] if draws > 1 and rule in ("single", "mean") else []
    return [float(np.nanmin(np.nanmean([*s, *others], axis=1))), clean]


def replay(name: str, about: str, rows: dict[int, Row], clean: Any) -> None:
    """Whether a model predicts what was recorded, up to margins that rounding explains."""
    sys.path.insert(0, str(Path.cwd()))
    model = getattr(importlib.import_module(name.partition(":")[0]), name.partition(":")[2])
    for side, images in (("clean", clean[list(rows)]), ("adv", np.stack([row["image"] for row in rows.values()]))):
        logits = np.concatenate([np.asarray(model(images[at : at + 32])) for at in range(0, len(images), 32)])
        sure = [min(map(abs, row[f"{side}_margins"]), default=0) > 1e-4 * abs(logits).max() for row in rows.values()]
        told = list(zip(rows.values(), logits.argmax(1), sure, strict=True))
        unlike = [row["index"] for row, guess, certain in told if certain and guess not in row[f"{side}_votes"]]
        noisy = any(len(set(row[f"{side}_votes"])) > 1 for row in rows.values())
        (OPEN if noisy else WRONG).extend([f"{about}: other predictions on {side} images {unlike}"] * bool(unlike))
        print(f"{about}, {side}: {len(rows) - len(unlike)} of {len(rows)} predictions of the model are as recorded")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="MODULE:CALLABLE, found from the current folder")
    parser.add_argument("--defense", help="the defense that the model is")
    root, options = Path(__file__).parent, parser.parse_args()
    export = json.loads((root / "export.json").read_text())
    for name, sha256 in export["files"].items():
        if not (root / name).is_file() or hashlib.sha256((root / name).read_bytes()).hexdigest() != sha256:
            sys.exit(f"wrong: {name} is missing, or was changed; nothing else was checked")
    clean, cells = tensors(root / "clean.safetensors"), dict[str, dict[int, Row]]()
    for cell in json.loads((root / "run.json").read_text())["cells"]:
        about = f"{cell['defense']}/{cell['attack']}"
        rows = cells[about] = {}
        for name in (n for n in export["files"] if n.startswith(f"cells/{about}/") and n.endswith(".parquet")):
            rows |= records(root, name, cell["threat"], clean)
        if options.model and rows and options.defense in (None, cell["defense"]):
            replay(options.model, about, rows, clean["images"])
    for line in export["table"]:
        parts = [cells.get(f"{line['defense']}/{attack}", {}) for attack in line["members"]]
        for key, ours in zip(("accuracy", "benign"), recount(line, len(clean["images"]), parts), strict=True):
            if (line[key] is None) != (ours is None) or abs((line[key] or 0) - (ours or 0)) > 1e-6:
                about = f"{key} of {line['defense']}, {line['kind']} {line['attack']} {line['rule']}"
                WRONG.append(f"{about}: {line[key]} in the table, {ours} by the records")
    print(f"{len(export['files'])} files, {sum(map(len, cells.values()))} records, {len(export['table'])} accuracies")
    for word, texts in (("wrong", WRONG), ("not checked", OPEN)):
        print("".join(f"{word}: {text}\n" for text in texts), end="")
    return 1 if WRONG else 3 if OPEN else 0


if __name__ == "__main__":
    sys.exit(main())
