"""The command line: `instep compare`, `instep bench` and `instep info`."""
