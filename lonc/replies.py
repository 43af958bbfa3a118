"""The replies that lonc gives itself, where no lond has replied. On the wire a newline follows."""

CON_LOST = b"con_lost"  # there is no reply; the request may have been carried out, or not
CON_DELAYED = b"con_delayed"  # the request is saved, to be carried out later
CON_FAILED = b"con_failed"  # the request could not be saved
NO_SUCH_HOST = b"no_such_host"
TOO_LONG = b"error: request too long"
