"""The command line.

- `cli` parses the arguments and runs one command;
- `declarations` declares every command once, `usage` builds the parser from the declarations;
- `service` (start, stop, reload …), `status` (status, check-health, top …), `send` (send, ping),
  `config`, `delayed` and `demo` are the commands;
- `loading` reads the configuration and the tables, `output` prints errors, `progress` draws a bar.
"""
