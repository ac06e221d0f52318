"""In CI a skipped test fails the run: a machine that lacks something must not pass for one where it works."""

import os

import pytest


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") != "true" or exitstatus != pytest.ExitCode.OK or reporter is None:
        return
    if reporter.stats.get("skipped"):
        reporter.write_line("CI: a skipped test counts as a failure", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
