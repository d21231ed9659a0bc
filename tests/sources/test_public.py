"""Addresses that are not public, in every spelling, and hosts that are allowed."""

import ipaddress
import random
import socket
from types import SimpleNamespace

import pytest

from labelbeam.transforms.errors import ImageError, UserError
from labelbeam.transforms.sources import Limits, Sources
from labelbeam.transforms.sources.http import HttpSource
from labelbeam.transforms.sources.libcurl import pycurl
from labelbeam.transforms.sources.public import AllowedHosts, HostError, describe_fault, entry_of

LIMITS = Limits(total_timeout_sec=20, max_bytes=100_000)

# Hosts of URLs, by their kind.
REFUSED = {
    "loopback": """127.0.0.1 127.1 127.0.1 127.255.255.254 2130706433 017700000001 0x7f000001 0x7f.1
        0x7f.0.0.1 0177.0.0.1 0177.1 127.0x0.0.1 0X7F.0.0.1 127.000.000.001 0x7f.0x0.0x0.0x1 00000177.0.0.01
        %31%32%37.0.0.1 127%2e0.0.1 [::1] [0:0:0:0:0:0:0:1] [0000::0001] localhost LOCALHOST localhost.
        %6cocalhost a.localhost""",
    "unspecified": "0.0.0.0 0 00 0x0 0.0.0.1 [::] [0:0:0:0:0:0:0:0]",
    "private": """10.0.0.1 10.1 167772161 0xa000001 012.0.0.1 172.16.0.1 172.31.255.255 192.168.0.1
        192.168.257 0300.0250.0.1 3232235521 0xc0a80001 [fc00::1] [fd00:ec2::254] [fd20:ce::254] [fec0::1]""",
    "link-local": """169.254.169.254 2852039166 0xa9fea9fe 0251.0376.0251.0376 169.254.43518 [fe80::1]
        [fe80::1%25lo]""",
    "platform": "168.63.129.16",
    "shared": "100.64.0.1 100.100.100.200 100.127.255.255",
    "documentation": "192.0.2.1 198.51.100.1 203.0.113.255 [2001:db8::1] [3fff::1]",
    "benchmarks": "198.18.0.1 198.19.255.255 [2001:2::1]",
    "multicast": "224.0.0.1 239.255.255.255 [ff02::1] [ff0e::1]",
    "reserved": """192.0.0.192 192.88.99.1 240.0.0.1 255.255.255.255 4294967295 [100::1] [4000::1] [5f00::1]
        [::127.0.0.1] [::7f00:1] [::8.8.8.8] [::ffff:0:127.0.0.1] [64:ff9b:1::7f00:1] [64:ff9b:1:7f00:0:100::]
        [2001:0:7f00:1::] [2001:0:4136:e378:8000:63bf:80ff:fffe] [2001:10::1]""",
    "another form": """[::ffff:127.0.0.1] [::ffff:7f00:1] [::FFFF:10.0.0.1] [0:0:0:0:0:ffff:a9fe:a9fe]
        [::ffff:0.0.0.0] [64:ff9b::127.0.0.1] [64:ff9b::7f00:1] [64:ff9b::a9fe:a9fe] [2002:7f00:1::]
        [2002:a9fe:a9fe::1] [2002:0a00:0001::]""",
}
SPELLINGS = [(host, kind) for kind, hosts in REFUSED.items() for host in hosts.split()]


def failure_of(uri: str, limits: Limits = LIMITS) -> ImageError:
    with pytest.raises(ImageError) as e:
        Sources(limits).fetch(uri)
    return e.value


@pytest.fixture
def no_sockets(monkeypatch):
    """Fail a test that opens a socket for a request."""

    def refuse(*_):
        pytest.fail("a socket was opened")

    monkeypatch.setattr("labelbeam.transforms.sources.sockets.socket", SimpleNamespace(socket=refuse))


def test_spellings__are_at_least_60():
    assert len(set(SPELLINGS)) >= 60


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(("host", "kind"), SPELLINGS)
def test_fetch__address_that_is_not_public__is_refused_without_a_socket(no_sockets, scheme, host, kind):
    failure = failure_of(f"{scheme}://{host}:8080/a.jpg")
    assert failure.reason.value == "forbidden_address"
    assert kind in str(failure) and "--allow_hosts=" in str(failure)
    # The remedy is an entry that the option takes.
    AllowedHosts([str(failure).rpartition("--allow_hosts=")[2]])


@pytest.mark.parametrize(("host", "kind"), SPELLINGS)
def test_fetch__redirect_to_such_an_address__is_refused(web, host, kind):
    web.files["/secret"] = b"image"
    web.redirects["/a.jpg"] = f"http://{host}:{web.port}/secret"
    # The first server by a name of its own, because its address would allow the second one.
    failure = failure_of(
        f"http://first.localhost:{web.port}/a.jpg", Limits(20, 1000, allow_hosts=("first.localhost",))
    )
    assert (failure.reason.value, web.targets) == ("forbidden_address", ["/a.jpg"])
    assert kind in str(failure)


