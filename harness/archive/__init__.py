"""A run as one file that someone else can check: `harness export` and `harness import`.

    layout     which files an archive holds, and what `export.json` says
    check      the program inside the archive that checks it without this package
    zip_file   archives whose bytes depend on their content alone; and reading of those from strangers
    writing    a results directory -> an archive
    reading    an archive -> a results directory

Nothing in an archive is executed by either command.
"""
