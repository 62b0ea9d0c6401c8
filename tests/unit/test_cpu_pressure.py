"""How busy the processors are, from a file like the kernel's: in a moment, not in ten seconds."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from supervisor_rolling.listener.cpu_pressure import FILE, READ_EVERY, KernelPressure

TEXT = """\
some avg10={avg10:.2f} avg60=76.41 avg300=79.64 total={total}
full avg10=0.00 avg60=0.00 avg300=0.00 total=99999999
"""


class Kernel:
    """Writes the file, at a clock that the tests move. ``reads``: each moment at which it would have been read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = 1000.0
        self.total = 1437926184.0
        self.avg10 = 0.0
        self.pressure = KernelPressure(lambda: self.now, str(path))
        self._write()

    def go_on(self, seconds: float, percent: float) -> float | None:
        """So long somebody waits for so much of the time. Gives what is told then; it is asked ten times a second."""
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            self.total += 0.1 * 1e6 * percent / 100
            self._write()
            found = self.pressure.cpu()
        return found

    def _write(self) -> None:
        self.path.write_text(TEXT.format(avg10=self.avg10, total=int(self.total)), encoding="ascii")


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path / "cpu")


@pytest.mark.parametrize("percent", [0.0, 7.0, 64.0, 100.0])
def test_what_is_told_is_the_share_of_the_time_in_which_somebody_waited(kernel: Kernel, percent: float) -> None:
    kernel.pressure.cpu()
    assert kernel.go_on(5.0, percent) == pytest.approx(percent, abs=0.1)


def test_a_burst_is_told_while_it_lasts_and_forgotten_a_moment_after_it(kernel: Kernel) -> None:
    kernel.go_on(10.0, 5.0)
    assert (kernel.go_on(1.5, 80.0) or 0.0) > 60.0
    assert (kernel.go_on(1.5, 5.0) or 99.0) < 20.0


def test_in_its_first_second_the_kernels_own_average_has_to_do(kernel: Kernel) -> None:
    kernel.avg10 = 42.5
    assert kernel.go_on(0.5, 3.0) == 42.5
    assert kernel.go_on(1.5, 3.0) == pytest.approx(3.0, abs=0.1)


def test_what_lies_between_two_rollouts_is_not_told_of_as_the_present(kernel: Kernel) -> None:
    kernel.go_on(2.0, 3.0)
    kernel.now += 3600.0
    kernel.total += 3600.0 * 1e6
    kernel.avg10 = 9.0
    assert kernel.go_on(0.1, 0.0) == 9.0


def test_turn_after_turn_it_is_read_four_times_a_second(kernel: Kernel) -> None:
    kernel.go_on(2.0, 50.0)
    told = kernel.pressure.cpu()
    kernel.path.unlink()
    kernel.now += READ_EVERY / 2
    assert kernel.pressure.cpu() == told
    kernel.now += READ_EVERY
    assert kernel.pressure.cpu() is None


@pytest.mark.parametrize("text", ["", "full avg10=0.00 avg60=0.00 avg300=0.00 total=1\n", "some avg10=x total=y\n"])
def test_where_the_kernel_does_not_tell_nothing_is_told_and_the_log_says_so_once(
    kernel: Kernel, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    kernel.path.write_text(text, encoding="ascii")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            kernel.now += 1.0
            assert kernel.pressure.cpu() is None
    assert len(caplog.messages) == 1
    assert "the pressure of the CPU cannot be read" in caplog.text
    assert str(kernel.path) in caplog.text


def test_a_kernel_without_the_file_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert KernelPressure(lambda: 0.0, str(tmp_path / "none")).cpu() is None
    assert "No such file" in caplog.text


@pytest.mark.skipif(not Path(FILE).exists(), reason="this kernel has no pressure stall information")
def test_this_kernels_file_is_understood() -> None:
    found = KernelPressure(lambda: 0.0).cpu()
    assert found is not None
    assert 0.0 <= found <= 100.0