@pytest.mark.parametrize("host", ["127.0.0.1.evil.invalid", "localhost.invalid"])
def test_fetch__name_like_an_address__is_looked_up(host):
    assert failure_of(f"http://{host}/a.jpg").reason.value != "forbidden_address"


@pytest.mark.parametrize(
    "address",
    [
        *("1.1.1.1", "8.8.8.8", "223.255.255.255", "2001:200::1", "2606:4700::1111", "2a00:1450:4001::1"),
        # Beside blocks that are not public.
        *("9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0"),
        *("168.63.129.15", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0"),
        *("192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "2000::", "2003::", "3ffe::1"),
        *("::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"),
    ],
)
def test_describe_fault__public_address__is_none(address):
    assert describe_fault(address) == ""


def test_describe_fault__addresses_that_python_refuses__are_not_public():
    rng = random.Random(17)
    packed = [ipaddress.ip_network(block) for block in ("::ffff:0:0/96", "64:ff9b::/96", "2002::/16")]
    v4 = "0 10 100.64 127 169.254 172.16 192.0.0 192.0.2 192.168 198.18 198.51.100 203.0.113 240 255"
    v6 = "00 fc fd fe80 fec0 ff02 0100 2001 20010db8 2002 3fff 0064ff9b"
    for _ in range(20_000):
        head = bytes(map(int, rng.choice(v4.split()).split(".")))
        head6 = bytes.fromhex(rng.choice(v6.split()))
        for start, length in ((head, 4), (head6, 16), (b"", 4), (b"", 16)):
            ip = ipaddress.ip_address(start + rng.randbytes(length - len(start)))
            if not ip.is_global and not any(ip in block for block in packed):
                assert describe_fault(str(ip)), ip


class Rebinding:
    """A name whose address changes between requests.

    `CURLOPT_RESOLVE` puts an address into libcurl's cache of lookups, as a resolver's response would. libcurl
    then passes this address to the check and connects to it, so nothing of the check is replaced. Only the
    last step is: a connection to a public address would leave this machine, so the socket is connected to
    `server` beforehand, and libcurl uses it as it is.
    """

    def __init__(self, monkeypatch, limits: Limits, server: tuple[str, int]) -> None:
        self.source = HttpSource(limits)
        self.client = self.source._client
        self.port = server[1]
        self.opened = 0

        def open_socket(*args):
            self.opened += 1
            opened = socket.socket(*args)
            opened.connect(server)
            return opened

        opener = SimpleNamespace(socket=open_socket)
        monkeypatch.setattr("labelbeam.transforms.sources.sockets.socket", opener)
        monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("an own lookup"))
        self.client._options[pycurl.SOCKOPTFUNCTION] = lambda *_: pycurl.SOCKOPT_ALREADY_CONNECTED
        # A connection each, because a kept one would need no address.
        self.client._options[pycurl.FORBID_REUSE] = 1

    def resolve(self, *addresses: str) -> None:
        name = f"rebinding.example:{self.port}"
        lookups = self.client._options[pycurl.RESOLVE] = [f"-{name}", f"{name}:{','.join(addresses)}"]
        if hasattr(self.client._local, "curl"):
            self.client._local.curl.setopt(pycurl.RESOLVE, lookups)

    def fetch(self):
        return self.source.fetch(f"http://rebinding.example:{self.port}/a.jpg").data


@pytest.mark.parametrize("second", ["127.0.0.1", "169.254.169.254", "[::1]", "[::ffff:10.0.0.1]"])
def test_fetch__name_that_is_public_first_and_private_second__is_refused_then(web, monkeypatch, second):
    web.files["/a.jpg"] = b"image"
    name = Rebinding(monkeypatch, LIMITS, ("127.0.0.1", web.port))
    name.resolve("93.184.216.34")
    assert name.fetch() == b"image"
    name.resolve(second)
    with pytest.raises(ImageError, match=r"rebinding\.example has the address .*=rebinding\.example$") as e:
        name.fetch()
    assert e.value.reason.value == "forbidden_address"
    assert (name.opened, web.connections) == (1, 1)


def test_fetch__name_with_a_private_and_a_public_address__is_fetched_from_the_public_one(web, monkeypatch):
    web.files["/a.jpg"] = b"image"
    name = Rebinding(monkeypatch, LIMITS, ("127.0.0.1", web.port))
    name.resolve("10.0.0.1", "93.184.216.34")
    assert name.fetch() == b"image"


def test_fetch__kept_connection_of_an_allowed_name__serves_no_other_name(web):
    web.files["/a.jpg"] = b"image"
    sources = Sources(Limits(20, 1000, allow_hosts=("one.localhost",)))
    for _ in range(2):
        assert sources.fetch(f"http://one.localhost:{web.port}/a.jpg").data == b"image"
        with pytest.raises(ImageError, match="two.localhost has the address"):
            sources.fetch(f"http://two.localhost:{web.port}/a.jpg")
    assert web.connections == 1


@pytest.mark.parametrize(
    ("entry", "host"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "0x7f.1"),
        ("127.0.0.1", "localhost"),
        ("127.0.0.0/8", "localhost"),
        ("localhost", "localhost"),
        ("LocalHost.", "LOCALHOST."),
        ("*.localhost", "img.corp.localhost"),
        ("img?.localhost", "img1.localhost"),
        ("*", "localhost"),
        ("bücher.localhost", "BÜCHER.localhost"),
        ("*.bücher.localhost", "a.xn--bcher-kva.localhost"),
        ("nothing.example,localhost", "localhost"),
    ],
)
def test_allow_hosts__entry_that_fits__is_fetched(web, entry, host):
    web.files["/a.jpg"] = b"image"
    limits = Limits(20, 1000, allow_hosts=tuple(entry.split(",")))
    assert Sources(limits).fetch(f"http://{host}:{web.port}/a.jpg").data == b"image"


