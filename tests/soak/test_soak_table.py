"""The soak's table says what its tests saw, and hides no failure."""

from pathlib import Path

from soak_table import cases, markdown

ROW = "".join(
    f'<property name="{name}" value="{value}" />'
    for name, value in {"fault": "kill -9", "tried": 10, "survived": 9, "seen": "0 of 300 values differ"}.items()
)


def write(path: Path, *tests: str) -> Path:
    path.write_text(f'<testsuites><testsuite timestamp="2026-01-02T03:04:05">{"".join(tests)}</testsuite></testsuites>')
    return path


def case(name: str, inside: str = "", properties: str = "") -> str:
    return (
        f'<testcase classname="soak" name="{name}" time="60"><properties>{properties}</properties>{inside}</testcase>'
    )


def test_a_row_holds_what_a_test_told(tmp_path):
    text = markdown(list(cases(write(tmp_path / "a.xml", case("kills", properties=ROW), case("demo")))))
    assert "| kill -9 | 10 | 9 | 0 of 300 values differ |" in text
    assert "1 passed, 0 failed, 0 skipped. 2 minutes in all, 2026-01-02." in text


def test_failures_are_named_in_their_row_and_counted_without_one(tmp_path):
    failed = '<failure message="no" />'
    text = markdown(list(cases(write(tmp_path / "a.xml", case("kills", failed, ROW), case("demo", failed)))))
    assert "differ **failed** |" in text
    assert "0 passed, 1 failed" in text
