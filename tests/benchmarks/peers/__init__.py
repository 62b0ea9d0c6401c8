"""The peers: servers and a process manager that restart gracefully by themselves, each as its own documentation has it.

Each is a module with the same three names:

* ``main()`` becomes the peer: ``python -m tests.benchmarks.peers.gunicorn --port 8000`` is what the lab's supervisord
  runs as its one process, and that is all that supervisord has to do with it.
* ``prepare(stack)`` is called when it serves, before anything is measured.
* ``reload(stack)`` tells it to bring the new release, as an operator would, and may return before it has.

All serve ``application``, which is warm before its process takes a request, in as many threads as the demo application
has. Their processes share one listening socket, so nginx has one server.

``registry`` has them all. It is not here, because the workers import this package, and have to stay small.
"""
