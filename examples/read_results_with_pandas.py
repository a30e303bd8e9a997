"""The records of a run as data frames: one row per image and pairing.

harness run suites/quickstart.yaml
python examples/read_results_with_pandas.py results/quickstart
"""

import sys

import harness

if __name__ == "__main__":
    results = harness.load_results(sys.argv[1])

    # One row per pairing, with the numbers of the table.
    print(results.summary[["defense", "attack", "threat", "accuracy", "low", "high"]].to_string(index=False))

    # Robust accuracy by true class. Images that ended in an error are neither robust nor misclassified.
    judged = results.frame[results.frame["verdict"] != "error"]
    robust = judged.assign(robust=judged["verdict"] == "robust")
    print(robust.pivot_table("robust", "label", "defense").round(2))

    # Images that withstand every attack on a defense.
    withstood = robust.groupby(["defense", "index"])["robust"].all().groupby("defense").sum()
    print(withstood.rename("images that withstand all attacks"))

    # What the attacks spent on the images that they made the defense misclassify.
    misclassified = robust[~robust["robust"]]
    print(misclassified.groupby(["defense", "attack"])[["linf", "l2", "forwards", "backwards"]].median())
