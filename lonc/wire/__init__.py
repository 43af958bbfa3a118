"""What lonc and lond say to each other.

- `lond_protocol` is the dialogue, free of sockets: states, events and one table of transitions;
- `cipher` enciphers single lines with the key of a connection;
- `key_exchange` chooses how a connection agrees on its key; `tls` carries the key where certificates do.
"""
