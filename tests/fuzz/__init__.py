"""Invariants of each parser of foreign input: one function per parser, which checks them for any bytes.

The suite calls each function with inputs from hypothesis and from the files of `corpus/`;
`python -m tests.fuzz` lets atheris search for hours for inputs that break an invariant.
"""
