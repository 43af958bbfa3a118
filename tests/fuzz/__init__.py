"""What hostile bytes may not do to each parser: one function for each, that says what must hold.

The suite tries each with hypothesis and with the files of `corpus/`; `python -m tests.fuzz` has atheris
look for hours for bytes that break it.
"""
