"""The operating system: sockets, systemd, the host's own names, faults for the crash tests."""
