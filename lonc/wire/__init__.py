"""The dialogue of lonc and lond.

- `lond_protocol`: states, events and one table of transitions; knows no socket;
- `cipher`: derives the key of a connection and enciphers single lines with it;
- `wrong_key`: what shows that lond has another key;
- `key_exchange`: chooses the mode in which a connection agrees on its key;
- `tls`: the part of the dialogue in which lond sends the key in TLS.
"""
