"""Demonstrations of lonc on one machine.

- `tour` runs three londs and a daemon, and checks what lonc does, step by step;
- `lond` is a small lond; `store` is its database; `certificate_authority` issues its certificates.
"""
