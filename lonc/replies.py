"""The replies that lonc gives itself, where no lond has replied, and words of lond.

On the wire a newline follows.
"""

import re

CON_LOST = b"con_lost"  # there is no reply; the request may have been carried out, or not
CON_DELAYED = b"con_delayed"  # the request is saved, to be carried out later
CON_FAILED = b"con_failed"  # the request could not be saved
NO_SUCH_HOST = b"no_such_host"
TOO_LONG = b"error: request too long"

# What a lond says to `ping` that does not say which host it is.
NO_ID = re.compile(rb"(?:(?:unknown_cmd|refused|rejected|error|no_such_host|con_lost)\b|\n)")
