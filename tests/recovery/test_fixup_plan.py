from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standby.errors import InvalidRequest
from standby.recovery.fixup_plan import Edit, plan
from standby.recovery.fixup_wish import FixUp, FixUpRefused, parse

MAC = "52:54:00:12:34:56"
BOTH = "10.0.0.5/24,2001:db8::5/64,gateway=10.0.0.1,gateway=2001:db8::1,dns=10.0.0.53"
NP, IF = "/etc/netplan/01.yaml", "/etc/network/interfaces"
NM, ND = "/etc/NetworkManager/system-connections/a.nmconnection", "/etc/systemd/network/10-a.network"
CONF = "/etc/NetworkManager/NetworkManager.conf"


def after(files: dict[str, str], *cards: str, hostname: str = "", count: int = 2) -> dict[str, str]:
    """The files as planned; planning again must change nothing more."""
    wish = parse(hostname, cards)
    done = {**files, **{edit.path: edit.after for edit in plan(files, wish, count)}}
    assert plan(done, wish, count) == []
    return done


NETPLAN = """\
# by hand
network:
  version: 2
  renderer: networkd
  ethernets:
    ens3:
      dhcp4: true  # the lab's
      mtu: 9000
      gateway4: 192.168.0.1
      routes:
        - to: 172.16.0.0/12
          via: 192.168.0.9
        - to: default
          via: 192.168.0.1
    other:
      match: {macaddress: "52:54:00:12:34:56"}
      addresses: ["192.168.1.2/24", "2001:db8:1::2/64"]
    loose:
      match: {name: "enp*"}
      dhcp4: true
  bridges:
    br0:
      interfaces: [ens9]
"""


def test_netplan_by_name_keeps_what_it_does_not_know():
    text = after({NP: NETPLAN}, f"ens3={BOTH}")[NP]
    assert text.startswith("# by hand\n")
    for kept in ("mtu: 9000", "to: 172.16.0.0/12", 'addresses: ["192.168.1.2/24", "2001:db8:1::2/64"]'):
        assert kept in text
    for gone in ("dhcp4: true  #", "gateway4", "to: default"):
        assert gone not in text
    for new in ("dhcp4: false", "10.0.0.5/24", "2001:db8::5/64", "via: 10.0.0.1", "10.0.0.53"):
        assert new in text


def test_netplan_by_mac_keeps_the_other_family():
    text = after({NP: NETPLAN}, f"{MAC.upper()}=10.0.0.5/24")[NP]
    assert "192.168.1.2/24" not in text
    assert "2001:db8:1::2/64" in text
    assert "dhcp6" not in text


def test_netplan_takes_an_entry_out_of_every_file():
    one = "network:\n  ethernets:\n    ens3:\n      addresses: [192.168.0.2/24]\n"
    two = "network:\n  ethernets:\n    ens3:\n      dhcp4: true\n"
    done = after({"/etc/netplan/1.yaml": one, "/etc/netplan/2.yaml": two}, "ens3=10.0.0.5/24")
    assert "192.168" not in done["/etc/netplan/1.yaml"]
    assert "10.0.0.5/24" in done["/etc/netplan/2.yaml"]


@pytest.mark.parametrize(
    ("card", "says"),
    [
        ("52:54:00:99:99:99", "does not tell whether"),
        ("enp7s0", "does not tell whether"),
    ],
)
def test_netplan_does_not_guess(card, says):
    with pytest.raises(FixUpRefused, match=says):
        after({NP: NETPLAN}, f"{card}=10.0.0.5/24")


def test_netplan_names_the_bridge_of_a_port():
    text = "network: {ethernets: {ens9: {}}, bridges: {br0: {interfaces: [ens9], dhcp4: true}}}\n"
    with pytest.raises(FixUpRefused, match="part of br0"):
        after({NP: text}, "ens9=10.0.0.5/24")
    assert "10.0.0.5/24" in after({NP: text}, "br0=10.0.0.5/24")[NP]


def test_netplan_that_is_not_understood_is_refused():
    with pytest.raises(FixUpRefused, match="not understood"):
        after({NP: "network: [\n"}, "ens3=10.0.0.5/24")


INTERFACES = """\
# by hand
source /etc/network/interfaces.d/*
auto lo
iface lo inet loopback

allow-hotplug ens3
iface ens3 inet dhcp
    mtu 9000  # large
    up ip route add 172.16.0.0/12 via 192.168.0.9

iface ens4 inet6 static
    address 2001:db8:1::2
    netmask 64
"""