@pytest.mark.parametrize(
    ("entry", "host"),
    [
        ("127.0.0.2", "127.0.0.1"),
        ("10.0.0.0/8", "localhost"),
        ("::1", "127.0.0.1"),
        ("localhost", "a.localhost"),
        ("*.localhost", "localhost"),
        ("img.localhost", "img.localhost.localhost"),
        ("img?.localhost", "img.localhost"),
        ("localhost", "127.0.0.1"),
        ("127.0.0.0/8", "[::ffff:127.0.0.1]"),
    ],
)
def test_allow_hosts__entry_that_does_not_fit__is_refused(web, entry, host):
    failure = failure_of(f"http://{host}:{web.port}/a.jpg", Limits(20, 1000, allow_hosts=(entry,)))
    assert failure.reason.value == "forbidden_address" and web.connections == 0


@pytest.mark.parametrize(
    "host", ["user@localhost", "user:one.localhost@localhost", "one.localhost%2f@localhost"]
)
def test_allow_hosts__name_in_front_of_the_host__allows_nothing(web, host):
    failure = failure_of(
        f"http://{host}:{web.port}/a.jpg", Limits(20, 1000, allow_hosts=("*one.localhost*",))
    )
    assert failure.reason.value == "forbidden_address" and web.connections == 0


BAD_ENTRIES = {
    **dict.fromkeys(
        ["", " ", "10.0.0.0/33", "http://img.lan", "img.lan:8080"], "is no name, glob, address or"
    ),
    **dict.fromkeys(
        ["[::1]", "::1::", "img lan", "[a-z].lan", "user@img.lan", "fe80::1%lo"], "is no name, glob"
    ),
    **dict.fromkeys(["10.0.0.300", "10.0.0", "2130706433"], "is no address"),
    **dict.fromkeys(["10.*", "192.168.?.1", "*.1"], "write several as a CIDR block"),
    "10.0.0.1/8": "write 10.0.0.0/8",
    "fd00::1/8": "write fd00::/8",
    "ä b.lan": "is no name",
}


@pytest.mark.parametrize(("entry", "fault"), BAD_ENTRIES.items())
def test_allowed_hosts__entry_that_is_neither_host_nor_network__is_quoted(entry, fault):
    with pytest.raises(HostError) as e:
        AllowedHosts(["img.lan", entry])
    assert str(e.value).startswith(repr(entry)) and fault in str(e.value)
    with pytest.raises(UserError, match="^Limits: allow_hosts="):
        Limits(allow_hosts=(entry,))


def test_allowed_hosts__random_texts__are_parsed_or_refused():
    rng = random.Random(17)
    parts = [
        *"ab019.:/*?[]%-_@ \0\t",
        "ü",
        "ß",
        "\u200b",
        "xn--",
        "127.0.0.1",
        "::1",
        "/8",
        "9" * 5000,
        "x" * 70,
    ]
    refused = 0
    for _ in range(10_000):
        text = "".join(rng.choices(parts, k=rng.randint(0, 5)))
        try:
            AllowedHosts([text]).has("host", "127.0.0.1")
        except HostError:
            refused += 1
    assert 1000 < refused < 9000


def test_limits__text_in_place_of_a_tuple__is_refused():
    with pytest.raises(UserError, match="give a tuple of texts"):
        Limits(allow_hosts="localhost")


@pytest.mark.parametrize(
    ("host", "entry"),
    [
        ("img.lan", "img.lan"),
        ("10.1.2.3", "10.1.2.3"),
        ("167838211", "10.1.2.3"),
        ("fe80::1%25lo", "10.1.2.3"),
    ],
)
def test_entry_of__host__is_its_name_or_its_address(host, entry):
    assert entry_of(host, "10.1.2.3") == entry


def test_gcs__endpoint_of_the_environment__is_allowed(web, monkeypatch):
    web.files["/download/storage/v1/b/photos/o/a.jpg"] = b"image"
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", web.uri(""))
    assert Sources(LIMITS).fetch("gs://photos/a.jpg").data == b"image"
