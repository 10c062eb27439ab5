"""Python as people write it: `raybc.fit`, `sweep`, `evaluate`, `read`, and what they return.

    calls        keywords as the flags of the commands, errors in words of Python
    fit, searching, evaluating, reading      the four functions; each does what its command does
    runs, sweeps, evaluations, datasets      Run, Sweep, Evaluation, Dataset: a folder, read when it is asked for
    show, curves, figures      HTML for cells, curves as SVG, figures of plotly and Matplotlib

Everything that an object shows is read from its folder, so an object of an earlier session shows the same.
"""