def test_ifupdown_keeps_options_and_other_cards():
    text = after({IF: INTERFACES}, f"ens3={BOTH}", "ens4=2001:db8:4::4/64")[IF]
    assert "iface ens3 inet static\n    address 10.0.0.5/24\n    gateway 10.0.0.1\n" in text
    assert "    dns-nameservers 10.0.0.53\n    mtu 9000  # large\n    up ip route" in text
    assert "iface ens3 inet6 static\n    address 2001:db8::5/64\n    gateway 2001:db8::1\n" in text
    assert "iface ens4 inet6 static\n    address 2001:db8:4::4/64\n" in text
    assert "netmask" not in text
    assert text.count("allow-hotplug ens3") == 1


def test_ifupdown_has_a_stanza_for_each_further_address_and_for_a_new_card():
    text = after({IF: INTERFACES}, "ens3=10.0.0.5/24,10.0.1.5/24", "ens7=10.7.0.7/16")[IF]
    assert text.count("iface ens3 inet static") == 2
    assert "auto ens7\niface ens7 inet static\n    address 10.7.0.7/16\n" in text


def test_ifupdown_tells_a_card_by_its_mac_only_if_it_says_so_or_has_one():
    with pytest.raises(FixUpRefused) as told:
        after({IF: INTERFACES}, f"{MAC}=10.0.0.5/24")
    assert "ens3, ens4" in told.value.hint
    one = "iface ens3 inet dhcp\n"
    assert "10.0.0.5" in after({IF: one}, f"{MAC}=10.0.0.5/24", count=1)[IF]
    with pytest.raises(FixUpRefused):
        after({IF: one}, f"{MAC}=10.0.0.5/24", count=2)
    hardware = f"iface ens3 inet dhcp\n  hwaddress ether {MAC}\n"
    assert "10.0.0.5" in after({IF: hardware}, f"{MAC}=10.0.0.5/24")[IF]


KEYFILE = """\
[connection]
id=lan
type=ethernet
interface-name=ens3

[ipv4]
# by hand
address1=192.168.0.2/24,192.168.0.1
dns=192.168.0.53;
method=manual
route1=172.16.0.0/12,192.168.0.9

[ipv6]
method=auto
"""


def test_a_keyfile_keeps_what_is_not_of_the_address():
    text = after({NM: KEYFILE}, "ens3=10.0.0.5/24,10.0.1.5/24,gateway=10.0.0.1,dns=10.0.0.53")[NM]
    ipv4 = "[ipv4]\nmethod=manual\naddress1=10.0.0.5/24\naddress2=10.0.1.5/24\ngateway=10.0.0.1\ndns=10.0.0.53;\n"
    assert ipv4 + "# by hand\nroute1=172.16.0.0/12,192.168.0.9\n" in text
    assert "192.168.0.1\n" not in text
    assert "[ipv6]\nmethod=auto\n" in text


def test_a_keyfile_is_found_by_mac_and_made_where_there_is_none():
    text = KEYFILE.replace("interface-name=ens3\n", f"\n[ethernet]\nmac-address={MAC.upper()}\n")
    assert "10.0.0.5/24" in after({NM: text}, f"{MAC}=10.0.0.5/24")[NM]
    for card, line in (("ens8", "interface-name=ens8"), (MAC, f"mac-address={MAC}")):
        files = {CONF: "", NM: KEYFILE}
        done = after(files, f"{card}=10.0.0.5/24")
        [new] = set(done) - set(files)
        assert line in done[new]
        [edit] = plan(files, parse("", [f"{card}=10.0.0.5/24"]), 2)
        assert edit.private


def test_a_keyfile_of_a_port_is_refused():
    with pytest.raises(FixUpRefused, match="bridge or bond"):
        after({NM: KEYFILE.replace("id=lan", "id=lan\nmaster=br0")}, "ens3=10.0.0.5/24")


NETWORK = """\
# by hand
[Match]
Name=ens3

[Network]
DHCP=yes
LLDP=yes
Address=192.168.0.2/24
Address=2001:db8:1::2/64

[Address]
Address=192.168.0.3/24

[Route]
Gateway=192.168.0.1

[Route]
Destination=172.16.0.0/12
Gateway=192.168.0.9
"""


def test_networkd_keeps_the_other_family_and_other_routes():
    text = after({ND: NETWORK}, "ens3=10.0.0.5/24,gateway=10.0.0.1,dns=10.0.0.53")[ND]
    assert "[Network]\nDHCP=ipv6\nAddress=10.0.0.5/24\nGateway=10.0.0.1\nDNS=10.0.0.53\nLLDP=yes\n" in text
    for gone in ("192.168.0.2", "192.168.0.3", "192.168.0.1\n"):
        assert gone not in text
    for kept in ("# by hand", "2001:db8:1::2/64", "Destination=172.16.0.0/12\nGateway=192.168.0.9"):
        assert kept in text
    assert "DHCP=no" in after({ND: NETWORK}, f"ens3={BOTH}")[ND]


