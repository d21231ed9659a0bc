"""Commands over published tables: SQL of DuckDB, in bounded memory.

    common      database, remote, truth, intervals, histogram, targets, text
    evaluate    evaluate, evaluation, curves
    report      overview, image_files, failures, thumbnails
    diff        diff, settings, classes, fates, churn, shifts, distances, verdict
    select      select, formats, columns
    export      export, delta
    calibrate   calibrate

`pipeline/commands/` runs them and prints their results, and `pipeline/pages/` makes pages of them.
"""
