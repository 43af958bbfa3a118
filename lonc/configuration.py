"""Settings: every setting of `loncapa.conf`, each declared once.

A declaration has the setting's name, default, range, unit and meaning; `doc/generate.py` makes the
documents from it. `configuration_file` reads the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from lonc.setting_types import (
    CONTROL_SOCKET,
    DELAYED_DIRECTORY,
    Reader,
    absolute,
    absolute_file,
    daemons,
    file_name,
    group,
    id_word,
    ipv4,
    octal_mode,
    one_of,
    seconds,
    socket_path,
    user,
    whole,
    zero_or_one,
)

EAGER, ON_DEMAND = "eager", "ondemand"  # loncChildren
BY_ID, BY_DNS = "id", "dns"  # loncSocketName
CLASSIC, AUTO, LOCAL, SSL, INSECURE = KEY_MODES = ("classic", "auto", "local", "ssl", "insecure")
LONGEST_DRAIN = 86400  # seconds
LOG_LEVELS = ("debug", "info", "warning", "error")


class Declaration(NamedTuple):
    """One setting, as the file and the documents have it."""

    name: str
    default: str | None  # as it is written in the file; "" if the setting is required
    read: Reader
    help: str  # sentences; `this` is literal
    example: str  # for etc/loncapa.conf, where there is no default
    restart: bool  # a change takes effect only at a restart
    section: str  # the heading above this setting and those after it; "" for the same heading

    def to_text(self, value: Any) -> str:
        """`value` as it is written in the file; "" for None."""
        return "" if value is None else self.read.write(value)


def setting(
    name: str,
    default: str | None,
    read: Reader,
    help: str,
    *,
    example: str = "",
    restart: bool = False,
    section: str = "",
) -> Any:
    """A field of Settings. The parameters are those of Declaration."""
    declaration = Declaration(name, default, read, help, example, restart, section)
    value = read(default) if default else default
    return field(default=value, metadata={"declaration": declaration})


class Certificates(NamedTuple):
    """The files that TLS needs: our certificate, its private key, and the authority's certificate.

    `revocation_list`: of revoked certificates; None if none is checked.
    """

    certificate: Path
    private_key: Path
    authority: Path
    revocation_list: Path | None = None


CERTIFICATE_SETTINGS = ("lonnetCertificate", "lonnetPrivateKey", "lonnetCertificateAuthority")
REVOCATION_SETTING = "loncCertificateRevocationList"


# fmt: off
@dataclass(frozen=True)
class Settings:
    """The value of every setting."""

    host_id: str = setting(
        "lonHostID", "", id_word, section="This host and its files", example="msua3",
        help="The id of this machine. Required.")
    table_directory: Path = setting(
        "lonTabDir", "/home/httpd/lonTabs", absolute,
        help="The directory of `hosts.tab`, and of `dns_hosts.tab` if LON-CAPA has fetched one.")
    socket_directory: Path = setting(
        "lonSockDir", "/home/httpd/sockets", absolute, restart=True,
        help="The directory of the sockets, one for each host, and of `delayed/`. If it is missing, lonc"
             " creates it with mode 0750, and `delayed/` with mode 3770.")
    daemons: Path = setting(
        "lonDaemons", "/home/httpd/perl", daemons, restart=True,
        help="The directory of `logs/`, where lonc keeps `lonc.log`, `lonc.pid`, `lonc.lock`,"
             " `lonc.ctl`, `lonc_status.txt` and `lonnet.perm.log`. If `logs/` is missing, lonc creates"
             " it with mode 0750. Stop lonc before you change this: the commands find the daemon here.")
    user: str | None = setting(
        "loncUser", None, user, restart=True, example="www-data",
        help="The user that the daemon runs as when root starts it. Without it the daemon becomes the"
             " owner of `lonSockDir`, if that exists and is not root's; else it keeps the user"
             " that starts it. The user must be able to read the configuration, `hosts.tab`,"
             " certificates and keys, and to write in `lonSockDir`, `delayed/` and `logs/`. `lonc check`"
             " lists what is missing.")
    group: str | None = setting(
        "loncGroup", None, group, restart=True, example="www-data",
        help="The group that the daemon runs as, usually the web server's. Needs `loncUser`. Without it"
             " the daemon gets that user's own group.")
    log_level: str = setting(
        "loncLogLevel", "info", one_of(*LOG_LEVELS),
        help="The least severe messages that are logged. `debug` logs each request too, except those"
             " that begin with `encrypt:`.")
    drain_timeout: float = setting(
        "loncDrainTimeout", "30", seconds(0, LONGEST_DRAIN),
        help="The time that `lonc stop` gives accepted requests to finish. A reload has no such limit.")
    table_watch: int = setting(
        "loncTableWatch", "1", whole(0, 2),
        help="What the daemon does about files that have changed since it read them; it looks each"
             " `loncDelayedInterval`. `0`: nothing. `1`: `lonc status` reports changed files and faults."
             " `2`: also, changed tables without faults are taken as by `lonc update`.")

    lond_port: int = setting(
        "londPort", "5663", whole(1, 65535), section="Connections to lond",
        help="The TCP port of every lond.")
    bind_address: str | None = setting(
        "loncBindAddress", None, ipv4, example="127.0.0.1",
        help="The local address of connections to lond. A lond recognizes this machine by it. Without it"
             " the system chooses one. With it only IPv4 addresses of a lond are tried.")
    max_connections: int = setting(
        "loncMaxConnections", "5", whole(1, 1000),
        help="The most connections to one host.")
    connect_retries: int = setting(
        "loncConnectRetries", "2", whole(1, 1000),
        help="The number of failed connection attempts in a row after which a host is DEAD.")
    retry_delay: float = setting(
        "loncRetryDelay", "1", seconds(0.1, 86400),
        help="The time from a failed connection attempt to the next. Doubled after each failure.")
    retry_max_delay: float = setting(
        "loncRetryMaxDelay", "60", seconds(0.1, 86400),
        help="The longest time between two connection attempts.")
    lookup_timeout: float = setting(
        "loncLookupTimeout", "20", seconds(0.1, 3600),
        help="The longest time to resolve a host's name. If its addresses are known from an earlier"
             " lookup, they are used after 1.8 seconds without an answer.")
    connect_timeout: float = setting(
        "loncConnectTimeout", "5", seconds(0.1, 3600),
        help="The longest time to connect to each of a host's addresses.")
    handshake_timeout: float = setting(
        "loncHandshakeTimeout", "10", seconds(0.1, 3600),
        help="The longest time from a TCP connection until it can carry requests.")
    request_timeout: float = setting(
        "loncRequestTimeout", "300", seconds(0.1, 86400),
        help="The longest time from the first byte of a request to the end of its reply.")
    queue_timeout: float = setting(
        "loncQueueTimeout", "60", seconds(0.1, 86400),
        help="The longest time that a request waits for a connection.")
    idle_timeout: float = setting(
        "loncIdleTimeout", "3600", seconds(0.1, 31536000),
        help="The time after which an unused connection is closed.")
    peer_timeout: float = setting(
        "loncPeerTimeout", "20", seconds(1, 86400),
        help="The time after which a connection is closed if the other machine acknowledges nothing. A"
             " lond that is slow does not count: its machine acknowledges.")
    keepalive: float = setting(
        "loncKeepalive", "60", seconds(0, 32000),
        help="The time after which an idle connection is probed, and again after each such time. If the"
             " other machine answers no probe for `loncPeerTimeout`, it is closed. Set it to less than"
             " the time after which firewalls forget an idle connection. `0` sends no probes.")
    max_lifetime: float = setting(
        "loncMaxLifetime", "3600", seconds(0, 31536000),
        help="The age at which a connection is closed as soon as it is idle, so that a name that has got"
             " another address is followed. `0` sets no limit.")
    sync_interval: float = setting(
        "loncSyncInterval", "1", seconds(0, 86400),
        help="The time after which a connection in constant use asks `ping`, ahead of the next request."
             " If lond answers it with another line than after the dialogue, replies have come one"
             " request late, and the connection is closed. `0` asks no `ping`.")
    max_reply: int = setting(
        "loncMaxReply", "67108864", whole(64, 1 << 40, "bytes"),
        help="The longest reply.")

    socket_mode: int = setting(
        "loncSocketMode", "0660", octal_mode, restart=True, section="Clients",
        help="The mode of the sockets. Whoever can write to a socket can send requests.")
    socket_name: str = setting(
        "loncSocketName", "id", one_of(BY_ID, BY_DNS), restart=True,
        help="The name of a host's socket: its id, or with `dns` its DNS name, which clients of LON-CAPA"
             " 2 look for. With `dns` the hosts of one DNS name share one child. Where `lonSockCreate`"
             " is set, the default is `dns`.")
    create_socket: Path | None = setting(
        "lonSockCreate", None, socket_path, restart=True, example="/home/httpd/sockets/common_parent",
        help="A socket at which clients of LON-CAPA 2 ask for a host's socket that they do not find."
             " Where it is set, `loncSocketName`, `loncKeyMode` and `loncChildren` have other defaults.")
    max_clients: int = setting(
        "loncMaxClients", "1000", whole(1, 1_000_000),
        help="The most clients of one host at a time. Further clients wait until one disconnects.")
    max_clients_per_user: int | None = setting(
        "loncMaxClientsPerUser", None, whole(1, 1_000_000), example="500",
        help="The most clients of one host that run as the same user. For a further one, the client of"
             " that user that has been idle longest is disconnected; if none is idle, the further one"
             " is. Without it, half of `loncMaxClients` if several users are in the sockets' group, else"
             " all.")
    client_idle_timeout: float = setting(
        "loncClientIdleTimeout", "0", seconds(0, 31536000),
        help="The time after which a client without a request in flight is disconnected. `0` sets no"
             " limit.")
    max_request: int = setting(
        "loncMaxRequest", "16777216", whole(1, 1 << 40, "bytes"),
        help="The longest request.")
    max_buffered: int = setting(
        "loncMaxBuffered", "536870912", whole(1048576, 1 << 40, "bytes"),
        help="The most memory for the requests and replies of one host. Above it the largest holder,"
             " a client or a connection to lond, is closed. Checked after growth of at most 16 MiB.")
    trust_create: bool = setting(
        "loncTrustSockCreate", "0", zero_or_one,
        help="Whether a host that is in no table is served if a client asks for it at `lonSockCreate` by"
             " DNS name and id. Later LON-CAPA does so. Whoever can write to that socket can then make"
             " lonc connect to any machine.")
    children: str = setting(
        "loncChildren", "eager", one_of(EAGER, ON_DEMAND),
        help="With `eager` every host has a child. With `ondemand` a host has one only while clients use"
             " it, and for `loncIdleTimeout` after. Where `lonSockCreate` is set, the default is"
             " `ondemand`.")

    delayed_interval: float = setting(
        "loncDelayedInterval", "30", seconds(0.1, 86400), section="Delayed transactions",
        help="The time between two scans of `delayed/`, and between two looks at the tables.")
    max_delayed: int = setting(
        "loncMaxDelayed", "100000", whole(1, 10_000_000),
        help="The most delayed transactions of one host. Above it `critical` saves no more and returns"
             " `con_failed`.")
    max_delayed_bytes: int = setting(
        "loncMaxDelayedBytes", "1073741824", whole(1, 1 << 50, "bytes"),
        help="The most bytes of the delayed transactions of one host. Above it `critical` saves no more"
             " and returns `con_failed`.")
    delayed_key_file: Path | None = setting(
        "loncDelayedKeyFile", None, absolute_file, example="/etc/lonc/delayed.keys",
        help="The file of the keys that seal delayed transactions. Without it they are not sealed."
             " `lonc delayed keygen` creates it. Each line is a key: an id of letters, digits and `-`, a"
             " colon, 64 hex digits. The first key seals, every key opens. Only its owner and group may"
             " have permissions on the file. Programs that save must be able to read it.")

    key_mode: str = setting(
        "loncKeyMode", "classic", one_of(*KEY_MODES), section="Keys of connections",
        help="How a connection gets the key that enciphers `encrypt:` requests. `classic`: the dialogue"
             " of 2003. The other modes need a lond of LON-CAPA 1.3 or later. `local`: through a file,"
             " for a lond at 127.0.0.1 only. `ssl`: through TLS, with the certificates below."
             " `insecure`: as `classic`. `auto`: `local` if the table has the address 127.0.0.1, else"
             " `ssl` if the certificates are set, else `insecure`. With `auto`, `local` and `insecure`,"
             " this machine (the host `lonHostID` of the table, and those with its DNS name) is asked"
             " at 127.0.0.1 in `local` mode. Where `lonSockCreate` is set, the default is `auto` if the"
             " certificates are set, else `insecure`.")
    allow_insecure: bool = setting(
        "loncAllowInsecure", "1", zero_or_one,
        help="Whether `classic` and `insecure` may be used, also with a lond that knows no other mode."
             " With them, everyone with access to the network can read all requests.")
    allow_plain_replies: bool = setting(
        "loncAllowPlainReplies", "0", zero_or_one,
        help="Whether lond may answer an enciphered request in clear in the modes other than `classic`:"
             " anybody on the way could have written such a reply. With `0` it ends the connection, and"
             " the request gets `con_lost`. Where `lonSockCreate` is set, the default is `1`: LON-CAPA's"
             " lond is believed to answer `auth` so.")
    certificate_directory: Path | None = setting(
        "lonCertificateDirectory", None, absolute, example="/home/httpd/lonCerts",
        help="The directory of the next three files, unless their names are absolute. `ssl` needs all"
             " four settings.")
    certificate: Path | None = setting(
        "lonnetCertificate", None, file_name, example="lonhostcert.pem",
        help="The certificate of this machine, and the chain to the authority, in PEM.")
    private_key: Path | None = setting(
        "lonnetPrivateKey", None, file_name, example="lonKey.pem",
        help="The private key of that certificate. Rejected if users other than its owner and group can"
             " read it.")
    authority: Path | None = setting(
        "lonnetCertificateAuthority", None, file_name, example="loncapaCA.pem",
        help="The certificate of the authority of all hosts. It must have issued the certificate of each"
             " lond, for the host's DNS name in `hosts.tab`.")
    revocation_list: Path | None = setting(
        REVOCATION_SETTING, None, file_name, example="loncapaCRL.pem",
        help="The authority's list of revoked certificates, in PEM, in `lonCertificateDirectory` too."
             " Certificates in it are refused. Once the list has expired, every certificate is refused:"
             " renew it, and `lonc reload`. If lond's certificate has a chain, the file needs a list of"
             " each authority in it. Without this setting no certificate is known to be revoked.")
# fmt: on

    @property
    def by_dns(self) -> bool:
        """Whether a host's socket is named by its DNS name, not by its id."""
        return self.socket_name == BY_DNS

    @property
    def hosts_file(self) -> Path:
        return self.table_directory / "hosts.tab"

    @property
    def table_files(self) -> list[Path]:
        """In the order in which they are read: a later one wins. Only `hosts_file` must exist."""
        return [self.table_directory / "dns_hosts.tab", self.hosts_file]

    @property
    def certificates(self) -> Certificates | None:
        """None unless all four certificate settings are set."""
        directory, revocations = self.certificate_directory, self.revocation_list
        files = [file for file in (self.certificate, self.private_key, self.authority) if file]
        if directory is None or len(files) < len(CERTIFICATE_SETTINGS):
            return None
        certificate, private_key, authority = (directory / file for file in files)
        listed = None if revocations is None else directory / revocations
        return Certificates(certificate, private_key, authority, listed)

    @property
    def needed_certificates(self) -> Certificates | None:
        """None if loncKeyMode does not use certificates."""
        return self.certificates if self.key_mode in (AUTO, SSL) else None

    @property
    def secrets(self) -> list[Path]:
        """Files that the daemon must be able to read and others must not."""
        keys = [] if self.delayed_key_file is None else [self.delayed_key_file]
        needed = self.needed_certificates
        if needed is None:
            return keys
        return [needed.certificate, needed.private_key, needed.authority, *keys]

    @property
    def log_directory(self) -> Path:
        return self.daemons / "logs"

    @property
    def log_file(self) -> Path:
        return self.log_directory / "lonc.log"

    @property
    def lock_file(self) -> Path:
        return self.log_directory / "lonc.lock"

    @property
    def socket_lock(self) -> Path:
        """The lock of the socket directory: no host can have a socket of this name."""
        return self.socket_directory / ".lonc~lock"

    @property
    def spool_lock(self) -> Path:
        """The locks of delayed files."""
        return self.socket_directory / ".delayed~lock"

    @property
    def pid_file(self) -> Path:
        return self.log_directory / "lonc.pid"

    @property
    def control_file(self) -> Path:
        return self.daemons / CONTROL_SOCKET

    @property
    def delayed_directory(self) -> Path:
        return self.socket_directory / DELAYED_DIRECTORY

    @property
    def perm_log(self) -> Path:
        return self.log_directory / "lonnet.perm.log"

    @property
    def status_file(self) -> Path:
        return self.log_directory / "lonc_status.txt"

    def texts(self) -> dict[str, str]:
        """The values as they are written in the file, by the names of the settings."""
        return {
            declaration.name: declaration.to_text(getattr(self, attribute))
            for attribute, declaration in DECLARATIONS.items()
        }

    def fixed_changes(self, other: Settings) -> list[str]:
        """Names of the settings that differ in `other` and take effect only at a restart."""
        return [
            declaration.name
            for attribute, declaration in DECLARATIONS.items()
            if declaration.restart and getattr(self, attribute) != getattr(other, attribute)
        ]


# By the attribute of Settings, in the order of the documents.
DECLARATIONS: dict[str, Declaration] = {
    each.name: each.metadata["declaration"] for each in fields(Settings)
}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a sentence that says `word` is unknown: the nearest known word, or nothing."""
    nearest = get_close_matches(word, known, n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""