@pytest.mark.parametrize("match", ["Name=en*", "Name=ens3 ens4", "Type=ether"])
def test_networkd_gives_one_of_several_cards_a_file_that_comes_first(match):
    files = {ND: NETWORK.replace("Name=ens3", match)}
    done = after(files, "ens3=10.0.0.5/24")
    [new] = set(done) - set(files)
    assert new < min(files)
    assert done[ND] == files[ND]
    assert "Name=ens3\n" in done[new]


def test_the_only_card_of_the_only_entry_needs_no_name():
    files = {ND: NETWORK.replace("Name=ens3", "Name=en*")}
    assert "10.0.0.5/24" in after(files, f"{MAC}=10.0.0.5/24", count=1)[ND]
    text = "network:\n  ethernets:\n    ens3: {dhcp4: true}\n"
    assert "10.0.0.5/24" in after({NP: text}, f"{MAC}=10.0.0.5/24", count=1)[NP]


def test_a_guest_with_none_of_the_four_is_told():
    with pytest.raises(FixUpRefused, match="none of netplan") as told:
        after({"/etc/hosts": ""}, "ens3=10.0.0.5/24")
    assert "nothing was changed" in told.value.tried


@pytest.mark.parametrize(
    ("hosts", "name", "wanted"),
    [
        ("127.0.0.1 localhost\n::1 x\n", "dr", "127.0.0.1 localhost\n127.0.1.1\tdr\n::1 x\n"),
        ("127.0.1.1 web.old.org web app # us\n", "dr.new.org", "127.0.1.1\tdr.new.org dr app # us\n"),
        ("", "dr", "127.0.1.1\tdr\n"),
    ],
)
def test_the_host_name_is_in_hosts_too(hosts, name, wanted):
    done = after({"/etc/hosts": hosts, "/etc/hostname": "web\n"}, hostname=name)
    assert (done["/etc/hosts"], done["/etc/hostname"]) == (wanted, f"{name}\n")


def test_cloud_init_is_told_to_leave_it():
    done = after(
        {"/etc/cloud/cloud.cfg": "", IF: "iface ens3 inet dhcp\n"}, "ens3=10.0.0.5/24", hostname="dr"
    )
    assert done["/etc/cloud/cloud.cfg.d/99-standby.cfg"] == (
        "preserve_hostname: true\nnetwork: {config: disabled}\n"
    )


def test_a_difference_shows_no_secret():
    edit = Edit("/etc/netplan/1.yaml", 'password: "a b"\nx\n', "password: 'a b'\ny\n", True)
    shown = edit.difference()
    assert not any("a b" in line for line in shown)
    assert shown[-1] == "+y"


@pytest.mark.parametrize(
    "text",
    [
        "ens3",
        "ens3=",
        "ens3=10.0.0.5",
        "ens3=10.0.0.5/33",
        "ens3=dns=10.0.0.1",
        "ens3=10.0.0.5/24,gateway=10.0.1.1",
        "ens3=10.0.0.5/24,gateway=10.0.0.1,gateway=10.0.0.2",
        "ens3=10.0.0.5/24,dns=2001:db8::1",
        "ens3=10.0.0.5/24,metric=5",
        "a name with spaces=10.0.0.5/24",
    ],
)
def test_what_is_no_address_of_a_card_is_refused(text):
    with pytest.raises(InvalidRequest):
        parse("", [text])


def test_a_card_named_twice_or_a_strange_host_name_is_refused():
    for hostname, cards in (("", ["a=10.0.0.1/8", "a=10.0.0.2/8"]), ("a b", []), ("-a", []), ("a\nb", [])):
        with pytest.raises(InvalidRequest):
            parse(hostname, cards)
    assert not parse("", []).wanted
    assert FixUp(hostname="a").wanted


LINES = st.lists(
    st.sampled_from(
        [
            *INTERFACES.splitlines(),
            *KEYFILE.splitlines(),
            *NETWORK.splitlines(),
            "iface ens3 inet static",
            "",
            "x y",
        ]
    ),
    max_size=25,
).map("\n".join)


@given(LINES, st.sampled_from([IF, NM, ND]), st.sampled_from(["10.0.0.5/24", BOTH]))
def test_whatever_the_file_holds_planning_twice_is_planning_once(text, path, addresses):
    try:
        done = after({path: text}, f"ens3={addresses}")
    except FixUpRefused:
        return
    assert any("10.0.0.5/24" in one for one in done.values())
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert all(any(line in one for one in done.values()) for line in comments) or path == IF
