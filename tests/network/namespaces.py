"""Linux namespaces and network devices without any tool: unshare, setns, mount, ioctl."""

import contextlib
import ctypes
import fcntl
import ipaddress
import os
import signal
import socket
import struct
import time

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000

_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000

_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_SIOCSIFADDR, _SIOCSIFNETMASK = 0x8916, 0x891C
_SIOCGIFINDEX, _SIOCSIFTXQLEN = 0x8933, 0x8943
_IFF_UP, _IFF_RUNNING = 0x1, 0x40

_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def _call(function, *arguments):
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def unshare(flags):
    """Move this thread into new namespaces. Raises OSError."""
    _call(_libc.unshare, flags)


def die_with_parent():
    """This process, and the program that it executes, is killed when the parent's thread ends."""
    _call(_libc.prctl, _PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))


def enter(fd):
    """Move this thread into the network namespace of an open /proc/PID/ns/net. Raises OSError."""
    _call(_libc.setns, fd, CLONE_NEWNET)


@contextlib.contextmanager
def entered(fd):
    """This thread is in that network namespace for a while: a socket stays in the one it was made in."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(fd)
        try:
            yield
        finally:
            enter(before)
    finally:
        os.close(before)


def bind_mounts(pairs):
    """Mount each source over its target, for this process and its children only. Raises OSError."""
    unshare(CLONE_NEWNS)
    _call(_libc.mount, None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None)
    for source, target in pairs:
        names = os.fsencode(source), os.fsencode(target)
        _call(_libc.mount, *names, None, ctypes.c_ulong(_MS_BIND), None)


def open_tun(name):
    """The descriptor of a new tun device in this thread's network namespace; both end together."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError:
        os.close(fd)
        raise
    return fd


def set_up(name):
    """Bring a device up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH22x", name.encode(), 0)
        (flags,) = struct.unpack_from("H", fcntl.ioctl(control, _SIOCGIFFLAGS, request), 16)
        request = struct.pack("16sH22x", name.encode(), flags | _IFF_UP | _IFF_RUNNING)
        fcntl.ioctl(control, _SIOCSIFFLAGS, request)


def set_queue_length(name, packets):
    """How many packets the kernel holds until the tun device's reader takes them."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFTXQLEN, struct.pack("16si20x", name.encode(), packets))


def wait_for_address(address6, seconds=10.0):
    """Until it can be used: the kernel makes an IPv6 address valid only after the device has come up.

    Raises OSError if it is not by then.
    """
    deadline = time.monotonic() + seconds
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as trial:
        while True:
            try:
                trial.bind((address6, 0))
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.001)


def add_address(name, address):
    """Give a device another address, `ADDRESS/PREFIX` of either family."""
    interface = ipaddress.ip_interface(address)
    if interface.version == 4:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            # A label of its own: without one the next address would replace the last.
            label = f"{name}:{int(interface) & 0xFF}".encode()
            for order, value in (
                (_SIOCSIFADDR, interface.ip),
                (_SIOCSIFNETMASK, interface.netmask),
            ):
                request = struct.pack("16sHH4s16x", label, socket.AF_INET, 0, value.packed)
                fcntl.ioctl(control, order, request)
    else:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as control:
            request = struct.pack("16si20x", name.encode(), 0)
            (index,) = struct.unpack_from("i", fcntl.ioctl(control, _SIOCGIFINDEX, request), 16)
            prefix = interface.network.prefixlen
            request = struct.pack("16sIi", interface.ip.packed, prefix, index)
            fcntl.ioctl(control, _SIOCSIFADDR, request)
