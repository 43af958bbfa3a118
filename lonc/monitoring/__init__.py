"""Measures, judges and shows the daemon; knows neither child nor parent.

- `statistics` counts transactions and their times in fixed memory;
- `status` is the report on a host and on all hosts: a child sends it, the modules below show it;
- `health` gives the verdict on a report;
- `text`, `html`, `prometheus` and `top` show a report; `metrics_server` is the exporter's HTTP.
"""
