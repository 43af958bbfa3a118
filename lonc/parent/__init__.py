"""All hosts: the process that forks their children."""
