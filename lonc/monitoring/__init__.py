"""What is measured and how it is shown; knows neither child nor parent.

- `statistics` counts transactions and their times in fixed memory;
- `status` is the report on a host, and on all of them: what a child sends and all the others show;
- `health` judges a report;
- `text`, `html`, `prometheus` and `top` show one.
"""
