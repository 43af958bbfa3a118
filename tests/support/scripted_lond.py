"""A lond that runs a script of the test for each connection, in a thread."""

import contextlib
import socket
import threading

BUILD_KEY = b"54559A79EDEA097AD9ADB087C71818"


class Peer:
    """lond's end of one connection; lines are without their newline."""

    def __init__(self, connection):
        self.socket = connection
        self.socket.settimeout(120)
        self._file = connection.makefile("rb")

    def hear(self):
        """The next line, or None at the end."""
        line = self._file.readline()
        return line.removesuffix(b"\n") if line.endswith(b"\n") else None

    def say(self, *lines):
        self.socket.sendall(b"".join(line + b"\n" for line in lines))

    def greet(self):
        """lond's part of the dialogue, up to Idle."""
        for line, answer in ((b"init", b"12345"), (b"12345", b"ok"), (b"ekey", BUILD_KEY)):
            heard = self.hear()
            if heard is None:
                raise ConnectionResetError("lonc left during the dialogue")
            assert heard == line
            self.say(answer)

    def echo(self):
        """Answer every request with itself, until the other side closes."""
        while (line := self.hear()) is not None:
            self.say(line)

    def reset(self):
        """Close so that the other side gets RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close()

    def close(self):
        self._file.close()
        self.socket.close()

    def stop(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)


def echoing(peer):
    """A script: greet, and answer every request with itself."""
    peer.greet()
    peer.echo()


def remembering(seen):
    """A script: greet, and answer every request with ok, and put it into `seen`."""

    def script(peer):
        peer.greet()
        while (line := peer.hear()) is not None:
            seen.append(line)
            peer.say(b"ok")

    return script


class ScriptedLond:
    """`script(peer)` runs for every connection; use as a context manager."""

    def __init__(self, address, port, script):
        self._script = script
        self._peers = []
        self._threads = []
        self._socket = socket.create_server((address, port))
        self.port = self._socket.getsockname()[1]
        self.errors = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._socket.close()
        for peer in self._peers:
            peer.stop()
        for thread in self._threads:
            thread.join()
        assert self.errors == []

    @property
    def accepted(self):
        return len(self._threads)

    def _accept(self):
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            peer = Peer(connection)
            self._peers.append(peer)
            thread = threading.Thread(target=self._talk, args=(peer,))
            self._threads.append(thread)
            thread.start()

    def _talk(self, peer):
        try:
            self._script(peer)
        except (ConnectionError, ValueError):
            pass  # the other side left, or the test has ended
        except BaseException as error:
            self.errors.append(error)
        finally:
            peer.close()
