import json

from lonc.status import HostStatus


def test_a_status_is_one_line_of_json():
    status = HostStatus("l1", "ready", {"Idle": 2}, 3, 0, 7, 1, "2026-11-24T02:00:00+00:00", 42)
    line = status.to_line()
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert HostStatus(**json.loads(line)) == status
