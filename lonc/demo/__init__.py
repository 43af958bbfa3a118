"""To try lonc on one machine.

- `tour` shows lonc at work, step by step;
- `lond` is a small lond; `store` keeps its users' data; `certificate_authority` makes its certificates.
"""
