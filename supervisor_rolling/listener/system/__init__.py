"""What several adapters share: the kernel's files and sockets, threads, commands. Imports no adapter."""
