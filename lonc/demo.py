"""The tour."""


def main() -> int:
    return 0
