from __future__ import annotations

from pathlib import Path

import pytest

from standby.hypervisor.accelerator import UnknownAccelerator, choose


@pytest.fixture
def host(tmp_path: Path):
    """A function that makes a host's cpuinfo and KVM device."""

    def make(flags: str, *, device: bool = True) -> tuple[Path, Path]:
        cpuinfo, kvm = tmp_path / "cpuinfo", tmp_path / "kvm"
        cpuinfo.write_text(f"processor\t: 0\nflags\t\t: fpu {flags} sse\nbugs\t\t: vmx_is_no_flag_here\n")
        if device:
            kvm.touch()
        return cpuinfo, kvm

    return make


@pytest.mark.parametrize("flag", ["vmx", "svm"])
def test_kvm_where_the_processor_virtualizes(host, flag):
    assert choose({}, *host(flag)) == "kvm"


def test_a_kvm_device_without_the_processors_help_is_not_trusted(host):
    assert choose({}, *host("vme pse")) == "tcg"


def test_no_device_no_kvm(host):
    assert choose({}, *host("vmx", device=False)) == "tcg"


@pytest.mark.parametrize("forced", ["kvm", "tcg"])
def test_the_setting_wins(host, forced):
    assert choose({"STANDBY_ACCEL": forced}, *host("vme")) == forced
    assert choose({"STANDBY_ACCEL": forced}, *host("vmx")) == forced


def test_an_unknown_setting_is_refused(host):
    with pytest.raises(UnknownAccelerator, match="'hvf' is neither kvm nor tcg"):
        choose({"STANDBY_ACCEL": "hvf"}, *host("vmx"))
