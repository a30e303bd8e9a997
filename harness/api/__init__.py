"""The Python entry, beside the command line: what `import harness` hands on.

evaluate    a model, attacks and data given in Python -> `Results`, through the same engine as a suite
functions   suites and results directories -> runs, reports, comparisons, verifications, diagnoses
results     `Results`: tables, one row per image, one row per pairing
"""
