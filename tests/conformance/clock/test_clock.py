"""Every clock: forward only, in seconds, and blind to the wall clock."""

import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest

from actors.ports import Clock
from cluster.clock import SystemClock


@pytest.fixture(params=[SystemClock])
def clock(request: pytest.FixtureRequest) -> Clock:
    made: Clock = request.param()
    return made


def test_never_goes_back(clock: Clock) -> None:
    readings = [clock.now() for _ in range(10_000)]
    assert readings == sorted(readings)


def test_counts_seconds(clock: Clock) -> None:
    before, started = clock.now(), time.monotonic()
    time.sleep(0.2)
    passed, expected = clock.now() - before, time.monotonic() - started
    assert passed == pytest.approx(expected, abs=0.05)


def test_does_not_follow_the_wall_clock(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    before = clock.now()
    for jump in (10 * 86_400, -10 * 86_400):
        monkeypatch.setattr(time, "time", lambda jump=jump: jump)
        monkeypatch.setattr(time, "time_ns", lambda jump=jump: jump * 10**9)
        assert 0 <= clock.now() - before < 60


def test_tells_the_time_of_day(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is stored for later, perhaps for another machine, is told in seconds since 1970, as the wall clock says."""
    before = datetime.now(UTC)
    told = datetime.fromtimestamp(clock.time(), UTC)
    assert before <= told <= datetime.now(UTC)
    monkeypatch.setattr(time, "time", lambda: 1e9)
    assert clock.time() == 1e9


def test_two_of_a_kind_agree(clock: Clock) -> None:
    """A silo compares a deadline that one clock gave with what another says."""
    assert type(clock)().now() - clock.now() == pytest.approx(0, abs=0.1)


def test_the_system_clock_is_the_machines() -> None:
    before = SystemClock().now()
    elsewhere = float(
        subprocess.run(
            [sys.executable, "-c", "from cluster.clock import SystemClock; print(SystemClock().now())"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    )
    assert before <= elsewhere <= SystemClock().now()
