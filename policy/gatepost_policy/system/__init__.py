"""What is asked of the operating system: sockets, systemd, faults for the crash tests."""
